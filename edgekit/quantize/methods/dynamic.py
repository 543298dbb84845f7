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

from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._attention import Attention, find_attention
from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize._weights import levels, per_channel
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import Linear, constant, initializer, linears, replace, rewrite, sweep
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "fuse_attention", "fuse_linears", "quantize"]

BACKENDS = ("onnxruntime",)
NEEDS_SAMPLES = 0
PRECISIONS = ("int8",)

_CONTRIB = "com.microsoft"
_MASK = "mask_additive"


def quantize(graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress) -> GraphSet:
    """Writes the fused dynamic INT8 form of each graph.

    Args:
        graphs: cleaned float32 graphs.
        calibration: not used; ranges are taken at run time.
        settings: what to keep in float, and the bits of weights.
        out: folder for the new graphs.
        progress: told after each graph.

    Raises:
        QuantizeError: for a layer in ``keep_float`` that does not exist. A graph without linears comes out as it was, and loses the race.
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
    found = [a for node in graph if node.op_type == "Softmax" and (a := find_attention(node, layers, additive)) is not None]
    lengths = None
    if found and mask is not None:
        cast = ir.node("Cast", [mask], attributes={"to": ir.DataType.INT32})
        graph.insert_before(next(iter(graph)), cast)
        lengths = cast.outputs[0]
    for attention in found:
        _replace_attention(graph, attention, lengths, steps, attention.projection.name in skip)
    return len(found)


def _replace_attention(graph: ir.Graph, attention: Attention, mask: ir.Value | None, steps: int, in_float32: bool) -> None:
    layer = attention.projection
    shared = {"num_heads": attention.heads, "scale": attention.scale}
    name = layer.node.name or ""
    if in_float32:
        fused = ir.node("Attention", [layer.x, layer.weight, layer.bias, mask], domain=_CONTRIB, attributes=shared, name=name.replace("/MatMul", "/Attention"))
        replace(graph, attention.last, [fused], fused.outputs[0])
        return
    weight, scale = _int8(graph, layer, steps)
    measured = ir.node("DynamicQuantizeLinear", [layer.x], num_outputs=3)
    x, x_scale, x_zero = measured.outputs
    inputs = [x, weight, layer.bias, x_scale, scale, mask, x_zero]
    fused = ir.node("QAttention", inputs, domain=_CONTRIB, attributes=shared, name=name.replace("/MatMul", "/QAttention"))
    replace(graph, attention.last, [measured, fused], fused.outputs[0])


def fuse_linears(graph: ir.Graph, steps: int = 127, skip: set[str] | frozenset[str] = frozenset()) -> int:
    """Every linear, with its bias, to one ``DynamicQuantizeMatMul``; returns how many."""
    layers = [layer for layer in linears(graph) if layer.name not in skip]
    for layer in layers:
        weight, scale = _int8(graph, layer, steps)
        product = ir.node("DynamicQuantizeMatMul", [layer.x, weight, scale, None, layer.bias], domain=_CONTRIB, name=layer.node.name)
        replace(graph, layer.last, [product], product.outputs[0])
    return len(layers)


def _int8(graph: ir.Graph, layer: Linear, steps: int) -> tuple[ir.Value, ir.Value]:
    """Weight ``int8 [in, out]`` and its scales ``float32 [out]``, as constants of the graph."""
    weight = constant(layer.weight)
    assert weight is not None
    values, scales = per_channel(weight, steps)
    name = layer.weight.name or "weight"
    return initializer(graph, f"{name}_int8", values), initializer(graph, f"{name}_scale", scales)
