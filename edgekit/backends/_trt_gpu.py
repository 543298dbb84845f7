"""What engines on one GPU share: CUDA, a stream for each call that may run at the same time, and the tensors that stay on it."""

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
    """A GPU as TensorRT's objects see it.

    Attributes:
        trt: the module ``tensorrt``, or that of TensorRT-RTX.
        cuda: the driver.
        streams: how many there are.
        free: streams that no call uses.
        heard: what TensorRT wrote to its log.
        closed: whether its memory is gone.
    """

    def __init__(self, trt: Any, streams: int, cuda: Cuda | None = None) -> None:
        """Opens it.

        Args:
            trt: the module ``tensorrt``, or that of TensorRT-RTX.
            streams: calls at the same time.
            cuda: the device; by default the first.

        Raises:
            BackendError: when CUDA or TensorRT refuses.
        """
        self.trt, self.streams = trt, streams
        self.cuda = cuda or Cuda()
        log, self.heard = logger(trt)
        self._own: list[int] = []
        self.free: SimpleQueue[int] = SimpleQueue()
        self._buffers: set[int] = set()
        self._spare: dict[int, list[int]] = {}
        self._lock = threading.RLock()  # a buffer may be collected while it is held
        self._closing = threading.Lock()
        self.closed = False
        mark = self.heard.mark()
        try:
            self.cuda.enter()
            self._runtime = trt.Runtime(log)
            for _ in range(streams):
                self._own.append(self.cuda.stream())
                self.free.put(self._own[-1])
        except TypeError as problem:  # how pybind says that the factory gave a null pointer
            self._release()
            lines = "; ".join(self.heard.errors(mark)) or str(problem)
            raise BackendError(
                f"TensorRT {trt.__version__} does not start: {lines}. It may need a newer NVIDIA driver than this one.",
                code="tensorrt-start",
            ) from problem
        except BaseException:
            self._release()
            raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the calls that run, and holds off others. One thread at a time collects the streams: two would wait for each other's."""
        with self._closing:
            held: list[int] = []
            try:
                for _ in self._own:
                    held.append(self.free.get())
                yield
            finally:
                for stream in held:
                    self.free.put(stream)

    def buffer(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Buffer:
        """Memory on the device for one tensor; used again when the last reference to it goes.

        Sizes are powers of two, so that tensors that grow call by call (a state) need no memory for each of their sizes.
        """
        size = 1 << max(8, (int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - 1).bit_length())
        with self._lock:
            spare = self._spare.get(size)
            address = spare.pop() if spare else self.cuda.allocate(size)
            self._buffers.add(address)
        return Buffer(self, address, size, dtype, shape)

    def take_back(self, address: int, size: int) -> None:
        """Keeps the memory of a buffer that nobody refers to any more, for the next of its size: allocating waits for the device."""
        with self._lock:
            if not self.closed:
                self._spare.setdefault(size, []).append(address)

    def _release(self) -> None:
        with self._lock:
            self.closed = True
        try:
            try:
                self.cuda.enter()
                for address in self._buffers:
                    self.cuda.free(address)
                for stream in self._own:
                    self.cuda.destroy_stream(stream)
            finally:
                self._runtime = None
                self.cuda.close()
        except BackendError as problem:  # the GPU failed, which a call has told; nothing can be freed any more
            _log.warning("What is on the GPU goes with the process: %s", str(problem))


class Buffer:
    """A tensor that stays on the device: an output that was kept, for an engine of the same device to read. It goes with its last reference.

    Attributes:
        dtype: of its elements.
        shape: sizes of its axes.
    """

    def __init__(self, device: Gpu, address: int, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Owns ``size`` bytes at ``address``."""
        self.device, self.address, self.dtype, self.shape = device, address, dtype, shape
        self._size = size

    def numpy(self) -> np.ndarray:
        """A copy of it on the host.

        Raises:
            BackendError: when its device was closed, or CUDA refuses.
        """
        array = np.empty(self.shape, self.dtype)
        stream = self.device.free.get()
        try:
            if self.device.closed:
                raise BackendError(
                    "The device of this buffer is closed, and its memory with it. Read buffers before the session is closed.",
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
