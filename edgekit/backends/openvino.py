"""OpenVINO on CPUs. It reads the graph file and compiles it when it loads (0.3 to 0.6 s for a small encoder, and as much again for each static shape)."""

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
from edgekit.backends._openvino_selftest import fault
from edgekit.drivers.fork import ForkAware, fork_error
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = [
    "ENGINES",
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
STATIC_SHAPES = True

_DEVICES = {"cpu": "CPU"}
# "float32" is float32: precision is decided in the graph. By default OpenVINO computes it in bfloat16 on CPUs that have it, rounds activations to INT8
# before products with INT8 weights, and keeps keys and values of attention in 8 bits. The first setting alone leaves the other two as they are.
_EXACT: Mapping[str, object] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
_PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


check_target = functools.partial(check_cpu_target, "OpenVINO")
check_here = functools.partial(check_installed, "openvino")


def open_device(device: str, threads: int, streams: int = 1) -> OpenVinoDevice:
    """Opens a device.

    Args:
        device: ``cpu``.
        threads: threads of all streams together.
        streams: calls at the same time; further ones wait.

    Raises:
        BackendError: when openvino is not installed, finds no such device, was started before this process was forked, or there are more streams than
            threads.
        WrongResultsError: when this OpenVINO computes a layer wrongly on this machine.
    """
    threads_per_stream(threads, streams)
    library, core = _library(), _core()
    if _DEVICES.get(device) not in core.available_devices:
        raise BackendError(
            f"OpenVINO finds the devices {core.available_devices}, '{device}' was asked for. Use device 'cpu'.",
            code="device-unavailable",
        )
    if wrong := _fault(_DEVICES[device]):
        raise WrongResultsError(
            f"OpenVINO {library.__version__.partition('-')[0]} does not pass its self-test on this machine ({platform.machine()}), so no graph is run with it: "
            f"{wrong}. Install another version (on aarch64, 2026.3.0 to 2026.4.1 are known to be wrong: pip install 'openvino<2026.3'), or use the backend "
            "'onnxruntime'.",
            code="backend-wrong-results",
        )
    return OpenVinoDevice(library, core, _DEVICES[device], threads, streams)


class _Started(ForkAware):
    """The core of a process. It cannot be started again in a fork: what it waits for is of the whole process, not of a core (one that tried hung at times)."""

    def __init__(self) -> None:
        super().__init__()
        self.core = _library().Core()


@functools.cache
def _started() -> _Started:
    """One core for the life of the process.

    Each brings a stack for signal handlers and puts back the one before when it goes. Where they go in the order in which they came, that is the
    first one's, which is gone by then: the next signal, Ctrl-C say, ends the process (seen with OpenVINO 2026.4, CPU plugin).
    """
    return _Started()


def _core() -> Any:
    """The core of this process.

    Raises:
        BackendError: in a child that was forked after it was made.
    """
    started = _started()
    if started.inherited:
        raise fork_error("OpenVINO was started", started.process)
    return started.core


def exact_settings(core: Any, device: str) -> dict[str, object]:
    """Settings by which a graph is computed in the types that it names; those that this version knows (one that it does not know has no such shortcut)."""
    known = core.get_property(device, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in _EXACT.items() if name in known}


@functools.cache
def _fault(device: str) -> str:
    """What the self-test said, once in a process: some milliseconds."""
    core = _core()
    try:
        return fault(_library(), core, device, {**exact_settings(core, device), "INFERENCE_NUM_THREADS": 1})
    except RuntimeError as problem:
        return f"its one layer cannot be run ({problem})"


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
        raise not_installed_error("openvino") from problem
    finally:
        if absent:
            sys.modules.pop(name, None)
    return openvino


class OpenVinoDevice:
    """A core with the settings of its calls."""

    def __init__(self, library: Any, core: Any, device: str, threads: int, streams: int) -> None:
        """Keeps the core and fixes what would otherwise depend on the machine."""
        self._library, self._core, self._device = library, core, device
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            **exact_settings(core, device),
        }

    def load(self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...] = ()) -> OpenVinoEngine:
        """Reads and compiles a graph.

        Args:
            source: the graph.
            signature: axes of its inputs; their sizes agree in each call.
            shapes: ascending numbers of tokens. One row of just so many runs in a body of that static shape, all else in a
                body of any shape; there is one copy of the packed weights.

        Raises:
            BackendError: when OpenVINO refuses it, or static shapes do not fit it.
        """
        return OpenVinoEngine(self, source, signature, shapes)

    def compile(
        self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...], alone: bool = False
    ) -> Any:
        """Compiles a graph for any shape, with static bodies beside it, or the first static body ``alone``.

        Raises:
            BackendError: when OpenVINO refuses it, or static shapes do not fit it.
        """
        try:
            model = self._core.read_model(str(source.path if isinstance(source, GraphBytes) else source))
            if shapes:
                check_shapes(signature, shapes)
                model = (
                    static_body(self._library, model, signature, shapes[0])
                    if alone
                    else with_bodies(self._library, model, signature, shapes)
                )
            return self._core.compile_model(model, self._device, self._settings)
        except RuntimeError as problem:
            raise BackendError(
                f"OpenVINO refuses {source.name}: {problem}. Build the bundle again with this version.",
                code="graph-refused",
            ) from problem

    def close(self) -> None:
        """Nothing is held here; each engine frees its own model."""


