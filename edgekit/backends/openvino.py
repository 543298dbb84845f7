"""OpenVINO on CPUs.

It reads the graph file and compiles it at load time: 0.3 to 0.6 s for a small encoder, and as much again for each
static shape.
"""

from __future__ import annotations

import functools
import itertools
import platform
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import (
    Feeds,
    GraphBytes,
    WrongResultsError,
    check_cpu_target,
    check_installed,
    not_installed_error,
    threads_per_stream,
)
from edgekit.backends._openvino_buckets import check_shapes, static_body, with_bodies
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
_PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


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

    def load(self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...] = ()) -> OpenVinoEngine:
        """Read and compile a graph.

        Args:
            source: Graph file.
            signature: Inputs and outputs of the graph; the axes agree in size on every call.
            shapes: Ascending sequence lengths. A single row of one of these lengths runs with static shapes, everything
                else with dynamic shapes. The weights are packed once.

        Raises:
            BackendError: OpenVINO refuses the graph, or static shapes do not fit it.
        """
        return OpenVinoEngine(self, source, signature, shapes)

    def compile(
        self,
        source: Path | GraphBytes,
        signature: Signature,
        shapes: tuple[int, ...],
        only_first_shape: bool = False,
    ) -> Any:
        """Compile a graph with dynamic shapes and optional static bodies.

        Args:
            source: Graph file.
            signature: Inputs and outputs of the graph.
            shapes: Sequence lengths of the static bodies.
            only_first_shape: True to compile just the first static body.

        Raises:
            BackendError: OpenVINO refuses the graph, or static shapes do not fit it.
        """
        try:
            model = self._core.read_model(str(source.path if isinstance(source, GraphBytes) else source))
            if shapes:
                check_shapes(signature, shapes)
            if only_first_shape:
                model = static_body(self._library, model, signature, shapes[0])
            elif shapes:
                model = with_bodies(self._library, model, signature, shapes)
            return self._core.compile_model(model, self._device, self._settings)
        except RuntimeError as problem:
            raise BackendError(
                f"OpenVINO refuses {source.name}: {problem}. Build the bundle again with this version.",
                code="graph-refused",
            ) from problem

    def close(self) -> None:
        """Do nothing: the device has no resources, and each engine frees its own model."""


class OpenVinoEngine(ForkAware):
    """A compiled model with one infer request per concurrent call.

    A request holds inputs and outputs only; intermediate values belong to the stream that the request runs on.
    """

    def __init__(
        self, device: OpenVinoDevice, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...]
    ) -> None:
        """Compile the graph. Requests are created on demand."""
        self._device = device
        self._source = source
        self._signature = signature
        self._shapes = shapes
        self._compiled = device.compile(source, signature, shapes)
        self._input_names = {name for port in self._compiled.inputs for name in port.get_names()}
        self._output_names = [spec.name for spec in signature.outputs]
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        super().__init__()
        self._warm_up()

    def _warm_up(self) -> None:
        """Run one short row before the first call of a user, which must not be a row with a single token.

        If the first call of a compiled model has exactly one key, unmasked attention is wrong in all later calls with
        16 or more keys (OpenVINO 2026.4, CPU, any precision, also in new requests). Zeros are valid tokens, and the
        output is discarded.
        """
        # The dynamic body has the fault, so the row must not have the length of a static body.
        length = next(number for number in itertools.count(2) if number not in self._shapes)
        feeds = {}
        for spec in self._signature.inputs:
            shape = [_warm_up_size(axis, length) for axis in spec.shape]
            feeds[spec.name] = np.zeros(shape, spec.dtype)
        self.run(feeds)

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Run the graph once, on a request that no other thread uses.

        Device memory is host memory: outputs in ``keep`` are arrays like all others.

        Args:
            feeds: Arrays by input name.
            keep: Names of outputs that stay on the device.

        Raises:
            BackendError: OpenVINO failed, or this process is a forked child.
        """
        self._check_process()
        inputs = {name: array for name, array in feeds.items() if name in self._input_names}
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            result = request.infer(inputs, share_inputs=True)
            return {name: result[name] for name in self._output_names}
        except RuntimeError as problem:
            raise BackendError(f"OpenVINO could not run the graph: {problem}", code="graph-run-failed") from problem
        finally:
            with self._lock:
                self._idle.append(request)

    def precisions(self) -> list[str]:
        """Return the precision of each linear layer from the execution graph of the CPU plugin.

        The execution graph of a model with static bodies shows only an ``If``. Its first body is therefore compiled
        once more on its own with the same settings, which takes the time and memory of one small model.

        Raises:
            BackendError: This process is a forked child.
        """
        self._check_process()
        compiled = self._compiled
        if self._shapes:
            compiled = self._device.compile(self._source, self._signature, self._shapes, only_first_shape=True)
        precisions = []
        for node in compiled.get_runtime_model().get_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") == "FullyConnected":
                # The kernel name ends in the precision of the product. "runtimePrecision" is i8 also where only the
                # stored weights are INT8.
                kernel = info.get("primitiveType", "").rpartition("_")[2].lower()
                precisions.append(_PRECISIONS.get(kernel) or _PRECISIONS.get(info["runtimePrecision"], "other"))
        return precisions

    def close(self) -> None:
        """Free the requests and the compiled model.

        A forked child does nothing: freeing would wait for threads of the parent.
        """
        if self.inherited:
            return
        with self._lock:
            self._idle.clear()
        self._compiled = None

    def _check_process(self) -> None:
        """Raise in a forked child."""
        if self.inherited:
            raise fork_error("This bundle was loaded on OpenVINO", self.process)


def _warm_up_size(axis: str | int, length: int) -> int:
    """Return the size of an axis for the warm-up: 1 for the batch, ``length`` for every other dynamic axis."""
    if isinstance(axis, int):
        return axis
    return 1 if axis == "batch" else length
