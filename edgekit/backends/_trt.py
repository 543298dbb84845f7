"""What TensorRT and TensorRT-RTX have in common before any engine: how the library is found, its version, and what it says.

Names exist in TensorRT 10.3 to 11.4 and TensorRT-RTX 1.7 alike, or are looked up by name: enum values shift between versions.
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
# Not trt.nptype: it has no answer for bfloat16, and fails altogether with some pairs of TensorRT and numpy.
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_TOLD = (
    ("int8", "int8"),
    ("half", "float16"),
    ("fp16", "float16"),
    ("bf16", "bfloat16"),
    ("bfloat16", "bfloat16"),
    ("float", "float32"),
    ("fp32", "float32"),
)
_KEPT = 400  # lines; a failing build writes some tens
# Not as loud as NVIDIA has them: an error that ends something is raised with its lines, and what is left over is for those who look.
_LEVELS = {"INTERNAL_ERROR": logging.INFO, "ERROR": logging.INFO, "WARNING": logging.INFO}

# What NVIDIA's texts come down to, and what to do about it. The texts are those of TensorRT-RTX 1.7 and of the TensorRT issue tracker.
_REMEDIES = (
    ("zero point is not supported", "It is quantized with a zero point that is not 0: quantize symmetrically."),
    (
        "must all be positive",
        "A scale is 0 or negative: give channels that are zero throughout a small positive scale.",
    ),
    ("number of scales is not equal", "A weight needs one scale for each output channel."),
    (
        "must have same input types",
        "The network is strongly typed and two types meet in a node: put a Cast between them in the graph.",
    ),
    ("only allowed before DQ", "INT8 constants may be read by DequantizeLinear alone: put one behind the constant."),
    ("no optimization profile", "The graph has axes that vary: state profiles in the target's [engine] table."),
    ("MIN<=OPT<=MAX", "A profile's sizes must ascend: correct profiles in the target's [engine] table."),
    (
        "Dimension mismatch for tensor",
        "A profile gives another size than the graph has on a fixed axis: correct profiles in the target's [engine] table.",
    ),
    ("Plugin not found", "TensorRT does not have this operator: export the model without it."),
    ("Failed to parse the ONNX model", "The file is not an ONNX graph, or it is damaged: copy the bundle again."),
    (
        "unsupported input type",
        "TensorRT does not take this type there: quantize to INT8, compute in float32 or float16.",
    ),
    (
        "unsupported datatype",
        "TensorRT does not take this type there: quantize to INT8, compute in float32 or float16.",
    ),
    ("must have type FP8", "DequantizeLinear restores INT8 alone: keep biases in float."),
    (
        "Target GPU SM",
        "This build of TensorRT has no kernels for this GPU: install the one that JetPack or NVIDIA's page names for it.",
    ),
    (
        "out of memory",
        "Memory does not suffice: close other programs, or give a smaller workspace_mb in the target's [engine] table and build again.",
    ),
    (
        "could not be allocated",
        "Memory does not suffice: close other programs that use the GPU (Jetson: that use memory), or open fewer sessions.",
    ),
    (
        "Could not find any implementation",
        "No kernel fits the workspace: give a larger workspace_mb in the target's [engine] table and build again.",
    ),
)


def remedy(text: str) -> str:
    """What to do about a text of NVIDIA's; a general advice for one that is not known."""
    lowered = text.lower()
    known = (advice for words, advice in _REMEDIES if words.lower() in lowered)
    return next(known, "If the graph is EdgeKit's, please report it with these lines.")


class Heard:
    """What TensorRT wrote to its log, the newest lines."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lines: list[tuple[str, str]] = []
        self._count = 0
        self._lock = threading.Lock()

    def add(self, severity: str, text: str) -> None:
        """Keeps a line and hands it to Python's logging."""
        _log.log(_LEVELS.get(severity, logging.DEBUG), "%s", text)
        if severity in ("INFO", "VERBOSE"):
            return
        with self._lock:
            self._lines = [*self._lines[-_KEPT:], (severity, text)]
            self._count += 1

    def mark(self) -> int:
        """A place in the log, for :meth:`errors`."""
        return self._count

    def errors(self, mark: int) -> list[str]:
        """Errors since a mark, as NVIDIA words them, each once; the CUDA error that a machine without a GPU adds to each is left out."""
        with self._lock:
            new = self._lines[-min(self._count - mark, len(self._lines)) :] if self._count > mark else []
        texts = [
            text for severity, text in new if severity in ("ERROR", "INTERNAL_ERROR") and "cudaError 35" not in text
        ]
        return list(dict.fromkeys(texts))


