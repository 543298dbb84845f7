"""Products that torch computes on rows and positions flattened to one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer, initializer, only_user

__all__ = ["unflatten_products"]


def unflatten_products(graph: ir.Graph) -> int:
    """Replace Reshape, Gemm, Reshape by MatMul and Add on three axes, and return the number of replacements.

    ``torch.addmm``, which the Conv1D of GPT-2 calls, flattens ``[batch, sequence, in]`` to two axes. Every other step
    reads three axes: quantization recognizes linear layers by them.
    """
    count = 0
    for node in list(graph):
        before = find_producer(node.inputs[0], "Reshape") if node.op_type == "Gemm" else None
        after = only_user(node.outputs[0]) if before is not None else None
        if before is None or after is None or after.op_type != "Reshape" or not _is_linear(node):
            continue
        x = before.inputs[0]
        result = after.outputs[0]
        weight = constant(node.inputs[1])
        assert weight is not None
        if node.attributes.get_int("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        if x is None or not _keeps_rows(x, result, *weight.shape):
            continue
        assert x.shape is not None and result.shape is not None
        leading = list(result.shape)[:2]
        nodes = []
        if len(x.shape) > 3:
            shape = initializer(graph, f"{x.name}_shape", np.array([0, 0, len(weight)], np.int64))
            nodes.append(_typed("Reshape", [x, shape], result, [*leading, len(weight)]))
            x = nodes[0].outputs[0]
        matrix = node.inputs[1]
        if node.attributes.get_int("transB", 0):
            matrix = initializer(graph, f"{node.inputs[1].name}_transposed", weight)  # type: ignore[union-attr]
        nodes.append(_typed("MatMul", [x, matrix], result, list(result.shape)))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            nodes.append(_typed("Add", [nodes[-1].outputs[0], node.inputs[2]], result, list(result.shape)))
        for new in nodes:
            new.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(graph, node, [after], nodes, after.outputs, nodes[-1].outputs)
        count += 1
    return count


def _is_linear(node: ir.Node) -> bool:
    """Return whether a Gemm is x W + b with a constant weight and a constant bias ``[out]``, or none."""
    weight = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    plain = not node.attributes.get_int("transA", 0)
    for factor in ("alpha", "beta"):
        plain &= node.attributes.get_float(factor, 1.0) == 1.0
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    return plain and weight is not None and (not has_bias or (bias is not None and bias.ndim == 1))


def _keeps_rows(x: ir.Value, result: ir.Value, width_in: int, width_out: int) -> bool:
    """Return whether both Reshapes only merge and restore the first two axes."""
    if x.shape is None or result.shape is None or len(x.shape) < 3 or len(result.shape) != 3:
        return False
    tail = list(x.shape)[2:]
    sizes = [dim for dim in tail if isinstance(dim, int)]
    if len(sizes) != len(tail) or math.prod(sizes) != width_in:
        return False
    known = all(isinstance(dim, int) or dim.value is not None for dim in list(x.shape)[:2])
    return known and list(x.shape)[:2] == list(result.shape)[:2] and result.shape[2] == width_out


def _typed(op: str, inputs: list[ir.Value | None], like: ir.Value, shape: Sequence[int | ir.SymbolicDim]) -> ir.Node:
    """Return a node whose output has the type of another value and a shape."""
    node = ir.node(op, inputs)
    node.outputs[0].type = like.type
    node.outputs[0].shape = ir.Shape(shape)
    return node
