"""TensorRT on Jetson and other NVIDIA GPUs. An engine runs only on the device, and with the version, that built it."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgekit.backends._trt import check_engine_target, version_of
from edgekit.backends._trt_device import TensorRtDevice, check_driver
from edgekit.drivers import jetson
from edgekit.spec.distribution import install_hint
from edgekit.spec.engine import OLDEST, is_supported_version
from edgekit.spec.errors import BackendError

__all__ = ["ENGINES", "GRAPH", "PACKAGES", "STATIC_SHAPES", "check_here", "check_target", "library", "open_device"]

PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
STATIC_SHAPES = False  # Engines have optimization profiles instead.
ENGINES = "device"
GRAPH = ".onnx"

check_target = partial(check_engine_target, "TensorRT")


def check_here() -> None:
    """Raise if there is no NVIDIA driver, or no TensorRT that this Python can import.

    Raises:
        BackendError: A package is missing; the message says what to install.
    """
    check_driver("TensorRT")
    from edgekit.backends import installed_version

    if installed_version("tensorrt") is None:
        _, advice = jetson.system_tensorrt()
        remedy = advice or f"A Jetson gets it from JetPack; on other machines run: {install_hint('tensorrt')}"
        raise BackendError(
            f"TensorRT is not installed for this Python, but this bundle needs it. {remedy}",
            code="backend-not-installed",
        )


def open_device(device: str, threads: int, streams: int = 1) -> TensorRtDevice:
    """Open the first GPU.

    Args:
        device: ``gpu``.
        threads: Number of concurrent calls, each with its own stream and contexts; further calls wait. A call needs one
            thread, because the GPU computes.
        streams: Minimum number of concurrent calls.

    Raises:
        BackendError: There is no driver, no GPU or no TensorRT, or its version is not supported.
    """
    check_here()
    return TensorRtDevice(library(), max(threads, streams))


def library() -> Any:
    """Import and return TensorRT. Call :func:`check_here` first: TensorRT can crash the process without a driver.

    Raises:
        BackendError: TensorRT cannot be imported, or its version is not supported.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError) as problem:  # OSError if one of its libraries is missing.
        raise BackendError(
            f"TensorRT is installed but cannot be imported: {problem}. "
            "Reinstall it; on a Jetson use the packages of JetPack.",
            code="backend-import",
        ) from problem
    if not is_supported_version(version_of(trt)):
        oldest = ".".join(map(str, OLDEST))
        raise BackendError(
            f"TensorRT {trt.__version__} is not supported, expected {oldest} to 11. "
            f"{jetson.advice(trt.__version__, jetson.board())}",
            code="tensorrt-version",
        )
    return trt
