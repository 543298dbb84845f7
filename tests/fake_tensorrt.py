"""A fake of the Python module ``tensorrt`` for machines without a GPU: same names and errors, engines that compute.

``make("10.3.0")`` returns a module with the names of that version; ``fake(module)`` returns its controls for a test. An
engine reads its inputs from device addresses, computes the ONNX graph on the CPU and writes its outputs to addresses;
host memory is used as device memory. With a fake driver, the work that a context queues during a capture is recorded
and runs at each launch.

Its behaviour is that of the real library. TensorRT-RTX builds without a GPU, and ``test_fake_tensorrt.py`` compares
both. For everything that needs a GPU, texts are those quoted in the issue tracker of TensorRT, and rules are those of
``NvInferRuntime.h`` and of the source of the bindings (``python/src/infer/pyCore.cpp``). If these leave a choice, the
fake takes the stricter one.
"""

from __future__ import annotations

import types
from typing import Any

import fake_tensorrt_build as build
import fake_tensorrt_native as native
import fake_tensorrt_run as run
from fake_tensorrt_native import Fake

_FULL = {"10.3.0": "10.3.0", "10.16.1": "10.16.1.11", "11.4.0": "11.4.0.106"}  # Short version to ``__version__``.

# Members in the order of their values, "-" for values without a member. From the bindings; see test_fake_tensorrt.py.
_FLAGS_10 = (
    "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
    "DIRECT_IO REJECT_EMPTY_ALGORITHMS VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8 ERROR_ON_TIMING_CACHE_MISS BF16 DISABLE_COMPILATION_CACHE STRIP_PLAN "
    "REFIT_IDENTICAL WEIGHT_STREAMING INT4 REFIT_INDIVIDUAL"
)
_FLAGS_11 = (
    "- - DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE - - DIRECT_IO VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME - "
    "ERROR_ON_TIMING_CACHE_MISS - DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL WEIGHT_STREAMING - REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY - "
    "EDITABLE_TIMING_CACHE DISTRIBUTIVE_INDEPENDENCE"
)
_TYPES = "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4"
_ENUMS = {
    "MemoryPoolType": "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM TACTIC_SHARED_MEMORY",
    "ExecutionContextAllocationStrategy": "STATIC ON_PROFILE_CHANGE USER_MANAGED",
    "ProfilingVerbosity": "LAYER_NAMES_ONLY NONE DETAILED",
    "LayerInformationFormat": "ONELINE JSON",
    "TensorIOMode": "NONE INPUT OUTPUT",
    "TensorLocation": "DEVICE HOST",
    "ErrorCode": "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE INVALID_GRAPH INVALID_NODE UNSUPPORTED_GRAPH UNSUPPORTED_NODE "
    "UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_DATATYPE UNSUPPORTED_NODE_DYNAMIC UNSUPPORTED_NODE_SHAPE REFIT_FAILED",
}
_BY_VERSION = {
    "10.3.0": {
        "DataType": _TYPES,
        "BuilderFlag": _FLAGS_10,
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH STRONGLY_TYPED",
        "HardwareCompatibilityLevel": "NONE AMPERE_PLUS",
    },
    "10.16.1": {
        "DataType": f"{_TYPES} FP4 E8M0",
        "BuilderFlag": f"{_FLAGS_10} STRICT_NANS MONITOR_MEMORY FP4 EDITABLE_TIMING_CACHE DISTRIBUTIVE_INDEPENDENCE",
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH STRONGLY_TYPED PREFER_JIT_PYTHON_PLUGINS PREFER_AOT_PYTHON_PLUGINS",
        "HardwareCompatibilityLevel": "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
    },
    "11.4.0": {
        "DataType": f"{_TYPES} FP4 E8M0",
        "BuilderFlag": _FLAGS_11,
        "NetworkDefinitionCreationFlag": "STRONGLY_TYPED PREFER_JIT_PYTHON_PLUGINS PREFER_AOT_PYTHON_PLUGINS",
        "HardwareCompatibilityLevel": "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
    },
}


def fake(module: Any) -> Fake:
    """Return the controls of a module that :func:`make` returned."""
    return module.__fake__


# Names that not all three versions have: class, name, first version, first version without it, attribute.
_SOME = (
    ("Builder", "platform_has_fast_fp16", (10, 0), (11, 0), property(lambda self: True)),
    ("Builder", "platform_has_fast_int8", (10, 0), (11, 0), property(lambda self: True)),
    ("IBuilderConfig", "max_num_tactics", (10, 4), (99, 0), native.setting("max_num_tactics", lambda fake: int)),
    ("ICudaEngine", "device_memory_size", (10, 0), (11, 0), property(lambda self: self.device_memory_size_v2)),
)


def make(version: str = "10.3.0", driver: Any = None, **knobs: Any) -> types.ModuleType:
    """Return a fake module ``tensorrt``.

    Args:
        version: Version: 10.3.0, 10.16.1 or 11.4.0.
        driver: Fake driver (``fake_cuda.FakeDriver``) on whose streams engines run; None runs all work immediately.
        knobs: Fields of :class:`Fake`.
    """
    trt = types.ModuleType("tensorrt", "A fake, see fake_tensorrt.py.")
    trt.__version__ = _FULL[version]
    trt.__fake__ = control = Fake(_FULL[version], driver, trt=trt, **knobs)
    for name, members in {**_ENUMS, **_BY_VERSION[version]}.items():
        setattr(trt, name, native.enum(name, members))
    if version == "10.3.0":
        trt.ErrorCode.name = lambda self: None  # A bug in these bindings: there it is a method that cannot be called.
    severity = native.enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
    release = tuple(int(part) for part in version.split(".")[:2])
    for kind in (*native.KINDS, *build.KINDS, *run.KINDS):
        space: dict[str, Any] = {"__module__": "tensorrt.tensorrt", "__doc__": kind.__doc__}
        if issubclass(kind, (native.Native, native.Dims)):
            space.update(__slots__=(), _fake=control)
        if kind is native.ILogger:
            space.update(severity.__members__, Severity=severity)
        space.update(
            {
                name: what
                for owner, name, first, without, what in _SOME
                if owner == kind.__name__ and first <= release < without
            }
        )
        bases = (kind, trt.ILogger) if kind is native.Logger else (kind,)
        setattr(trt, kind.__name__, type(kind)(kind.__name__, bases, space))
    return trt
