"""Emulation of 16-bit arithmetic on CPUs: rewrite a typed graph so that float32 kernels compute what its types would.

A CPU backend runs float16 and bfloat16 graphs in float32 and never sees a value overflow. In the rewritten graph every
operator reads and computes in float32, and its result is rounded to its type: to nearest, ties to even, and to infinity
beyond the largest number (IEEE 754-2019, 4.3.1 and 7.4; bfloat16 alike). Values are not clamped, so infinity times zero
and infinity minus infinity are NaN. Sums inside one operator stay in float32, as tensor cores accumulate. Rounding the
float32 result of a sum, product, quotient or square root of two float16 numbers equals rounding the exact result,
because float32 has more than twice the digits plus two (Figueroa, "When is double rounding innocuous?", ACM SIGNUM
30(3), 1995).

A device rounds less often where its compiler fuses operators. The emulation is therefore the worst case of the types
and not bit-identical to the output of an engine.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.quantize.graphs import constant, discard, initializer, load, save
from edgekit.spec.errors import BackendError, QuantizeError

__all__ = ["check_rounding", "emulate", "has_low_floats"]

_FLOAT = ir.DataType.FLOAT
_LOW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_GRAPH_ATTRIBUTES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
# Their results are copies (or negations) of values that are rounded already.
_MOVES = frozenset(
    """
    Abs Concat Expand Flatten Gather GatherElements GatherND Identity Max Min Neg Pad Relu Reshape ScatterElements
    ScatterND Slice Split Squeeze Tile Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
# Overflow, infinity, NaN, and the smallest subnormal numbers of float16.
_EXTREMES = [
    *(65504, 65519.996, 65520, -65520, 1e30, -3e38, 3.4e38),
    *(np.inf, -np.inf, np.nan),
    *(2.0**-24, 2.0**-25, 1.5 * 2.0**-24),
]


def has_low_floats(model: ir.Model) -> bool:
    """Return whether any value of a graph is float16 or bfloat16."""
    values = [*model.graph.initializers.values(), *model.graph.inputs]
    for node in model.graph:
        if _casts_low(node):
            return True
        values += node.outputs
    return any(value.dtype in _LOW for value in values)


def _casts_low(node: ir.Node) -> bool:
    return node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) in _LOW


def emulate(path: Path, out: Path) -> Path:
    """Write a float32 graph that computes on a CPU what a typed graph computes in its own types.

    A float32 graph is not changed, except that weights stored as integers are dequantized in the file: the result is
    run without graph optimizations.

    Args:
        path: Path of a graph whose values have types, as EdgeKit's methods write it.
        out: Folder for the new graph.

    Returns:
        Path of the new graph.

    Raises:
        QuantizeError: A value has no type, or the graph has subgraphs: their precision is unknown.
        BackendError: This ONNX Runtime does not round as IEEE 754 specifies.
    """
    model = load(path)
    graph = model.graph
    kinds = {value: value.dtype for value in graph.inputs}
    for node in graph:
        if any(attribute.type in _GRAPH_ATTRIBUTES for attribute in node.attributes.values()):
            raise QuantizeError(
                f"The node '{node.name}' of {path.name} contains a subgraph, so its arithmetic cannot be emulated. "
                "Export the model without control flow.",
                code="graph-control-flow",
            )
        kinds |= {value: value.dtype for value in node.outputs}
    _dequantize_constants(graph, kinds)
    if has_low_floats(model):
        check_rounding()
        _widen(graph, kinds, path.name)
    passes.RemoveUnusedNodesPass()(model)
    out.mkdir(parents=True, exist_ok=True)
    save(model, out / path.name)
    discard(model)
    return out / path.name


