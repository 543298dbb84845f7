"""ONNX Runtime on CPUs. It runs the graph file itself; nothing is compiled ahead."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import (
    Feeds,
    GraphBytes,
    check_cpu_target,
    check_installed,
    not_installed_error,
    threads_per_stream,
)
from edgekit.drivers.fork import ForkAware
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = [
    "ENGINES",
    "PACKAGES",
    "STATIC_SHAPES",
    "OnnxRuntimeDevice",
    "OnnxRuntimeEngine",
    "check_here",
    "check_target",
    "open_device",
]

PACKAGES = ("onnxruntime",)
ENGINES = ""
STATIC_SHAPES = False  # its kernels take any shape alike

_PROVIDERS = {"cpu": "CPUExecutionProvider", "reference": "CPUExecutionProvider"}
# "reference" is the CPU that computes a graph node by node as it is written: Q/DQ rounded, restored and multiplied in float, no product in integers,
# no rounding between two types optimized away. It says what a graph for another device answers; pipeline/stand_in.py writes it for that.
_AS_WRITTEN = {"session.disable_quant_qdq": "1"}
# The fused kernel for residual and LayerNorm takes longer than the two nodes that it replaces: 8 to 15 % of a whole
# MiniLM-L6 call (ONNX Runtime 1.32, AVX-512 with VNNI and AMX, 2 threads, 24 tokens; float, static and dynamic alike).
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]
# Kernels that multiply matrices, by the precision of their product (operator names of ONNX and com.microsoft).
# MatMulNBits is what it makes of INT8 weights with float activations: by default it quantizes these too ("accuracy level" 4).
_FOLDER = "session.model_external_initializers_file_folder_path"
_INT8 = {
    "QAttention",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "MatMulNBits",
    "QLinearMatMul",
    "QGemm",
}
_FLOAT = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"}


check_target = partial(check_cpu_target, "ONNX Runtime")
check_here = partial(check_installed, "onnxruntime")


def open_device(device: str, threads: int, streams: int = 1) -> OnnxRuntimeDevice:
    """Opens a device.

    Args:
        device: ``cpu``, or ``reference``.
        threads: threads of all streams together.
        streams: calls at the same time that ``threads`` are shared out to; each gets ``threads // streams``.

    Raises:
        BackendError: when onnxruntime is not installed, offers no such device, or there are more streams than threads.
    """
    each = threads_per_stream(threads, streams)
    try:
        import onnxruntime
    except ImportError as problem:
        raise not_installed_error("onnxruntime") from problem
    if _PROVIDERS.get(device) not in onnxruntime.get_available_providers():
        raise BackendError(
            f"This ONNX Runtime offers {onnxruntime.get_available_providers()}, device '{device}' was asked for. Use device 'cpu'.",
            code="device-unavailable",
        )
    return OnnxRuntimeDevice(onnxruntime, _PROVIDERS[device], each, _AS_WRITTEN if device == "reference" else {})


class OnnxRuntimeDevice:
    """One execution provider with the threads of one call."""

    def __init__(self, library: Any, provider: str, threads: int, settings: Mapping[str, str]) -> None:
        """Keeps what is needed to open sessions."""
        self._library, self._provider, self._threads, self._settings = library, provider, threads, settings
        version = tuple(int(part) for part in library.__version__.split(".")[:2])
        self._takes_bytes = version >= (1, 21)  # before, a graph of bytes could not say where its weights lie

    def load(self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...] = ()) -> OnnxRuntimeEngine:
        """Loads a graph.

        Raises:
            BackendError: when ONNX Runtime refuses it, or static shapes are asked for, of which it makes no use.
        """
        if shapes:
            raise BackendError(
                f"ONNX Runtime makes no use of static shapes, {list(shapes)} were asked for. Give none, or use the backend 'openvino'.",
                code="shapes-unsupported",
            )
        return OnnxRuntimeEngine(self, source, signature)

    def open_session(self, source: Path | GraphBytes, profile_prefix: str | None = None) -> Any:
        """Opens a session of the vendor's library on a file, or on bytes that were checked."""
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; the library's own warnings are not for the user
        # A worker that sleeps between two matrix products costs more than the product: measured 1.5 x slower.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        for name, value in self._settings.items():
            options.add_session_config_entry(name, value)
        if self._settings:
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        model: str | bytes = str(source.path if isinstance(source, GraphBytes) else source)
        if isinstance(source, GraphBytes) and self._takes_bytes:
            model = source.read()
            options.add_session_config_entry(_FOLDER, str(source.path.parent))
        try:
            return self._library.InferenceSession(
                model, options, providers=[self._provider], disabled_optimizers=_SLOWER_FUSIONS
            )
        except Exception as problem:  # the library's errors share no base class
            version = self._library.__version__
            raise BackendError(
                f"ONNX Runtime {version} refuses {source.name}: {problem}. Build the bundle again with this version.",
                code="graph-refused",
            ) from problem

    def close(self) -> None:
        """Nothing is held here; each engine frees its own session."""


