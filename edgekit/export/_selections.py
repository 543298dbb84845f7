"""Selections of positions: their forms in an exported graph, and the nodes that select in another value.

A head selects the same position of every row (``x[:, 0]``), or for each row the position that it computes from the mask
(the last token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer, initializer

__all__ = ["Root", "Selection", "find_roots", "insert_selection", "is_table", "reshape_axes", "resized"]

_LARGEST_SLICE = 2**31  # ``x[:, -1:]`` is exported as a slice up to the largest integer.


@dataclass(frozen=True)
class Selection:
    """Positions that are the same in every row, or one position for each row.

    Attributes:
        numbers: Constant positions; negative ones count from the end. Empty if each row has a position of its own.
        index: Position of each row: int64 ``[batch]`` or ``[batch, 1, 1]``; None for constant positions.
    """

    numbers: tuple[int, ...]
    index: ir.Value | None = None

    @property
    def size(self) -> int:
        """Number of selected positions."""
        return len(self.numbers) or 1


@dataclass(frozen=True)
class Root:
    """Node of the head that selects positions.

    Attributes:
        node: Node itself; its first input is the hidden state.
        axis: Axis of the hidden state that it selects along.
        selection: Positions that it selects.
        keeps_axis: False if the axis is missing in the output.
    """

    node: ir.Node
    axis: int
    selection: Selection
    keeps_axis: bool


def find_roots(graph: ir.Graph) -> list[list[Root]]:
    """Return the selecting nodes, those of one hidden state and one kind together, the last hidden state first."""
    groups: dict[object, list[Root]] = {}
    for node in reversed(list(graph)):
        match = _MATCHES.get(node.op_type)
        if match is None or node.inputs[0] is None or constant(node.inputs[0]) is not None:
            continue
        # Of fewer axes are shapes, masks and tables.
        if node.inputs[0].shape is None or len(node.inputs[0].shape) < 3:
            continue
        root = match(node)
        if root is not None:
            groups.setdefault((node.inputs[0], root.axis, root.selection.index), []).append(root)
    return list(groups.values())


def _gather_root(node: ir.Node) -> Root | None:
    """Match ``x[:, 0]`` and ``x[:, [0, 1]]``: a Gather of constant positions."""
    numbers = constant(node.inputs[1])
    if numbers is None or numbers.ndim > 1 or numbers.size == 0:
        return None
    shape = list(node.inputs[0].shape)  # type: ignore[union-attr, arg-type]
    axis = node.attributes.get_int("axis", 0) % len(shape)
    size = shape[axis]
    if isinstance(size, int) and numbers.size >= size:
        return None  # All of them in another order.
    selection = Selection(tuple(int(number) for number in numbers.reshape(-1)))
    return Root(node, axis, selection, keeps_axis=numbers.ndim == 1)


def _slice_root(node: ir.Node) -> Root | None:
    """Match ``x[:, :1]`` and ``x[:, -1:]``: a Slice of the first or the last position, which every row has."""
    parts = [constant(value) for value in node.inputs[1:]]
    numbers = [int(part.reshape(())) for part in parts if part is not None and part.size == 1]
    if len(numbers) != len(parts) or len(numbers) < 3:
        return None
    start, end, axis = numbers[:3]
    is_first = start == 0 and end == 1
    is_last = start == -1 and end >= _LARGEST_SLICE - 1
    if not (is_first or is_last) or numbers[3:] not in ([], [1]):
        return None
    shape = list(node.inputs[0].shape)  # type: ignore[union-attr, arg-type]
    return Root(node, axis % len(shape), Selection((start,)), keeps_axis=True)


def _gather_nd_root(node: ir.Node) -> Root | None:
    """Match ``x[torch.arange(batch), last]``: a GatherND whose indices are the row number and a position."""
    data, indices = node.inputs[:2]
    pairs = find_producer(indices, "Concat")
    if pairs is None or len(pairs.inputs) != 2 or node.attributes.get_int("batch_dims", 0) != 0:
        return None
    rows = find_producer(pairs.inputs[0], "Unsqueeze")
    positions = find_producer(pairs.inputs[1], "Unsqueeze")
    counted = None if rows is None else find_producer(rows.inputs[0], "Range")
    if counted is None or positions is None or positions.inputs[0] is None:
        return None
    start, _, step = (constant(value) for value in counted.inputs)
    ascending = start is not None and step is not None and int(start) == 0 and int(step) == 1
    index = positions.inputs[0]
    one_each = index.shape is not None and len(index.shape) == 1 and _is_row_index(index, data)
    # The Concat makes sure that there are as many row numbers as positions.
    along_last = pairs.attributes["axis"].as_int() in (1, -1)
    if not ascending or not one_each or not along_last:
        return None
    return Root(node, 1, Selection((), index), keeps_axis=False)


def _gather_elements_root(node: ir.Node) -> Root | None:
    """Match ``x.gather(1, last[:, None, None].expand(-1, 1, hidden))``."""
    data, indices = node.inputs[:2]
    expanded = find_producer(indices, "Expand")
    if expanded is None or data is None or data.shape is None or indices is None or indices.shape is None:
        return None
    index = expanded.inputs[0]
    if index is None or index.shape is None or node.attributes.get_int("axis", 0) != 1 or len(data.shape) != 3:
        return None
    one_each = len(index.shape) == 3 and list(index.shape)[1:] == [1, 1] and _is_row_index(index, data)
    # The output has the shape of the indices: every feature of one position.
    whole = list(indices.shape)[1:] == [1, data.shape[2]] and isinstance(data.shape[2], int)
    return Root(node, 1, Selection((), index), keeps_axis=True) if one_each and whole else None


def _is_row_index(index: ir.Value, data: ir.Value | None) -> bool:
    """Return whether a value has one int64 index for each row of the data."""
    if data is None or data.shape is None or index.shape is None or index.dtype != ir.DataType.INT64:
        return False
    rows = data.shape[0]
    is_known = isinstance(rows, int) or rows.value is not None
    return is_known and index.shape[0] == rows


_MATCHES = {
    "Gather": _gather_root,
    "GatherElements": _gather_elements_root,
    "GatherND": _gather_nd_root,
    "Slice": _slice_root,
}


def is_table(value: ir.Value, axis: int) -> bool:
    """Return whether all rows share a value: no axis before that of the positions is longer than 1."""
    return value.shape is not None and all(dim == 1 for dim in value.shape[:axis])


def resized(shape: ir.Shape | None, axis: int, size: int) -> ir.Shape | None:
    """Return a shape with another size along one axis."""
    if shape is None:
        return None
    dims = list(shape)
    dims[axis] = size
    return ir.Shape(dims)


def insert_selection(
    graph: ir.Graph, selection: Selection, value: ir.Value, axis: int, added: int, reader: ir.Node
) -> ir.Value:
    """Insert the selection of a value's positions and return its result, whose axis has the size of the selection.

    Args:
        graph: Graph to change.
        selection: Positions to select.
        value: Value that has all positions.
        axis: Axis of the positions.
        added: Number of axes that broadcasting adds in front of the value.
        reader: First node that reads the result.
    """
    shape = resized(value.shape, axis, selection.size)
    if selection.index is not None and value.shape is not None and is_table(value, axis):
        nodes = _look_up(graph, selection.index, value, axis, axis + added)
        batch = None if selection.index.shape is None else selection.index.shape[0]
        shape = ir.Shape([batch, *[1] * (axis + added), *value.shape[axis + 1 :]])
    elif selection.index is not None:
        nodes = _select_in_rows(graph, selection.index, value, axis)
    else:
        numbers = np.array(selection.numbers, np.int64)
        array = constant(value)
        if array is not None:
            return initializer(graph, f"{value.name}_selected", np.take(array, numbers, axis=axis))
        nodes = [ir.node("Gather", [value, _numbers(graph, "positions", numbers)], attributes={"axis": axis})]
    for node in nodes:
        node.metadata_props.update(reader.metadata_props)
        node.outputs[0].type = None if node.inputs[0] is None else node.inputs[0].type
    nodes[-1].outputs[0].shape = shape
    graph.insert_before(reader, nodes)
    return nodes[-1].outputs[0]


def _look_up(graph: ir.Graph, index: ir.Value, value: ir.Value, axis: int, target: int) -> list[ir.Node]:
    """Return nodes that look up one position for each row in a value that all rows share, e.g. a causal mask.

    Args:
        graph: Graph for the constants.
        index: Position of each row.
        value: Value whose axes before ``axis`` have size 1.
        axis: Axis of the positions in the value.
        target: Axis of the position in the result, which has the rows in front.
    """
    nodes = []
    if len(index.shape or ()) > 1:
        nodes.append(reshape_axes(graph, "Squeeze", index, [1, 2]))
        index = nodes[-1].outputs[0]
    if axis:
        nodes.append(reshape_axes(graph, "Squeeze", value, range(axis)))
        value = nodes[-1].outputs[0]
    nodes.append(ir.node("Gather", [value, index], attributes={"axis": 0}))
    return [*nodes, reshape_axes(graph, "Unsqueeze", nodes[-1].outputs[0], range(1, target + 1))]


def _select_in_rows(graph: ir.Graph, index: ir.Value, value: ir.Value, axis: int) -> list[ir.Node]:
    """Return nodes that select one position of each row of a value, whose first axis is the rows."""
    nodes = []
    if len(index.shape or ()) == 1:
        nodes.append(reshape_axes(graph, "Unsqueeze", index, [1, 2]))
        index = nodes[-1].outputs[0]
    order = [0, axis, *(a for a in range(1, len(value.shape or ())) if a != axis)]
    if axis > 1:
        nodes.append(ir.node("Transpose", [value], attributes={"perm": order}))
        value = nodes[-1].outputs[0]
    nodes.append(ir.node("GatherND", [value, index], attributes={"batch_dims": 1}))
    if axis > 1:
        nodes.append(ir.node("Transpose", nodes[-1].outputs, attributes={"perm": np.argsort(order).tolist()}))
    return nodes


def reshape_axes(graph: ir.Graph, op: str, value: ir.Value, axes: Sequence[int]) -> ir.Node:
    """Return a Squeeze or Unsqueeze of axes."""
    return ir.node(op, [value, _numbers(graph, "axes", np.array(axes, np.int64))])


def _numbers(graph: ir.Graph, name: str, numbers: np.ndarray) -> ir.Value:
    """Return a constant of integers whose name says its content, so that nodes can share it."""
    name = "_".join([name, *(str(number) for number in numbers.reshape(-1))])
    array = constant(graph.initializers.get(name))
    if array is not None and np.array_equal(array, numbers) and array.dtype == numbers.dtype:
        return graph.initializers[name]
    return initializer(graph, name, numbers)