_loggers: dict[str, tuple[Any, Heard]] = {}


def logger(trt: Any) -> tuple[Any, Heard]:
    """The logger of a library and what it heard.

    There is one for the life of the process: TensorRT keeps the first that it is given and ignores others, and a logger must
    outlive every object that was made with it. Errors are heard here and not through an ``IErrorRecorder``, with which
    TensorRT-RTX 1.7 crashes on a machine without a driver.
    """
    if trt.__name__ not in _loggers:
        heard = Heard()

        class Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                heard.add(str(severity).rpartition(".")[2], text)

        _loggers[trt.__name__] = (Log(), heard)
    return _loggers[trt.__name__]


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT-RTX, whose engines compile their kernels where they are loaded."""
    return "rtx" in trt.__name__


def version_of(trt: Any) -> tuple[int, ...]:
    """Version of a library as numbers."""
    return version(str(trt.__version__))


def member(kind: Any, name: str, what: str) -> Any:
    """A member of one of the library's enums by its name.

    Raises:
        BackendError: when this version has no such member, with those that it has.
    """
    found = getattr(kind, name, None)
    if found is None:
        known = ", ".join(sorted(n for n in dir(kind) if n.isupper()))
        raise BackendError(
            f"{what} names '{name}', which this TensorRT does not have. It has: {known}. Correct the target and build again.",
            code="tensorrt-name-unknown",
        )
    return found


def check_engine_target(who: str, target: Target) -> None:
    """Refuses a target that has no recipe for engines, or is not for a GPU.

    Raises:
        BackendError: with what the target lacks.
    """
    if target.device != "gpu":
        raise BackendError(
            f"{who} serves the device gpu, target '{target.name}' asks for '{target.device}'.",
            code="backend-wrong-device",
        )
    if target.engine is None:
        raise BackendError(
            f"Target '{target.name}' has no [engine] table, which {who} needs: profiles, and what the chip has. See: edgekit targets jetson",
            code="target-without-engine",
        )
    if target.choose_on != "device":
        raise BackendError(
            f"Target '{target.name}' has choose_on '{target.choose_on}'; engines are timed where they run. Write choose_on = \"device\".",
            code="target-choose-on",
        )
    for profile in target.engine.profiles:
        if "batch" in profile and not (profile["batch"][0] == 1 and profile["batch"][2] >= target.max_batch):
            low, _, high = profile["batch"]
            raise BackendError(
                f"Target '{target.name}' answers 1 to {target.max_batch} rows at once, a profile holds {low} to {high}. Make them agree.",
                code="target-batch-profile",
            )


def multiplies_in(layer: Mapping[str, Any]) -> str | None:
    """What a layer of the engine inspector multiplies with weights in; None where it does not.

    A layer tells its kind, or in its metadata the nodes of the graph that it came from. Products of two activations (attention) have
    inputs of four axes. The type is told under another key from TensorRT 11 on.
    """
    inputs = layer.get("Inputs") or [{}]
    kind = str(layer.get("LayerType", "")).lower()
    from_nodes = re.search(r"(MatMul|Gemm|Conv)[\w]*\]", str(layer.get("Metadata", "")))
    if (
        not (any(word in kind for word in ("gemm", "matmul", "matrixmultiply", "convolution")) or from_nodes)
        or len(inputs[0].get("Dimensions", ())) > 3
    ):
        return None
    said = str(inputs[0].get("Datatype") or inputs[0].get("Format/Datatype") or "").lower()
    return next((ours for theirs, ours in _TOLD if theirs in said), "other")


def numpy_type(kind: Any, name: str) -> np.dtype[Any]:
    """The numpy type of a ``DataType``.

    Raises:
        BackendError: for one that numpy does not have.
    """
    known = _NUMPY.get(str(kind).rpartition(".")[2])
    if known is None:
        raise BackendError(
            f"The engine's tensor '{name}' is {kind}, which numpy does not have. Keep inputs and outputs of the graph in float32 or integers.",
            code="engine-dtype",
        )
    return np.dtype(known)
