"""INT8 weights, activations quantized as they come: the form that ONNX Runtime runs fastest on CPUs.

Written by hand rather than with ``onnxruntime.quantization`` and ``onnxruntime.transformers``, because of what those do
not do on a cleaned graph: the optimizer does not find attention behind an additive mask, and the quantizer leaves Q, K
and V as three products. Here each linear is one kernel with its bias inside (``DynamicQuantizeMatMul``), a whole
self-attention one (``QAttention``). Operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

Weights: symmetric INT8 per output channel. Activations: asymmetric UINT8 per tensor, range taken at run time, so no
samples are needed and nothing saturates that was not seen before. Attention scores, Softmax, GELU, LayerNorm, the
pooler and the classifier stay in float32.

Other runtimes know none of these operators, and OpenVINO would run the standard spelling of them in float: this method
is a candidate for ONNX Runtime alone.
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
    """Writes the fused dynamic INT8 form of each graph. One without linears comes out as it was, and loses the race.

    Args:
        graphs: cleaned float32 graphs.
        calibration: not used; ranges are taken at run time.
        settings: what to keep in float, and the bits of weights.
        out: folder for the new graphs.
        progress: told after each graph.
    """

    def change(_: Graph, model: ir.Model, skip: set[str]) -> dict[str, str]:
        model.opset_imports[_CONTRIB] = 1
        fuse_attention(model.graph, levels(settings), skip)
        sweep(model)
        fuse_linears(model.graph, levels(settings), skip)
        quantize_embeddings(model.graph, settings.embeddings)
        return {"weights": f"{settings.weight_bits or 8} bit", "embeddings": settings.embeddings}

    return rewrite(graphs, settings, out, "dynamic", change, progress)


def fuse_attention(graph: ir.Graph, steps: int = 127, skip: set[str] | frozenset[str] = frozenset()) -> int:
    """Every self-attention to one ``QAttention`` (``Attention`` where its projection stays float); returns how many.

    Its mask is the padding mask; there is none in a graph without that input, whose rows have one size.
    """
    mask = next((v for v in graph.inputs if v.name == "attention_mask"), None)
    additive = next((v for node in graph for v in node.outputs if v.name == _MASK), None)
    if mask is not None and additive is None:
        return 0
    layers = {layer.last.outputs[0]: layer for layer in linears(graph)}
    found = [
        a for node in graph if node.op_type == "Softmax" and (a := _find_attention(node, layers, additive)) is not None
    ]
    lengths = None
    if found and mask is not None:
        cast = ir.node("Cast", [mask], attributes={"to": ir.DataType.INT32})
        graph.insert_before(next(iter(graph)), cast)
        lengths = cast.outputs[0]
    for attention in found:
        _replace_attention(graph, attention, lengths, steps, attention.projection.name in skip)
    return len(found)


def _replace_attention(
    graph: ir.Graph, attention: _Attention, mask: ir.Value | None, steps: int, in_float32: bool
) -> None:
    layer = attention.projection
    shared = {"num_heads": attention.heads, "scale": attention.scale}
    name = layer.node.name or ""
    if in_float32:
        fused = ir.node(
            "Attention",
            [layer.x, layer.weight, layer.bias, mask],
            domain=_CONTRIB,
            attributes=shared,
            name=name.replace("/MatMul", "/Attention"),
        )
        replace(graph, attention.last, [fused], fused.outputs[0])
        return
    weight, scale = _int8(graph, layer, steps)
    measured = ir.node("DynamicQuantizeLinear", [layer.x], num_outputs=3)
    x, x_scale, x_zero = measured.outputs
    inputs = [x, weight, layer.bias, x_scale, scale, mask, x_zero]
    fused = ir.node(
        "QAttention", inputs, domain=_CONTRIB, attributes=shared, name=name.replace("/MatMul", "/QAttention")
    )
    replace(graph, attention.last, [measured, fused], fused.outputs[0])


def fuse_linears(graph: ir.Graph, steps: int = 127, skip: set[str] | frozenset[str] = frozenset()) -> int:
    """Every linear, with its bias, to one ``DynamicQuantizeMatMul``; returns how many."""
    layers = [layer for layer in linears(graph) if layer.name not in skip]
    for layer in layers:
        weight, scale = _int8(graph, layer, steps)
        product = ir.node(
            "DynamicQuantizeMatMul", [layer.x, weight, scale, None, layer.bias], domain=_CONTRIB, name=layer.node.name
        )
        replace(graph, layer.last, [product], product.outputs[0])
    return len(layers)


def _int8(graph: ir.Graph, layer: Linear, steps: int) -> tuple[ir.Value, ir.Value]:
    """Weight ``int8 [in, out]`` and its scales ``float32 [out]``, as constants of the graph."""
    weight = constant(layer.weight)
    assert weight is not None
    values, scales = per_channel(weight, steps)
    name = layer.weight.name or "weight"
    return initializer(graph, f"{name}_int8", values), initializer(graph, f"{name}_scale", scales)


@dataclass(frozen=True)
class _Attention:
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


def _find_attention(softmax: ir.Node, layers: dict[ir.Value, Linear], mask: ir.Value | None) -> _Attention | None:
    """Reads the self-attention around a Softmax in a cleaned graph, or returns None where it is another kind.

        x -> one linear -> split into Q, K, V -> [batch, sequence, heads, width] -> transposed
        softmax(Q K^T * scale + mask) V -> transposed back -> [batch, sequence, heads * width]

    where the mask is the canonical padding mask of export, or absent.

    Args:
        softmax: the node.
        layers: linears by their output value.
        mask: the additive padding mask of the graph.
    """
    product = only_user(softmax.outputs[0])
    if product is None or product.op_type != "MatMul":
        return None
    scores = softmax.inputs[0]
    masked = find_producer(scores, "Add")
    if masked is not None:
        if mask is None or mask not in masked.inputs:
            return None
        scores = masked.inputs[0] if masked.inputs[1] is mask else masked.inputs[1]
    elif mask is not None:
        return None
    scale = 1.0
    scaled = find_producer(scores, "Mul") or find_producer(scores, "Div")
    if scaled is not None:
        factor = number(scaled.inputs[1])
        if factor is None:
            return None
        scores, scale = scaled.inputs[0], factor if scaled.op_type == "Mul" else 1.0 / factor
    dots = find_producer(scores, "MatMul")
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
    return _Attention(query.linear, query.heads, scale, joined)


@dataclass(frozen=True)
class _Heads:
    """Part ``part`` of a linear's output, as heads."""

    linear: Linear
    part: int
    heads: int


def _heads(value: ir.Value | None, order: list[int], layers: dict[ir.Value, Linear]) -> _Heads | None:
    """Reads Transpose(Reshape(Split(linear))) backwards; the linear must have three equal parts and a bias."""
    turned = find_producer(value, "Transpose")
    if turned is None or list(turned.attributes["perm"].as_ints()) != order:
        return None
    shaped = find_producer(turned.inputs[0], "Reshape")
    shape = constant(shaped.inputs[1]) if shaped is not None else None
    split = find_producer(shaped.inputs[0], "Split") if shaped is not None else None
    if shaped is None or split is None or shape is None or len(shape) != 4 or shape[2] < 1:
        return None
    linear, sizes = layers.get(split.inputs[0]) if split.inputs[0] is not None else None, constant(split.inputs[1])
    if linear is None or linear.bias is None or sizes is None or len(sizes) != 3 or len(set(sizes.tolist())) != 1:
        return None
    return _Heads(linear, split.outputs.index(shaped.inputs[0]), int(shape[2]))
