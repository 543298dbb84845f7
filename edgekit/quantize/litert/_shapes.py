"""Lowering of operators that move values: shapes, order of axes, parts, look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, table
from edgekit.quantize.litert._sizes import Size

_MOST_PARTS = 4  # of a SPLIT that XNNPACK takes


@table.add("Reshape", "Squeeze", "Unsqueeze", "Flatten", data=(0,))
def reshape(graph: Lowering, node: ir.Node) -> None:
    """Lower any change of the shape alone."""
    graph.reshape(graph.tensor(node.inputs[0]), graph.shape(node.outputs[0]), node, graph.output(node))


@table.add("Transpose")
def transpose(graph: Lowering, node: ir.Node) -> None:
    """Lower a new order of axes."""
    order = list(node.attributes["perm"].as_ints())
    graph.operator("TRANSPOSE", [graph.tensor(node.inputs[0]), graph.vector(order)], node)


@table.add("Concat")
def concat(graph: Lowering, node: ir.Node) -> None:
    """Lower a concatenation."""
    axis = node.attributes["axis"].as_int() % graph.rank(node.outputs[0])
    graph.operator("CONCATENATION", [graph.tensor(value) for value in node.inputs], node, axis=axis)


@table.add("Expand", "Tile", data=(0,))
def expand(graph: Lowering, node: ir.Node) -> None:
    """Lower a repetition along axes, or nothing where the shape stays."""
    source, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if source == target:
        graph.alias(node, graph.tensor(node.inputs[0]))
        return
    if any(size.factor == 0 for size in target):
        raise graph.refuse(node, "a size that is no multiple of the inputs' axes")
    if node.op_type == "Expand":
        graph.operator("BROADCAST_TO", [graph.tensor(node.inputs[0]), graph.size_tensor(target, 1)], node, 2)
        return
    repeats = graph.observed.sizes(node.inputs[1])
    constant = graph.observed.constant(node.inputs[1])
    counts = [Size(int(count)) for count in constant] if constant is not None else repeats
    if counts is None:
        raise graph.refuse(node, "repetitions that are computed from values")
    graph.operator("TILE", [graph.tensor(node.inputs[0]), graph.size_tensor(counts, 1)], node)


@table.add("Split", data=(0,))
def split(graph: Lowering, node: ir.Node) -> None:
    """Lower a split: in equal parts where possible, which XNNPACK takes, else part by part."""
    axis = node.attributes.get_int("axis", 0) % graph.rank(node.inputs[0])
    sizes = [graph.shape(part)[axis].number for part in node.outputs]
    x = graph.tensor(node.inputs[0])
    if len(set(sizes)) == 1 and len(sizes) <= _MOST_PARTS:
        graph.operator("SPLIT", [graph.array(np.array(axis, np.int32)), x], node, numSplits=len(sizes))
        return
    if -1 in sizes:
        raise graph.refuse(node, "parts of varying sizes")
    start = 0
    for index, size in enumerate(sizes):
        _cut(graph, node, x, index, {axis: (start, Size(size))})
        start += size


@table.add("Slice", data=(0,))
def slice_(graph: Lowering, node: ir.Node) -> None:
    """Lower a slice with steps of 1 from a constant place."""
    value = node.inputs[0]
    rank = graph.rank(value)
    starts = graph.observed.constant(node.inputs[1])
    axes = graph.observed.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = graph.observed.constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if starts is None or steps is None or any(steps != 1) or (axes is None and len(node.inputs) > 3):
        raise graph.refuse(node, "a start that is computed, or steps other than 1")
    places = range(len(starts)) if axes is None else [int(axis) % rank for axis in axes]
    parts = {}
    for axis, first in zip(places, starts.tolist(), strict=True):
        length = graph.shape(value)[axis].number
        if first < 0 and length < 0:
            raise graph.refuse(node, "a start that counts from the end of a varying axis")
        first = min(first + length if first < 0 else first, length) if length >= 0 else first
        parts[axis] = (first, graph.shape(node.outputs[0])[axis])
    _cut(graph, node, graph.tensor(value), 0, parts)


def _cut(graph: Lowering, node: ir.Node, x: int, index: int, parts: dict[int, tuple[int, Size]]) -> None:
    """Add the operator that cuts a part out of a tensor, with sizes of -1 for axes that stay whole.

    Args:
        graph: Lowering.
        node: Node.
        x: Tensor.
        index: Output of the node that the part is.
        parts: Start and size by axis.
    """
    shape = graph.shape(node.outputs[index])
    begins = [parts.get(axis, (0, None))[0] for axis in range(len(shape))]
    sizes = [parts[axis][1] if axis in parts else Size(size.number) for axis, size in enumerate(shape)]
    if any(parts[axis][1].number == -1 for axis in parts):
        if any(size.factor == 0 for size in shape):
            raise graph.refuse(node, "an end that is no multiple of the inputs' axes")
        target = graph.size_tensor(shape, 1)
    else:
        target = graph.vector([size.number for size in sizes])
    graph.file.operator("SLICE", [x, graph.vector(begins), target], [graph.output(node, index)])


@table.add("Gather")
def gather(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up along an axis. One constant index is a slice, which XNNPACK takes."""
    value, indices = node.inputs
    shape = graph.shape(value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    constant = graph.observed.constant(indices)
    if constant is not None and constant.size == 1 and int(constant.reshape(())) >= 0:
        begins = [0] * len(shape)
        begins[axis] = int(constant.reshape(()))
        sizes = [size.number for size in shape]
        sizes[axis] = 1
        part = [Size(1) if place == axis else size for place, size in enumerate(shape)]
        inputs = [graph.tensor(value), graph.vector(begins), graph.vector(sizes)]
        if constant.ndim == 1:
            graph.operator("SLICE", inputs, node)
        else:
            cut = graph.step("SLICE", inputs, part, dtype=graph.observed.dtype(node.outputs[0]))
            graph.reshape(cut, graph.shape(node.outputs[0]), node, graph.output(node))
        return
    if constant is not None and constant.min() < 0:
        raise graph.refuse(node, "an index that counts from the end")
    graph.operator("GATHER", [graph.tensor(value), graph.tensor(indices)], node, axis=axis, batchDims=0)


@table.add("GatherElements")
def gather_elements(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up row by row along the last axis."""
    value, indices = node.inputs
    shape = graph.shape(value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if axis != len(shape) - 1 or graph.shape(indices)[:-1] != shape[:-1]:
        raise graph.refuse(node, "an axis other than the last, or indices for fewer rows")
    graph.operator("GATHER", [graph.tensor(value), graph.tensor(indices)], node, axis=axis, batchDims=axis)


@table.add("Range", data=())
def range_(graph: Lowering, node: ir.Node) -> None:
    """Lower 0, 1, 2 ... up to a size."""
    start, limit, step = node.inputs
    sizes = graph.observed.sizes(limit)
    first, stride = graph.observed.constant(start), graph.observed.constant(step)
    if not sizes or not sizes[0].factor or first is None or stride is None or int(first) or int(stride) != 1:
        raise graph.refuse(node, "a start other than 0, a step other than 1 or a limit that is no size")
    graph.alias(node, graph.positions(sizes[0]))


__all__: Sequence[str] = []
