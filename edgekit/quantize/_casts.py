"""Typed graphs: activations and weights in a 16-bit float type, what needs range or precision in float32, casts in between.

A walk over the graph gives every node one float type and puts an explicit ``Cast`` where two meet, so that no node mixes
types: what a strongly typed TensorRT network asks for (built with TensorRT-RTX 1.7 from all architectures). 16 bits have
the nodes that token activations run through. In float32 stay

- LayerNormalization and Softmax, whose sums lose too much (Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740);
- what is computed from the mask and from positions alone (it is small, and float16 cannot count beyond 2,048 exactly);
- nodes around a value that is large on the calibration samples, the evaluation rows or rows of full length;
- nodes with a constant that the type cannot hold;
- the layers that the settings name, and the graph's inputs and outputs.

By hand with onnx_ir rather than with ``onnxruntime.transformers.float16`` (or onnxconverter-common, which it is a copy of):
those convert to float16 only, clip a weight beyond 65504 in silence, look at no activation, choose by the kind of
operator, so that position and mask arithmetic goes into float16 too, and insert a pair of casts per blocked node and not
one per value.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration, Runner, runner
from edgekit.quantize.graphs import constant, initializer, rewrite, save
from edgekit.spec.errors import QuantizeError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

_FLOAT = ir.DataType.FLOAT
_FULL_PRECISION = ("LayerNormalization", "Softmax")
_ANY_TYPE = ("Cast", "Shape", "Size")  # what they give does not depend on the float type that they read
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
    """Writes each graph with token activations and weights in ``low``.

    Args:
        graphs: cleaned float32 graphs.
        calibration: feeds, input name to ``int64 [batch, sequence]``; read only if there is a limit.
        settings: ``keep_float`` names layers that stay in float32; ``embeddings``: in 8 or 4 bits, or as float32 in ``low`` too.
        out: folder for the new graphs.
        progress: told after each calibration batch.
        low: FLOAT16 or BFLOAT16.
        limit: nodes that read or make a value beyond it on the samples stay in float32.

    Raises:
        QuantizeError: for NaN or infinity on the samples.
    """

    def change(graph: Graph, model: ir.Model, named: set[str]) -> dict[str, str]:
        tables = quantize_embeddings(model.graph, settings.embeddings)
        kept = {
            node
            for node in model.graph
            if node.op_type in _FULL_PRECISION or (node.name or "").rpartition("/")[0] in named
        }
        kept |= _not_representable(model.graph, low)
        large = (
            _with_large_values(model, calibration.of(graph.signature.name), limit, progress)
            if limit is not None
            else set()
        )
        lower(model.graph, low, kept | large)
        recipe = {"embeddings": settings.embeddings if tables else _NAMES[low]}
        if large - kept:
            recipe["large_values"] = ", ".join(
                sorted({node.name or node.op_type for node in large} - {node.name for node in kept})
            )
        return recipe

    return rewrite(graphs, settings, out, _NAMES[low], change)


def lower(graph: ir.Graph, low: ir.DataType, kept: set[ir.Node]) -> int:
    """Gives token activations and their weights the type ``low``, in place; returns how many nodes compute in it.

    Args:
        graph: float32, in topological order.
        low: FLOAT16 or BFLOAT16.
        kept: nodes that compute in float32.
    """
    chosen = [node for node in _activation_nodes(graph) if node not in kept]
    computes_low = set(chosen)
    lowered = {v for node in chosen for v in node.outputs if _is_float(v)}
    for value in lowered:
        value.dtype = low
    typed = _Typed(graph, lowered, low)
    for node in list(graph):
        if node.op_type in _ANY_TYPE:
            continue
        for index, read in enumerate(node.inputs):
            if read is not None and (read in lowered or _is_float(read)):
                node.replace_input_with(index, typed.get(read, low=node in computes_low))
    for index, output in enumerate(graph.outputs):
        if output in lowered:
            name, restored = output.name, typed.get(output, low=False)
            output.name = f"{name}_{_NAMES[low]}"
            restored.name, graph.outputs[index] = name, restored
    return len(chosen)


@dataclass
class _Typed:
    """Values in either type: one Cast for a value however many read it, constants converted when the graph is made."""

    graph: ir.Graph
    lowered: set[ir.Value]
    low: ir.DataType
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def get(self, value: ir.Value, *, low: bool) -> ir.Value:
        """``value`` in the low type, or in float32."""
        if (value in self.lowered) == low:
            return value
        if value not in self.made:
            array = constant(value)
            name = _NAMES[self.low] if low else "float32"
            if array is not None and value.is_initializer():
                self.made[value] = initializer(self.graph, f"{value.name}_{name}", array.astype(self.low.numpy()))
            else:
                self.made[value] = self._cast(value, self.low if low else _FLOAT, f"{value.name}/Cast_{name}")
        return self.made[value]

    def _cast(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
        cast = ir.node("Cast", [value], attributes={"to": to}, name=name)
        cast.outputs[0].dtype, cast.outputs[0].shape = to, value.shape
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, cast)
        else:
            self.graph.insert_before(next(iter(self.graph)), cast)
        return cast.outputs[0]


def _is_float(value: ir.Value) -> bool:
    return value.dtype == _FLOAT


def _activation_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Nodes that token activations run through: lookups in tables, products with weights, restored INT8, and all that reads these."""
    reached: set[ir.Value] = set()
    found = []
    for node in graph:
        starts = node.op_type in ("MatMul", "Gemm", "DequantizeLinear") or (
            node.op_type in ("Gather", "Slice") and _is_table(node.inputs[0])
        )
        if node.op_type in _ANY_TYPE or not (starts or any(v in reached for v in node.inputs)):
            continue
        if any(v is not None and _is_float(v) for v in node.inputs):
            found.append(node)
            reached.update(v for v in node.outputs if _is_float(v))
    return found


