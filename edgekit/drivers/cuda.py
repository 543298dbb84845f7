"""The CUDA driver API through ctypes: memory, copies, streams and captured graphs of one NVIDIA GPU.

The driver API and not the CUDA runtime, because its library comes with every driver (JetPack 6 and 7, CUDA 12 and 13): there is
nothing to search for and no version to match. TensorRT calls the runtime, which works in the primary context of a device, as this
file does, so that addresses and streams made here are good there (cuda.h, "Primary Context Management").

Names, types and values are those of NVIDIA's cuda.h; ``tests/drivers/test_cuda.py`` holds this file against it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import BackendError

__all__ = ["FUNCTIONS", "KNOWN", "NO_GRAPH", "OUT_OF_MEMORY", "STICKY", "Cuda", "library", "probe", "view"]
CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
CU_MEMHOSTALLOC_PORTABLE = 1
CU_MEMHOSTALLOC_DEVICEMAP = 2
CU_STREAM_NON_BLOCKING = 1
CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
OUT_OF_MEMORY = 2
# After these "the process must be terminated and relaunched" (cuda.h; 710: the context, and the primary context is the only one
# here): every later call gives the same error, frees among them.
STICKY = {226, 700, 702, 710, *range(714, 720), 721, 810, 911}
# CUDA_ERROR_STREAM_CAPTURE_*, CUDA_ERROR_CAPTURED_EVENT: what was captured cannot become a graph. Without 903 and 908, a capture that
# this stream or this thread did not begin, which are mistakes of the caller.
NO_GRAPH = {900, 901, 902, 904, 905, 906, 907}

_NO_DEVICE = (
    "Check that nvidia-smi lists the GPU (Jetson: that the user is in the group 'video') and that CUDA_VISIBLE_DEVICES does not hide it; "
    "start a container with --gpus all (Jetson: --runtime nvidia)."
)
_NEWER = "Install a newer NVIDIA driver (Jetson: JetPack 6 or later)."
# Error to its name, for drivers that do not tell it, and what to do.
KNOWN: dict[int, tuple[str, str]] = {
    OUT_OF_MEMORY: (
        "CUDA_ERROR_OUT_OF_MEMORY",
        "Close other programs that use the GPU (Jetson: that use memory), open fewer sessions, or build the bundle for a smaller largest batch and length.",
    ),
    3: (
        "CUDA_ERROR_NOT_INITIALIZED",
        "CUDA does not survive a fork: open the session in the child process (multiprocessing: start method 'spawn').",
    ),
    4: ("CUDA_ERROR_DEINITIALIZED", "The process is ending and CUDA with it: close sessions before."),
    34: (
        "CUDA_ERROR_STUB_LIBRARY",
        "What was loaded is the CUDA toolkit's stand-in for linking: take its folder 'stubs' out of LD_LIBRARY_PATH.",
    ),
    36: ("CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", _NEWER),
    46: (
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "Another process holds the GPU for itself: end it, or run 'nvidia-smi -c DEFAULT'.",
    ),
    100: ("CUDA_ERROR_NO_DEVICE", _NO_DEVICE),
    201: (
        "CUDA_ERROR_INVALID_CONTEXT",
        "Other code in this process took the GPU's context off this thread: run sessions on threads of their own.",
    ),
    304: ("CUDA_ERROR_OPERATING_SYSTEM", _NO_DEVICE),
    709: (
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "Other code in this process reset the GPU: take the reset out and open the session again.",
    ),
    802: (
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "A service of the driver is not running: start it (NVSwitch machines: nvidia-fabricmanager) or restart the machine.",
    ),
    803: (
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "The driver's parts differ in version: restart the machine, or install the driver (Jetson: JetPack) anew.",
    ),
    804: (
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "CUDA's compatibility package does not serve this GPU: remove it, or install a newer NVIDIA driver.",
    ),
    999: ("CUDA_ERROR_UNKNOWN", _NO_DEVICE),
}
_REPORT = "This is a fault of EdgeKit or of the driver: please report it with this message and the driver's version."
_AGAIN = (
    "What the GPU holds for this process is lost and every later CUDA call fails: end the process and start it again."
)

_OUT = ctypes.POINTER
_HANDLE = ctypes.c_void_p  # CUcontext, CUstream, CUgraph, CUgraphExec
_ADDRESS = ctypes.c_uint64  # CUdeviceptr of a 64-bit system
_COPY = (ctypes.c_size_t, _HANDLE)

# Exported names, which cuda.h hides behind macros, and their argument types. All give back a CUresult.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_OUT(ctypes.c_int),),
    "cuGetErrorName": (ctypes.c_int, _OUT(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, _OUT(ctypes.c_char_p)),
    "cuDeviceGetCount": (_OUT(ctypes.c_int),),
    "cuDeviceGet": (_OUT(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (_OUT(ctypes.c_char), ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (_OUT(ctypes.c_size_t), ctypes.c_int),
    "cuDeviceGetAttribute": (_OUT(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_OUT(_HANDLE), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemGetInfo_v2": (_OUT(ctypes.c_size_t), _OUT(ctypes.c_size_t)),
    "cuMemAlloc_v2": (_OUT(_ADDRESS), ctypes.c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (_OUT(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_uint),
    "cuMemHostGetDevicePointer_v2": (_OUT(_ADDRESS), ctypes.c_void_p, ctypes.c_uint),
    "cuMemFreeHost": (ctypes.c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, ctypes.c_void_p, *_COPY),
    "cuMemcpyDtoHAsync_v2": (ctypes.c_void_p, _ADDRESS, *_COPY),
    "cuMemcpyDtoDAsync_v2": (_ADDRESS, _ADDRESS, *_COPY),
    "cuStreamCreate": (_OUT(_HANDLE), ctypes.c_uint),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, _OUT(_HANDLE)),
    "cuGraphInstantiateWithFlags": (_OUT(_HANDLE), _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}


class _Thread(threading.local):
    """Which :class:`Cuda` made its context current on this thread last."""

    token: object = ""


_thread = _Thread()


def library() -> Any:
    """Loads the driver's library. Its calls let other Python threads run.

    Raises:
        BackendError: when there is none.
    """
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as problem:
        raise BackendError(
            f"There is no NVIDIA driver here that can be loaded ({str(problem).rstrip('.')}). Install the driver of the GPU (a Jetson has it "
            "from JetPack); start a container with --gpus all (Jetson: --runtime nvidia).",
            code="cuda-driver-missing",
        ) from problem


def probe(library: Any = None) -> str | None:
    """None when CUDA can be used, else a sentence that says why not.

    To be asked before TensorRT is imported, which can end the process where there is no driver.

    Args:
        library: the driver's library; None loads it.
    """
    try:
        _start(library)
    except BackendError as problem:
        return str(problem)
    return None


def view(host_address: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """An array on host memory, without a copy. It is good for as long as the memory is.

    Args:
        host_address: of its first byte; what :meth:`Cuda.allocate_host` gave.
        dtype: of its elements.
        shape: C-contiguous.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.asarray(np.ndarray(tuple(shape), dtype, (ctypes.c_char * size).from_address(host_address)))


