"""One NVIDIA GPU: memory, copies, streams and captured graphs, on the CUDA driver API.

TensorRT calls the CUDA runtime, which works in the primary context of a device. This module uses the same context, so
its addresses and streams are valid for TensorRT (cuda.h, "Primary Context Management").
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.drivers import cuda_api
from edgekit.drivers.cuda_api import call, call_error, start
from edgekit.spec.errors import BackendError

__all__ = ["Cuda", "probe", "view"]


class _Thread(threading.local):
    """Token of the :class:`Cuda` that last made its context current on this thread."""

    token: object = ""


_thread = _Thread()


def probe(library: Any = None) -> str | None:
    """Return None if CUDA works, otherwise a sentence with the reason.

    Call it before importing TensorRT, which can crash the process without a driver.

    Args:
        library: Library of the driver. Default: load it.
    """
    try:
        start(library)
    except BackendError as problem:
        return str(problem)
    return None


def view(host_address: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """Return an array on host memory without copying it. It is valid as long as the memory is.

    Args:
        host_address: Host address of the first byte, e.g. from :meth:`Cuda.allocate_host`.
        dtype: Data type of the elements.
        shape: Shape of the array, C-contiguous.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.asarray(np.ndarray(tuple(shape), dtype, (ctypes.c_char * size).from_address(host_address)))


