"""Typed graphs: activations and weights in a 16-bit float type, sensitive nodes in float32, and explicit casts.

Every node gets one float type, and an explicit ``Cast`` is inserted wherever two types meet, so that no node mixes
types. Strongly typed TensorRT networks require this (tested with TensorRT-RTX 1.7 on all architectures). Nodes on the
path of token activations compute in 16 bits. The following stay in float32:

- LayerNormalization and Softmax, whose sums lose too much precision (Micikevicius et al., "Mixed Precision Training",
  arXiv 1710.03740);
- values computed only from the mask and the positions (they are small, and float16 counts exactly only up to 2,048);
- nodes around a value that is large on the calibration samples, the evaluation rows or rows of full length;
- nodes with a constant that the 16-bit type cannot represent;
- the layers that the settings name, and the inputs and outputs of the graph.

``onnxruntime.transformers.float16`` (the same code as onnxconverter-common) is not used: it converts to float16 only,
silently clips weights beyond 65504, ignores activations, decides by operator type, so that position and mask arithmetic
becomes float16 too, and inserts a pair of casts for each blocked node instead of one for each value.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration, Runner, not_finite_error, runner
from edgekit.quantize.graphs import constant, discard, initializer, rewrite, save
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

_FLOAT = ir.DataType.FLOAT
_FULL_PRECISION = ("LayerNormalization", "Softmax")
_ANY_TYPE = ("Cast", "Shape", "Size")  # Their outputs do not depend on the float type of their inputs.
_NAMES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
_EPSILONS = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}


def cast_graphs(
    graphs: GraphSet,
    calibration: Calibration,
    settings: Quantization,
    out: Path,
    progress: Progress,
    *,
    low: ir.DataType,
    limit: float | None,
) -> GraphSet:
    """Write each graph with token activations and weights in a 16-bit float type.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Feeds, input name to ``int64 [batch, sequence]``; read only if ``limit`` is set.
        settings: Quantization settings. ``keep_float`` names layers that stay in float32. ``embeddings`` selects tables
            in 8 or 4 bits; ``float32`` tables are cast to ``low`` too.
        out: Folder for the new graphs.
        progress: Progress callback, called after each calibration batch.
        low: FLOAT16 or BFLOAT16.
        limit: Largest absolute value on the samples; nodes that read or produce a larger one stay in float32.

    Raises:
        QuantizeError: An activation is NaN or infinite on the samples.
    """

    def change(graph: Graph, model: ir.Model, float_layers: set[str]) -> dict[str, str]:
        table_count = quantize_embeddings(model.graph, settings.embeddings)
        float_nodes = _not_representable(model.graph, low)
        for node in model.graph:
            if node.op_type in _FULL_PRECISION or (node.name or "").rpartition("/")[0] in float_layers:
                float_nodes.add(node)
        large_nodes: set[ir.Node] = set()
        if limit is not None:
            large_nodes = _find_large_nodes(model, calibration.of(graph.signature.name), limit, progress)
        lower(model.graph, low, float_nodes | large_nodes)
        recipe = {"embeddings": settings.embeddings if table_count else _NAMES[low]}
        if large_nodes - float_nodes:
            names = {node.name or node.op_type for node in large_nodes}
            names -= {node.name for node in float_nodes}
            recipe["large_values"] = ", ".join(sorted(names))
        return recipe

    return rewrite(graphs, settings, out, _NAMES[low], change)


def lower(graph: ir.Graph, low: ir.DataType, float_nodes: set[ir.Node]) -> int:
    """Give token activations and their weights a 16-bit type, in place.

    Args:
        graph: Float32 graph in topological order.
        low: FLOAT16 or BFLOAT16.
        float_nodes: Nodes that compute in float32.

    Returns:
        Number of nodes that compute in ``low``.
    """
    low_nodes = {node for node in _activation_nodes(graph) if node not in float_nodes}
    lowered = {value for node in low_nodes for value in node.outputs if _is_float(value)}
    for value in lowered:
        value.dtype = low
    typed = _TypedValues(graph, lowered, low)
    for node in list(graph):
        if node.op_type in _ANY_TYPE:
            continue
        is_low = node in low_nodes
        for index, operand in enumerate(node.inputs):
            if operand is not None and (operand in lowered or _is_float(operand)):
                node.replace_input_with(index, typed.get(operand, low=is_low))
    for index, output in enumerate(graph.outputs):
        if output in lowered:
            name = output.name
            float_output = typed.get(output, low=False)
            output.name = f"{name}_{_NAMES[low]}"
            float_output.name = name
            graph.outputs[index] = float_output
    return len(low_nodes)


@dataclass
class _TypedValues:
    """Values in both types: one Cast per value however many nodes read it. Constants are converted in the file."""

    graph: ir.Graph
    lowered: set[ir.Value]
    low: ir.DataType
    converted: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def get(self, value: ir.Value, *, low: bool) -> ir.Value:
        """Return ``value`` in the low type, or in float32."""
        if (value in self.lowered) == low:
            return value
        if value not in self.converted:
            array = constant(value)
            name = _NAMES[self.low] if low else "float32"
            if array is not None and value.is_initializer():
                array = array.astype(self.low.numpy())
                self.converted[value] = initializer(self.graph, f"{value.name}_{name}", array)
            else:
                dtype = self.low if low else _FLOAT
                self.converted[value] = self._insert_cast(value, dtype, f"{value.name}/Cast_{name}")
        return self.converted[value]

    def _insert_cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        cast = ir.node("Cast", [value], attributes={"to": dtype}, name=name)
        cast.outputs[0].dtype = dtype
        cast.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, cast)
        else:
            self.graph.insert_before(next(iter(self.graph)), cast)
        return cast.outputs[0]


def _is_float(value: ir.Value) -> bool:
    return value.dtype == _FLOAT


def _activation_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes on the path of token activations.

    The path starts at table lookups, products with weights and DequantizeLinear nodes, and includes every node that
    reads their outputs.
    """
    reached: set[ir.Value] = set()
    nodes = []
    for node in graph:
        if node.op_type in _ANY_TYPE:
            continue
        is_lookup = node.op_type in ("Gather", "Slice") and _is_table(node.inputs[0])
        is_start = is_lookup or node.op_type in ("MatMul", "Gemm", "DequantizeLinear")
        if not is_start and not any(value in reached for value in node.inputs):
            continue
        if any(value is not None and _is_float(value) for value in node.inputs):
            nodes.append(node)
            reached.update(value for value in node.outputs if _is_float(value))
    return nodes