def _start(given: Any) -> tuple[dict[str, Any], int]:
    """Binds all functions, initializes CUDA and counts the devices, of which there is one at least."""
    loaded = library() if given is None else given
    functions = {}
    for name, types in FUNCTIONS.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as problem:
            raise BackendError(
                f"The NVIDIA driver has no {name}, which CUDA 12 has. {_NEWER}", code="cuda-driver-old"
            ) from problem
        function.argtypes, function.restype = types, ctypes.c_int
        functions[name] = function
    _call(functions, "cuInit", 0)
    count = ctypes.c_int()
    _call(functions, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise BackendError(f"The NVIDIA driver finds no GPU. {_NO_DEVICE}", code="cuda-no-gpu")
    return functions, count.value


def _call(functions: Mapping[str, Any], name: str, *arguments: Any) -> None:
    code = functions[name](*arguments)
    if code:
        raise _failure(functions, name, code)


def _failure(functions: Mapping[str, Any], name: str, code: int, more: str = "") -> BackendError:
    """The error of a call, in the driver's own words."""
    said = []
    for function in ("cuGetErrorName", "cuGetErrorString"):
        text = ctypes.c_char_p()
        functions[function](code, ctypes.byref(text))
        said.append((text.value or b"").decode("utf-8", "replace"))
    known, remedy = KNOWN.get(code, ("an error without a name", _AGAIN if code in STICKY else _REPORT))
    return BackendError(
        f"The CUDA call {name} failed with {said[0] or known} ({code}): {said[1] or 'no text'}. {more}{remedy}",
        code="cuda-call",
    )


class Cuda:
    """One GPU, in its primary context. Methods may be called from any thread; the calls on one stream are the caller's to order.

    Attributes:
        name: of the GPU.
        compute_capability: major, minor, e.g. (8, 7).
        memory: bytes.
        multiprocessors: their number.
        integrated: whether the GPU shares its memory with the CPU, as on a Jetson.
        driver_version: newest CUDA that the driver knows, e.g. 12060 for 12.6.
    """

    def __init__(self, ordinal: int = 0, library: Any = None) -> None:
        """Opens a GPU.

        Args:
            ordinal: its number among those that CUDA_VISIBLE_DEVICES shows.
            library: the driver's library; None loads it.

        Raises:
            BackendError: when there is no driver, or no such GPU, or it cannot be used.
        """
        self._functions, count = _start(library)
        if not 0 <= ordinal < count:
            raise BackendError(
                f"The GPU {ordinal} was asked for, this machine has {count} (the first is 0). Give another, or see CUDA_VISIBLE_DEVICES.",
                code="cuda-ordinal",
            )
        number, text, size = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        _call(self._functions, "cuDriverGetVersion", ctypes.byref(number))
        self.driver_version = number.value
        _call(self._functions, "cuDeviceGet", ctypes.byref(number), ordinal)
        self._device = number.value
        _call(self._functions, "cuDeviceGetName", text, len(text), self._device)
        self.name = text.value.decode("utf-8", "replace")
        _call(self._functions, "cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        self.memory = size.value
        major, minor = (
            self._attribute(a)
            for a in (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        )
        self.compute_capability = major, minor
        self.multiprocessors = self._attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.integrated = bool(self._attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED))
        self._context, self._lock = ctypes.c_void_p(), threading.Lock()
        _call(self._functions, "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._token: object | None = object()

    def enter(self) -> None:
        """Makes the context current on this thread, also where other code has put another one in its place.

        To be called before TensorRT is, and at the start of each run: the other methods do it only where this object was not the last
        to do so on this thread, which costs them no call.

        Raises:
            BackendError: when it was closed, or the context is lost.
        """
        token = self._token
        if token is None:
            raise BackendError(
                "The GPU was closed and cannot be used any more. Open the session again.", code="cuda-closed"
            )
        _call(self._functions, "cuCtxSetCurrent", self._context)
        _thread.token = token

    def free_memory(self) -> int:
        """Bytes that are free on the GPU now, to all programs."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._here("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of new device memory, not cleared and aligned to 256 bytes at least (CUDA programming guide).

        Args:
            size: bytes; 0 gives an address of its own too.

        Raises:
            BackendError: when there is not as much.
        """
        address = ctypes.c_uint64()
        self._allocate("device memory", size, "cuMemAlloc_v2", ctypes.byref(address), size or 1)
        return address.value

    def free(self, address: int) -> None:
        """Frees device memory."""
        self._here("cuMemFree_v2", address)

    def allocate_host(self, size: int, *, mapped: bool) -> tuple[int, int]:
        """New page-locked host memory: its address on the host, and its address on the device.

        Args:
            size: bytes; 0 gives an address of its own too.
            mapped: whether the device reads and writes it in place; its address there is 0 otherwise.

        Raises:
            BackendError: when there is not as much, or the device cannot map it.
        """
        host, address = ctypes.c_void_p(), ctypes.c_uint64()
        flags = CU_MEMHOSTALLOC_PORTABLE | (CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        self._allocate("page-locked host memory", size, "cuMemHostAlloc", ctypes.byref(host), size or 1, flags)
        if mapped:
            try:
                self._here("cuMemHostGetDevicePointer_v2", ctypes.byref(address), host, 0)
            except BackendError:
                self._functions["cuMemFreeHost"](host)
                raise
        return host.value or 0, address.value

    def free_host(self, address: int) -> None:
        """Frees page-locked host memory, by its address on the host."""
        self._here("cuMemFreeHost", address)

    def stream(self) -> int:
        """A new stream, which does not wait for the default stream."""
        made = ctypes.c_void_p()
        self._here("cuStreamCreate", ctypes.byref(made), CU_STREAM_NON_BLOCKING)
        return made.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Frees a stream; what it still does is finished."""
        self._here("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Waits until a stream has done all.

        Raises:
            BackendError: also for what an earlier call on it did, e.g. a kernel that read outside of its memory.
        """
        self._here("cuStreamSynchronize", stream)

    def to_device(self, address: int, source_host_address: int, size: int, stream: int) -> None:
        """Queues a copy of ``size`` bytes from the host. Page-locked memory must stay as it is until the stream has done it."""
        if size:
            self._here("cuMemcpyHtoDAsync_v2", address, source_host_address, size, stream)

    def to_host(self, host_address: int, address: int, size: int, stream: int) -> None:
        """Queues a copy of ``size`` bytes to the host, where they are once the stream is synchronized."""
        if size:
            self._here("cuMemcpyDtoHAsync_v2", host_address, address, size, stream)

    def on_device(self, to: int, source: int, size: int, stream: int) -> None:
        """Queues a copy of ``size`` bytes within the device."""
        if size:
            self._here("cuMemcpyDtoDAsync_v2", to, source, size, stream)

    def begin_capture(self, stream: int) -> None:
        """From now on what is queued on a stream is recorded and not done. Other threads are not disturbed; this one must not allocate."""
        self._here("cuStreamBeginCapture_v2", stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int | None:
        """Ends a capture, on the thread that began it.

        Returns:
            A graph for :meth:`launch`; None where something was queued that cannot be captured. The stream works as before then.

        Raises:
            BackendError: when there was no capture, or the graph finds no memory.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        if _thread.token is not self._token:
            self.enter()
        code = self._functions["cuStreamEndCapture"](stream, ctypes.byref(graph))
        try:
            if code in NO_GRAPH or (not code and not graph.value):
                return None
            if code:
                raise _failure(self._functions, "cuStreamEndCapture", code)
            self._here("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
            return executable.value
        finally:
            if graph.value:
                self._functions["cuGraphDestroy"](
                    graph
                )  # the executable graph is a copy; an error worth telling is on its way

    def launch(self, graph: int, stream: int) -> None:
        """Queues a graph."""
        self._here("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Frees a graph that :meth:`end_capture` gave."""
        self._here("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Gives the context back, once. What was made in it must have been freed before; other users of the GPU keep theirs."""
        with self._lock:
            if self._token is None:
                return
            self._token = None
        _call(self._functions, "cuDevicePrimaryCtxRelease_v2", self._device)

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        _call(self._functions, "cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def _here(self, name: str, *arguments: Any) -> None:
        """A call in the context. That of :func:`_call` is spelled out, because a run makes several."""
        if _thread.token is not self._token:
            self.enter()
        code = self._functions[name](*arguments)
        if code:
            raise _failure(self._functions, name, code)

    def _allocate(self, what: str, size: int, name: str, *arguments: Any) -> None:
        """A call that takes memory, whose error tells how much there was."""
        if _thread.token is not self._token:
            self.enter()
        code = self._functions[name](*arguments)
        more = ""
        if code == OUT_OF_MEMORY:
            asked, free, all_of_it = (f"{n / 2**20:.1f}" for n in (size, self.free_memory(), self.memory))
            more = f"{asked} MiB of {what} were asked for, {free} of the GPU's {all_of_it} MiB are free. "
        if code:
            raise _failure(self._functions, name, code, more)
