"""INT8 weights and activations quantized at run time: the fastest form for ONNX Runtime on CPUs.

``onnxruntime.quantization`` and ``onnxruntime.transformers`` are not used, because they fail on a cleaned graph: the
optimizer does not detect attention behind an additive mask, and the quantizer leaves Q, K and V as three products. Here
each linear layer becomes one kernel with its bias inside (``DynamicQuantizeMatMul``), and a whole self-attention
becomes one kernel (``QAttention``). Operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

Weights are symmetric INT8 per output channel. Activations are asymmetric UINT8 per tensor with a range taken at run
time, so no samples are needed and unseen values do not saturate. Attention scores, Softmax, GELU, LayerNorm, the pooler
and the classifier stay in float32.

No other runtime has these operators, and OpenVINO would run their standard ONNX equivalent in float. The method is
therefore a candidate for ONNX Runtime only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import (
    Linear,
    constant,
    find_producer,
    initializer,
    levels,
    linears,
    number,
    only_user,
    per_channel,
    replace,
    rewrite,
    sweep,
)
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "fuse_attention", "fuse_linears", "quantize"]

BACKENDS = ("onnxruntime",)
NEEDS_SAMPLES = 0
PRECISIONS = ("int8",)

_CONTRIB = "com.microsoft"
_MASK = "mask_additive"


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write the fused dynamic INT8 form of each graph. A graph without linear layers is written unchanged.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Unused; ranges are taken at run time.
        settings: Layers to keep in float, and bits of the weights.
        out: Folder for the new graphs.
        progress: Progress callback, called after each graph.
    """

    def change(_: Graph, model: ir.Model, float_layers: set[str]) -> dict[str, str]:
        model.opset_imports[_CONTRIB] = 1
        fuse_attention(model.graph, levels(settings), float_layers)
        sweep(model)
        fuse_linears(model.graph, levels(settings), float_layers)
        quantize_embeddings(model.graph, settings.embeddings)
        return {"weights": f"{settings.weight_bits or 8} bit", "embeddings": settings.embeddings}

    return rewrite(graphs, settings, out, "dynamic", change, progress)


def fuse_attention(graph: ir.Graph, steps: int = 127, skip: set[str] | frozenset[str] = frozenset()) -> int:
    """Replace every self-attention by one ``QAttention``, or by ``Attention`` if its projection stays in float.

    In a last layer that computes selected positions only, Q is a linear layer of its own, and the attention becomes a
    ``MultiHeadAttention`` behind the linear layers.

    The mask of the new node is the padding mask. A graph without an ``attention_mask`` input has rows of one length and
    needs no mask.

    Args:
        graph: Graph to change in place.
        steps: Number of weight levels on each side of zero.
        skip: Names of the layers that stay in float.

    Returns:
        Number of fused self-attentions.
    """
    mask = next((value for value in graph.inputs if value.name == "attention_mask"), None)
    additive_mask = next((value for node in graph for value in node.outputs if value.name == _MASK), None)
    if mask is not None and additive_mask is None:
        return 0
    layers = {layer.last.outputs[0]: layer for layer in linears(graph)}
    attentions = []
    for node in graph:
        attention = _match_attention(node, layers, additive_mask) if node.op_type == "Softmax" else None
        if attention is not None:
            attentions.append(attention)
    int32_mask = None
    if attentions and mask is not None:
        cast = ir.node("Cast", [mask], attributes={"to": ir.DataType.INT32})
        graph.insert_before(next(iter(graph)), cast)
        int32_mask = cast.outputs[0]
    for attention in attentions:
        if attention.projection is None:
            _fuse_separate_attention(graph, attention, int32_mask)
        elif attention.projection.name in skip:
            _fuse_float_attention(graph, attention, int32_mask)
        else:
            _fuse_int8_attention(graph, attention, int32_mask, steps)
    return len(attentions)


