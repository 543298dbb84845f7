"""Finds self-attention in a cleaned graph.

    x -> one linear -> split into Q, K, V -> [batch, sequence, heads, width] -> transposed
    softmax(Q K^T * scale + mask) V -> transposed back -> [batch, sequence, heads * width]

where the mask is the canonical padding mask of export, or absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.quantize.graphs import Linear, constant, made_by, number, only_user


@dataclass(frozen=True)
class Attention:
    """One self-attention.

    Attributes:
        projection: the linear that gives Q, K and V side by side.
        heads: number of heads.
        scale: factor on the scores.
        last: the node whose output is the context ``[batch, sequence, heads * width]``.
    """

    projection: Linear
    heads: int
    scale: float
    last: ir.Node


def find_attention(softmax: ir.Node, layers: dict[ir.Value, Linear], mask: ir.Value | None) -> Attention | None:
    """Reads the attention around a Softmax, or returns None where it is another kind.

    Args:
        softmax: the node.
        layers: linears by their output value.
        mask: the additive padding mask of the graph.
    """
    product = only_user(softmax.outputs[0])
    if product is None or product.op_type != "MatMul":
        return None
    scores = softmax.inputs[0]
    masked = made_by(scores, "Add")
    if masked is not None:
        if mask is None or mask not in masked.inputs:
            return None
        scores = masked.inputs[0] if masked.inputs[1] is mask else masked.inputs[1]
    elif mask is not None:
        return None
    scale = 1.0
    scaled = made_by(scores, "Mul") or made_by(scores, "Div")
    if scaled is not None:
        factor = number(scaled.inputs[1])
        if factor is None:
            return None
        scores, scale = scaled.inputs[0], factor if scaled.op_type == "Mul" else 1.0 / factor
    dots = made_by(scores, "MatMul")
    if dots is None:
        return None
    query, key = _heads(dots.inputs[0], [0, 2, 1, 3], layers), _heads(dots.inputs[1], [0, 2, 3, 1], layers)
    value = _heads(product.inputs[1], [0, 2, 1, 3], layers)
    back = only_user(product.outputs[0])
    joined = only_user(back.outputs[0]) if back is not None and back.op_type == "Transpose" else None
    if query is None or key is None or value is None or joined is None or joined.op_type != "Reshape":
        return None
    same = query.linear is key.linear is value.linear and query.heads == key.heads == value.heads
    if not same or (query.part, key.part, value.part) != (0, 1, 2):
        return None
    return Attention(query.linear, query.heads, scale, joined)


@dataclass(frozen=True)
class _Heads:
    """Part ``part`` of a linear's output, as heads."""

    linear: Linear
    part: int
    heads: int


def _heads(value: ir.Value | None, order: list[int], layers: dict[ir.Value, Linear]) -> _Heads | None:
    """Reads Transpose(Reshape(Split(linear))) backwards; the linear must have three equal parts and a bias."""
    turned = made_by(value, "Transpose")
    if turned is None or list(turned.attributes["perm"].as_ints()) != order:
        return None
    shaped = made_by(turned.inputs[0], "Reshape")
    shape = constant(shaped.inputs[1]) if shaped is not None else None
    split = made_by(shaped.inputs[0], "Split") if shaped is not None else None
    if shaped is None or split is None or shape is None or len(shape) != 4 or shape[2] < 1:
        return None
    linear, sizes = layers.get(split.inputs[0]) if split.inputs[0] is not None else None, constant(split.inputs[1])
    if linear is None or linear.bias is None or sizes is None or len(sizes) != 3 or len(set(sizes.tolist())) != 1:
        return None
    return _Heads(linear, split.outputs.index(shaped.inputs[0]), int(shape[2]))
