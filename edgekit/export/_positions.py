"""Restriction of the last layer to the positions that the head reads.

A classifier reads the first token or the last one. In the last layer of its encoder every position is then needed as a
key and a value, but only the selected positions as a query, in the residual sums and in the feed-forward network. The
selection stands at the end of an exported graph (``Gather``, ``Slice``, ``GatherND``); this step moves it towards the
inputs:

    x -> Q, K, V -> attention -> feed-forward -> Gather 0        [batch, sequence, hidden] almost everywhere
    x -> K, V; x -> Gather 0 -> Q; -> attention -> feed-forward  [batch, 1, hidden] behind the Gather

No architecture is named. Going from the outputs to the inputs, a value is needed at all positions or at the selected
ones only, and a node computes the selected ones only if all its readers want no more and its operator allows it
(``_axes``). Where a restricted node reads a value that others need as a whole, the selection is inserted. So a graph
whose head reads all positions stays as it is. The restricted axis is kept with size 1: products of three axes remain
linear layers for quantization, and attention keeps the form that runtimes fuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.export._axes import POINTWISE, MixedAxis, input_axes, new_shape
from edgekit.export._selections import Root, Selection, find_roots, insert_selection, is_table, reshape_axes, resized
from edgekit.export._unpack import unpack
from edgekit.quantize.graphs import initializer, linears

__all__ = ["restrict_positions"]


@dataclass
class _Plan:
    """Nodes to restrict and selections to insert, before the graph changes.

    Attributes:
        selection: Positions that remain.
        restricted: Restricted nodes with the axis of each of their inputs, None for an input that is read as a whole.
        axes: Axis of the positions in every value that is needed at the selected positions only.
    """

    selection: Selection
    restricted: dict[ir.Node, list[int | None]] = field(default_factory=dict)
    axes: dict[ir.Value, int] = field(default_factory=dict)


def restrict_positions(model: ir.Model) -> int:
    """Compute only those positions that the outputs depend on, in place.

    Args:
        model: Model with known shapes, whose Reshape nodes have constant shapes where possible.

    Returns:
        Number of linear layers that are computed for the selected positions only.
    """
    graph = model.graph
    if any(attribute.type == ir.AttributeType.GRAPH for node in graph for attribute in node.attributes.values()):
        return 0  # A subgraph may read any value.
    passes.TopologicalSortPass()(model)
    count = 0
    for roots in find_roots(graph):
        plan = _make_plan(graph, roots)
        while unpack(graph, plan.axes):
            passes.TopologicalSortPass()(model)
            plan = _make_plan(graph, roots)
        layers = [layer for layer in linears(graph) if layer.node in plan.restricted]
        if layers:
            _apply(graph, plan, roots)
            count += len(layers)
    passes.TopologicalSortPass()(model)
    return count


def _make_plan(graph: ir.Graph, roots: list[Root]) -> _Plan:
    """Decide from the outputs to the inputs which nodes compute the selected positions only."""
    numbers = dict.fromkeys(number for root in roots for number in root.selection.numbers)
    plan = _Plan(Selection(tuple(numbers), roots[0].selection.index))
    by_node = {root.node: root for root in roots}
    whole = set(graph.outputs)  # values that are needed at all positions
    for node in reversed(list(graph)):
        root = by_node.get(node)
        if root is not None:
            _demand(plan, whole, node.inputs[0], root.axis)
            whole.update(value for value in node.inputs[1:] if value is not None)
            continue
        axes = _restrict(node, plan, whole, roots[0])
        for index, value in enumerate(node.inputs):
            if value is not None:
                _demand(plan, whole, value, None if axes is None else axes[index])
        if axes is not None:
            plan.restricted[node] = axes
    return plan


def _demand(plan: _Plan, whole: set[ir.Value], value: ir.Value | None, axis: int | None) -> None:
    """Note that a reader wants a value at the selected positions along an axis, or as a whole (None)."""
    if value is None or value in whole:
        return
    if axis is None or plan.axes.get(value, axis) != axis:
        whole.add(value)
        plan.axes.pop(value, None)
    else:
        plan.axes[value] = axis


def _restrict(node: ir.Node, plan: _Plan, whole: set[ir.Value], root: Root) -> list[int | None] | None:
    """Return the axis of each input if a node can compute the selected positions only; None if it computes all."""
    demands = {plan.axes.get(value) for value in node.outputs if value in plan.axes or value in whole}
    if len(demands) != 1 or not whole.isdisjoint(node.outputs):
        return None
    axis = demands.pop()
    assert axis is not None
    try:
        axes = input_axes(node, axis)
        if plan.selection.index is None:
            return axes
        # Each row has a position of its own, so the rows must stay apart as well.
        row_axes = input_axes(node, 0)
    except MixedAxis:
        return None
    batch = root.node.inputs[0].shape[0]  # type: ignore[union-attr, index]
    if any(value.shape is None or value.shape[0] != batch for value in node.outputs):
        return None
    for value, input_axis, row_axis in zip(node.inputs, axes, row_axes, strict=True):
        if input_axis is None or value is None or value.shape is None:
            continue
        is_shared = row_axis is None and node.op_type in POINTWISE and is_table(value, input_axis)
        if not is_shared and (row_axis != 0 or input_axis == 0 or value.shape[0] != batch):
            return None
    return axes


def _apply(graph: ir.Graph, plan: _Plan, roots: list[Root]) -> None:
    """Change the graph as planned."""
    size = plan.selection.size
    restricted = {value for node in plan.restricted for value in node.outputs}
    selected: dict[tuple[ir.Value, int, int], ir.Value] = {}

    def select(value: ir.Value, axis: int, reader: ir.Node) -> ir.Value:
        # Rows that share a value do so no longer behind the selection: the axis of the rows is added in front.
        added = plan.axes.get(reader.outputs[0], axis) - axis
        if (value, axis, added) not in selected:
            selected[value, axis, added] = insert_selection(graph, plan.selection, value, axis, added, reader)
        return selected[value, axis, added]

    shapes = {}
    for node in plan.restricted:
        if node.op_type == "Reshape":
            shapes[node] = new_shape(node, plan.axes[node.outputs[0]], size)
    for node, axes in reversed(plan.restricted.items()):
        for index, axis in enumerate(axes):
            value = node.inputs[index]
            if axis is not None and value is not None and value not in restricted:
                node.replace_input_with(index, select(value, axis, node))
        if node in shapes:
            node.replace_input_with(1, _shape_value(graph, node, shapes[node]))
            node.attributes.pop("allowzero", None)
        for value in node.outputs:
            if value in plan.axes:
                value.shape = resized(value.shape, plan.axes[value], size)
    for root in roots:
        value = root.node.inputs[0]
        assert value is not None
        _replace_root(graph, plan, root, value if value in restricted else select(value, root.axis, root.node))


def _shape_value(graph: ir.Graph, node: ir.Node, shape: list[int | ir.Value]) -> ir.Value:
    """Return the shape input of a restricted Reshape: a constant, or a Concat where more than one size is computed."""
    name = f"{node.outputs[0].name}_shape"
    numbers = [entry for entry in shape if isinstance(entry, int)]
    if len(numbers) == len(shape):
        return initializer(graph, name, np.array(shape, np.int64))
    parts = []
    for entry in shape:
        is_number = isinstance(entry, int)
        parts.append(initializer(graph, name, np.array([entry], np.int64)) if is_number else entry)
    joined = ir.node("Concat", parts, attributes={"axis": 0})  # type: ignore[arg-type]
    joined.metadata_props.update(node.metadata_props)
    joined.outputs[0].dtype = ir.DataType.INT64
    joined.outputs[0].shape = ir.Shape([len(shape)])
    graph.insert_before(node, joined)
    return joined.outputs[0]


def _replace_root(graph: ir.Graph, plan: _Plan, root: Root, value: ir.Value) -> None:
    """Let the selecting node of the head read a hidden state that has the selected positions only."""
    numbers = plan.selection.numbers
    old = root.node.outputs[0]
    if numbers != root.selection.numbers:
        places = np.array([numbers.index(number) for number in root.selection.numbers], np.int64)
        index = initializer(graph, "selected_positions", places if root.keeps_axis else places.reshape(()))
        node = ir.node("Gather", [value, index], attributes={"axis": root.axis})
    elif root.keeps_axis:
        node = ir.node("Identity", [value])
    else:
        node = reshape_axes(graph, "Squeeze", value, [root.axis])
    node.metadata_props.update(root.node.metadata_props)
    node.outputs[0].type = old.type
    node.outputs[0].shape = old.shape
    ir.convenience.replace_nodes_and_values(graph, root.node, [root.node], [node], [old], node.outputs)
