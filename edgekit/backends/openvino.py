"""OpenVINO on CPUs.

It reads the graph file and compiles it: 0.2 to 0.6 s for a small encoder. Static shapes take as much again for each. A
session therefore compiles one body before its first answer, and all as one model later, in the background.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit.backends import (
    GraphBytes,
    When,
    WrongResultsError,
    check_cpu_target,
    check_installed,
    not_installed_error,
    threads_per_stream,
)
from edgekit.backends._openvino_buckets import alone_body, static_body, with_bodies
from edgekit.backends._openvino_engine import OpenVinoEngine
from edgekit.backends._openvino_selftest import find_fault
from edgekit.drivers.fork import ForkAware, fork_error
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = [
    "ENGINES",
    "GRAPH",
    "PACKAGES",
    "STATIC_SHAPES",
    "OpenVinoDevice",
    "OpenVinoEngine",
    "check_here",
    "check_target",
    "exact_settings",
    "open_device",
]

PACKAGES = ("openvino",)
ENGINES = ""
GRAPH = ".onnx"
STATIC_SHAPES = True

_DEVICES = {"cpu": "CPU"}
# Settings that make OpenVINO compute in the precisions of the graph. By default it computes float32 in bfloat16 on CPUs
# that support it, quantizes activations to INT8 before products with INT8 weights, and stores keys and values of
# attention in 8 bits. The first setting alone does not change the other two.
_EXACT: Mapping[str, object] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}


check_target = functools.partial(check_cpu_target, "OpenVINO")
check_here = functools.partial(check_installed, "openvino")


def open_device(device: str, threads: int, streams: int = 1) -> OpenVinoDevice:
    """Open a device.

    Args:
        device: ``cpu``.
        threads: Number of threads of all streams together.
        streams: Number of concurrent calls; further calls wait.

    Raises:
        BackendError: openvino is not installed or has no such device, there are more streams than threads, or this
            process is a fork of the one that started OpenVINO.
        WrongResultsError: This OpenVINO computes wrong results on this machine.
    """
    threads_per_stream(threads, streams)
    library = _library()
    core = _core()
    available = core.available_devices
    if _DEVICES.get(device) not in available:
        raise BackendError(
            f"OpenVINO has no device '{device}'; its devices are {available}. Use device 'cpu'.",
            code="device-unavailable",
        )
    fault = _fault(_DEVICES[device])
    if fault:
        version = library.__version__.partition("-")[0]
        raise WrongResultsError(
            f"OpenVINO {version} failed its self-test on this machine ({platform.machine()}), so it is not used: "
            f"{fault}. Install another version (on aarch64, 2026.3.0 to 2026.4.1 are known to be wrong: pip install "
            "'openvino<2026.3'), or use the backend 'onnxruntime'.",
            code="backend-wrong-results",
        )
    return OpenVinoDevice(library, core, _DEVICES[device], threads, streams)


class _ProcessCore(ForkAware):
    """The OpenVINO core of a process.

    A fork cannot start another one: OpenVINO's threads belong to the whole process, not to a core (a second core hung
    at times).
    """

    def __init__(self) -> None:
        super().__init__()
        self.core = _library().Core()


@functools.cache
def _process_core() -> _ProcessCore:
    """Return the one core that lives as long as the process.

    Each core installs a stack for signal handlers and restores the previous one when it is destroyed. If cores are
    destroyed in the order of their creation, the last restore points to the freed stack of the first core, and the next
    signal, e.g. Ctrl-C, ends the process (seen with OpenVINO 2026.4, CPU plugin).
    """
    return _ProcessCore()


def _core() -> Any:
    """Return the core of this process.

    Raises:
        BackendError: This process is a fork of the one that started OpenVINO.
    """
    process_core = _process_core()
    if process_core.inherited:
        raise fork_error("OpenVINO was started", process_core.process)
    return process_core.core


def exact_settings(core: Any, device: str) -> dict[str, object]:
    """Return the settings that make a graph compute in its own precisions.

    Settings that this version does not know are left out: then it does not have that optimization either.

    Args:
        core: OpenVINO core.
        device: Name of the device in OpenVINO.
    """
    supported = core.get_property(device, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in _EXACT.items() if name in supported}


@functools.cache
def _fault(device: str) -> str:
    """Return the fault that the self-test finds, or an empty text. It runs once per process, for some milliseconds."""
    core = _core()
    try:
        return find_fault(_library(), core, device, {**exact_settings(core, device), "INFERENCE_NUM_THREADS": 1})
    except RuntimeError as problem:
        return f"its test layer cannot be run ({problem})"


def _library() -> Any:
    """Import OpenVINO without its telemetry package, which only its model converter needs.

    Raises:
        BackendError: openvino is not installed.
    """
    name = "openvino_telemetry"
    is_absent = name not in sys.modules
    if is_absent:
        sys.modules[name] = None  # type: ignore[assignment]  # None makes the import of the package fail.
    try:
        import openvino
    except ImportError as problem:
        raise not_installed_error("openvino") from problem
    finally:
        if is_absent:
            sys.modules.pop(name, None)
    return openvino


class OpenVinoDevice:
    """An OpenVINO core with the settings of its calls."""

    def __init__(self, library: Any, core: Any, device: str, threads: int, streams: int) -> None:
        """Fix all settings that would otherwise depend on the machine.

        Args:
            library: Module ``openvino``.
            core: OpenVINO core.
            device: Name of the device in OpenVINO.
            threads: Number of threads of all streams together.
            streams: Number of concurrent calls.
        """
        self._library = library
        self._core = core
        self._device = device
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            **exact_settings(core, device),
        }

    def load(
        self,
        source: Path | GraphBytes,
        signature: Signature,
        shapes: tuple[int, ...] = (),
        *,
        when: When = "later",
    ) -> OpenVinoEngine:
        """Read a graph, and compile it.

        Args:
            source: Graph file.
            signature: Inputs and outputs of the graph; the axes agree in size on every call.
            shapes: Ascending sequence lengths. A single row of one of these lengths runs with static shapes once these
                are compiled, see :meth:`OpenVinoEngine.warm_up`; everything else runs with dynamic shapes. The weights
                are packed once, except for bodies that are compiled alone.
            when: Time at which the static shapes are compiled, see :data:`edgekit.backends.When`.

        Raises:
            BackendError: OpenVINO refuses the graph, or static shapes do not fit it.
        """
        return OpenVinoEngine(self, source, signature, shapes, when)

    def read(self, source: Path | GraphBytes) -> Any:
        """Read a graph. Its weights are mapped from their file, which must not be altered as long as they are in use.

        Args:
            source: Graph file.

        Returns:
            The ``openvino.Model``.

        Raises:
            BackendError: OpenVINO cannot read the graph.
        """
        path = source.path if isinstance(source, GraphBytes) else source
        return _translate_refusal(source, lambda: self._core.read_model(str(path)))

    def compile(self, source: Path | GraphBytes, model: Any) -> Any:
        """Compile a model.

        Args:
            source: Graph file, for the message.
            model: ``openvino.Model`` to compile. It is not changed.

        Raises:
            BackendError: OpenVINO refuses the graph.
        """
        return _translate_refusal(source, lambda: self._core.compile_model(model, self._device, self._settings))

    def add_bodies(self, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
        """Return a model with static bodies beside a model with dynamic shapes.

        Args:
            model: ``openvino.Model`` of the graph.
            signature: Inputs and outputs of the graph.
            shapes: Sequence lengths of the static bodies.
        """
        return with_bodies(self._library, model, signature, shapes)

    def alone_body(self, source: Path | GraphBytes, model: Any, signature: Signature, length: int) -> Any:
        """Return a model that is one of these bodies alone, the dynamic one for the length ``ANY_SHAPE``.

        Raises:
            BackendError: The graph has no such static shape.
        """
        return _translate_refusal(source, lambda: alone_body(self._library, model, signature, length))

    def first_body(self, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
        """Return a model that is the first static body alone, not as the body of an ``If``."""
        return static_body(self._library, model, signature, shapes[0])

    def close(self) -> None:
        """Do nothing: the device has no resources, and each engine frees its own model."""


def _translate_refusal(source: Path | GraphBytes, call: Callable[[], Any]) -> Any:
    """Return the result of a call of OpenVINO.

    Raises:
        BackendError: OpenVINO refuses the graph.
    """
    try:
        return call()
    except RuntimeError as problem:
        raise BackendError(
            f"OpenVINO refuses {source.name}: {problem}. Build the bundle again with this version.",
            code="graph-refused",
        ) from problem
