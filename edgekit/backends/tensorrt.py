"""TensorRT on Jetson and other NVIDIA GPUs: an engine runs on the device, and with the version, that made it."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgekit.backends._trt import check_engine_target, version_of
from edgekit.backends._trt_device import TensorRtDevice, check_driver
from edgekit.drivers import jetson
from edgekit.spec.distribution import install_hint
from edgekit.spec.engine import OLDEST, is_supported_version
from edgekit.spec.errors import BackendError

__all__ = ["ENGINES", "PACKAGES", "STATIC_SHAPES", "check_here", "check_target", "library", "open_device"]

PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
STATIC_SHAPES = False  # optimization profiles take their place
ENGINES = "device"

check_target = partial(check_engine_target, "TensorRT")


def check_here() -> None:
    """Refuses where there is no NVIDIA driver, or no TensorRT that this Python sees.

    Raises:
        BackendError: with what to install.
    """
    check_driver("TensorRT")
    from edgekit.backends import installed_version

    if installed_version("tensorrt") is None:
        _, advice = jetson.system_tensorrt()
        remedy = advice or f"On a Jetson JetPack brings it; on other machines run: {install_hint('tensorrt')}"
        raise BackendError(
            f"TensorRT is not installed for this Python, and this bundle needs it. {remedy}",
            code="backend-not-installed",
        )


def open_device(device: str, threads: int, streams: int = 1) -> TensorRtDevice:
    """Opens the first GPU.

    Args:
        device: ``gpu``.
        threads: calls at the same time that have a stream and contexts of their own; further ones wait. The GPU computes, so a call needs one.
        streams: as many calls at the least.

    Raises:
        BackendError: when there is no driver, no GPU, no TensorRT, or one of a version that is not supported.
    """
    check_here()
    return TensorRtDevice(library(), max(threads, streams))


def library() -> Any:
    """The vendor's module. Only behind :func:`check_here`: without a driver TensorRT can crash the process.

    Raises:
        BackendError: when it cannot be imported, or its version is not supported.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError) as problem:  # the latter where one of its own libraries is missing
        raise BackendError(
            f"TensorRT is installed and cannot be imported: {problem}. Install it anew; on a Jetson with JetPack's packages.",
            code="backend-import",
        ) from problem
    if not is_supported_version(version_of(trt)):
        oldest = ".".join(map(str, OLDEST))
        raise BackendError(
            f"TensorRT {trt.__version__} is not supported, {oldest} to 11 are. {jetson.advice(trt.__version__, jetson.board())}",
            code="tensorrt-version",
        )
    return trt
