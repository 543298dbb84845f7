"""Lowering of operators on images: convolutions and pools, and whatever keeps their channels as the last axis.

ONNX has images as ``[batch, channels, height, width]``, TensorFlow Lite with the channels last. An image stays in the
second form from operator to operator; only a reader that knows no images gets it transposed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, table
from edgekit.quantize.litert._sizes import Size

_SAME = 0
_VALID = 1
_LOWEST = -3e38
_GROUPED = 6  # The first version of CONV_2D with groups.


@table.add("Conv", data=(0,))
def convolution(graph: Lowering, node: ir.Node) -> None:
    """Lower a convolution of an image: of all channels, of groups of channels or of each channel by itself."""
    weight = graph.observed.constant(node.inputs[1])
    if weight is None or weight.ndim != 4:
        raise graph.refuse(node, "a weight that is computed, or a number of axes other than four")
    bias = graph.observed.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:
        bias = np.zeros(len(weight), np.float32)
    dilations = _pair(node, "dilations")
    window = [1 + (size - 1) * step for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x, padding = _pad(graph, node, window, 0.0)
    options = {"padding": padding, "dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    strides = _pair(node, "strides")
    options |= {"strideH": strides[0], "strideW": strides[1]}
    name = "CONV_2D"  # The number of channels of its weight says how many groups there are.
    order = (0, 2, 3, 1)
    groups = node.attributes.get_int("group", 1)
    if groups > 1 and weight.shape[1] == 1:
        name = "DEPTHWISE_CONV_2D"
        order = (1, 2, 3, 0)
        options["depthMultiplier"] = len(weight) // groups
    inputs = [x, graph.array(weight.transpose(order)), graph.array(bias)]
    version = _GROUPED if name == "CONV_2D" and groups > 1 else 1
    graph.operator(name, inputs, node, version, is_image=True, **options)


@table.add("MaxPool", "AveragePool", data=(0,))
def pool(graph: Lowering, node: ir.Node) -> None:
    """Lower a pool of largest or of mean values."""
    window = list(node.attributes["kernel_shape"].as_ints())
    if len(window) != 2 or len(node.outputs) > 1:
        raise graph.refuse(node, "a number of axes other than two, or a second output")
    if set(_pair(node, "dilations")) != {1}:
        raise graph.refuse(node, "dilation")
    strides = _pair(node, "strides")
    name = "MAX_POOL_2D"
    value: float | None = 0.0 if _is_never_negative(graph, node.inputs[0]) else _LOWEST
    counts_border = False
    is_rounded_up = bool(node.attributes.get_int("ceil_mode", 0))
    if node.op_type == "AveragePool":
        name = "AVERAGE_POOL_2D"
        counts_border = bool(node.attributes.get_int("count_include_pad", 0)) and any(_pads(node))
        # The border that an operator makes by itself does not count.
        value = 0.0 if counts_border else None
    if counts_border and is_rounded_up:
        raise graph.refuse(node, "rounding up beside a border that counts")
    if is_rounded_up:
        window = _cut_window(graph, node, window)
    x, padding = _pad(graph, node, window, value, is_same_allowed=not counts_border)
    if node.op_type == "AveragePool" and padding == _VALID and window == _image_size(graph, node.inputs[0]):
        graph.operator("MEAN", [x, graph.vector([1, 2])], node, is_image=True, keepDims=True)
        return
    sizes = {"filterHeight": window[0], "filterWidth": window[1], "strideH": strides[0], "strideW": strides[1]}
    graph.operator(name, [x], node, is_image=True, padding=padding, **sizes)


def _is_never_negative(graph: Lowering, value: ir.Value | None) -> bool:
    """Return whether zeros beside an image are no larger than any of its elements."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type == "Clip" and len(node.inputs) > 1:
        low = graph.observed.constant(node.inputs[1])
        return low is not None and float(low) >= 0
    return node.op_type in ("Relu", "Sigmoid")


def _cut_window(graph: Lowering, node: ir.Node, window: list[int]) -> list[int]:
    """Return a window that is cut to the image along an axis where a single one covers it."""
    sizes = _image_size(graph, node.inputs[0])
    counts = _image_size(graph, node.outputs[0])
    if any(_pads(node)):
        return window
    cut = []
    for length, size, count in zip(window, sizes, counts, strict=True):
        cut.append(size if count == 1 and 0 < size < length else length)
    return cut


