"""Changes of a graph before it is lowered, where one operator of TensorFlow Lite stands for several of ONNX.

The new nodes are of the domain ``litert``:

- ``FullyConnected(x, weight, bias)``: a product with a constant weight, and the bias behind it; ``transposed`` says
  that the weight is ``[out, in]``.
- ``BatchMatMul(a, b)``: a product of two activations; ``adjoint`` says that the last two axes of b are swapped.
- ``GroupNormalization(x, weight, bias)``: see ``_fuse_images``.
- ``EmbeddingLookup(table, scales, ids)``: rows of a table that the method stored in 8 bits; without ``ids`` the first
  rows, as many as the last input says.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.quantize._embeddings import OFFSET
from edgekit.quantize.graphs import constant, find_producer, initializer, number, only_user, replace, sweep
from edgekit.quantize.litert._fuse_images import DOMAIN, drop_expansions, drop_ordered_lookups, fuse_group_norms
from edgekit.quantize.litert._lowering import MOST_PARTS, permutation
from edgekit.quantize.litert._sizes import Observed

__all__ = ["fold_scales", "fuse"]


def fuse(model: ir.Model, observed: Observed) -> None:
    """Change a graph in place.

    Args:
        model: Model.
        observed: Sizes of its values; new values are entered.
    """
    graph = model.graph
    model.opset_imports[DOMAIN] = 1
    drop_expansions(graph, observed)
    drop_ordered_lookups(graph, observed)
    fold_scales(graph)
    fuse_linears(graph)
    fuse_products(graph, observed)
    sweep(model)  # The transposed keys have no reader left, and would look like one of the packed projection.
    fuse_heads(graph, observed)
    fuse_lookups(graph)
    fuse_group_norms(graph, observed)
    sweep(model)


def fold_scales(graph: ir.Graph) -> int:
    """Multiply the weight and bias of a query projection by the factor on the attention scores; the factor goes.

    The projection may be packed with those of keys and values. A weight that several layers share stays as it is.
    """
    count = 0
    for node in list(graph):
        factor = number(node.inputs[1]) if node.op_type in ("Mul", "Div") else None
        product = find_producer(node.inputs[0], "MatMul") if factor else None
        if product is None or factor is None or only_user(product.outputs[0]) is not node:
            continue
        if node.op_type == "Div":
            factor = 1.0 / factor
        projection = _projection(product.inputs[0])
        if projection is None:
            continue
        linear, bias, columns = projection
        if _scale_columns(graph, linear, bias, columns, np.float32(factor)):
            replace(graph, node, [], product.outputs[0])
            count += 1
    return count


def _projection(query: ir.Value | None) -> tuple[ir.Node, ir.Node | None, slice] | None:
    """Return the product, the addition of its bias and the columns that a query with separate heads comes from."""
    columns = slice(None)
    split = False
    node = None if query is None else query.producer()
    while node is not None and query is not None and only_user(query) is not None:
        if node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
            query = node.inputs[0]
        elif node.op_type == "Split" and not split:
            sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            if sizes is None:
                return None
            start = int(sizes[: node.outputs.index(query)].sum())
            columns = slice(start, start + int(sizes[node.outputs.index(query)]))
            split = True
            query = node.inputs[0]
        elif node.op_type == "Add":
            product = find_producer(node.inputs[0], "MatMul")
            if product is None or only_user(product.outputs[0]) is not node or constant(node.inputs[1]) is None:
                return None
            return product, node, columns
        elif node.op_type == "MatMul":
            return node, None, columns
        else:
            return None
        node = None if query is None else query.producer()
    return None


def _scale_columns(graph: ir.Graph, linear: ir.Node, bias: ir.Node | None, columns: slice, factor: np.float32) -> bool:
    """Multiply some output columns of a linear layer by a factor, and return whether that was possible."""
    weight = linear.inputs[1]
    dequantize = find_producer(weight, "DequantizeLinear")
    holder = linear if dequantize is None else dequantize
    factors = holder.inputs[1]
    array = constant(factors)
    if weight is None or factors is None or array is None or array.ndim != (2 if dequantize is None else 1):
        return False
    if len(weight.uses()) > 1:
        return False
    vectors = [(holder, array)]
    if bias is not None:
        offset = constant(bias.inputs[1])
        if offset is None or offset.shape != array.shape[-1:]:
            return False
        vectors.append((bias, offset))
    for node, values in vectors:
        scaled = values.copy()
        scaled[..., columns] *= factor
        node.replace_input_with(1, initializer(graph, f"{node.name}_scaled", scaled))
    return True


def fuse_linears(graph: ir.Graph) -> int:
    """Replace each product with a constant weight, and the addition of its bias, by a FullyConnected."""
    count = 0
    for node in list(graph):
        if node.op_type == "Gemm":
            fused = _fuse_gemm(node)
        elif node.op_type == "MatMul" and _is_weight(node.inputs[1]):
            fused = _linear(node.name, [node.inputs[0], node.inputs[1], None], transposed=0)
        else:
            continue
        if fused is None:
            continue
        last = node
        add = only_user(node.outputs[0])
        if node.op_type == "MatMul" and add is not None and add.op_type == "Add":
            bias = add.inputs[1 if add.inputs[0] is node.outputs[0] else 0]
            array = constant(bias)
            width = fused.inputs[1].shape[1] if fused.inputs[1] is not None and fused.inputs[1].shape else None
            if array is not None and array.shape == (width,):
                fused.replace_input_with(2, bias)
                last = add
        replace(graph, last, [fused], fused.outputs[0])
        count += 1
    return count


def _is_weight(value: ir.Value | None) -> bool:
    """Return whether a value is a constant matrix: in float32, INT8 with a scale per column, or INT4 in blocks."""
    node = find_producer(value, "DequantizeLinear")
    if node is None:
        array = constant(value)
        return array is not None and array.ndim == 2
    integers = constant(node.inputs[0])
    scale = constant(node.inputs[1])
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if integers is None or scale is None or zero_point is None or integers.ndim != 2 or zero_point.any():
        return False
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    if block:
        rows, columns = integers.shape
        in_blocks = rows % block == 0 and scale.shape == (rows // block, columns)
        return in_blocks and axis == 0 and integers.dtype.name == "int4"
    return integers.dtype == np.int8 and axis == 1 and scale.shape == integers.shape[1:]


def _linear(name: str | None, inputs: list[ir.Value | None], transposed: int) -> ir.Node:
    """Return a new FullyConnected."""
    return ir.node("FullyConnected", inputs, domain=DOMAIN, attributes={"transposed": transposed}, name=name)


def _fuse_gemm(node: ir.Node) -> ir.Node | None:
    """Return the FullyConnected for a Gemm of the plain form, or None."""
    plain = node.attributes.get_int("transA", 0) == 0
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(bias)
    if not plain or factors != [1.0, 1.0] or not _is_weight(node.inputs[1]):
        return None
    if bias is not None and (array is None or array.ndim != 1):
        return None
    return _linear(node.name, [node.inputs[0], node.inputs[1], bias], node.attributes.get_int("transB", 0))


def fuse_products(graph: ir.Graph, observed: Observed) -> int:
    """Replace each product of activations by a BatchMatMul, which reads keys ``[..., keys, width]`` as they are."""
    count = 0
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        left, right = node.inputs
        assert right is not None
        untransposed, new_nodes = _without_swap(right, observed)
        adjoint = int(untransposed is not right)
        product = ir.node(
            "BatchMatMul", [left, untransposed], domain=DOMAIN, attributes={"adjoint": adjoint}, name=node.name
        )
        replace(graph, node, [*new_nodes, product], product.outputs[0])
        count += 1
    return count


def _without_swap(right: ir.Value, observed: Observed) -> tuple[ir.Value, list[ir.Node]]:
    """Return a factor with its last two axes as they were before a Transpose, and the nodes that compute it.

    A factor whose last axis no Transpose moved is returned as it is.
    """
    transpose = find_producer(right, "Transpose")
    if transpose is None or transpose.inputs[0] is None:
        return right, []
    order = permutation(transpose, len(observed.shape(right)))
    if order[-1] == len(order) - 1:
        return right, []
    swap = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    order = [order[axis] for axis in swap]
    if order == sorted(order):
        return transpose.inputs[0], []
    swapped = ir.node("Transpose", [transpose.inputs[0]], attributes={"perm": order}, name=f"{transpose.name}_swapped")
    swapped.outputs[0].name = f"{right.name}_swapped"
    observed.permute(swapped.outputs[0], right, swap)
    return swapped.outputs[0], [swapped]


def fuse_heads(graph: ir.Graph, observed: Observed) -> int:
    """Separate the heads of packed queries, keys and values before they are split, with one change of shape for all.

    Split -> Reshape, Transpose of each part   ->   Reshape -> Transpose -> Split along the heads
    """
    count = 0
    for node in list(graph):
        parts = _parts_with_heads(node, observed)
        if parts is None:
            continue
        first = parts[0]
        shape = constant(first.inputs[0].producer().inputs[1])  # type: ignore[union-attr]
        assert shape is not None
        heads = int(shape[2])
        target = np.array([0, 0, len(parts) * heads, shape[3]], np.int64)
        separated = ir.node("Reshape", [node.inputs[0], initializer(graph, "packed_heads", target)])
        ordered = ir.node("Transpose", [separated.outputs[0]], attributes={"perm": [0, 2, 1, 3]})
        sizes = initializer(graph, "head_counts", np.full(len(parts), heads, np.int64))
        split = ir.node("Split", [ordered.outputs[0], sizes], attributes={"axis": 1}, num_outputs=len(parts))
        for index, (part, name) in enumerate(zip((separated, ordered), ("separated", "ordered"), strict=True)):
            part.name = f"{node.name}/{part.op_type}"
            part.outputs[0].name = f"{node.outputs[0].name}_{name}_{index}"
        sources = [part.outputs[0] for part in parts]
        observed.concatenate(ordered.outputs[0], sources, 1)
        observed.permute(separated.outputs[0], ordered.outputs[0], [0, 2, 1, 3])
        graph.insert_after(node, [separated, ordered, split])
        for part, output in zip(parts, split.outputs, strict=True):
            replace(graph, part, [], output)
            output.name = part.outputs[0].name
        count += 1
    return count


def _parts_with_heads(node: ir.Node, observed: Observed) -> list[ir.Node] | None:
    """Return the Transposes that end the parts of a Split into equal heads ``[batch, heads, tokens, width]``."""
    if node.op_type != "Split" or node.inputs[0] is None:
        return None
    transposes = []
    shapes = set()
    for part in node.outputs:
        reshape = only_user(part)
        if reshape is None or reshape.op_type != "Reshape":
            return None
        shape = constant(reshape.inputs[1])
        transpose = only_user(reshape.outputs[0])
        if transpose is None or transpose.op_type != "Transpose" or shape is None or len(shape) != 4:
            return None
        shapes.add((tuple(shape.tolist()), tuple(permutation(transpose, 4))))
        transposes.append(transpose)
    if len(shapes) != 1 or len(transposes) > MOST_PARTS:
        return None
    (((*_, heads, width), order),) = shapes
    packed_last = node.attributes.get_int("axis", 0) in (-1, 2) and len(observed.shape(node.inputs[0])) == 3
    return transposes if packed_last and order == (0, 2, 1, 3) and min(heads, width) > 0 else None


def fuse_lookups(graph: ir.Graph) -> int:
    """Replace ``(Cast(lookup(table)) - 128) * lookup(scales)`` by an EmbeddingLookup of an INT8 table."""
    count = 0
    for node in list(graph):
        centred = find_producer(node.inputs[0], "Sub") if node.op_type == "Mul" else None
        cast = (
            None if centred is None or number(centred.inputs[1]) != OFFSET else find_producer(centred.inputs[0], "Cast")
        )
        lookup = None if cast is None or cast.inputs[0] is None else cast.inputs[0].producer()
        if lookup is None or lookup.op_type not in ("Gather", "Slice"):
            continue
        scales = find_producer(node.inputs[1], lookup.op_type)
        table = constant(lookup.inputs[0])
        factors = None if scales is None else constant(scales.inputs[0])
        if scales is None or table is None or factors is None or scales.inputs[1:] != lookup.inputs[1:]:
            continue
        if table.dtype != np.uint8 or factors.shape != (len(table), 1):
            continue
        name = lookup.inputs[0].name if lookup.inputs[0] is not None else "table"
        rows = initializer(graph, f"{name}_int8", (table.astype(np.int16) - OFFSET).astype(np.int8))
        row_scales = initializer(graph, f"{name}_row_scale", factors.reshape(-1))
        inputs = [rows, row_scales, lookup.inputs[1]]
        if lookup.op_type == "Slice":
            start = constant(lookup.inputs[1])
            if start is None or start.any():
                continue
            inputs = [rows, row_scales, None, lookup.inputs[2]]
        fused = ir.node("EmbeddingLookup", inputs, domain=DOMAIN, name=lookup.name)
        replace(graph, node, [fused], fused.outputs[0])
        count += 1
    return count
