"""TensorRT-RTX on GeForce RTX and RTX PRO PCs: engines are made ahead of time, also where there is no GPU.

What an engine holds of kernels is compiled for the GPU where it is loaded. Engines are for chips that are named when they are
made (NVIDIA, "Working with TensorRT-RTX: CPU-only AOT and runtime JIT").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.backends import _trt_build, check_installed, not_installed
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
    "PACKAGES",
    "STATIC_SHAPES",
    "check_here",
    "check_target",
    "compile_ahead",
    "library",
    "open_device",
]

PACKAGES = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx")
STATIC_SHAPES = False  # optimization profiles take their place
ENGINES = "host"

_OLDEST = (1, 7)


def check_target(target: Target) -> None:
    """Refuses a target without a recipe for engines, or for another device than an RTX GPU.

    Raises:
        BackendError: with what the target lacks.
    """
    check_engine_target("TensorRT-RTX", target)
    if target.engine is not None and not target.engine.compute_capability:
        raise BackendError(
            f"Target '{target.name}' names no compute_capability, TensorRT-RTX makes engines ahead of time for chips that are named.",
            code="target-compute-capability",
        )


def check_here() -> None:
    """Refuses where there is no NVIDIA driver, or TensorRT-RTX is not installed.

    Raises:
        BackendError: with what to install.
    """
    check_installed("tensorrt_rtx")
    check_driver("TensorRT-RTX")


def open_device(device: str, threads: int, streams: int = 1) -> TensorRtDevice:
    """Opens the first GPU.

    Args:
        device: ``gpu``.
        threads: calls at the same time that have a stream and contexts of their own; further ones wait. The GPU computes, so a call needs one.
        streams: as many calls at the least.

    Raises:
        BackendError: when there is no driver, no GPU, or TensorRT-RTX is not installed.
    """
    check_here()
    return TensorRtDevice(library(), max(threads, streams))


def compile_ahead(graph: Path, signature: Signature, recipe: EngineRecipe, progress: Progress) -> bytes:
    """Makes an engine on a machine that needs no GPU.

    Args:
        graph: an ONNX file.
        signature: its inputs.
        recipe: profiles and settings; ``compute_capability`` names the chips, none of them all that TensorRT-RTX has of Ampere and newer.
        progress: told how far the builder is.

    Raises:
        BackendError: when the graph is refused, with NVIDIA's own lines and what to do.
    """
    chips = recipe.compute_capability or ("8.6", "8.9", "12.0")
    return _trt_build.build(
        library(), graph, signature, recipe, memory=0, timing_cache=b"", chips=chips, progress=progress
    ).plan


def library() -> Any:
    """The vendor's module: the bindings of the wheel, or of NVIDIA's own package.

    Raises:
        BackendError: when it is not installed, or is too old.
    """
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        try:
            import tensorrt_rtx as trt
        except ImportError as problem:
            raise not_installed("tensorrt_rtx") from problem
    if version_of(trt) < _OLDEST:
        raise BackendError(
            f"TensorRT-RTX {trt.__version__} is too old, 1.7 or newer is needed. Run: {install_hint('tensorrt-rtx', upgrade=True)}",
            code="tensorrt-too-old",
        )
    return trt
