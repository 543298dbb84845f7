"""Separation of a packed linear layer, e.g. of Q, K and V in one, of which one part is needed at fewer positions."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import Linear, constant, initializer, linears, only_user

__all__ = ["unpack"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_END = 2**31  # A slice to the end of an axis ends at least here.


def unpack(graph: ir.Graph, restricted: Container[ir.Value]) -> bool:
    """Split the first linear layer, part of whose output is restricted, into one layer for each part, in place.

    Args:
        graph: Graph to change.
        restricted: Values that are needed at selected positions only.

    Returns:
        True if a layer was split.
    """
    for layer in linears(graph):
        parts = _find_parts(layer)
        if parts and len({value in restricted for value, _, _ in parts}) == 2:
            _split(graph, layer, parts)
            return True
    return False


_Part = tuple[ir.Value, int, int]
"""Value that reads the columns of a linear layer from one index up to another."""


def _find_parts(layer: Linear) -> list[_Part]:
    """Return the readers of column ranges of a layer's output, directly or behind a Reshape of its last axis.

    Returns:
        The parts; an empty list if another node reads the output too.
    """
    value = layer.last.outputs[0]
    axis = 0 if value.shape is None else len(value.shape) - 1
    width = 1
    reshape = only_user(value)
    if reshape is not None and reshape.op_type == "Reshape":
        value = reshape.outputs[0]
        split_dims = [] if value.shape is None else list(value.shape)[axis:]
        sizes = [dim for dim in split_dims if isinstance(dim, int)]
        if len(sizes) != len(split_dims) or _leading(value, axis) != _leading(layer.x, axis):
            return []
        width = math.prod(sizes[1:])
    parts: list[_Part] = []
    for use in value.uses():
        ranges = _ranges(use.node, value, axis)
        if not ranges:
            return []
        parts += [(part, first * width, last * width) for part, first, last in ranges]
    return [] if value.is_graph_output() else parts


def _leading(value: ir.Value, count: int) -> list[int | ir.SymbolicDim]:
    return [] if value.shape is None else list(value.shape)[:count]


def _ranges(node: ir.Node, value: ir.Value, axis: int) -> list[_Part]:
    """Return the ranges along an axis of a value that a Split, Slice or Gather reads; none for another node."""
    if value.shape is None or node.inputs[0] is not value:
        return []
    size = value.shape[axis]
    rank = len(value.shape)
    if not isinstance(size, int):
        return []
    if node.op_type == "Split" and node.attributes.get_int("axis", 0) % rank == axis:
        return _split_ranges(node, size)
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) % rank == axis:
        index = constant(node.inputs[1])
        if index is None or index.ndim:
            return []
        return [(node.outputs[0], int(index) % size, int(index) % size + 1)]
    if node.op_type == "Slice":
        numbers = [constant(part) for part in node.inputs[1:]]
        if len(numbers) < 3 or any(number is None or number.size != 1 for number in numbers):
            return []
        start, end, along, step = [int(n.reshape(())) for n in [*numbers, np.array(1)] if n is not None][:4]
        if along % rank == axis and step == 1 and 0 <= start < end and (end <= size or end >= _END - 1):
            return [(node.outputs[0], start, min(end, size))]
    return []


def _split_ranges(node: ir.Node, size: int) -> list[_Part]:
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    count = len(node.outputs)
    if sizes is None and size % count:
        return []
    ends = np.cumsum(sizes if sizes is not None else np.full(count, size // count))
    starts = [0, *ends[:-1]]
    return [(value, int(a), int(b)) for value, a, b in zip(node.outputs, starts, ends, strict=True)]


def _split(graph: ir.Graph, layer: Linear, parts: list[_Part]) -> None:
    """Replace the readers of column ranges by linear layers of these columns."""
    weight = constant(layer.weight)
    bias = constant(layer.bias)
    assert weight is not None
    leading = _leading(layer.x, len(layer.x.shape or ()) - 1)
    place = layer.last
    for number, (value, first, last) in enumerate(sorted(parts, key=lambda part: part[1])):
        columns = np.ascontiguousarray(weight[:, first:last])
        nodes = [ir.node("MatMul", [layer.x, initializer(graph, f"{layer.weight.name}_{number}", columns)])]
        if bias is not None and layer.bias is not None:
            shift = initializer(graph, f"{layer.bias.name}_{number}", np.ascontiguousarray(bias[first:last]))
            nodes.append(ir.node("Add", [nodes[0].outputs[0], shift]))
        for node in nodes:
            node.outputs[0].type = value.type
            node.outputs[0].shape = ir.Shape([*leading, last - first])
            node.metadata_props.update(_part_scope(layer.node, number))
        squeeze = only_user(value)
        if squeeze is not None and squeeze.op_type == "Squeeze":
            value = squeeze.outputs[0]
        tail = list(value.shape or ())[len(leading) :]
        if len(tail) > 1:
            shape = np.array([0] * len(leading) + tail, np.int64)
            reshape = ir.node("Reshape", [nodes[-1].outputs[0], initializer(graph, f"{value.name}_shape", shape)])
            reshape.outputs[0].type = value.type
            reshape.outputs[0].shape = value.shape
            reshape.metadata_props.update(layer.node.metadata_props)
            nodes.append(reshape)
        graph.insert_after(place, nodes)
        place = nodes[-1]
        ir.convenience.replace_all_uses_with(value, place.outputs[0])


def _part_scope(node: ir.Node, number: int) -> dict[str, str]:
    """Return the metadata of a node with the number of its part behind the name of the module."""
    metadata = dict(node.metadata_props)
    scopes = [scope.strip("' ") for scope in metadata.get(_SCOPES, "").strip("[]").split(",")]
    if len(scopes) > 1:
        scopes[-2] += f".{number}"
        metadata[_SCOPES] = str(scopes)
    return metadata
