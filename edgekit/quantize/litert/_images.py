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


@table.add("Conv", data=(0,))
def convolution(graph: Lowering, node: ir.Node) -> None:
    """Lower a two-dimensional convolution, of all channels at once or of each by itself."""
    weight = graph.observed.constant(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    if weight is None or weight.ndim != 4 or groups not in (1, graph.shape(node.inputs[0])[1].number):
        raise graph.refuse(node, "groups of several channels, or another number of axes than four")
    bias = graph.observed.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:
        bias = np.zeros(len(weight), np.float32)
    dilations = _pair(node, "dilations")
    window = [1 + (size - 1) * step for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x, padding = _pad(graph, node, window, 0.0)
    options = {"padding": padding, "dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    strides = _pair(node, "strides")
    options |= {"strideH": strides[0], "strideW": strides[1]}
    name = "CONV_2D"
    order = (0, 2, 3, 1)
    if groups > 1:
        name = "DEPTHWISE_CONV_2D"
        order = (1, 2, 3, 0)
        options["depthMultiplier"] = len(weight) // groups
    inputs = [x, graph.array(weight.transpose(order)), graph.array(bias)]
    graph.set_channels_last(node, graph.step(name, inputs, graph.image_shape(node), **options))


@table.add("MaxPool", data=(0,))
def max_pool(graph: Lowering, node: ir.Node) -> None:
    """Lower a pool of largest values."""
    window = list(node.attributes["kernel_shape"].as_ints())
    if len(window) != 2 or len(node.outputs) > 1 or node.attributes.get_int("ceil_mode", 0) != 0:
        raise graph.refuse(node, "a number of axes other than two, rounding up or a second output")
    if set(_pair(node, "dilations")) != {1}:
        raise graph.refuse(node, "dilation")
    x, padding = _pad(graph, node, window, _LOWEST)
    strides = _pair(node, "strides")
    sizes = {"filterHeight": window[0], "filterWidth": window[1], "strideH": strides[0], "strideW": strides[1]}
    graph.set_channels_last(node, graph.step("MAX_POOL_2D", [x], graph.image_shape(node), padding=padding, **sizes))


@table.add("Clip", data=(0,))
def clip(graph: Lowering, node: ir.Node) -> None:
    """Lower limits that are constants; those of 0 and 6 have an operator."""
    limits = [graph.observed.constant(value) for value in node.inputs[1:]]
    if len(limits) != 2 or limits[0] is None or limits[1] is None:
        raise graph.refuse(node, "a limit that is computed, or only one")
    value = node.inputs[0]
    is_image = graph.has_channels_last(value)
    result = graph.channels_last(value) if is_image else graph.tensor(value)
    shape = graph.image_shape(node) if is_image else graph.shape(node.outputs[0])
    if (float(limits[0]), float(limits[1])) == (0.0, 6.0):
        result = graph.step("RELU6", [result], shape)
    else:
        result = graph.step("MAXIMUM", [result, graph.array(limits[0])], shape)
        result = graph.step("MINIMUM", [result, graph.array(limits[1])], shape)
    if is_image:
        graph.set_channels_last(node, result)
    else:
        graph.alias(node, result)


def _pair(node: ir.Node, name: str) -> list[int]:
    """Return an attribute for height and width, 1 by default."""
    return list(node.attributes[name].as_ints()) if name in node.attributes else [1, 1]


def _pad(graph: Lowering, node: ir.Node, window: Sequence[int], value: float) -> tuple[int, int]:
    """Return the padded image of a convolution or pool, and the padding that the operator itself has to do.

    Args:
        graph: Lowering.
        node: Node with the attribute ``pads``.
        window: Height and width of what a result is computed from.
        value: Value of the border.
    """
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise graph.refuse(node, "padding that is computed from the input")
    x = graph.channels_last(node.inputs[0])
    pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0, 0, 0, 0]
    if not any(pads):
        return x, _VALID
    source = graph.shape(node.inputs[0])
    expected = []
    for axis, step in enumerate(_pair(node, "strides")):
        size = source[2 + axis].number
        if size < 0:
            raise graph.refuse(node, "padding of an image of varying size")
        expected.append(max((-(-size // step) - 1) * step + window[axis] - size, 0))
    before = [total // 2 for total in expected]
    after = [total - first for total, first in zip(expected, before, strict=True)]
    if pads == [*before, *after]:
        return x, _SAME
    border = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    height = Size(source[2].number + pads[0] + pads[2])
    width = Size(source[3].number + pads[1] + pads[3])
    shape = [source[0], height, width, source[1]]
    if value:
        fill = graph.array(np.array(value, np.float32))
        return graph.step("PADV2", [x, graph.array(border), fill], shape), _VALID
    return graph.step("PAD", [x, graph.array(border)], shape), _VALID
