"""OpenVINO on CPUs. It reads the graph file and compiles it when it loads (0.3 to 0.6 s for a small encoder)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import Feeds, not_installed, summary
from edgekit.spec.errors import BackendError
from edgekit.spec.graph import Graph
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

PACKAGE = "openvino"

_DEVICES = {"cpu": "CPU"}


def check_target(target: Target) -> None:
    """Refuses a device that OpenVINO is not offered for.

    Raises:
        BackendError: for another device than ``cpu``.
    """
    if target.device not in _DEVICES:
        raise BackendError(f"OpenVINO serves the device(s) {', '.join(_DEVICES)} here, target '{target.name}' asks for '{target.device}'.")


def compile_graph(graph: Graph, target: Target, out: Path) -> Path:
    """Returns the graph itself: compiled blobs are bound to one CPU and one version, so a bundle does not carry them."""
    return graph.path


def open_device(device: str, threads: int) -> OpenVinoDevice:
    """Opens a device.

    Args:
        device: ``cpu``.
        threads: threads of one call.

    Raises:
        BackendError: when openvino is not installed, or finds no such device.
    """
    core = _library().Core()
    if _DEVICES.get(device) not in core.available_devices:
        raise BackendError(f"OpenVINO finds the devices {core.available_devices}, '{device}' was asked for. Use device 'cpu'.")
    return OpenVinoDevice(core, _DEVICES[device], threads)


def _library() -> Any:
    """Imports OpenVINO without its telemetry, which only its model converter would use (it goes on without).

    Raises:
        BackendError: when openvino is not installed.
    """
    name = "openvino_telemetry"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import openvino
    except ImportError as problem:
        raise not_installed("openvino") from problem
    finally:
        if absent:
            sys.modules.pop(name, None)
    return openvino


class OpenVinoDevice:
    """A core with the settings of its calls."""

    def __init__(self, core: Any, device: str, threads: int) -> None:
        """Keeps the core and fixes what would otherwise depend on the machine."""
        self._core, self._device = core, device
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # By default OpenVINO computes "float32" in bfloat16 on CPUs that have it: precision is decided in the graph.
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def load(self, path: Path, signature: Signature) -> OpenVinoEngine:
        """Reads and compiles a graph.

        Raises:
            BackendError: when OpenVINO refuses it.
        """
        try:
            return OpenVinoEngine(self._core.compile_model(str(path), self._device, self._settings), signature)
        except RuntimeError as problem:
            raise BackendError(f"OpenVINO refuses {path.name}: {problem}. Build the bundle again with this version.") from problem

    def close(self) -> None:
        """Frees the core."""
        self._core = None


class OpenVinoEngine:
    """A compiled model with as many infer requests as there are calls at the same time."""

    def __init__(self, compiled: Any, signature: Signature) -> None:
        """Keeps the compiled model; requests are made when they are needed."""
        self._compiled = compiled
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._outputs = [o.name for o in signature.outputs]
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Runs once, on a request that no other thread uses."""
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            result = request.infer({n: a for n, a in feeds.items() if n in self._inputs}, share_inputs=True)
            return {name: result[name] for name in self._outputs}
        except RuntimeError as problem:
            raise BackendError(f"OpenVINO could not run the graph: {problem}") from problem
        finally:
            with self._lock:
                self._idle.append(request)

    def executed_precision(self) -> str:
        """Reads the execution graph that the plugin made, as it ran."""
        found = []
        for node in self._compiled.get_runtime_model().get_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") == "FullyConnected":
                found.append({"i8": "int8", "u8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(info["runtimePrecision"], "other"))
        return summary(found)

    def close(self) -> None:
        """Frees the requests and the compiled model."""
        with self._lock:
            self._idle.clear()
        self._compiled = None