@table.add("Resize", data=(0,))
def resize(graph: Lowering, node: ir.Node) -> None:
    """Lower a change of size to constant ones, with linear weights or by the nearest element below."""
    value = node.inputs[0]
    before = graph.shape(value)
    after = graph.shape(node.outputs[0])
    if before == after:
        graph.alias(node, graph.tensor(value))
        return
    mode = node.attributes.get_string("mode", "nearest")
    form = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    sizes = [size.number for size in after[2:]]
    options: dict[str, bool] | None = {
        ("linear", "half_pixel"): {"halfPixelCenters": True},
        ("linear", "pytorch_half_pixel"): {"halfPixelCenters": True},
        ("linear", "align_corners"): {"alignCorners": True},
        ("linear", "asymmetric"): {},
        ("nearest", "asymmetric"): {} if rounding == "floor" else None,
    }.get((mode, form))
    is_plain = len(sizes) == 2 and before[:2] == after[:2] and min(sizes) > 0
    is_plain = is_plain and not node.attributes.get_int("antialias", 0) and _has_exact_scales(graph, node)
    if options is None or not is_plain or (form == "pytorch_half_pixel" and 1 in sizes):
        raise graph.refuse(node, f"the mode {mode} with {form}, antialias, or a size that varies")
    name = "RESIZE_BILINEAR" if mode == "linear" else "RESIZE_NEAREST_NEIGHBOR"
    inputs = [graph.channels_last(value), graph.vector(sizes)]
    graph.operator(name, inputs, node, version=3, is_image=True, **options)


def _has_exact_scales(graph: Lowering, node: ir.Node) -> bool:
    """Return whether scales, if they are what the node has, are the quotients of the sizes."""
    scales = graph.observed.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is None or scales.size == 0:
        return True
    before, after = (graph.shape(value)[2:] for value in (node.inputs[0], node.outputs[0]))
    quotients = [new.number / old.number for old, new in zip(before, after, strict=True)]
    return bool(np.allclose(scales[-len(quotients) :], quotients, rtol=1e-6))


def _pair(node: ir.Node, name: str) -> list[int]:
    """Return an attribute for height and width, 1 by default."""
    return list(node.attributes[name].as_ints()) if name in node.attributes else [1, 1]


def _image_size(graph: Lowering, value: ir.Value | None) -> list[int]:
    """Return height and width of an image; -1 for one that varies."""
    return [size.number for size in graph.shape(value)[2:]]


def _pads(node: ir.Node) -> list[int]:
    """Return the widths of the border: top, left, bottom, right."""
    return list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0, 0, 0, 0]


def _pad(
    graph: Lowering, node: ir.Node, window: Sequence[int], value: float | None, is_same_allowed: bool = True
) -> tuple[int, int]:
    """Return the padded image of a convolution or pool, and the padding that the operator itself has to do.

    Args:
        graph: Lowering.
        node: Node with the attribute ``pads``.
        window: Height and width of what a result is computed from.
        value: Value of the border; None for one that only the operator itself can make.
        is_same_allowed: True if the operator may make the border by itself.
    """
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise graph.refuse(node, "padding that is computed from the input")
    x = graph.channels_last(node.inputs[0])
    sizes = _image_size(graph, node.inputs[0])
    counts = _image_size(graph, node.outputs[0])
    strides = _pair(node, "strides")
    pads = _pads(node)
    if node.attributes.get_int("ceil_mode", 0):
        # The last window may reach beyond the border.
        for axis in range(2):
            reach = (counts[axis] - 1) * strides[axis] + window[axis] - sizes[axis] - pads[axis]
            pads[2 + axis] = max(pads[2 + axis], reach)
    if not any(pads):
        return x, _VALID
    if is_same_allowed and pads == _same_pads(sizes, strides, window):
        return x, _SAME
    if value is None or min(sizes) < 0:
        raise graph.refuse(node, "a border that does not count, or an image of varying size")
    border = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    source = graph.shape(node.inputs[0])
    shape = [source[0], Size(sizes[0] + pads[0] + pads[2]), Size(sizes[1] + pads[1] + pads[3]), source[1]]
    if value:
        fill = graph.array(np.array(value, np.float32))
        return graph.step("PADV2", [x, graph.array(border), fill], shape), _VALID
    return graph.step("PAD", [x, graph.array(border)], shape), _VALID


def _same_pads(sizes: Sequence[int], strides: Sequence[int], window: Sequence[int]) -> list[int] | None:
    """Return the border that an operator makes by itself; None if it depends on a size that varies."""
    totals = []
    for size, step, length in zip(sizes, strides, window, strict=True):
        if size < 0 and step > 1:
            return None
        totals.append(length - 1 if step == 1 else max((-(-size // step) - 1) * step + length - size, 0))
    before = [total // 2 for total in totals]
    return [*before, *(total - first for total, first in zip(totals, before, strict=True))]
