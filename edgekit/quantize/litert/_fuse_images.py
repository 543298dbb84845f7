"""Changes of a graph of images before it is lowered.

``GroupNormalization(x, weight, bias)`` of the domain ``litert`` is ONNX's operator of that name. Exporters write it as
an InstanceNormalization of an image whose groups are its channels; the changes of shape around it would force the
image into the order of ONNX.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer, initializer, only_user, replace
from edgekit.quantize.litert._sizes import Observed, Size

__all__ = ["DOMAIN", "drop_expansions", "drop_ordered_lookups", "fuse_group_norms"]

DOMAIN = "litert"
"""Domain of the operators that stand for several of ONNX."""


_REPEATING = ("Add", "Div", "Mul", "Sub")


def drop_expansions(graph: ir.Graph, observed: Observed) -> int:
    """Remove each Expand and Tile whose readers repeat by themselves what they read, for their other input.

    XNNPACK has no operator that repeats.
    """
    count = 0
    for node in list(graph):
        if node.op_type not in ("Expand", "Tile") or node.inputs[0] is None or node.outputs[0].is_graph_output():
            continue
        source = node.inputs[0]
        result = node.outputs[0]
        before = observed.shape(source)
        after = observed.shape(result)
        if len(before) != len(after) or any(old not in (Size(1), new) for old, new in zip(before, after, strict=True)):
            continue
        users = [use.node for use in result.uses()]
        if users and all(_has_full_operand(user, result, observed) for user in users):
            replace(graph, node, [], source)
            count += 1
    return count


def _has_full_operand(user: ir.Node, expanded: ir.Value, observed: Observed) -> bool:
    """Return whether a reader of an expanded value would have the same shape without the expansion."""
    if user.op_type not in _REPEATING:
        return False
    others = [value for value in user.inputs if value is not None and value is not expanded]
    return any(observed.shape(value) == observed.shape(expanded) for value in others)


def drop_ordered_lookups(graph: ir.Graph, observed: Observed) -> int:
    """Replace each look-up of all elements in their order by a change of shape.

    torch exports a pool over an axis of one element so, with indices that it computes from the number of rows.
    """
    count = 0
    for node in list(graph):
        if node.op_type != "Gather":
            continue
        source, indices = node.inputs
        if (
            source is None
            or indices is None
            or len(observed.shape(source)) != 1
            or not observed.counts_up(indices, source)
        ):
            continue
        sizes = [size.number for size in observed.shape(node.outputs[0])]
        target = initializer(graph, f"{node.name}_shape", np.array(sizes, np.int64))
        reshape = ir.node("Reshape", [source, target], name=node.name)
        replace(graph, node, [reshape], reshape.outputs[0])
        count += 1
    return count


def fuse_group_norms(graph: ir.Graph, observed: Observed) -> int:
    """Replace a Reshape, an InstanceNormalization, a Reshape, a Mul and an Add by a GroupNormalization."""
    count = 0
    for node in list(graph):
        if node.op_type != "InstanceNormalization":
            continue
        apart = find_producer(node.inputs[0], "Reshape")
        back = only_user(node.outputs[0])
        if apart is None or back is None or back.op_type != "Reshape" or apart.inputs[0] is None:
            continue
        weight, bias = (constant(value) for value in node.inputs[1:])
        if weight is None or bias is None or any(weight != 1) or any(bias):
            continue
        groups = observed.shape(node.inputs[0])  # type: ignore[arg-type]
        shape = observed.shape(apart.inputs[0])
        is_grouped = len(groups) == 3 and len(shape) > 2 and groups[1].number == len(weight)
        if not is_grouped or observed.shape(back.outputs[0]) != shape or shape[1].number < 0:
            continue
        scaled = _find_parameter(back, "Mul", len(shape), shape[1].number)
        moved = None if scaled is None else _find_parameter(scaled[0], "Add", len(shape), shape[1].number)
        if scaled is None or moved is None:
            continue
        names = [f"{node.name}_{part}" for part in ("weight", "bias")]
        arrays = (scaled[1], moved[1])
        parameters = [initializer(graph, name, array) for name, array in zip(names, arrays, strict=True)]
        attributes = {"num_groups": len(weight), "epsilon": node.attributes.get_float("epsilon", 1e-5)}
        inputs = [apart.inputs[0], *parameters]
        fused = ir.node("GroupNormalization", inputs, domain=DOMAIN, attributes=attributes, name=node.name)
        replace(graph, moved[0], [fused], fused.outputs[0])
        count += 1
    return count


def _find_parameter(node: ir.Node, op: str, rank: int, channels: int) -> tuple[ir.Node, np.ndarray] | None:
    """Return the only reader of a node if it is an ``op`` with a constant for each channel, and the constant."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != op:
        return None
    array = constant(user.inputs[1 if user.inputs[0] is node.outputs[0] else 0])
    if array is None or array.size != channels:
        return None
    shape = [1] * (rank - array.ndim) + list(array.shape)
    return (user, array.reshape(-1)) if len(shape) == rank and shape[1] == channels else None
