"""Lowering of operators that take parts of a tensor: splits, slices, look-ups, windows of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import MOST_PARTS, Lowering, table
from edgekit.quantize.litert._sizes import Size

_NO_END = np.iinfo(np.int32).max  # Exporters write such an end where a slice reaches to the end of its axis.

Parts = Mapping[int, tuple[int, Size | None]]
"""Start and size by axis, where None reaches to the end."""


@table.add("Split", data=(0,))
def split(graph: Lowering, node: ir.Node) -> None:
    """Lower a split: in equal parts where possible, which XNNPACK takes, else part by part."""
    value = node.inputs[0]
    axis = node.attributes.get_int("axis", 0) % graph.rank(value)
    sizes = [graph.shape(part)[axis].number for part in node.outputs]
    is_image = graph.has_channels_last(value)
    x = graph.arranged(value, is_image)
    place = graph.arranged_axis(value, axis, is_image)
    if len(set(sizes)) == 1 and len(sizes) <= MOST_PARTS:
        inputs = [graph.array(np.array(place, np.int32)), x]
        graph.operator("SPLIT", inputs, node, is_image=is_image, numSplits=len(sizes))
        return
    if -1 in sizes:
        raise graph.refuse(node, "parts of varying sizes")
    start = 0
    for index, size in enumerate(sizes):
        shape = graph.arranged_shape(node.outputs[index], is_image)
        part = _cut(graph, node, x, shape, {place: (start, Size(size))})
        graph.set_output(node, part, is_image, index)
        start += size


@table.add("Slice", data=(0,))
def slice_(graph: Lowering, node: ir.Node) -> None:
    """Lower a slice from a constant place, with steps forward."""
    value = node.inputs[0]
    rank = graph.rank(value)
    starts = graph.observed.constant(node.inputs[1])
    ends = graph.observed.constant(node.inputs[2])
    axes = graph.observed.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = graph.observed.constant(node.inputs[4]) if len(node.inputs) > 4 else None
    if starts is None or (axes is None and len(node.inputs) > 3) or (steps is None and len(node.inputs) > 4):
        raise graph.refuse(node, "a start, axes or steps that are computed")
    strides = np.ones(len(starts), np.int64) if steps is None else steps
    if strides.min() < 1:
        raise graph.refuse(node, "steps backward")
    places = range(len(starts)) if axes is None else (axes % rank).tolist()
    is_image = graph.has_channels_last(value)
    result = node.outputs[0]
    parts: dict[int, tuple[int, Size | None]] = {}
    step_of: dict[int, int] = {}
    for index, (axis, first) in enumerate(zip(places, starts.tolist(), strict=True)):
        length = graph.shape(value)[axis].number
        if length >= 0:
            first = min(first + length if first < 0 else first, length)
        elif first < 0:
            raise graph.refuse(node, "a start that counts from the end of a varying axis")
        has_end = ends is None or int(ends[index]) < _NO_END or strides[index] > 1
        place = graph.arranged_axis(value, axis, is_image)
        parts[place] = (first, graph.shape(result)[axis] if has_end else None)
        if strides[index] > 1 and graph.shape(result)[axis] != Size(1):
            step_of[place] = int(strides[index])
    x = graph.arranged(value, is_image)
    shape = graph.arranged_shape(result, is_image)
    if step_of:
        source = graph.arranged_shape(value, is_image)
        graph.set_output(node, _cut_with_steps(graph, node, x, source, shape, parts, step_of), is_image)
    else:
        graph.set_output(node, _cut(graph, node, x, shape, parts), is_image)


def _cut(graph: Lowering, node: ir.Node, x: int, shape: Sequence[Size], parts: Parts) -> int:
    """Return a part of a tensor.

    Args:
        graph: Lowering.
        node: Node.
        x: Tensor.
        shape: Shape of the part.
        parts: Start and size by axis, where None reaches to the end; other axes stay whole.
    """
    dtype = graph.observed.dtype(node.outputs[0])
    if all(size is None or size.number >= 0 for _, size in parts.values()):
        inputs, mask = _bounds(graph, len(shape), parts, {})
        return graph.step("STRIDED_SLICE", [x, *inputs], shape, dtype=dtype, endMask=mask)
    if any(size.factor == 0 for size in shape):
        raise graph.refuse(node, "an end that is no multiple of the inputs' axes")
    begins = [0] * len(shape)
    for axis, (start, _) in parts.items():
        begins[axis] = start
    return graph.step("SLICE", [x, graph.vector(begins), graph.size_tensor(shape, 1)], shape, dtype=dtype)


def _cut_with_steps(
    graph: Lowering,
    node: ir.Node,
    x: int,
    source: Sequence[Size],
    shape: Sequence[Size],
    parts: Parts,
    step_of: Mapping[int, int],
) -> int:
    """Return a part of a tensor that leaves out elements, e.g. every other row of an image.

    XNNPACK takes no steps. Along a single axis, which gets a border up to a multiple of the step, the elements in
    between become an axis of their own, of which the part is one index.

    Args:
        graph: Lowering.
        node: Node.
        x: Tensor.
        source: Shape of the tensor.
        shape: Shape of the part.
        parts: Start and size by axis, see :func:`_cut`.
        step_of: Steps by axis.
    """
    dtype = graph.observed.dtype(node.outputs[0])
    axis, step = next(iter(step_of.items()))
    length = source[axis].number
    count = shape[axis].number
    first = parts[axis][0]
    if len(parts) == 1 and first < step and 0 < length <= count * step:
        if length < count * step:
            border = np.zeros((len(source), 2), np.int32)
            border[axis, 1] = count * step - length
            padded = [*source[:axis], Size(count * step), *source[axis + 1 :]]
            x = graph.step("PAD", [x, graph.array(border)], padded, dtype=dtype)
        split = [*source[:axis], Size(count), Size(step), *source[axis + 1 :]]
        one = [*source[:axis], Size(count), Size(1), *source[axis + 1 :]]
        apart = graph.reshaped(x, split, node, dtype)
        return graph.reshaped(_cut(graph, node, apart, one, {axis + 1: (first, Size(1))}), shape, node, dtype)
    if any(shape[place].number < 0 for place in parts):
        raise graph.refuse(node, "steps along an axis that varies")
    inputs, mask = _bounds(graph, len(shape), parts, step_of)
    return graph.step("STRIDED_SLICE", [x, *inputs], shape, dtype=dtype, endMask=mask)


def _bounds(graph: Lowering, rank: int, parts: Parts, step_of: Mapping[int, int]) -> tuple[list[int], int]:
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
            ends[axis] = start + (size.number - 1) * step_of.get(axis, 1) + 1
    steps = [step_of.get(axis, 1) for axis in range(rank)]
    return [graph.vector(starts), graph.vector(ends), graph.vector(steps)], mask


@table.add("Gather")
def gather(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up along an axis. XNNPACK takes one constant index, as a slice, and windows of an axis."""
    value, indices = node.inputs
    shape = graph.shape(value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    length = shape[axis].number
    constant = graph.observed.constant(indices)
    if constant is not None and constant.min() < 0:
        if length < 0:
            raise graph.refuse(node, "an index that counts from the end of a varying axis")
        constant = constant % length
    dtype = graph.observed.dtype(node.outputs[0])
    result = graph.shape(node.outputs[0])
    if constant is None:
        graph.operator("GATHER", [graph.tensor(value), graph.tensor(indices)], node, axis=axis, batchDims=0)
    elif constant.size == 1:
        part = [*shape[:axis], Size(1), *shape[axis + 1 :]]
        cut = _cut(graph, node, graph.tensor(value), part, {axis: (int(constant.reshape(())), Size(1))})
        graph.alias(node, cut if constant.ndim == 1 else graph.reshaped(cut, result, node, dtype))
    elif constant.ndim == 2 and np.array_equal(constant.T.ravel(), np.arange(length)):
        # Windows side by side: index [i, j] is element i of window j.
        windows = [*shape[:axis], *(Size(count) for count in constant.T.shape), *shape[axis + 1 :]]
        order = list(range(len(windows)))
        order[axis : axis + 2] = [axis + 1, axis]
        apart = graph.reshaped(graph.tensor(value), windows, node, dtype)
        graph.operator("TRANSPOSE", [apart, graph.vector(order)], node)
    else:
        graph.operator("GATHER", [graph.tensor(value), graph.array(constant)], node, axis=axis, batchDims=0)


@table.add("Col2Im", data=(0,))
def windows_to_image(graph: Lowering, node: ir.Node) -> None:
    """Lower the image of windows ``[batch, channels * height * width, windows]`` that neither overlap nor have gaps."""
    sizes, window = (graph.observed.constant(value) for value in node.inputs[1:3])
    strides, pads, dilations = (list(node.attributes[name].as_ints()) for name in ("strides", "pads", "dilations"))
    if sizes is None or window is None or len(window) != 2 or any(pads) or set(dilations) != {1}:
        raise graph.refuse(node, "sizes that are computed, a border, dilation, or another number of axes than two")
    if strides != window.tolist() or any(sizes % window):
        raise graph.refuse(node, "windows that overlap or have gaps")
    batch, channels, *_ = graph.shape(node.outputs[0])
    counts = [Size(int(count)) for count in sizes // window]
    height, width = (Size(int(size)) for size in window)
    dtype = graph.observed.dtype(node.outputs[0])
    apart = graph.reshaped(graph.tensor(node.inputs[0]), [batch, channels, height, width, *counts], node, dtype)
    ordered_shape = [batch, counts[0], height, counts[1], width, channels]
    ordered = graph.step("TRANSPOSE", [apart, graph.vector([0, 4, 2, 5, 3, 1])], ordered_shape, dtype=dtype)
    shape = graph.arranged_shape(node.outputs[0], is_image=True)
    graph.set_channels_last(node, graph.reshaped(ordered, shape, node, dtype))


@table.add("GatherElements")
def gather_elements(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up row by row along the last axis."""
    value, indices = node.inputs
    shape = graph.shape(value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if axis != len(shape) - 1 or graph.shape(indices)[:-1] != shape[:-1]:
        raise graph.refuse(node, "an axis other than the last, or indices for fewer rows")
    graph.operator("GATHER", [graph.tensor(value), graph.tensor(indices)], node, axis=axis, batchDims=axis)
