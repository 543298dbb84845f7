"""SmoothQuant: moves the difficulty of outlier channels from activations, which have one scale, to weights, which have many.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", arXiv 2211.10438: an activation's channel j is divided by s_j, and row j of the weights that read it multiplied:

    s_j = max|X_j| ** alpha / max|W_j| ** (1 - alpha)

The graph computes what it did. Where nothing but these linears reads the output of a LayerNormalization (pre-norm
encoders), its scale and bias take the division, which costs nothing; elsewhere (BERT's LayerNorms are also read by the
residual) it is a multiplication of its own in front of the quantizer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.quantize._ranges import Histogram
from edgekit.quantize.graphs import Linear, constant, find_producer, initializer, linears

ALPHAS = ("0.3", "0.5", "0.7", "0.85")
"""Strengths that are tried, beside 'off'."""


def fold(graph: ir.Graph, histograms: Mapping[str, Histogram], alpha: float, skip: set[str]) -> int:
    """Smooths the inputs of the linears in place; returns how many activations.

    Args:
        graph: a float graph.
        histograms: of the linears' inputs, by their name.
        alpha: 0 to 1: how much of the difficulty moves.
        skip: layers that stay in float and need no smoothing.
    """
    groups: dict[ir.Value, list[Linear]] = defaultdict(list)
    for layer in linears(graph):
        # A weight that several layers share (ALBERT) would need as many copies as it has readers.
        if layer.name not in skip and len(layer.weight.uses()) == 1 and layer.x.name in histograms:
            groups[layer.x].append(layer)
    for x, layers in groups.items():
        _smooth(
            graph,
            x,
            layers,
            factors(histograms[x.name or ""].channels, [constant(layer.weight) for layer in layers], alpha),
        )
    return len(groups)


def factors(channels: np.ndarray, weights: list[np.ndarray | None], alpha: float) -> np.ndarray:
    """What each channel is divided by: float32 ``[in]``, positive; 1 where the channel or its weights are zero throughout.

    Args:
        channels: largest absolute activation of each channel: float32 ``[in]``.
        weights: of the layers that read it: float32 ``[in, out]`` each.
        alpha: 0 to 1.
    """
    rows = np.max([np.abs(w).max(axis=1) for w in weights if w is not None], axis=0).astype(np.float64)
    used = (channels > 0) & (rows > 0)
    safe_x, safe_w = np.where(used, channels, 1.0).astype(np.float64), np.where(used, rows, 1.0)
    found = np.where(used, safe_x**alpha / safe_w ** (1.0 - alpha), 1.0)
    # The scale of all channels together is free; around 1 the smoothed values stay inside float16.
    found /= np.exp(np.log(found[used]).mean()) if used.any() else 1.0
    return np.where(used, np.clip(found, 1e-3, 1e3), 1.0).astype(np.float32)


def _smooth(graph: ir.Graph, x: ir.Value, layers: list[Linear], divide: np.ndarray) -> None:
    normalized = find_producer(x, "LayerNormalization")
    alone = {use.node for use in x.uses()} == {layer.node for layer in layers} and not x.is_graph_output()
    if normalized is not None and alone and all(constant(v) is not None for v in normalized.inputs[1:]):
        for place, value in list(enumerate(normalized.inputs))[1:]:
            array = constant(value)
            assert array is not None
            normalized.replace_input_with(
                place, initializer(graph, f"{x.name}_norm_smoothed", (array / divide).astype(array.dtype))
            )
        source = x
    else:
        factor = initializer(graph, f"{x.name}_smoothing", (1.0 / divide).astype(np.float32))
        scaled = ir.node("Mul", [x, factor], name=f"{layers[0].name}/Smooth")
        source = scaled.outputs[0]
        source.name, source.type, source.shape = f"{x.name}_smoothed", x.type, x.shape
        graph.insert_before(layers[0].node, [scaled])
    for layer in layers:
        weight = constant(layer.weight)
        assert weight is not None
        layer.node.replace_input_with(0, source)
        layer.node.replace_input_with(
            1, initializer(graph, f"{layer.weight.name}_smoothed", (weight * divide[:, None]).astype(np.float32))
        )
