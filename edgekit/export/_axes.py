"""Rules that follow one axis of a value from the output of a node to its inputs.

Position i of an output along an axis depends on position i of an input along one of that input's axes, if the operator
computes the positions of the axis independently of each other. That holds for every axis that the operator neither
sums, sorts, normalizes nor moves across.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer

__all__ = ["POINTWISE", "MixedAxis", "input_axes", "new_shape"]

InputAxes = list[int | None]
"""Axis of each input that corresponds to an axis of the output; None for an input that does not vary along it."""


class MixedAxis(Exception):
    """The positions of an axis depend on each other, or the shapes are not known well enough to tell."""


POINTWISE = frozenset(
    """
    Abs Add And BitShift Cast Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
    """.split()  # noqa: SIM905
)
"""Operators that compute every element on its own, and broadcast their inputs."""


def input_axes(node: ir.Node, axis: int) -> InputAxes:
    """Return the axis of each input that corresponds to an axis of the node's outputs.

    Args:
        node: Node of the standard domain with known shapes.
        axis: Axis of the outputs, counted from 0.

    Raises:
        MixedAxis: The positions of the axis cannot be computed independently of each other.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or node.domain not in ("", "ai.onnx"):
        raise MixedAxis
    return rule(node, axis)


def new_shape(node: ir.Node, axis: int, size: int) -> list[int | ir.Value]:
    """Return the shape input of a Reshape whose output and input get another size along one axis.

    Args:
        node: Reshape node with its original shapes.
        axis: Axis of the output.
        size: New size of the axis.

    Returns:
        The entry of each axis of the output: a constant, or a value of one element that is computed at run time.

    Raises:
        MixedAxis: The entries are not known.
    """
    source = _dims(node.inputs[0])
    source_axis = _source_axis(node, axis)
    shape: list[int | ir.Value] = []
    for index, dim in enumerate(_dims(node.outputs[0])):
        if index == axis:
            shape.append(size)
        elif isinstance(dim, int):
            shape.append(dim)
        elif index < len(source) and index != source_axis and dim == source[index]:
            shape.append(0)
        else:
            shape.append(-1)
    if shape.count(-1) < 2:
        return shape
    computed = find_producer(node.inputs[1], "Concat")
    if computed is None or len(computed.inputs) != len(shape) or any(value is None for value in computed.inputs):
        raise MixedAxis
    entries = list(computed.inputs)
    return [*entries[:axis], size, *entries[axis + 1 :]]  # type: ignore[list-item]


def _dims(value: ir.Value | None) -> list[int | str]:
    """Return the axes of a value, an int for a fixed size and else a name."""
    if value is None or value.shape is None:
        raise MixedAxis
    dims: list[int | str] = []
    for dim in value.shape:
        name = dim if isinstance(dim, int) else dim.value
        if name is None:
            raise MixedAxis
        dims.append(name)
    return dims


def _outside(axes: list[int], rank: int, axis: int) -> None:
    """Raise if an operator that works along some axes, which may count from the end, works along this one."""
    if axis in {a % rank for a in axes}:
        raise MixedAxis


def _constant_ints(value: ir.Value | None) -> list[int]:
    array = constant(value)
    if array is None:
        raise MixedAxis
    return [int(number) for number in array.reshape(-1)]


def _broadcast_axis(value: ir.Value | None, output: list[int | str], axis: int) -> int | None:
    """Return the axis of an operand that is broadcast to the output, or None if it does not vary along the axis."""
    if value is None:
        return None
    dims = _dims(value)
    aligned = axis - (len(output) - len(dims))
    if aligned < 0 or dims[aligned] == 1:
        return None
    if dims[aligned] != output[axis]:
        raise MixedAxis
    return aligned


def _pointwise(node: ir.Node, axis: int) -> InputAxes:
    output = _dims(node.outputs[0])
    return [_broadcast_axis(value, output, axis) for value in node.inputs]


def _matmul(node: ir.Node, axis: int) -> InputAxes:
    output = _dims(node.outputs[0])
    left, right = node.inputs
    if len(_dims(left)) < 2 or len(_dims(right)) < 2 or axis == len(output) - 1:
        raise MixedAxis
    if axis == len(output) - 2:
        return [len(_dims(left)) - 2, None]
    return [_broadcast_axis(left, output, axis), _broadcast_axis(right, output, axis)]


