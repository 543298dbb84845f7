"""Lowering of operators that move values: shapes, order of axes, parts, look-ups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._fuse import MOST_PARTS, permutation
from edgekit.quantize.litert._lowering import Lowering, table
from edgekit.quantize.litert._sizes import Size

_NO_END = np.iinfo(np.int32).max  # Exporters write such an end where a slice reaches to the end of its axis.


@table.add("Reshape", "Squeeze", "Unsqueeze", "Flatten", data=(0,))
def reshape(graph: Lowering, node: ir.Node) -> None:
    """Lower any change of the shape alone; none where the shape stays, as of a fixed batch of one row."""
    if graph.shape(node.inputs[0]) == graph.shape(node.outputs[0]):
        graph.alias(node, graph.tensor(node.inputs[0]))
        return
    graph.reshape(graph.tensor(node.inputs[0]), graph.shape(node.outputs[0]), node, graph.output(node))


@table.add("Transpose")
def transpose(graph: Lowering, node: ir.Node) -> None:
    """Lower a new order of axes."""
    order = permutation(node, graph.rank(node.inputs[0]))
    if order == [0, 2, 3, 1] and graph.has_channels_last(node.inputs[0]):
        graph.alias(node, graph.channels_last(node.inputs[0]))
        return
    if order == [0, 3, 1, 2]:
        graph.set_channels_last(node, graph.tensor(node.inputs[0]))
        return
    graph.operator("TRANSPOSE", [graph.tensor(node.inputs[0]), graph.vector(order)], node)


@table.add("Concat")
def concat(graph: Lowering, node: ir.Node) -> None:
    """Lower a concatenation."""
    axis = node.attributes["axis"].as_int() % graph.rank(node.outputs[0])
    graph.operator("CONCATENATION", [graph.tensor(value) for value in node.inputs], node, axis=axis)


@table.add("Expand", "Tile", data=(0,))
def expand(graph: Lowering, node: ir.Node) -> None:
    """Lower a repetition along axes, or nothing where the shape stays."""
    source = graph.shape(node.inputs[0])
    target = graph.shape(node.outputs[0])
    if source == target:
        graph.alias(node, graph.tensor(node.inputs[0]))
        return
    if any(size.factor == 0 for size in target):
        raise graph.refuse(node, "a size that is no multiple of the inputs' axes")
    if node.op_type == "Expand":
        graph.operator("BROADCAST_TO", [graph.tensor(node.inputs[0]), graph.size_tensor(target, 1)], node, 2)
        return
    counts: Sequence[Size] | None = graph.observed.sizes(node.inputs[1])
    constant = graph.observed.constant(node.inputs[1])
    if constant is not None:
        counts = [Size(int(count)) for count in constant]
    if counts is None:
        raise graph.refuse(node, "repetitions that are computed from values")
    graph.operator("TILE", [graph.tensor(node.inputs[0]), graph.size_tensor(counts, 1)], node)


@table.add("Pad", data=(0,))
def pad(graph: Lowering, node: ir.Node) -> None:
    """Lower a border of zeros of constant width."""
    pads = graph.observed.constant(node.inputs[1])
    value = graph.observed.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    has_axes = len(node.inputs) > 3 and node.inputs[3] is not None
    is_plain = node.attributes.get_string("mode", "constant") == "constant" and not has_axes
    if pads is None or pads.min() < 0 or not is_plain or (value is not None and value.any()):
        raise graph.refuse(node, "widths that are computed or negative, axes, or a border other than of zeros")
    border = pads.reshape(2, -1).T
    graph.operator("PAD", [graph.tensor(node.inputs[0]), graph.array(np.ascontiguousarray(border))], node)


@table.add("Split", data=(0,))
def split(graph: Lowering, node: ir.Node) -> None:
    """Lower a split: in equal parts where possible, which XNNPACK takes, else part by part."""
    axis = node.attributes.get_int("axis", 0) % graph.rank(node.inputs[0])
    sizes = [graph.shape(part)[axis].number for part in node.outputs]
    x = graph.tensor(node.inputs[0])
    if len(set(sizes)) == 1 and len(sizes) <= MOST_PARTS:
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
    ends = graph.observed.constant(node.inputs[2])
    axes = graph.observed.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = graph.observed.constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if starts is None or steps is None or any(steps != 1) or (axes is None and len(node.inputs) > 3):
        raise graph.refuse(node, "a start that is computed, or steps other than 1")
    places = range(len(starts)) if axes is None else (axes % rank).tolist()
    parts: dict[int, tuple[int, Size | None]] = {}
    for index, (axis, first) in enumerate(zip(places, starts.tolist(), strict=True)):
        length = graph.shape(value)[axis].number
        if length >= 0:
            first = min(first + length if first < 0 else first, length)
        elif first < 0:
            raise graph.refuse(node, "a start that counts from the end of a varying axis")
        has_end = ends is None or int(ends[index]) < _NO_END
        parts[axis] = (first, graph.shape(node.outputs[0])[axis] if has_end else None)
    _cut(graph, node, graph.tensor(value), 0, parts)


def _cut(graph: Lowering, node: ir.Node, x: int, index: int, parts: Mapping[int, tuple[int, Size | None]]) -> None:
    """Add the operator that cuts a part out of a tensor.

    Args:
        graph: Lowering.
        node: Node.
        x: Tensor.
        index: Output of the node that the part is.
        parts: Start and size by axis, where None reaches to the end; other axes stay whole.
    """
    shape = graph.shape(node.outputs[index])
    if all(size is None or size.number >= 0 for _, size in parts.values()):
        inputs, mask = _bounds(graph, len(shape), parts)
        graph.file.operator("STRIDED_SLICE", [x, *inputs], [graph.output(node, index)], endMask=mask)
        return
    if any(size.factor == 0 for size in shape):
        raise graph.refuse(node, "an end that is no multiple of the inputs' axes")
    begins = [0] * len(shape)
    for axis, (start, _) in parts.items():
        begins[axis] = start
    inputs = [x, graph.vector(begins), graph.size_tensor(shape, 1)]
    graph.file.operator("SLICE", inputs, [graph.output(node, index)])


def _bounds(graph: Lowering, rank: int, parts: Mapping[int, tuple[int, Size | None]]) -> tuple[list[int], int]:
    """Return the tensors of starts, ends and steps of a STRIDED_SLICE, and the mask of the axes that stay whole.

    XNNPACK takes this form also where other axes vary, but no SLICE with a size of -1.
    """
    starts = [0] * rank
    ends = [0] * rank
    mask = sum(1 << axis for axis in range(rank) if axis not in parts)
    for axis, (start, size) in parts.items():
        starts[axis] = start
        if size is None:
            mask |= 1 << axis
        else:
            ends[axis] = start + size.number
    return [graph.vector(starts), graph.vector(ends), graph.vector([1] * rank)], mask


@table.add("Gather")
def gather(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up along an axis. One constant index is a slice, which XNNPACK takes."""
    value, indices = node.inputs
    shape = graph.shape(value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    constant = graph.observed.constant(indices)
    if constant is not None and constant.min() < 0:
        raise graph.refuse(node, "an index that counts from the end")
    if constant is None or constant.size != 1:
        graph.operator("GATHER", [graph.tensor(value), graph.tensor(indices)], node, axis=axis, batchDims=0)
        return
    parts = {axis: (int(constant.reshape(())), Size(1))}
    if constant.ndim == 1:
        _cut(graph, node, graph.tensor(value), 0, parts)
        return
    inputs, mask = _bounds(graph, len(shape), parts)
    part = [*shape[:axis], Size(1), *shape[axis + 1 :]]
    dtype = graph.observed.dtype(node.outputs[0])
    cut = graph.step("STRIDED_SLICE", [graph.tensor(value), *inputs], part, dtype=dtype, endMask=mask)
    graph.reshape(cut, graph.shape(node.outputs[0]), node, graph.output(node))


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
    first = graph.observed.constant(start)
    stride = graph.observed.constant(step)
    if not sizes or not sizes[0].factor or first is None or stride is None or int(first) or int(stride) != 1:
        raise graph.refuse(node, "a start other than 0, a step other than 1 or a limit that is no size")
    graph.alias(node, graph.positions(sizes[0]))