class Cuda:
    """One GPU in its primary context. Methods are thread-safe; the caller orders the calls on one stream.

    Attributes:
        name: Name of the GPU.
        compute_capability: Compute capability, major and minor, e.g. (8, 7).
        memory: Memory size, bytes.
        multiprocessors: Number of multiprocessors.
        integrated: True if the GPU shares its memory with the CPU, as on a Jetson.
        driver_version: Newest CUDA version that the driver supports, e.g. 12060 for 12.6.
    """

    def __init__(self, ordinal: int = 0, library: Any = None) -> None:
        """Open a GPU.

        Args:
            ordinal: Index among the GPUs that CUDA_VISIBLE_DEVICES shows.
            library: Library of the driver. Default: load it.

        Raises:
            BackendError: There is no driver or no such GPU, or the GPU cannot be used.
        """
        self._functions, count = start(library)
        if not 0 <= ordinal < count:
            raise BackendError(
                f"There is no GPU {ordinal}: this machine has {count} (the first is 0). "
                "Pass another number, or check CUDA_VISIBLE_DEVICES.",
                code="cuda-ordinal",
            )
        number = ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        size = ctypes.c_size_t()
        call(self._functions, "cuDriverGetVersion", ctypes.byref(number))
        self.driver_version = number.value
        call(self._functions, "cuDeviceGet", ctypes.byref(number), ordinal)
        self._device = number.value
        call(self._functions, "cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode("utf-8", "replace")
        call(self._functions, "cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        self.memory = size.value
        self.compute_capability = (
            self._attribute(cuda_api.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(cuda_api.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors = self._attribute(cuda_api.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.integrated = bool(self._attribute(cuda_api.CU_DEVICE_ATTRIBUTE_INTEGRATED))
        self._lock = threading.Lock()
        self._context = ctypes.c_void_p()
        call(self._functions, "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._token: object | None = object()

    def enter(self) -> None:
        """Make the context current on this thread, even if other code has replaced it.

        Call it before TensorRT and at the start of each run. The other methods make the context current only if this
        object was not the last to do so on this thread, which costs no call.

        Raises:
            BackendError: The GPU is closed, or the context is lost.
        """
        token = self._token
        if token is None:
            raise BackendError("The GPU is closed and cannot be used. Open the session again.", code="cuda-closed")
        call(self._functions, "cuCtxSetCurrent", self._context)
        _thread.token = token

    def free_memory(self) -> int:
        """Return the free memory of the GPU for all programs, bytes."""
        free = ctypes.c_size_t()
        total = ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Allocate device memory and return its address.

        The memory is not cleared and is aligned to at least 256 bytes (CUDA programming guide).

        Args:
            size: Number of bytes; 0 gives a unique address too.

        Raises:
            BackendError: Not enough memory.
        """
        address = ctypes.c_uint64()
        self._allocate("device memory", size, "cuMemAlloc_v2", ctypes.byref(address), size or 1)
        return address.value

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cuMemFree_v2", address)

    def allocate_host(self, size: int, *, mapped: bool) -> tuple[int, int]:
        """Allocate page-locked host memory.

        Args:
            size: Number of bytes; 0 gives a unique address too.
            mapped: True if the device reads and writes the memory in place.

        Returns:
            The host address, and the device address; the latter is 0 if the memory is not mapped.

        Raises:
            BackendError: Not enough memory, or the device cannot map it.
        """
        host = ctypes.c_void_p()
        address = ctypes.c_uint64()
        flags = cuda_api.CU_MEMHOSTALLOC_PORTABLE
        if mapped:
            flags |= cuda_api.CU_MEMHOSTALLOC_DEVICEMAP
        self._allocate("page-locked host memory", size, "cuMemHostAlloc", ctypes.byref(host), size or 1, flags)
        if mapped:
            try:
                self._call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), host, 0)
            except BackendError:
                self._functions["cuMemFreeHost"](host)
                raise
        return host.value or 0, address.value

    def free_host(self, address: int) -> None:
        """Free page-locked host memory by its host address."""
        self._call("cuMemFreeHost", address)

    def stream(self) -> int:
        """Create a stream that does not wait for the default stream, and return its handle."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), cuda_api.CU_STREAM_NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Free a stream; its queued work is still completed."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has completed all its work.

        Raises:
            BackendError: A call on the stream failed, also an earlier one, e.g. a kernel that read outside its memory.
        """
        self._call("cuStreamSynchronize", stream)

    def to_device(self, address: int, source_host_address: int, size: int, stream: int) -> None:
        """Queue a copy from the host to the device. Page-locked memory must not change until the copy is complete.

        Args:
            address: Device address of the destination.
            source_host_address: Host address of the source.
            size: Number of bytes.
            stream: Stream.
        """
        if size:
            self._call("cuMemcpyHtoDAsync_v2", address, source_host_address, size, stream)

    def to_host(self, host_address: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from the device to the host. It is complete once the stream is synchronized.

        Args:
            host_address: Host address of the destination.
            address: Device address of the source.
            size: Number of bytes.
            stream: Stream.
        """
        if size:
            self._call("cuMemcpyDtoHAsync_v2", host_address, address, size, stream)

    def on_device(self, to: int, source: int, size: int, stream: int) -> None:
        """Queue a copy within the device.

        Args:
            to: Device address of the destination.
            source: Device address of the source.
            size: Number of bytes.
            stream: Stream.
        """
        if size:
            self._call("cuMemcpyDtoDAsync_v2", to, source, size, stream)

    def begin_capture(self, stream: int) -> None:
        """Start to record the work queued on a stream instead of executing it.

        Other threads are not affected; this thread must not allocate during the capture.
        """
        self._call("cuStreamBeginCapture_v2", stream, cuda_api.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int | None:
        """End a capture, on the thread that began it.

        Returns:
            Executable graph for :meth:`launch`; None if some queued work cannot be captured. The stream then works as
            before.

        Raises:
            BackendError: There was no capture, or not enough memory for the graph.
        """
        graph = ctypes.c_void_p()
        executable = ctypes.c_void_p()
        self._enter_once()
        code = self._functions["cuStreamEndCapture"](stream, ctypes.byref(graph))
        try:
            if code in cuda_api.NO_GRAPH or (not code and not graph.value):
                return None
            if code:
                raise call_error(self._functions, "cuStreamEndCapture", code)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
            return executable.value
        finally:
            if graph.value:
                # The executable graph is a copy. The result is ignored, because a relevant error is raised already.
                self._functions["cuGraphDestroy"](graph)

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph on a stream."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Free a graph that :meth:`end_capture` returned."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Release the context once.

        Everything created in it must be freed before. Other users of the GPU keep their contexts.
        """
        with self._lock:
            if self._token is None:
                return
            self._token = None
        call(self._functions, "cuDevicePrimaryCtxRelease_v2", self._device)

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        call(self._functions, "cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def _enter_once(self) -> None:
        """Make the context current unless this object was the last to do so on this thread."""
        if _thread.token is not self._token:
            self.enter()

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function in the context. :func:`call` is written out here, because a run makes several calls."""
        if _thread.token is not self._token:
            self.enter()
        code = self._functions[name](*arguments)
        if code:
            raise call_error(self._functions, name, code)

    def _allocate(self, memory_kind: str, size: int, name: str, *arguments: Any) -> None:
        """Call a function that allocates memory; its error message has the free memory."""
        self._enter_once()
        code = self._functions[name](*arguments)
        details = ""
        if code == cuda_api.OUT_OF_MEMORY:
            requested, free, total = (f"{number / 2**20:.1f}" for number in (size, self.free_memory(), self.memory))
            details = f"{requested} MiB of {memory_kind} were requested, {free} of {total} MiB of the GPU are free. "
        if code:
            raise call_error(self._functions, name, code, details)