def _fuse_float_attention(graph: ir.Graph, attention: _Attention, mask: ir.Value | None) -> None:
    """Replace a self-attention by one float32 ``Attention`` node."""
    layer = attention.projection
    assert layer is not None
    fused = ir.node(
        "Attention",
        [layer.x, layer.weight, layer.bias, mask],
        domain=_CONTRIB,
        attributes={"num_heads": attention.heads, "scale": attention.scale},
        name=(layer.node.name or "").replace("/MatMul", "/Attention"),
    )
    replace(graph, attention.last, [fused], fused.outputs[0])


def _fuse_int8_attention(graph: ir.Graph, attention: _Attention, mask: ir.Value | None, steps: int) -> None:
    """Replace a self-attention by one ``QAttention`` node."""
    layer = attention.projection
    assert layer is not None
    weight, weight_scale = _quantize_weight(graph, layer, steps)
    quantize_node = ir.node("DynamicQuantizeLinear", [layer.x], num_outputs=3)
    x, x_scale, x_zero_point = quantize_node.outputs
    fused = ir.node(
        "QAttention",
        [x, weight, layer.bias, x_scale, weight_scale, mask, x_zero_point],
        domain=_CONTRIB,
        attributes={"num_heads": attention.heads, "scale": attention.scale},
        name=(layer.node.name or "").replace("/MatMul", "/QAttention"),
    )
    replace(graph, attention.last, [quantize_node, fused], fused.outputs[0])


def _fuse_separate_attention(graph: ir.Graph, attention: _Attention, mask: ir.Value | None) -> None:
    """Replace an attention whose Q is not packed with K and V by one ``MultiHeadAttention`` behind the projections."""
    fused = ir.node(
        "MultiHeadAttention",
        [*attention.inputs, None, mask],
        domain=_CONTRIB,
        attributes={"num_heads": attention.heads, "scale": attention.scale},
        name=(attention.last.name or "").replace("/Reshape", "/MultiHeadAttention"),
    )
    replace(graph, attention.last, [fused], fused.outputs[0])


def fuse_linears(graph: ir.Graph, steps: int = 127, skip: set[str] | frozenset[str] = frozenset()) -> int:
    """Replace every linear layer with its bias by one ``DynamicQuantizeMatMul``.

    Args:
        graph: Graph to change in place.
        steps: Number of weight levels on each side of zero.
        skip: Names of the layers that stay in float.

    Returns:
        Number of replaced layers.
    """
    layers = [layer for layer in linears(graph) if layer.name not in skip]
    for layer in layers:
        weight, scale = _quantize_weight(graph, layer, steps)
        product = ir.node(
            "DynamicQuantizeMatMul", [layer.x, weight, scale, None, layer.bias], domain=_CONTRIB, name=layer.node.name
        )
        replace(graph, layer.last, [product], product.outputs[0])
    return len(layers)


def _quantize_weight(graph: ir.Graph, layer: Linear, steps: int) -> tuple[ir.Value, ir.Value]:
    """Add a weight ``int8 [in, out]`` and its scales ``float32 [out]`` to a graph as constants, and return both."""
    weight = constant(layer.weight)
    assert weight is not None
    values, scales = per_channel(weight, steps)
    name = layer.weight.name or "weight"
    return initializer(graph, f"{name}_int8", values), initializer(graph, f"{name}_scale", scales)


@dataclass(frozen=True)
class _Attention:
    """One self-attention.

    Attributes:
        projection: Linear layer that computes Q, K and V side by side; None if Q has a layer of its own.
        inputs: Values of Q, K and V: ``[batch, positions, heads * width]``.
        heads: Number of heads.
        scale: Factor on the attention scores.
        last: Node whose output is the context ``[batch, positions of Q, heads * width]``.
    """

    projection: Linear | None
    inputs: tuple[ir.Value, ir.Value, ir.Value]
    heads: int
    scale: float
    last: ir.Node


