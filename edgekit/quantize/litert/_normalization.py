"""Lowering of normalization: of the last axis, of groups of channels and, with constants, of each channel.

XNNPACK has no operator for means and deviations, so that they are written as means, differences and a reciprocal root.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._lowering import Lowering, table
from edgekit.quantize.litert._sizes import Size


@table.add("LayerNormalization")
def layer_normalization(graph: Lowering, node: ir.Node) -> None:
    """Lower a normalization of the last axis."""
    value = node.inputs[0]
    shape = graph.shape(value)
    if node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1) or len(node.outputs) > 1:
        raise graph.refuse(node, "an axis other than the last, or a second output")
    normal = _normalize(graph, node, graph.tensor(value), shape, [len(shape) - 1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    scaled = graph.step("MUL", [normal, graph.tensor(node.inputs[1])], shape)
    graph.alias(node, scaled if bias is None else graph.step("ADD", [scaled, graph.tensor(bias)], shape))


@table.add("GroupNormalization", data=(0,))
def group_normalization(graph: Lowering, node: ir.Node) -> None:
    """Lower a normalization of groups of channels of an image, see ``_fuse_images``."""
    value, weight, bias = node.inputs
    shape = graph.arranged_shape(value, is_image=True)
    groups = node.attributes["num_groups"].as_int()
    x = graph.channels_last(value)
    if groups == 1:
        normal = _normalize(graph, node, x, shape, list(range(1, len(shape))))
    else:
        channels = shape[-1].number
        sizes = [size.number for size in shape[1:-1]]
        if min(channels, *sizes) < 0:
            raise graph.refuse(node, "groups of channels in an image of varying size")
        grouped = [shape[0], Size(int(np.prod(sizes))), Size(groups), Size(channels // groups)]
        apart = graph.step("RESHAPE", [x, graph.vector([size.number for size in grouped])], grouped)
        together = _normalize(graph, node, apart, grouped, [1, 3])
        normal = graph.step("RESHAPE", [together, graph.vector([size.number for size in shape])], shape)
    scaled = graph.step("MUL", [normal, graph.tensor(weight)], shape)
    graph.set_channels_last(node, graph.step("ADD", [scaled, graph.tensor(bias)], shape))


@table.add("InstanceNormalization", data=(0,))
def instance_normalization(graph: Lowering, node: ir.Node) -> None:
    """Lower a normalization of each channel of each row."""
    value, *parameters = node.inputs
    weight, bias = (graph.observed.constant(parameter) for parameter in parameters)
    if weight is None or bias is None:
        raise graph.refuse(node, "weights that are computed")
    shape = graph.arranged_shape(value, is_image=True)
    normal = _normalize(graph, node, graph.channels_last(value), shape, list(range(1, len(shape) - 1)))
    scaled = graph.step("MUL", [normal, graph.array(weight)], shape)
    graph.set_channels_last(node, graph.step("ADD", [scaled, graph.array(bias)], shape))


def _normalize(graph: Lowering, node: ir.Node, x: int, shape: Sequence[Size], axes: list[int]) -> int:
    """Return a tensor with a mean of 0 and a variance of 1 along some axes.

    Args:
        graph: Lowering.
        node: Node with the attribute ``epsilon``.
        x: Tensor.
        shape: Shape of the tensor.
        axes: Axes of each mean.
    """
    mean_shape = list(shape)
    for axis in axes:
        mean_shape[axis] = Size(1)
    places = graph.vector(axes)
    mean = graph.step("MEAN", [x, places], mean_shape, keepDims=True)
    centred = graph.step("SUB", [x, mean], shape)
    squares = graph.step("MUL", [centred, centred], shape)
    variance = graph.step("MEAN", [squares, places], mean_shape, keepDims=True)
    epsilon = graph.array(np.array([node.attributes.get_float("epsilon", 1e-5)], np.float32))
    deviation = graph.step("RSQRT", [graph.step("ADD", [variance, epsilon], mean_shape)], mean_shape)
    return graph.step("MUL", [centred, deviation], shape)


@table.add("BatchNormalization", data=(0,))
def batch_normalization(graph: Lowering, node: ir.Node) -> None:
    """Lower a normalization with constants to one factor and one offset for each channel."""
    value, *parameters = node.inputs
    arrays = [graph.observed.constant(parameter) for parameter in parameters]
    if len(node.outputs) > 1 or any(array is None for array in arrays):
        raise graph.refuse(node, "several outputs, or parameters that are computed")
    weight, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    factor = weight / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    offset = bias - mean * factor
    is_image = graph.rank(value) > 2
    shape = graph.arranged_shape(value, is_image)
    scaled = graph.step("MUL", [graph.arranged(value, is_image), graph.array(factor.astype(np.float32))], shape)
    graph.set_output(node, graph.step("ADD", [scaled, graph.array(offset.astype(np.float32))], shape), is_image)
