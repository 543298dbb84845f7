"""Lowering of operators that work on one element at a time, and of sums along an axis.

Where they meet an image, they take it with its channels as the last axis and leave it so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, narrow_type, table
from edgekit.quantize.litert._sizes import Size

# ONNX name -> name and version in TensorFlow Lite; the version is the least that has the types of cleaned graphs.
_PLAIN = {
    "Abs": ("ABS", 4),
    "Add": ("ADD", 1),
    "And": ("LOGICAL_AND", 1),
    "Ceil": ("CEIL", 1),
    "Cos": ("COS", 1),
    "Div": ("DIV", 1),
    "Equal": ("EQUAL", 1),
    "Exp": ("EXP", 1),
    "Floor": ("FLOOR", 1),
    "Greater": ("GREATER", 1),
    "GreaterOrEqual": ("GREATER_EQUAL", 1),
    "HardSwish": ("HARD_SWISH", 1),
    "Less": ("LESS", 1),
    "LessOrEqual": ("LESS_EQUAL", 1),
    "Log": ("LOG", 1),
    "Max": ("MAXIMUM", 1),
    "Min": ("MINIMUM", 1),
    "Mul": ("MUL", 1),
    "Neg": ("NEG", 1),
    "Not": ("LOGICAL_NOT", 1),
    "Or": ("LOGICAL_OR", 1),
    "Relu": ("RELU", 1),
    "Sigmoid": ("LOGISTIC", 1),
    "Sign": ("SIGN", 1),
    "Sin": ("SIN", 1),
    "Sqrt": ("SQRT", 1),
    "Sub": ("SUB", 1),
    "Tanh": ("TANH", 1),
    "Where": ("SELECT_V2", 1),
}


@table.add(*_PLAIN)
def plain(graph: Lowering, node: ir.Node) -> None:
    """Lower an operator that TensorFlow Lite has under another name."""
    if len(node.inputs) > 2 and node.op_type in ("Max", "Min"):
        raise graph.refuse(node, "more than two inputs")
    name, version = _PLAIN[node.op_type]
    inputs, is_image = graph.operands(node)
    graph.operator(name, inputs, node, version, is_image)


@table.add("Gelu")
def gelu(graph: Lowering, node: ir.Node) -> None:
    """Lower a GELU of either form."""
    approximate = node.attributes.get_string("approximate", "none") == "tanh"
    inputs, is_image = graph.operands(node)
    graph.operator("GELU", inputs, node, is_image=is_image, approximate=approximate)


@table.add("Pow")
def power(graph: Lowering, node: ir.Node) -> None:
    """Lower a power; XNNPACK takes squares."""
    exponent = graph.observed.constant(node.inputs[1])
    is_square = exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2
    inputs, is_image = graph.operands(node)
    if is_square and graph.shape(node.inputs[0]) == graph.shape(node.outputs[0]):
        graph.operator("SQUARE", inputs[:1], node, is_image=is_image)
    else:
        graph.operator("POW", inputs, node, is_image=is_image)


@table.add("Reciprocal")
def reciprocal(graph: Lowering, node: ir.Node) -> None:
    """Lower a reciprocal to a quotient."""
    (x,), is_image = graph.operands(node)
    graph.operator("DIV", [graph.array(np.array(1, np.float32)), x], node, is_image=is_image)


@table.add("LeakyRelu")
def leaky_relu(graph: Lowering, node: ir.Node) -> None:
    """Lower a ReLU whose negative side has a slope."""
    inputs, is_image = graph.operands(node)
    graph.operator("LEAKY_RELU", inputs, node, is_image=is_image, alpha=node.attributes.get_float("alpha", 0.01))


@table.add("HardSigmoid")
def hard_sigmoid(graph: Lowering, node: ir.Node) -> None:
    """Lower a line between limits of 0 and 1."""
    value = node.inputs[0]
    is_image = graph.has_channels_last(value)
    shape = graph.arranged_shape(value, is_image)
    slope = graph.array(np.array(node.attributes.get_float("alpha", 0.2), np.float32))
    offset = graph.array(np.array(node.attributes.get_float("beta", 0.5), np.float32))
    scaled = graph.step("MUL", [graph.arranged(value, is_image), slope], shape)
    moved = graph.step("ADD", [scaled, offset], shape)
    limits = (np.array(0, np.float32), np.array(1, np.float32))
    graph.set_output(node, _limit(graph, moved, shape, *limits, limits[0].dtype), is_image)


@table.add("Clip", data=(0,))
def clip(graph: Lowering, node: ir.Node) -> None:
    """Lower limits that are constants, of which one may be absent."""
    limits = []
    for value in node.inputs[1:]:
        limits.append(graph.observed.constant(value))
        if value is not None and limits[-1] is None:
            raise graph.refuse(node, "a limit that is computed")
    low, high = [*limits, None, None][:2]
    value = node.inputs[0]
    is_image = graph.has_channels_last(value)
    shape = graph.arranged_shape(value, is_image)
    x = graph.arranged(value, is_image)
    graph.set_output(node, _limit(graph, x, shape, low, high, graph.observed.dtype(node.outputs[0])), is_image)


def _limit(
    graph: Lowering,
    tensor: int,
    shape: Sequence[Size],
    low: np.ndarray | None,
    high: np.ndarray | None,
    dtype: np.dtype[np.generic],
) -> int:
    """Return a tensor between limits; None for no limit. Those of 0 and 6 have an operator."""
    if dtype.kind == "f" and low is not None and high is not None and (float(low), float(high)) == (0.0, 6.0):
        return graph.step("RELU6", [tensor], shape)
    for name, limit in (("MAXIMUM", low), ("MINIMUM", high)):
        if limit is not None:
            tensor = graph.step(name, [tensor, graph.array(limit)], shape, dtype=dtype)
    return tensor


@table.add("Identity")
def identity(graph: Lowering, node: ir.Node) -> None:
    """Give a value another name."""
    is_image = graph.has_channels_last(node.inputs[0])
    graph.set_output(node, graph.arranged(node.inputs[0], is_image), is_image)


@table.add("Cast")
def cast(graph: Lowering, node: ir.Node) -> None:
    """Lower a conversion; between types that the file does not tell apart it is none."""
    value = node.inputs[0]
    assert value is not None
    source = narrow_type(graph.observed.dtype(value))
    target = narrow_type(graph.observed.dtype(node.outputs[0]))
    if source == target:
        identity(graph, node)
    else:
        graph.operator("CAST", [graph.tensor(value)], node)


@table.add("CumSum", data=(0,))
def cumulative_sum(graph: Lowering, node: ir.Node) -> None:
    """Lower a running sum along a constant axis."""
    axis = graph.observed.constant(node.inputs[1])
    if axis is None:
        raise graph.refuse(node, "an axis that is computed")
    inputs = [graph.tensor(node.inputs[0]), graph.array(np.array(int(axis.reshape(())), np.int32))]
    exclusive = bool(node.attributes.get_int("exclusive", 0))
    graph.operator("CUMSUM", inputs, node, exclusive=exclusive, reverse=bool(node.attributes.get_int("reverse", 0)))


@table.add("ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", data=(0,))
def reduction(graph: Lowering, node: ir.Node) -> None:
    """Lower a reduction along constant axes. An image is taken as it is, unless the remaining axes would be reordered.

    XNNPACK sums along axes in their order.
    """
    value = node.inputs[0]
    result = node.outputs[0]
    axes = _axes(graph, node)
    keep = bool(node.attributes.get_int("keepdims", 1))
    is_image = graph.has_channels_last(value) and (keep or 1 in axes or set(axes) >= set(range(2, graph.rank(value))))
    places = graph.vector(sorted(graph.arranged_axis(value, axis, is_image) for axis in axes))
    x = graph.arranged(value, is_image)
    name = {"ReduceMean": "MEAN", "ReduceMax": "REDUCE_MAX"}.get(node.op_type, "SUM")
    if node.op_type == "ReduceL2":
        x = graph.step("MUL", [x, x], graph.arranged_shape(value, is_image))
    is_image = is_image and keep
    shape = graph.arranged_shape(result, is_image)
    reduced = graph.step(name, [x, places], shape, dtype=graph.observed.dtype(result), keepDims=keep)
    if node.op_type == "ReduceL2":
        reduced = graph.step("SQRT", [reduced], shape)
    graph.set_output(node, reduced, is_image)


@table.add("GlobalAveragePool")
def global_average(graph: Lowering, node: ir.Node) -> None:
    """Lower the mean of each channel of an image."""
    last = graph.vector(list(range(1, graph.rank(node.inputs[0]) - 1)))
    graph.operator("MEAN", [graph.channels_last(node.inputs[0]), last], node, is_image=True, keepDims=True)


def _axes(graph: Lowering, node: ir.Node) -> list[int]:
    """Return the axes of a reduction, counted from the first."""
    axes = graph.observed.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        raise graph.refuse(node, "axes that are computed, or none")
    return [int(axis) % graph.rank(node.inputs[0]) for axis in axes]