def _match_attention(softmax: ir.Node, layers: dict[ir.Value, Linear], mask: ir.Value | None) -> _Attention | None:
    """Match the self-attention around a Softmax in a cleaned graph.

        x -> one linear -> split into Q, K, V -> [batch, sequence, heads, width] -> transposed
        softmax(Q K^T * scale + mask) V -> transposed back -> [batch, sequence, heads * width]

    In a last layer that computes selected positions only, Q comes from a linear layer of its own, and K and V from one.

    The mask is the canonical padding mask of the export, or absent.

    Args:
        softmax: Softmax node.
        layers: Linear layers by their output value.
        mask: Additive padding mask of the graph, or None.

    Returns:
        The self-attention; None for any other pattern.
    """
    product = only_user(softmax.outputs[0])
    if product is None or product.op_type != "MatMul":
        return None
    scores = softmax.inputs[0]
    mask_addition = find_producer(scores, "Add")
    if (mask_addition is None) != (mask is None):
        return None
    if mask_addition is not None:
        if mask not in mask_addition.inputs:
            return None
        scores = mask_addition.inputs[0 if mask_addition.inputs[1] is mask else 1]
    scale = 1.0
    scaling = find_producer(scores, "Mul") or find_producer(scores, "Div")
    if scaling is not None:
        factor = number(scaling.inputs[1])
        if factor is None:
            return None
        scores = scaling.inputs[0]
        scale = factor if scaling.op_type == "Mul" else 1.0 / factor
    dot_product = find_producer(scores, "MatMul")
    if dot_product is None:
        return None
    query = _match_heads(dot_product.inputs[0], [0, 2, 1, 3], layers)
    key = _match_heads(dot_product.inputs[1], [0, 2, 3, 1], layers)
    value = _match_heads(product.inputs[1], [0, 2, 1, 3], layers)
    last = _match_context(product)
    if query is None or key is None or value is None or last is None:
        return None
    if not query.heads == key.heads == value.heads or key.linear is not value.linear:
        return None
    parts = (query.part, key.part, value.part)
    inputs = (query.value, key.value, value.value)
    if query.linear is key.linear and parts == (0, 1, 2):
        return _Attention(query.linear, inputs, query.heads, scale, last)
    if query.linear is not key.linear and parts == (0, 0, 1) and query.is_whole:
        return _Attention(None, inputs, query.heads, scale, last)
    return None


def _match_context(product: ir.Node) -> ir.Node | None:
    """Return the Reshape that joins the heads behind the product of probabilities and values; None if there is none."""
    transpose = only_user(product.outputs[0])
    if transpose is None or transpose.op_type != "Transpose":
        return None
    reshape = only_user(transpose.outputs[0])
    return reshape if reshape is not None and reshape.op_type == "Reshape" else None


@dataclass(frozen=True)
class _Heads:
    """Part ``part`` of a linear layer's output, split into heads.

    Attributes:
        linear: Linear layer.
        part: Index of the part.
        is_whole: True if the part is the whole output of the layer.
        value: Part itself: ``[batch, positions, heads * width]``.
        heads: Number of heads.
    """

    linear: Linear
    part: int
    is_whole: bool
    value: ir.Value
    heads: int


def _match_heads(value: ir.Value | None, order: list[int], layers: dict[ir.Value, Linear]) -> _Heads | None:
    """Match Transpose(Reshape(Split(linear))) or Transpose(Reshape(linear)).

    The linear layer must have a bias, and two or three equal parts or a single one.

    Args:
        value: Output of the Transpose.
        order: Expected permutation of the Transpose.
        layers: Linear layers by their output value.
    """
    transpose = find_producer(value, "Transpose")
    if transpose is None or list(transpose.attributes["perm"].as_ints()) != order:
        return None
    reshape = find_producer(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return None
    shape = constant(reshape.inputs[1])
    if shape is None or len(shape) != 4 or shape[2] < 1:
        return None
    joined = reshape.inputs[0]
    split = find_producer(joined, "Split")
    linear = layers.get(joined if split is None or split.inputs[0] is None else split.inputs[0])
    if linear is None or linear.bias is None:
        return None
    if split is None:
        return _Heads(linear, 0, True, joined, int(shape[2]))
    sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
    if sizes is None or len(sizes) not in (2, 3) or len(set(sizes.tolist())) != 1:
        return None
    return _Heads(linear, split.outputs.index(joined), False, joined, int(shape[2]))
