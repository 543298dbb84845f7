"""Resources that all engines on one GPU share: CUDA, one stream per concurrent call, and buffers on the device."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np

from edgekit.backends._trt import logger
from edgekit.drivers.cuda import Cuda
from edgekit.spec.errors import BackendError

_log = logging.getLogger("edgekit.tensorrt")


class Gpu:
    """A GPU that runs TensorRT.

    Attributes:
        trt: Module ``tensorrt``, or that of TensorRT-RTX.
        cuda: CUDA driver.
        streams: Number of streams.
        free: Queue of the streams that no call uses.
        messages: Log messages of TensorRT.
        closed: True once the device memory is freed.
    """

    def __init__(self, trt: Any, streams: int, cuda: Cuda | None = None) -> None:
        """Open a GPU.

        Args:
            trt: Module ``tensorrt``, or that of TensorRT-RTX.
            streams: Number of concurrent calls.
            cuda: CUDA device. Default: the first one.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        self.trt = trt
        self.streams = streams
        self.cuda = cuda or Cuda()
        trt_logger, self.messages = logger(trt)
        self.free: SimpleQueue[int] = SimpleQueue()
        self.closed = False
        self._all_streams: list[int] = []
        self._buffers: set[int] = set()
        self._spare: dict[int, list[int]] = {}
        self._lock = threading.RLock()  # Reentrant: garbage collection may return a buffer while it is locked.
        self._exclusive_lock = threading.Lock()
        mark = self.messages.mark()
        try:
            self.cuda.enter()
            self._runtime = trt.Runtime(trt_logger)
            for _ in range(streams):
                self._all_streams.append(self.cuda.stream())
                self.free.put(self._all_streams[-1])
        except TypeError as problem:  # pybind raises it if the factory function returned a null pointer.
            self._release()
            lines = "; ".join(self.messages.errors(mark)) or str(problem)
            raise BackendError(
                f"TensorRT {trt.__version__} does not start: {lines}. It may need a newer NVIDIA driver than this one.",
                code="tensorrt-start",
            ) from problem
        except BaseException:
            self._release()
            raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for all running calls and block new ones.

        Only one thread at a time collects the streams. Two would wait for each other's streams.
        """
        with self._exclusive_lock:
            collected: list[int] = []
            try:
                for _ in self._all_streams:
                    collected.append(self.free.get())
                yield
            finally:
                for stream in collected:
                    self.free.put(stream)

    def buffer(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Buffer:
        """Return device memory for one tensor. The memory is reused after the last reference to it is gone.

        Sizes are rounded up to powers of two, so that tensors that grow from call to call (states) do not need memory
        for each of their sizes.

        Args:
            dtype: Data type of the elements.
            shape: Shape of the tensor.
        """
        size = 1 << max(8, (int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - 1).bit_length())
        with self._lock:
            spare = self._spare.get(size)
            address = spare.pop() if spare else self.cuda.allocate(size)
            self._buffers.add(address)
        return Buffer(self, address, size, dtype, shape)

    def take_back(self, address: int, size: int) -> None:
        """Store the memory of an unreferenced buffer for reuse, because an allocation waits for the device.

        Args:
            address: Device address.
            size: Size in bytes.
        """
        with self._lock:
            if not self.closed:
                self._spare.setdefault(size, []).append(address)

    def _release(self) -> None:
        """Free all memory and streams."""
        with self._lock:
            self.closed = True
        try:
            try:
                self.cuda.enter()
                for address in self._buffers:
                    self.cuda.free(address)
                for stream in self._all_streams:
                    self.cuda.destroy_stream(stream)
            finally:
                self._runtime = None
                self.cuda.close()
        except BackendError as problem:
            # The GPU failed during a call, which reported it; nothing can be freed any more.
            _log.warning("GPU memory could not be freed and stays allocated until the process ends: %s", str(problem))


class Buffer:
    """A tensor on the device: an output that was kept for another engine of the device. It is freed by reference count.

    Attributes:
        dtype: Data type of the elements.
        shape: Shape of the tensor.
    """

    def __init__(self, device: Gpu, address: int, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Take ownership of ``size`` bytes at ``address``."""
        self.device = device
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self._size = size

    def numpy(self) -> np.ndarray:
        """Copy the tensor to the host.

        Raises:
            BackendError: The device is closed, or CUDA failed.
        """
        array = np.empty(self.shape, self.dtype)
        stream = self.device.free.get()
        try:
            if self.device.closed:
                raise BackendError(
                    "The device of this buffer is closed, and its memory is freed. "
                    "Read buffers before the session is closed.",
                    code="buffer-closed",
                )
            self.device.cuda.enter()
            self.device.cuda.to_host(array.ctypes.data, self.address, array.nbytes, stream)
            self.device.cuda.synchronize(stream)
        finally:
            self.device.free.put(stream)
        return array

    def __del__(self) -> None:
        self.device.take_back(self.address, self._size)