class OnnxRuntimeEngine(ForkAware):
    """A session. ONNX Runtime allows concurrent calls of one session.

    A forked child may go on using it, on the calling thread alone: tasks that no thread has begun are taken back by whoever waits for them.
    """

    def __init__(self, device: OnnxRuntimeDevice, source: Path | GraphBytes, signature: Signature) -> None:
        """Opens the session."""
        self._device, self._source, self._signature = device, source, signature
        self._session = device.open_session(source)
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._outputs = [o.name for o in signature.outputs]
        self._taken: Mapping[str, tuple[int, ...]] = {}
        super().__init__()

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Runs once. This device's memory is the host's: outputs that are to be kept are arrays like all others."""
        fed = {name: array for name, array in feeds.items() if name in self._inputs}
        try:
            outputs = dict(zip(self._outputs, self._session.run(self._outputs, fed), strict=True))
        except Exception as problem:
            raise BackendError(
                f"ONNX Runtime could not run {self._source.name}: {problem}", code="graph-run-failed"
            ) from problem
        if not self._taken:
            self._taken = {name: array.shape for name, array in fed.items()}
        return outputs

    def precisions(self) -> list[str]:
        """Runs the graph once with the profiler on and reads which kernels multiplied matrices.

        Inputs are of the sizes of its first call here, for sizes may hang together (``past``, and a ``total`` of one more); before any call all that vary
        are 4. A graph that refuses these tells of no layer.
        """
        usual = {i.name: tuple(4 if isinstance(d, str) else d for d in i.shape) for i in self._signature.inputs}
        # Zeros: a table of one row, as token types may have, holds no other id.
        feeds = {
            i.name: np.zeros(self._taken.get(i.name, usual[i.name]), i.dtype)
            for i in self._signature.inputs
            if i.name in self._inputs
        }
        with tempfile.TemporaryDirectory() as folder:
            session = self._device.open_session(self._source, str(Path(folder) / "profile"))
            refused = False
            try:
                session.run(self._outputs, feeds)
            except Exception:  # the library's errors share no base class
                refused = True
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        if refused:
            return []
        kernels = [e["args"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return [kind for kernel in kernels if (kind := _precision(kernel)) is not None]

    def close(self) -> None:
        """Frees the session; in a forked child nothing, which would wait for threads of the parent."""
        if not self.inherited:
            self._session = None


def _precision(kernel: dict[str, Any]) -> str | None:
    """What a profiled kernel multiplied a weight in; None where it did not.

    A product of two activations (attention scores) has two inputs of three axes or more; a weight has two axes, or is
    not among the inputs at all once it has been packed for the kernel.
    """
    if kernel["op_name"] in _INT8:
        return "int8"
    if kernel["op_name"] not in _FLOAT:
        return None
    shapes = [next(iter(shape.values())) for shape in kernel.get("input_type_shape", [])]
    return None if len(shapes) > 1 and len(shapes[1]) > 2 else "float32"
