"""The CUDA driver API through ctypes: function signatures, constants, error codes and remedies.

The driver API is used instead of the CUDA runtime, because its library comes with every driver (JetPack 6 and 7, CUDA
12 and 13): there is no library to search for and no version to match.

Names, types and values are those of NVIDIA's cuda.h; ``tests/drivers/test_cuda.py`` compares this file with it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

from edgekit.spec.errors import BackendError

__all__ = [
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    "CU_DEVICE_ATTRIBUTE_INTEGRATED",
    "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT",
    "CU_MEMHOSTALLOC_DEVICEMAP",
    "CU_MEMHOSTALLOC_PORTABLE",
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
    "CU_STREAM_NON_BLOCKING",
    "FUNCTIONS",
    "KNOWN",
    "NO_GRAPH",
    "OUT_OF_MEMORY",
    "STICKY",
    "call",
    "call_error",
    "load_library",
    "start",
]

CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
CU_MEMHOSTALLOC_PORTABLE = 1
CU_MEMHOSTALLOC_DEVICEMAP = 2
CU_STREAM_NON_BLOCKING = 1
CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

OUT_OF_MEMORY = 2
STICKY = {226, 700, 702, 710, *range(714, 720), 721, 810, 911}
"""Errors after which every later call fails too, frees included.

cuda.h says of them "the process must be terminated and relaunched" (710: the context; the primary context is the only
one here).
"""
NO_GRAPH = {900, 901, 902, 904, 905, 906, 907}
"""Errors of a capture that cannot become a graph: CUDA_ERROR_STREAM_CAPTURE_* and CUDA_ERROR_CAPTURED_EVENT.

903 and 908, a capture that another stream or thread began, are mistakes of the caller and not included.
"""

_NO_DEVICE = (
    "Check that nvidia-smi lists the GPU (Jetson: that the user is in the group 'video') and that CUDA_VISIBLE_DEVICES "
    "does not hide it; start a container with --gpus all (Jetson: --runtime nvidia)."
)
_NEWER = "Install a newer NVIDIA driver (Jetson: JetPack 6 or later)."
_REPORT = "This is a fault of EdgeKit or of the driver: please report it with this message and the driver's version."
_RESTART = "The GPU memory of this process is lost and every later CUDA call fails: end the process and start it again."

KNOWN: dict[int, tuple[str, str]] = {
    OUT_OF_MEMORY: (
        "CUDA_ERROR_OUT_OF_MEMORY",
        "Close other programs that use the GPU (Jetson: that use memory), open fewer sessions, or build the bundle "
        "with a smaller largest batch and length.",
    ),
    3: (
        "CUDA_ERROR_NOT_INITIALIZED",
        "CUDA does not survive a fork: open the session in the child process (multiprocessing: start method 'spawn').",
    ),
    4: ("CUDA_ERROR_DEINITIALIZED", "The process is ending and CUDA with it: close sessions earlier."),
    34: (
        "CUDA_ERROR_STUB_LIBRARY",
        "The loaded library is the stub of the CUDA toolkit: remove its folder 'stubs' from LD_LIBRARY_PATH.",
    ),
    36: ("CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", _NEWER),
    46: (
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "Another process uses the GPU exclusively: end it, or run 'nvidia-smi -c DEFAULT'.",
    ),
    100: ("CUDA_ERROR_NO_DEVICE", _NO_DEVICE),
    201: (
        "CUDA_ERROR_INVALID_CONTEXT",
        "Other code in this process removed the GPU's context from this thread: run sessions in threads of their own.",
    ),
    304: ("CUDA_ERROR_OPERATING_SYSTEM", _NO_DEVICE),
    709: (
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "Other code in this process reset the GPU: remove the reset and open the session again.",
    ),
    802: (
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "A service of the driver is not running: start it (NVSwitch machines: nvidia-fabricmanager) or restart the "
        "machine.",
    ),
    803: (
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "The parts of the driver differ in version: restart the machine, or reinstall the driver (Jetson: JetPack).",
    ),
    804: (
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "CUDA's compatibility package does not support this GPU: remove it, or install a newer NVIDIA driver.",
    ),
    999: ("CUDA_ERROR_UNKNOWN", _NO_DEVICE),
}
"""Error code to its name, for drivers that do not report it, and the remedy."""

_OUT = ctypes.POINTER
_HANDLE = ctypes.c_void_p  # CUcontext, CUstream, CUgraph and CUgraphExec.
_ADDRESS = ctypes.c_uint64  # CUdeviceptr of a 64-bit system.
_COPY = (ctypes.c_size_t, _HANDLE)

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
"""Exported function names, which cuda.h hides behind macros, and their argument types. All return a CUresult."""


def load_library() -> Any:
    """Load the library of the driver. Other Python threads can run during its calls.

    Raises:
        BackendError: There is no NVIDIA driver.
    """
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as problem:
        raise BackendError(
            f"No NVIDIA driver can be loaded here ({str(problem).rstrip('.')}). Install the driver of the GPU (a "
            "Jetson gets it from JetPack); start a container with --gpus all (Jetson: --runtime nvidia).",
            code="cuda-driver-missing",
        ) from problem


def start(library: Any = None) -> tuple[dict[str, Any], int]:
    """Bind all functions, initialize CUDA and count the GPUs.

    Args:
        library: Library of the driver. Default: load it.

    Returns:
        The functions by name, and the number of GPUs, at least 1.

    Raises:
        BackendError: There is no driver or no GPU, the driver is too old, or CUDA failed.
    """
    if library is None:
        library = load_library()
    functions = {}
    for name, types in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as problem:
            raise BackendError(
                f"The NVIDIA driver has no function {name}, which CUDA 12 has. {_NEWER}", code="cuda-driver-old"
            ) from problem
        function.argtypes = types
        function.restype = ctypes.c_int
        functions[name] = function
    call(functions, "cuInit", 0)
    count = ctypes.c_int()
    call(functions, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise BackendError(f"The NVIDIA driver finds no GPU. {_NO_DEVICE}", code="cuda-no-gpu")
    return functions, count.value


def call(functions: Mapping[str, Any], name: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Args:
        functions: Functions by name, from :func:`start`.
        name: Name of the function.
        *arguments: Arguments of the function.

    Raises:
        BackendError: The call failed.
    """
    code = functions[name](*arguments)
    if code:
        raise call_error(functions, name, code)


def call_error(functions: Mapping[str, Any], name: str, code: int, details: str = "") -> BackendError:
    """Return the error for a failed call, in the words of the driver.

    Args:
        functions: Functions by name, from :func:`start`.
        name: Name of the function that failed.
        code: CUresult of the call.
        details: Sentence before the remedy, with a space at its end; or empty.
    """
    known_name, remedy = KNOWN.get(code, ("an error without a name", _RESTART if code in STICKY else _REPORT))
    error_name = _error_text(functions, "cuGetErrorName", code) or known_name
    description = _error_text(functions, "cuGetErrorString", code) or "no text"
    return BackendError(
        f"The CUDA call {name} failed with {error_name} ({code}): {description}. {details}{remedy}", code="cuda-call"
    )


def _error_text(functions: Mapping[str, Any], function: str, code: int) -> str:
    """Return what the driver reports about an error; empty for an unknown error."""
    text = ctypes.c_char_p()
    functions[function](code, ctypes.byref(text))
    return (text.value or b"").decode("utf-8", "replace")