class OpenVinoEngine(ForkAware):
    """A compiled model with as many infer requests as there are calls at the same time.

    A request holds inputs and outputs only; what is computed in between belongs to the stream that it runs on.
    """

    def __init__(
        self, device: OpenVinoDevice, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...]
    ) -> None:
        """Compiles the graph; requests are made when they are needed."""
        self._device, self._source, self._signature, self._shapes = device, source, signature, shapes
        self._compiled = device.compile(source, signature, shapes)
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}
        self._outputs = [o.name for o in signature.outputs]
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        super().__init__()
        self._warm_up()

    def _warm_up(self) -> None:
        """Runs one short row before anybody's: the first call of a compiled model must not have a single token.

        Attention without a mask is wrong for all later calls of 16 keys and more when the first one had exactly one key (OpenVINO 2026.4, CPU, any
        precision, new requests too). Zeros are valid tokens; nobody reads the answer.
        """
        length = next(
            n for n in itertools.count(2) if n not in self._shapes
        )  # a static body knows its keys; it is the body of any shape that must see this
        sizes = {"batch": 1}
        self.run(
            {
                i.name: np.zeros([d if isinstance(d, int) else sizes.get(d, length) for d in i.shape], i.dtype)
                for i in self._signature.inputs
            }
        )

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Runs once, on a request that no other thread uses. This device's memory is the host's: outputs that are to be kept are arrays like all others.

        Raises:
            BackendError: when OpenVINO cannot run it, or this is a forked child.
        """
        if self.inherited:
            raise fork_error("This bundle was loaded on OpenVINO", self.process)
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            result = request.infer({n: a for n, a in feeds.items() if n in self._inputs}, share_inputs=True)
            return {name: result[name] for name in self._outputs}
        except RuntimeError as problem:
            raise BackendError(f"OpenVINO could not run the graph: {problem}", code="graph-run-failed") from problem
        finally:
            with self._lock:
                self._idle.append(request)

    def precisions(self) -> list[str]:
        """Reads the execution graph that the plugin made, as it ran.

        That of a model with static bodies shows an ``If`` and nothing of what is in it. So its first body is compiled once
        more, alone and with the same settings (the time and memory of one small model), and read in its stead.
        """
        if self.inherited:
            raise fork_error("This bundle was loaded on OpenVINO", self.process)
        compiled = (
            self._device.compile(self._source, self._signature, self._shapes, alone=True)
            if self._shapes
            else self._compiled
        )
        found = []
        for node in compiled.get_runtime_model().get_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") == "FullyConnected":
                # The kernel's name ends in what it multiplies; "runtimePrecision" says i8 also where only the stored weights are.
                kernel = info.get("primitiveType", "").rpartition("_")[2].lower()
                found.append(_PRECISIONS.get(kernel) or _PRECISIONS.get(info["runtimePrecision"], "other"))
        return found

    def close(self) -> None:
        """Frees the requests and the compiled model; in a forked child nothing, which would wait for threads of the parent."""
        if self.inherited:
            return
        with self._lock:
            self._idle.clear()
        self._compiled = None
