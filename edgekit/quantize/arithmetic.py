"""16-bit arithmetic on a CPU that has none: a typed graph written anew, so that float32 kernels compute what its own types would.

A CPU backend runs float16 and bfloat16 graphs in float32 and never sees a value overflow. Here every operator reads and computes in float32, and
its result is rounded to its type: to the nearest, ties to even, and to infinity beyond the largest (IEEE 754-2019, 4.3.1 and 7.4; bfloat16 alike).
Nothing is clamped, so that infinity times zero and infinity less infinity are NaN. Sums inside one operator stay in float32, as tensor cores accumulate.
Rounding the float32 result of a sum, product, quotient or square root of two float16 numbers is the same as rounding the exact one (Figueroa, "When is
double rounding innocuous?", ACM SIGNUM 30(3), 1995: float32 has more than twice the digits and two).

What a device's compiler fuses is rounded less often there, so this is the worst that the types allow, not bit by bit what an engine answers.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.quantize.graphs import constant, initializer, load, save
from edgekit.spec.errors import BackendError, QuantizeError

__all__ = ["check_rounding", "emulate", "has_low_floats"]

_FLOAT = ir.DataType.FLOAT
_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Their results are values that they have read: rounded already.
_MOVES = (
    *(
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Max",
        "Min",
        "Neg",
        "Abs",
        "Pad",
    ),
    *(
        "Relu",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ),
)


def has_low_floats(model: ir.Model) -> bool:
    """Whether anything in a graph is float16 or bfloat16."""
    values = (
        *model.graph.initializers.values(),
        *model.graph.inputs,
        *(v for node in model.graph for v in node.outputs),
    )
    return any(value.dtype in _LOW for value in values) or any(_casts_low(node) for node in model.graph)


def _casts_low(node: ir.Node) -> bool:
    return node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) in _LOW


def emulate(path: Path, out: Path) -> Path:
    """Writes the graph that answers on a CPU, in float32, what ``path`` answers in arithmetic of its own types.

    A float32 graph stays what it is; weights that are restored from integers are restored once, in the file, since the result is run without optimizations.

    Args:
        path: a graph whose values have types, as EdgeKit's methods write it.
        out: folder for the new graph.

    Raises:
        QuantizeError: when a value has no type, or the graph has subgraphs: what they compute in cannot be told.
        BackendError: when this ONNX Runtime does not round as IEEE 754 has it.
    """
    model = load(path)
    graph = model.graph
    for node in graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise QuantizeError(
                f"The node '{node.name}' of {path.name} holds a graph of its own, so its arithmetic cannot be emulated. Export without control flow.",
                code="graph-control-flow",
            )
    kinds = {value: value.dtype for value in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    _fold(graph, kinds)
    if has_low_floats(model):
        check_rounding()
        _widen(graph, kinds, path.name)
    passes.RemoveUnusedNodesPass()(model)
    out.mkdir(parents=True, exist_ok=True)
    save(model, out / path.name)
    return out / path.name


def _widen(graph: ir.Graph, kinds: dict[ir.Value, ir.DataType | None], name: str) -> None:
    """Computes in float32 and rounds each result, in place."""
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is not None and value.dtype in _LOW:
            value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
            value.dtype = _FLOAT
    inputs = [value for value in graph.inputs if kinds[value] in _LOW]
    for node in list(graph):
        if _casts_low(node):
            node.attributes["to"] = ir.AttrInt64("to", _FLOAT)
        if node.op_type == "DequantizeLinear" and "output_dtype" in node.attributes:
            node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", _FLOAT)
        for value in node.outputs:
            kind = kinds[value]
            if kind is None and node.op_type != "QuantizeLinear":
                raise QuantizeError(
                    f"The output '{value.name}' of node '{node.name}' in {name} has no type, so it cannot be rounded. Infer the graph's types.",
                    code="graph-type-missing",
                )
            if kind in _LOW:
                value.dtype = _FLOAT
                if node.op_type not in _MOVES:
                    _round(graph, node, value, kind)
    for value in inputs:  # they are fed in their type
        low = ir.node("Cast", [value], attributes={"to": _FLOAT})
        ir.convenience.replace_all_uses_with(value, low.outputs[0])
        low.replace_input_with(0, value)
        low.outputs[0].dtype, low.outputs[0].shape = _FLOAT, value.shape
        graph.insert_before(graph[0], low)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, kind: ir.DataType) -> None:
    """Rounds a result for all who read it; NaN that integers have lost on the way comes back."""
    users, is_output = list(value.uses()), value.is_graph_output()
    low = ir.node("Cast", [value], attributes={"to": kind}, name=f"{node.name}/round")
    wide = ir.node("Cast", low.outputs, attributes={"to": _FLOAT}, name=f"{node.name}/rounded")
    added, result = [low, wide], wide.outputs[0]
    source = _quantized(node)
    if source is not None:  # an integer made of NaN is anything: what it restores is no answer
        lost = ir.node("IsNaN", [source])
        back = ir.node("Where", [lost.outputs[0], source, result])
        added, result = [*added, lost, back], back.outputs[0]
    low.outputs[0].dtype, wide.outputs[0].dtype, result.dtype = kind, _FLOAT, _FLOAT
    result.shape = value.shape
    graph.insert_after(node, added)
    for use in users:
        use.node.replace_input_with(use.idx, result)
    if is_output:
        index = list(graph.outputs).index(value)
        value.name, result.name = f"{value.name}_unrounded", value.name
        graph.outputs[index] = result


def _quantized(node: ir.Node) -> ir.Value | None:
    """What the integers that a node restores were made from, if it is an activation."""
    value = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    maker = value.producer() if value is not None else None
    return maker.inputs[0] if maker is not None and maker.op_type == "QuantizeLinear" else None


def _fold(graph: ir.Graph, kinds: dict[ir.Value, ir.DataType | None]) -> None:
    """Restores constant integers by tensor or by channel; the product of an integer of 8 bits and a float16 scale is exact in float32, then rounded once."""
    for node in list(graph):
        if (
            node.op_type != "DequantizeLinear"
            or (integers := constant(node.inputs[0])) is None
            or "block_size" in node.attributes
        ):
            continue
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or (zero is None and len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        shape = [-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)] if scale.ndim else []
        restored = integers.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(shape))
        kind = kinds[node.outputs[0]] or node.inputs[1].dtype if node.inputs[1] is not None else None
        assert kind is not None
        restored = (restored * scale.astype(np.float32).reshape(shape)).astype(kind.numpy()).astype(np.float32)
        value = initializer(graph, f"{node.outputs[0].name}_restored", restored)
        value.dtype = _FLOAT
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        graph.remove(node, safe=True)


@functools.cache
def check_rounding() -> None:
    """Asks ONNX Runtime's own casts once what they make of numbers at the ends of each type.

    Raises:
        BackendError: when they clamp, truncate or flush: accuracy in 16 bits cannot be told with them.
    """
    import onnxruntime

    ends = [
        65504,
        65519.996,
        65520,
        -65520,
        1e30,
        -3e38,
        3.4e38,
        np.inf,
        -np.inf,
        np.nan,
        2.0**-24,
        2.0**-25,
        1.5 * 2.0**-24,
    ]
    ties = [1 + odd * half for odd in (1, 3) for half in (2.0**-11, 2.0**-8)]
    asked = np.array([*ends, *ties], np.float32)
    for kind in _LOW:
        given = ir.val("x", _FLOAT, [len(asked)])
        rounded = ir.node("Cast", [given], attributes={"to": kind})
        wide = ir.node("Cast", rounded.outputs, attributes={"to": _FLOAT})
        rounded.outputs[0].dtype, rounded.outputs[0].name = kind, "low"
        wide.outputs[0].dtype, wide.outputs[0].shape, wide.outputs[0].name = _FLOAT, ir.Shape([len(asked)]), "y"
        graph = ir.Graph([given], wide.outputs, nodes=[rounded, wide], opset_imports={"": 20}, name="cast")
        proto = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        (got,) = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(
            None, {"x": asked}
        )
        with np.errstate(over="ignore"):
            expected = asked.astype(kind.numpy()).astype(np.float32)
        if not np.array_equal(got, expected, equal_nan=True):
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} does not cast to {kind.name.lower()} as IEEE 754 has it, so accuracy in it cannot be told here. "
                "Install the version that EdgeKit was tested with.",
                code="arithmetic-cast",
            )
