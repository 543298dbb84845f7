"""Common parts of the TensorRT and TensorRT-RTX backends: versions, log messages, target checks and data types.

All names used here exist in TensorRT 10.3 to 11.4 and in TensorRT-RTX 1.7, or are looked up by name, because enum
values differ between versions.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.spec.engine import version
from edgekit.spec.errors import BackendError
from edgekit.spec.target import Target

_log = logging.getLogger("edgekit.tensorrt")
# trt.nptype is not used: it does not know bfloat16, and fails altogether with some pairs of TensorRT and numpy.
_NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
# Part of a data type in the engine inspector's output to its precision, in the order of the search.
_PRECISIONS = (
    ("int8", "int8"),
    ("half", "float16"),
    ("fp16", "float16"),
    ("bf16", "bfloat16"),
    ("bfloat16", "bfloat16"),
    ("float", "float32"),
    ("fp32", "float32"),
)
_MAX_MESSAGES = 400  # A failing build writes some tens of lines.
# Lower than NVIDIA's levels: an error that ends a build or a call is raised with its messages.
_LEVELS = {"INTERNAL_ERROR": logging.INFO, "ERROR": logging.INFO, "WARNING": logging.INFO}

# Part of a message of NVIDIA, and the remedy. The messages are those of TensorRT-RTX 1.7 and of the issue tracker of
# TensorRT.
_REMEDIES = (
    ("zero point is not supported", "The graph has a zero point that is not 0: quantize symmetrically."),
    ("must all be positive", "A scale is 0 or negative: give channels of zeros a small positive scale."),
    ("number of scales is not equal", "A weight needs one scale for each output channel."),
    (
        "must have same input types",
        "The network is strongly typed and two types meet in a node: insert a Cast between them in the graph.",
    ),
    ("only allowed before DQ", "Only DequantizeLinear may read INT8 constants: insert one after the constant."),
    ("no optimization profile", "The graph has dynamic axes: set profiles in the target's [engine] table."),
    ("MIN<=OPT<=MAX", "The sizes of a profile must ascend: correct profiles in the target's [engine] table."),
    (
        "Dimension mismatch for tensor",
        "A profile has another size than the graph on a fixed axis: correct profiles in the target's [engine] table.",
    ),
    ("Plugin not found", "TensorRT does not have this operator: export the model without it."),
    ("Failed to parse the ONNX model", "The file is not an ONNX graph, or it is damaged: copy the bundle again."),
    (
        "unsupported input type",
        "TensorRT does not support this type there: quantize to INT8, compute in float32 or float16.",
    ),
    (
        "unsupported datatype",
        "TensorRT does not support this type there: quantize to INT8, compute in float32 or float16.",
    ),
    ("must have type FP8", "DequantizeLinear supports INT8 only: keep biases in float."),
    (
        "Target GPU SM",
        "This build of TensorRT has no kernels for this GPU: install the build that JetPack or NVIDIA lists for it.",
    ),
    (
        "out of memory",
        "Not enough memory: close other programs, or set a smaller workspace_mb in the target's [engine] table and "
        "build again.",
    ),
    (
        "could not be allocated",
        "Not enough memory: close other programs that use the GPU (Jetson: that use memory), or open fewer sessions.",
    ),
    (
        "Could not find any implementation",
        "No kernel fits the workspace: set a larger workspace_mb in the target's [engine] table and build again.",
    ),
)


def remedy(text: str) -> str:
    """Return the remedy for a message of NVIDIA; general advice for an unknown message."""
    lowered = text.lower()
    for part, advice in _REMEDIES:
        if part.lower() in lowered:
            return advice
    return "If EdgeKit wrote the graph, please report it with these messages."


class Messages:
    """The newest log messages of TensorRT."""

    def __init__(self) -> None:
        """Create an empty list."""
        self._messages: list[tuple[str, str]] = []
        self._count = 0
        self._lock = threading.Lock()

    def add(self, severity: str, text: str) -> None:
        """Store a message of a warning or an error, and pass every message on to Python's logging.

        Args:
            severity: Name of TensorRT's severity.
            text: Text of the message.
        """
        _log.log(_LEVELS.get(severity, logging.DEBUG), "%s", text)
        if severity in ("INFO", "VERBOSE"):
            return
        with self._lock:
            self._messages = [*self._messages[-_MAX_MESSAGES:], (severity, text)]
            self._count += 1

    def mark(self) -> int:
        """Return the current position in the log, for :meth:`errors`."""
        return self._count

    def errors(self, mark: int) -> list[str]:
        """Return the distinct error texts since a mark.

        The CUDA error that a machine without a GPU adds to each of them is left out.

        Args:
            mark: Position from :meth:`mark`.
        """
        with self._lock:
            new_count = min(self._count - mark, len(self._messages))
            messages = self._messages[-new_count:] if new_count > 0 else []
        texts: dict[str, None] = {}
        for severity, text in messages:
            if severity in ("ERROR", "INTERNAL_ERROR") and "cudaError 35" not in text:
                texts[text] = None
        return list(texts)


_loggers: dict[str, tuple[Any, Messages]] = {}


def logger(trt: Any) -> tuple[Any, Messages]:
    """Return the logger of a library and its messages.

    There is one logger per process: TensorRT uses the first one only, and a logger must outlive every object that was
    created with it. An ``IErrorRecorder`` is not used, because TensorRT-RTX 1.7 crashes with it on a machine without a
    driver.

    Args:
        trt: Module ``tensorrt``, or that of TensorRT-RTX.
    """
    if trt.__name__ not in _loggers:
        messages = Messages()

        class Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                messages.add(str(severity).rpartition(".")[2], text)

        _loggers[trt.__name__] = (Log(), messages)
    return _loggers[trt.__name__]


def is_rtx(trt: Any) -> bool:
    """Return whether a library is TensorRT-RTX, whose engines compile their kernels where they are loaded."""
    return "rtx" in trt.__name__


def version_of(trt: Any) -> tuple[int, ...]:
    """Return the version of a library as numbers."""
    return version(str(trt.__version__))


def member(kind: Any, name: str, setting: str) -> Any:
    """Return a member of one of the library's enums by name.

    Args:
        kind: Enum class.
        name: Name of the member.
        setting: Setting that contains the name, for the message.

    Raises:
        BackendError: This version has no such member; the message lists its members.
    """
    value = getattr(kind, name, None)
    if value is None:
        known = ", ".join(sorted(member_name for member_name in dir(kind) if member_name.isupper()))
        raise BackendError(
            f"{setting} contains '{name}', which this TensorRT does not have. It has: {known}. "
            "Correct the target and build again.",
            code="tensorrt-name-unknown",
        )
    return value


def check_engine_target(backend_title: str, target: Target) -> None:
    """Raise if a target has no engine settings, or is not for a GPU.

    Args:
        backend_title: Name of the backend for the message, e.g. ``TensorRT``.
        target: Target to check.

    Raises:
        BackendError: A setting is missing or wrong; the message names it.
    """
    if target.device != "gpu":
        raise BackendError(
            f"{backend_title} runs on the device 'gpu' only. Target '{target.name}' asks for '{target.device}'. "
            "Use another backend or device.",
            code="backend-wrong-device",
        )
    if target.engine is None:
        raise BackendError(
            f"Target '{target.name}' has no [engine] table, which {backend_title} needs for profiles and chip "
            "properties. For an example run: edgekit targets jetson",
            code="target-without-engine",
        )
    if target.choose_on != "device":
        raise BackendError(
            f"Target '{target.name}' has choose_on '{target.choose_on}', but engines are timed on the device that runs "
            'them. Set choose_on = "device".',
            code="target-choose-on",
        )
    for profile in target.engine.profiles:
        if "batch" not in profile:
            continue
        smallest, _, largest = profile["batch"]
        if smallest != 1 or largest < target.max_batch:
            raise BackendError(
                f"Target '{target.name}' accepts batches of 1 to {target.max_batch}, but a profile covers {smallest} "
                f"to {largest}. Change max_batch or the profile.",
                code="target-batch-profile",
            )


def weight_precision(layer: Mapping[str, Any]) -> str | None:
    """Return the precision in which a layer multiplies by weights; None if it does not.

    The layer's kind tells whether it multiplies, or the metadata with the graph nodes that it was built from. Products
    of two activations (attention) have inputs with four axes. TensorRT 11 reports the data type under another key.

    Args:
        layer: Layer of the engine inspector's output.
    """
    first_input = (layer.get("Inputs") or [{}])[0]
    kind = str(layer.get("LayerType", "")).lower()
    is_product = any(word in kind for word in ("gemm", "matmul", "matrixmultiply", "convolution"))
    if not is_product and not re.search(r"(MatMul|Gemm|Conv)[\w]*\]", str(layer.get("Metadata", ""))):
        return None
    if len(first_input.get("Dimensions", ())) > 3:
        return None
    data_type = str(first_input.get("Datatype") or first_input.get("Format/Datatype") or "").lower()
    return next((precision for part, precision in _PRECISIONS if part in data_type), "other")


def numpy_type(kind: Any, name: str) -> np.dtype[Any]:
    """Return the numpy type of a ``DataType``.

    Args:
        kind: Data type of TensorRT.
        name: Name of the tensor, for the message.

    Raises:
        BackendError: numpy has no such type.
    """
    type_name = _NUMPY_TYPES.get(str(kind).rpartition(".")[2])
    if type_name is None:
        raise BackendError(
            f"The engine's tensor '{name}' has the type {kind}, which numpy does not have. "
            "Use float32 or integers for the inputs and outputs of the graph.",
            code="engine-dtype",
        )
    return np.dtype(type_name)