def _normalization(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    _outside(list(range(node.attributes.get_int("axis", -1) % rank, rank)), rank, axis)
    return [axis, *(None for _ in node.inputs[1:])]


def _along_one_axis(default: int) -> Callable[[ir.Node, int], InputAxes]:
    """Return the rule of an operator that works along its attribute ``axis`` and keeps all others."""

    def rule(node: ir.Node, axis: int) -> InputAxes:
        rank = len(_dims(node.inputs[0]))
        _outside([node.attributes.get_int("axis", default)], rank, axis)
        return [axis, *(None for _ in node.inputs[1:])]

    return rule


def _concat(node: ir.Node, axis: int) -> InputAxes:
    _outside([node.attributes["axis"].as_int()], len(_dims(node.outputs[0])), axis)
    return [axis for _ in node.inputs]


def _slice(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    axes = _constant_ints(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(rank))
    _outside(axes, rank, axis)
    return [axis, *(None for _ in node.inputs[1:])]


def _gather(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    index_rank = len(_dims(node.inputs[1]))
    gathered = node.attributes.get_int("axis", 0) % rank
    if axis < gathered:
        return [axis, None]
    if axis < gathered + index_rank:
        return [None, axis - gathered]
    return [axis - index_rank + 1, None]


def _gather_elements(node: ir.Node, axis: int) -> InputAxes:
    data = _dims(node.inputs[0])
    index = _dims(node.inputs[1])
    if axis == node.attributes.get_int("axis", 0) % len(data):
        return [None, axis]
    # The data may be longer than the indices; then position i of both still belong together.
    if data[axis] != index[axis]:
        raise MixedAxis
    return [axis, axis]


def _transpose(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    order = node.attributes.get_ints("perm", list(range(rank))[::-1])
    return [order[axis]]


def _squeeze(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    return [_remaining(rank, _axes_input(node))[axis], None]


def _axes_input(node: ir.Node) -> list[int]:
    """Return the constant axes of an operator that takes them as its second input."""
    return _constant_ints(node.inputs[1] if len(node.inputs) > 1 else None)


def _remaining(rank: int, axes: list[int]) -> list[int]:
    """Return all axes but some, which may count from the end."""
    excluded = {axis % rank for axis in axes}
    return [axis for axis in range(rank) if axis not in excluded]


def _unsqueeze(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.outputs[0]))
    added = _axes_input(node)
    _outside(added, rank, axis)
    return [_remaining(rank, added).index(axis), None]


def _reduce(node: ir.Node, axis: int) -> InputAxes:
    rank = len(_dims(node.inputs[0]))
    reduced = _axes_input(node)
    if node.attributes.get_int("keepdims", 1):
        _outside(reduced, rank, axis)
        return [axis, None]
    return [_remaining(rank, reduced)[axis], None]


def _factors(dims: list[int | str]) -> tuple[int, Counter[str]]:
    """Return the product of sizes as its number and its names; torch names a product ``4*batch``."""
    number = 1
    names: Counter[str] = Counter()
    for dim in dims:
        parts = [dim] if isinstance(dim, int) or not re.fullmatch(r"[\w*]+", dim) else dim.split("*")
        for part in parts:
            if str(part).isdigit():
                number *= int(part)
            else:
                names[str(part)] += 1
    return number, names


def _source_axis(node: ir.Node, axis: int) -> int:
    """Return the axis of a Reshape's input that becomes an axis of the output, neither split nor merged."""
    source = _dims(node.inputs[0])
    output = _dims(node.outputs[0])
    before = _factors(output[:axis])
    for index, dim in enumerate(source):
        if dim == output[axis] and _factors(source[:index]) == before:
            return index
    raise MixedAxis


def _reshape(node: ir.Node, axis: int) -> InputAxes:
    new_shape(node, axis, 1)
    return [_source_axis(node, axis), None]


_RULES: dict[str, Callable[[ir.Node, int], InputAxes]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _along_one_axis(-1)),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2"), _reduce),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalization),
    "Concat": _concat,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _along_one_axis(0),
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
