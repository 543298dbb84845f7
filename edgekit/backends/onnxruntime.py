"""ONNX Runtime on CPUs. It runs the graph file directly; nothing is compiled ahead of time."""

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
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = [
    "ENGINES",
    "GRAPH",
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
GRAPH = ".onnx"
STATIC_SHAPES = False  # The kernels run any shape equally fast.

_PROVIDERS = {"cpu": "CPUExecutionProvider", "reference": "CPUExecutionProvider"}
# The device "reference" computes a graph on the CPU node by node as written: Q/DQ pairs are rounded, dequantized and
# multiplied in float, nothing is fused into integer kernels, and no rounding between two types is optimized away. It
# predicts the outputs of a graph for another device; search/stand_in.py writes such graphs.
_AS_WRITTEN = {"session.disable_quant_qdq": "1"}
# The fused kernel for residual addition and LayerNorm is slower than the two nodes that it replaces: 8 to 15 % of a
# whole MiniLM-L6 call (ONNX Runtime 1.32, AVX-512 with VNNI and AMX, 2 threads, 24 tokens; float, static and dynamic).
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Kernels that multiply matrices, by precision (operator names of ONNX and com.microsoft). ONNX Runtime uses MatMulNBits
# for INT8 weights with float activations and by default quantizes the activations too ("accuracy level" 4).
_INT8_KERNELS = {
    "QAttention",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "MatMulNBits",
    "QLinearMatMul",
    "QGemm",
}
_FLOAT_KERNELS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"}


check_target = partial(check_cpu_target, "ONNX Runtime")
check_here = partial(check_installed, "onnxruntime")


def open_device(device: str, threads: int, streams: int = 1) -> OnnxRuntimeDevice:
    """Open a device.

    Args:
        device: ``cpu`` or ``reference``.
        threads: Number of threads of all streams together.
        streams: Number of concurrent calls; each gets ``threads // streams`` threads.

    Raises:
        BackendError: onnxruntime is not installed or has no such device, or there are more streams than threads.
    """
    call_threads = threads_per_stream(threads, streams)
    try:
        import onnxruntime
    except ImportError as problem:
        raise not_installed_error("onnxruntime") from problem
    available = onnxruntime.get_available_providers()
    if _PROVIDERS.get(device) not in available:
        raise BackendError(
            f"ONNX Runtime has no device '{device}'; its execution providers are {available}. Use device 'cpu'.",
            code="device-unavailable",
        )
    settings = _AS_WRITTEN if device == "reference" else {}
    return OnnxRuntimeDevice(onnxruntime, _PROVIDERS[device], call_threads, settings)


class OnnxRuntimeDevice:
    """An execution provider with the number of threads of one call."""

    def __init__(self, library: Any, provider: str, threads: int, settings: Mapping[str, str]) -> None:
        """Store the options of the sessions.

        Args:
            library: Module ``onnxruntime``.
            provider: Name of the execution provider.
            threads: Number of threads of one call.
            settings: Session configuration entries. If there are any, graph optimizations are disabled.
        """
        self._library = library
        self._provider = provider
        self._threads = threads
        self._settings = settings
        version = tuple(int(part) for part in library.__version__.split(".")[:2])
        # Older versions cannot find external weights of a graph that is passed as bytes.
        self._accepts_bytes = version >= (1, 21)

    def load(self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...] = ()) -> OnnxRuntimeEngine:
        """Load a graph.

        Args:
            source: Graph file.
            signature: Inputs and outputs of the graph.
            shapes: Unsupported; must be empty.

        Raises:
            BackendError: ONNX Runtime refuses the graph, or ``shapes`` is not empty.
        """
        if shapes:
            raise BackendError(
                f"ONNX Runtime does not use static shapes, but {list(shapes)} were passed. "
                "Pass none, or use the backend 'openvino'.",
                code="shapes-unsupported",
            )
        return OnnxRuntimeEngine(self, source, signature)

    def open_session(self, source: Path | GraphBytes, profile_prefix: str | None = None) -> Any:
        """Open an ONNX Runtime session on a file or on verified bytes.

        Args:
            source: Graph file.
            profile_prefix: Path prefix of the profile; None for no profiling.

        Raises:
            BackendError: ONNX Runtime refuses the graph.
        """
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # Errors are raised; the warnings of the library are not for users.
        # Waking a sleeping worker between two matrix products costs more than the product: measured 1.5 x slower.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        for name, value in self._settings.items():
            options.add_session_config_entry(name, value)
        if self._settings:
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        model: str | bytes
        if isinstance(source, GraphBytes) and self._accepts_bytes:
            model = source.read()
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(source.path.parent))
        else:
            model = str(source.path if isinstance(source, GraphBytes) else source)
        try:
            return self._library.InferenceSession(
                model, options, providers=[self._provider], disabled_optimizers=_SLOWER_FUSIONS
            )
        except Exception as problem:  # The errors of the library share no base class.
            raise BackendError(
                f"ONNX Runtime {self._library.__version__} refuses {source.name}: {problem}. "
                "Build the bundle again with this version.",
                code="graph-refused",
            ) from problem

    def close(self) -> None:
        """Do nothing: the device has no resources, and each engine frees its own session."""