def _widen(graph: ir.Graph, kinds: dict[ir.Value, ir.DataType | None], name: str) -> None:
    """Make every operator compute in float32 and round its results, in place.

    Args:
        graph: Graph to change.
        kinds: Original type of each value.
        name: File name for messages.
    """
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is not None and value.dtype in _LOW:
            value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
            value.dtype = _FLOAT
    low_inputs = [value for value in graph.inputs if kinds[value] in _LOW]
    for node in list(graph):
        if _casts_low(node):
            node.attributes["to"] = ir.AttrInt64("to", _FLOAT)
        if node.op_type == "DequantizeLinear" and "output_dtype" in node.attributes:
            node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", _FLOAT)
        for value in node.outputs:
            kind = kinds[value]
            if kind is None and node.op_type != "QuantizeLinear":
                raise QuantizeError(
                    f"The output '{value.name}' of node '{node.name}' in {name} has no type, so it cannot be rounded. "
                    "Run type inference on the graph.",
                    code="graph-type-missing",
                )
            if kind in _LOW:
                value.dtype = _FLOAT
                if node.op_type not in _MOVES:
                    _round(graph, node, value, kind)
    # Callers feed these inputs in their original type.
    for value in low_inputs:
        cast = ir.node("Cast", [value], attributes={"to": _FLOAT})
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        cast.replace_input_with(0, value)
        cast.outputs[0].dtype = _FLOAT
        cast.outputs[0].shape = value.shape
        graph.insert_before(graph[0], cast)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, kind: ir.DataType) -> None:
    """Round a result for all its readers, and restore a NaN that a conversion to integers lost."""
    users = list(value.uses())
    is_output = value.is_graph_output()
    low = ir.node("Cast", [value], attributes={"to": kind}, name=f"{node.name}/round")
    wide = ir.node("Cast", low.outputs, attributes={"to": _FLOAT}, name=f"{node.name}/rounded")
    new_nodes = [low, wide]
    result = wide.outputs[0]
    source = _quantized_activation(node)
    if source is not None:
        # NaN converted to an integer is an arbitrary number, so the dequantized value would look valid.
        is_nan = ir.node("IsNaN", [source])
        select = ir.node("Where", [is_nan.outputs[0], source, result])
        new_nodes += [is_nan, select]
        result = select.outputs[0]
    low.outputs[0].dtype = kind
    wide.outputs[0].dtype = _FLOAT
    result.dtype = _FLOAT
    result.shape = value.shape
    graph.insert_after(node, new_nodes)
    for use in users:
        use.node.replace_input_with(use.idx, result)
    if is_output:
        index = list(graph.outputs).index(value)
        result.name = value.name
        value.name = f"{value.name}_unrounded"
        graph.outputs[index] = result


def _quantized_activation(node: ir.Node) -> ir.Value | None:
    """Return the float activation behind a Q/DQ pair whose DequantizeLinear is ``node``, or None."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "QuantizeLinear" else None


def _dequantize_constants(graph: ir.Graph, kinds: dict[ir.Value, ir.DataType | None]) -> None:
    """Replace DequantizeLinear nodes on constants, per tensor or per channel, by float32 constants.

    The product of an 8-bit integer and a float16 scale is exact in float32 and then rounded once.

    Args:
        graph: Graph to change in place.
        kinds: Original type of each value.
    """
    for node in list(graph):
        integers = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        if integers is None or "block_size" in node.attributes:
            continue
        scale = constant(node.inputs[1])
        zero_point_input = node.inputs[2] if len(node.inputs) > 2 else None
        zero_point = constant(zero_point_input)
        if scale is None or (zero_point is None and zero_point_input is not None):
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        shape = []
        if scale.ndim:
            shape = [1] * integers.ndim
            shape[axis % integers.ndim] = -1
        values = integers.astype(np.float32)
        if zero_point is not None:
            values = values - zero_point.astype(np.float32).reshape(shape)
        kind = kinds[node.outputs[0]]
        if kind is None and node.inputs[1] is not None:
            kind = node.inputs[1].dtype
        assert kind is not None
        values = (values * scale.astype(np.float32).reshape(shape)).astype(kind.numpy()).astype(np.float32)
        value = initializer(graph, f"{node.outputs[0].name}_restored", values)
        value.dtype = _FLOAT
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        graph.remove(node, safe=True)


@functools.cache
def check_rounding() -> None:
    """Check once that ONNX Runtime's casts round as IEEE 754 specifies, with numbers at the limits of each type.

    Raises:
        BackendError: The casts clamp, truncate or flush to zero, so accuracy in 16 bits cannot be emulated.
    """
    import onnxruntime

    ties = [1 + odd * half for odd in (1, 3) for half in (2.0**-11, 2.0**-8)]
    numbers = np.array([*_EXTREMES, *ties], np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for kind in _LOW:
        proto = _rounding_model(kind, len(numbers))
        session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        (rounded,) = session.run(None, {"x": numbers})
        with np.errstate(over="ignore"):
            expected = numbers.astype(kind.numpy()).astype(np.float32)
        if not np.array_equal(rounded, expected, equal_nan=True):
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} does not cast to {kind.name.lower()} as IEEE 754 specifies, "
                "so accuracy in that type cannot be emulated. Install the version that EdgeKit was tested with.",
                code="arithmetic-cast",
            )


def _rounding_model(kind: ir.DataType, count: int) -> bytes:
    """Return a serialized model that rounds ``count`` float32 numbers ``x`` to a type and back."""
    x = ir.val("x", _FLOAT, [count])
    low = ir.node("Cast", [x], attributes={"to": kind})
    wide = ir.node("Cast", low.outputs, attributes={"to": _FLOAT})
    low.outputs[0].name = "low"
    low.outputs[0].dtype = kind
    wide.outputs[0].name = "y"
    wide.outputs[0].dtype = _FLOAT
    wide.outputs[0].shape = ir.Shape([count])
    graph = ir.Graph([x], wide.outputs, nodes=[low, wide], opset_imports={"": 20}, name="cast")
    return bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