def _is_table(value: ir.Value | None) -> bool:
    """A constant ``[rows, width]``; a column is the scales of a table in INT8, which stay in float32 until a row is restored."""
    array = constant(value)
    return array is not None and array.ndim == 2 and array.shape[1] > 1 and array.dtype == np.float32


def _not_representable(graph: ir.Graph, low: ir.DataType) -> set[ir.Node]:
    """Readers of a constant of which the type loses more than its precision: beyond its range, or all of it next to 0."""
    found: set[ir.Node] = set()
    kind = low.numpy()
    for value in graph.initializers.values():
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size == 0:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            lost = np.abs(array.astype(kind).astype(np.float32) - array).max()
        if not lost <= _EPSILONS[low] * np.abs(array).max():
            found.update(use.node for use in value.uses())
    return found


def _with_large_values(model: ir.Model, calibration: Calibration, limit: float, progress: Progress) -> set[ir.Node]:
    """Nodes that read or make a value whose size is beyond ``limit`` on some batch.

    The largest size of every value is taken inside the graph, so that no activation has to be kept; ``Calibration.measure``
    looks at what linears read only, and it is what they and residual additions make that grows first.
    """
    nodes = _activation_nodes(model.graph)
    values = {
        v
        for node in nodes
        for v in (*node.inputs, *node.outputs)
        if v is not None and _is_float(v) and v.producer() is not None
    }
    names = sorted(v.name or "" for v in values)
    largest = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        run = _largest(model, names, Path(folder) / "calibrate.onnx")
        count = len(calibration.batches)
        for index, batch in enumerate(itertools.chain(calibration.batches, calibration.guard())):
            for name, top in zip(names, run(batch), strict=True):
                if not np.isfinite(top):
                    producer = next(v.producer() for v in values if v.name == name)
                    where = (
                        f"calibration batch {index + 1}"
                        if index < count
                        else "a row of the evaluation set, or one of full length"
                    )
                    raise QuantizeError(
                        f"The output of node '{producer.name if producer else name}' is NaN or infinite on {where}, "
                        "so its type cannot be chosen. Check the model and the samples: the float32 model has the same problem.",
                        code="activations-not-finite",
                    )
                largest[name] = max(largest[name], float(top))
            progress("calibrate", min(index + 1, count), count)
    return {
        node
        for node in nodes
        if any(v in values and largest[v.name or ""] > limit for v in (*node.inputs, *node.outputs) if v is not None)
    }


def _largest(model: ir.Model, names: list[str], path: Path) -> Runner:
    """A runner of a copy of the graph that gives the largest size of each named value: float32 ``[]``, NaN where there was one."""
    probe = model.clone()
    graph = probe.graph
    inside = {v.name: v for node in graph for v in node.outputs}
    zero, outputs = initializer(graph, "probe_zero", np.array(0, np.float32)), []
    for name in names:
        size = ir.node("Abs", [inside[name]])
        top, mean = (ir.node(op, size.outputs, attributes={"keepdims": 0}) for op in ("ReduceMax", "ReduceMean"))
        # ONNX Runtime's ReduceMax drops NaN, its mean does not, and 0 times NaN is NaN.
        poison = ir.node("Mul", [mean.outputs[0], zero])
        both = ir.node("Add", [top.outputs[0], poison.outputs[0]])
        both.outputs[0].dtype, both.outputs[0].shape = _FLOAT, ir.Shape([])
        graph.extend([size, top, mean, poison, both])
        outputs.append(both.outputs[0])
    graph.outputs[:] = outputs
    save(probe, path)
    return runner(path, as_written=True)  # all values in between are read, so no pair could be fused
