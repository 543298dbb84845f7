"""Lowering of operators that work on one element at a time, and of sums along an axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, narrow_type, table

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
    "Less": ("LESS", 1),
    "LessOrEqual": ("LESS_EQUAL", 1),
    "Log": ("LOG", 1),
    "Max": ("MAXIMUM", 1),
    "Min": ("MINIMUM", 1),
    "Mul": ("MUL", 1),
    "Neg": ("NEG", 1),
    "Not": ("LOGICAL_NOT", 1),
    "Or": ("LOGICAL_OR", 1),
    "Pow": ("POW", 1),
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
    if graph.lower_image(node, name, version):
        return
    graph.operator(name, [graph.tensor(value) for value in node.inputs], node, version)


@table.add("Identity")
def identity(graph: Lowering, node: ir.Node) -> None:
    """Give a value another name."""
    graph.alias(node, graph.tensor(node.inputs[0]))


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


@table.add("ReduceL2", data=(0,))
def norm(graph: Lowering, node: ir.Node) -> None:
    """Lower a Euclidean norm along constant axes."""
    axes = _axes(graph, node)
    x = graph.tensor(node.inputs[0])
    squares = graph.step("MUL", [x, x], graph.shape(node.inputs[0]))
    keep = bool(node.attributes.get_int("keepdims", 1))
    total = graph.step("SUM", [squares, graph.vector(axes)], graph.shape(node.outputs[0]), keepDims=keep)
    graph.operator("SQRT", [total], node)


def _axes(graph: Lowering, node: ir.Node) -> list[int]:
    """Return the axes of a reduction, counted from the first."""
    axes = graph.observed.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        raise graph.refuse(node, "axes that are computed, or none")
    return [int(axis) % graph.rank(node.inputs[0]) for axis in axes]


@table.add("ReduceMean", "ReduceSum", "ReduceMax", data=(0,))
def reduction(graph: Lowering, node: ir.Node) -> None:
    """Lower a reduction along constant axes; that of an image to one number a channel takes it as it is."""
    axes = _axes(graph, node)
    name = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX"}[node.op_type]
    keep = bool(node.attributes.get_int("keepdims", 1))
    if graph.has_channels_last(node.inputs[0]) and sorted(axes) == [2, 3] and not keep:
        graph.operator(name, [graph.channels_last(node.inputs[0]), graph.vector([1, 2])], node, keepDims=False)
        return
    graph.operator(name, [graph.tensor(node.inputs[0]), graph.vector(axes)], node, keepDims=keep)