class OnnxRuntimeEngine(ForkAware):
    """A session. ONNX Runtime supports concurrent calls of one session.

    A forked child may use it on the calling thread: a caller that waits for its tasks runs those that no worker thread
    has started.
    """

    def __init__(self, device: OnnxRuntimeDevice, source: Path | GraphBytes, signature: Signature) -> None:
        """Open the session."""
        self._device = device
        self._source = source
        self._signature = signature
        self._session = device.open_session(source)
        self._input_names = {value.name for value in self._session.get_inputs()}
        self._output_names = [spec.name for spec in signature.outputs]
        self._first_shapes: Mapping[str, tuple[int, ...]] = {}
        super().__init__()

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Run the graph once. Device memory is host memory: outputs in ``keep`` are arrays like all others.

        Args:
            feeds: Arrays by input name.
            keep: Names of outputs that stay on the device.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        if type(feeds) is dict and feeds.keys() == self._input_names:
            inputs = feeds
        else:
            inputs = {name: array for name, array in feeds.items() if name in self._input_names}
        try:
            outputs = self._session.run(self._output_names, inputs)
        except Exception as problem:
            raise BackendError(
                f"ONNX Runtime could not run {self._source.name}: {problem}", code="graph-run-failed"
            ) from problem
        if not self._first_shapes:
            self._first_shapes = {name: array.shape for name, array in inputs.items()}
        return dict(zip(self._output_names, outputs, strict=True))

    def precisions(self) -> list[str]:
        """Run the graph once with the profiler and return the precision of each kernel that multiplied by a weight.

        Input shapes are those of the first call, because axes can depend on each other (``past``, and ``total`` one
        longer). Before the first call every dynamic axis is 4. The result is empty if the graph refuses these shapes.
        """
        # Zeros are valid ids of every table, also of one with a single row, such as token types.
        feeds = {
            spec.name: np.zeros(self._first_shapes.get(spec.name, _default_shape(spec)), spec.dtype)
            for spec in self._signature.inputs
            if spec.name in self._input_names
        }
        with tempfile.TemporaryDirectory() as folder:
            session = self._device.open_session(self._source, str(Path(folder) / "profile"))
            is_refused = False
            try:
                session.run(self._output_names, feeds)
            except Exception:  # The errors of the library share no base class.
                is_refused = True
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        if is_refused:
            return []
        precisions = []
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                precision = _kernel_precision(event["args"])
                if precision is not None:
                    precisions.append(precision)
        return precisions

    def close(self) -> None:
        """Free the session. A forked child does nothing: freeing would wait for threads of the parent."""
        if not self.inherited:
            self._session = None


def _default_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of an input with size 4 on every dynamic axis."""
    shape = []
    for axis in spec.shape:
        shape.append(4 if isinstance(axis, str) else axis)
    return tuple(shape)


def _kernel_precision(kernel: dict[str, Any]) -> str | None:
    """Return the precision of a profiled kernel's product with a weight; None if it is no such product.

    A product of two activations (attention scores) has two inputs with three axes or more. A weight has two axes, or is
    not among the inputs at all once it is packed for the kernel.

    Args:
        kernel: Arguments of a profile event.
    """
    if kernel["op_name"] in _INT8_KERNELS:
        return "int8"
    if kernel["op_name"] not in _FLOAT_KERNELS:
        return None
    shapes = [next(iter(shape.values())) for shape in kernel.get("input_type_shape", [])]
    return None if len(shapes) > 1 and len(shapes[1]) > 2 else "float32"