def _is_table(value: ir.Value | None) -> bool:
    """Return whether a value is a constant table ``[rows, width]``.

    A constant of width 1 holds the scales of an INT8 table, which stay in float32 until a row is dequantized.
    """
    array = constant(value)
    return array is not None and array.ndim == 2 and array.shape[1] > 1 and array.dtype == np.float32


def _not_representable(graph: ir.Graph, low: ir.DataType) -> set[ir.Node]:
    """Return the readers of constants that overflow or vanish in the 16-bit type, not only lose precision."""
    nodes: set[ir.Node] = set()
    dtype = low.numpy()
    for value in graph.initializers.values():
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size == 0:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(array.astype(dtype).astype(np.float32) - array).max()
        # Written so that a NaN error counts as not representable.
        if not error <= _EPSILONS[low] * np.abs(array).max():
            nodes.update(use.node for use in value.uses())
    return nodes


def _find_large_nodes(model: ir.Model, calibration: Calibration, limit: float, progress: Progress) -> set[ir.Node]:
    """Return the nodes that read or produce a value beyond ``limit`` on some batch.

    The maximum of every value is computed inside the graph, so no activation has to be stored. ``Calibration.measure``
    would not suffice: it sees inputs of linear layers only, while their outputs and residual sums grow first.
    """
    nodes = _activation_nodes(model.graph)
    values: dict[str, ir.Value] = {}
    for node in nodes:
        for value in (*node.inputs, *node.outputs):
            if value is not None and _is_float(value) and value.producer() is not None:
                values[value.name or ""] = value
    largest = _measure_largest(model, values, calibration, progress)
    large_values = {value for name, value in values.items() if largest[name] > limit}
    return {node for node in nodes if not large_values.isdisjoint((*node.inputs, *node.outputs))}


def _measure_largest(
    model: ir.Model, values: dict[str, ir.Value], calibration: Calibration, progress: Progress
) -> dict[str, float]:
    """Return the largest absolute value of each value over all batches and guard feeds, by name.

    Raises:
        QuantizeError: A value is NaN or infinite.
    """
    largest = dict.fromkeys(sorted(values), 0.0)
    batch_count = len(calibration.batches)
    with tempfile.TemporaryDirectory() as folder:
        run = _open_probe(model, list(largest), Path(folder) / "calibrate.onnx")
        for index, batch in enumerate(itertools.chain(calibration.batches, calibration.guard())):
            for name, top in zip(list(largest), run(batch), strict=True):
                if not np.isfinite(top):
                    rows = "a row of the evaluation set, or one of full length"
                    if index < batch_count:
                        rows = f"calibration batch {index + 1}"
                    raise not_finite_error(values[name], rows, "type")
                largest[name] = max(largest[name], float(top))
            progress("calibrate", min(index + 1, batch_count), batch_count)
    return largest


def _open_probe(model: ir.Model, names: Collection[str], path: Path) -> Runner:
    """Open a copy of the graph that outputs the largest absolute value of each named value: float32 ``[]``, or NaN."""
    probe = model.clone()
    graph = probe.graph
    values = {value.name: value for node in graph for value in node.outputs}
    zero = initializer(graph, "probe_zero", np.array(0, np.float32))
    outputs = []
    for name in names:
        size = ir.node("Abs", [values[name]])
        top = ir.node("ReduceMax", size.outputs, attributes={"keepdims": 0})
        # ONNX Runtime's ReduceMax ignores NaN, but ReduceMean does not, and 0 times NaN is NaN.
        mean = ir.node("ReduceMean", size.outputs, attributes={"keepdims": 0})
        poison = ir.node("Mul", [mean.outputs[0], zero])
        total = ir.node("Add", [top.outputs[0], poison.outputs[0]])
        total.outputs[0].dtype = _FLOAT
        total.outputs[0].shape = ir.Shape([])
        graph.extend([size, top, mean, poison, total])
        outputs.append(total.outputs[0])
    graph.outputs[:] = outputs
    save(probe, path)
    discard(probe)
    # Every intermediate value is read, so ONNX Runtime cannot fuse Q/DQ pairs anyway.
    return runner(path, as_written=True)
