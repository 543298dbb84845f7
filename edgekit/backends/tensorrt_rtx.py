"""TensorRT-RTX on GeForce RTX and RTX PRO PCs. Engines are built ahead of time, also on machines without a GPU.

An engine is built for a list of chips, and its kernels are compiled when it is loaded on a GPU (NVIDIA, "Working with
TensorRT-RTX: CPU-only AOT and runtime JIT").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.backends import _trt_build, check_installed, not_installed_error
from edgekit.backends._trt import check_engine_target, version_of
from edgekit.backends._trt_device import TensorRtDevice, check_driver
from edgekit.spec.distribution import install_hint
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import Progress
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

__all__ = [
    "ENGINES",
    "GRAPH",
    "PACKAGES",
    "STATIC_SHAPES",
    "check_here",
    "check_target",
    "compile_ahead",
    "library",
    "open_device",
]

PACKAGES = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx")
STATIC_SHAPES = False  # Engines have optimization profiles instead.
ENGINES = "host"
GRAPH = ".onnx"

_OLDEST = (1, 7)


def check_target(target: Target) -> None:
    """Raise if a target has no engine settings or no chips, or is not for a GPU.

    Raises:
        BackendError: A setting is missing or wrong; the message names it.
    """
    check_engine_target("TensorRT-RTX", target)
    if target.engine is not None and not target.engine.compute_capability:
        raise BackendError(
            f"Target '{target.name}' has no compute_capability, but TensorRT-RTX builds engines ahead of time for "
            "given chips. Set compute_capability in the [engine] table.",
            code="target-compute-capability",
        )


def check_here() -> None:
    """Raise if there is no NVIDIA driver, or TensorRT-RTX is not installed.

    Raises:
        BackendError: A package is missing; the message says what to install.
    """
    check_installed("tensorrt_rtx")
    check_driver("TensorRT-RTX")


def open_device(device: str, threads: int, streams: int = 1) -> TensorRtDevice:
    """Open the first GPU.

    Args:
        device: ``gpu``.
        threads: Number of concurrent calls, each with its own stream and contexts; further calls wait. A call needs one
            thread, because the GPU computes.
        streams: Minimum number of concurrent calls.

    Raises:
        BackendError: There is no driver or no GPU, or TensorRT-RTX is not installed.
    """
    check_here()
    return TensorRtDevice(library(), max(threads, streams))


def compile_ahead(graph: Path, signature: Signature, recipe: EngineRecipe, progress: Progress) -> bytes:
    """Build an engine ahead of time, on any machine, and return its bytes.

    Args:
        graph: Path of an ONNX file.
        signature: Inputs of the graph.
        recipe: Profiles and settings. ``compute_capability`` lists the chips; if empty, 8.6, 8.9 and 12.0.
        progress: Progress callback.

    Raises:
        BackendError: The graph is refused; the message has NVIDIA's log lines and a remedy.
    """
    chips = recipe.compute_capability or ("8.6", "8.9", "12.0")
    return _trt_build.build(
        library(),
        graph,
        signature,
        recipe,
        hardware=_trt_build.Hardware(chips=chips),
        timing_cache=b"",
        progress=progress,
    ).plan


def library() -> Any:
    """Import and return TensorRT-RTX: the bindings of the wheel, or of NVIDIA's own package.

    Raises:
        BackendError: TensorRT-RTX is not installed, or too old.
    """
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        try:
            import tensorrt_rtx as trt
        except ImportError as problem:
            raise not_installed_error("tensorrt_rtx") from problem
    if version_of(trt) < _OLDEST:
        raise BackendError(
            f"TensorRT-RTX {trt.__version__} is too old, expected 1.7 or newer. "
            f"Run: {install_hint('tensorrt-rtx', upgrade=True)}",
            code="tensorrt-too-old",
        )
    return trt
