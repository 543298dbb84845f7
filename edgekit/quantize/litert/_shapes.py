"""Lowering of operators that move values: shapes, order of axes, repetitions, borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, permutation, table
from edgekit.quantize.litert._sizes import Size

_MOST_JOINED = 5
"""Largest number of parts of a CONCATENATION that XNNPACK takes."""


@table.add("Reshape", "Squeeze", "Unsqueeze", "Flatten", data=(0,))
def reshape(graph: Lowering, node: ir.Node) -> None:
    """Lower any change of the shape alone; none where the shape stays, as of a fixed batch of one row.

    An image whose batch and channels stay keeps its channels as the last axis.
    """
    value = node.inputs[0]
    result = node.outputs[0]
    before = graph.shape(value)
    after = graph.shape(result)
    is_image = graph.has_channels_last(value)
    stays_image = is_image and len(after) > 2 and before[:2] == after[:2]
    if is_image and not stays_image and not graph.is_still(value):
        is_image = False
    x = graph.arranged(value, is_image)
    if before == after:
        graph.set_output(node, x, is_image)
        return
    shape = graph.arranged_shape(result, stays_image)
    reshaped = graph.reshaped(x, shape, node, graph.observed.dtype(result))
    graph.set_output(node, reshaped, stays_image)


@table.add("Transpose")
def transpose(graph: Lowering, node: ir.Node) -> None:
    """Lower a new order of axes. One that moves the channels of an image waits for a reader."""
    value = node.inputs[0]
    rank = graph.rank(value)
    order = permutation(node, rank)
    if rank > 2 and order == [0, *range(2, rank), 1] and graph.has_channels_last(value):
        graph.alias(node, graph.channels_last(value))
    elif rank > 2 and order == [0, rank - 1, *range(1, rank - 1)]:
        graph.set_channels_last(node, graph.tensor(value))
    else:
        graph.operator("TRANSPOSE", [graph.tensor(value), graph.vector(order)], node)


@table.add("Concat")
def concat(graph: Lowering, node: ir.Node) -> None:
    """Lower a concatenation; one of many parts in steps, because XNNPACK takes only so many at once."""
    is_image = any(graph.has_channels_last(value) for value in node.inputs)
    axis = graph.arranged_axis(node.outputs[0], node.attributes["axis"].as_int(), is_image)
    inputs = [graph.arranged(value, is_image) for value in node.inputs]
    shapes = [graph.arranged_shape(value, is_image) for value in node.inputs]
    dtype = graph.observed.dtype(node.outputs[0])
    while len(inputs) > _MOST_JOINED and all(shape[axis].number > 0 for shape in shapes):
        joined = list(shapes[0])
        joined[axis] = Size(sum(shape[axis].number for shape in shapes[:_MOST_JOINED]))
        first = graph.step("CONCATENATION", inputs[:_MOST_JOINED], joined, dtype=dtype, axis=axis)
        inputs[:_MOST_JOINED] = [first]
        shapes[:_MOST_JOINED] = [joined]
    graph.operator("CONCATENATION", inputs, node, is_image=is_image, axis=axis)


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
    image = node.inputs[0]
    is_image = graph.has_channels_last(image)
    x = graph.arranged(image, is_image)
    if not pads.any():
        graph.set_output(node, x, is_image)
        return
    border = np.zeros((graph.rank(image), 2), np.int32)
    for axis, widths in enumerate(pads.reshape(2, -1).T):
        border[graph.arranged_axis(image, axis, is_image)] = widths
    graph.operator("PAD", [x, graph.array(border)], node, is_image=is_image)


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
