"""SmoothQuant: move outliers from activations, which have one scale, to weights, which have one scale per channel.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", arXiv 2211.10438. Channel j of an activation is divided by s_j, and row j of the weights that read it
is multiplied by s_j:

    s_j = max|X_j| ** alpha / max|W_j| ** (1 - alpha)

The function that the graph computes does not change. If only these linear layers read the output of a
LayerNormalization (pre-norm encoders), its scale and bias absorb the division, which costs nothing. Otherwise (the
residual also reads BERT's LayerNorms) the division becomes a Mul node before the quantizer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.quantize._ranges import Histogram
from edgekit.quantize.graphs import Linear, constant, find_producer, initializer, linears

ALPHAS = ("0.3", "0.5", "0.7", "0.85")
"""Smoothing strengths that the search tries, besides 'off'."""


def fold(graph: ir.Graph, histograms: Mapping[str, Histogram], alpha: float, skip: set[str]) -> int:
    """Smooth the inputs of the linear layers in place.

    Args:
        graph: Float graph.
        histograms: Histograms of the layer inputs, by activation name.
        alpha: Smoothing strength, 0 to 1.
        skip: Names of the layers that stay in float.

    Returns:
        Number of smoothed activations.
    """
    groups: dict[ir.Value, list[Linear]] = defaultdict(list)
    for layer in linears(graph):
        # A weight that several layers share (ALBERT) would need one copy per layer.
        if layer.name not in skip and len(layer.weight.uses()) == 1 and layer.x.name in histograms:
            groups[layer.x].append(layer)
    for x, layers in groups.items():
        weights = [constant(layer.weight) for layer in layers]
        _smooth(graph, x, layers, factors(histograms[x.name or ""].channels, weights, alpha))
    return len(groups)


def factors(channels: np.ndarray, weights: list[np.ndarray | None], alpha: float) -> np.ndarray:
    """Return the positive divisor of each channel: float32 ``[in]``; 1 for a channel whose values or weights are zero.

    Args:
        channels: Largest absolute activation of each channel: float32 ``[in]``.
        weights: Weights of the layers that read the activation: float32 ``[in, out]`` each.
        alpha: Smoothing strength, 0 to 1.
    """
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights if weight is not None], axis=0).astype(np.float64)
    used = (channels > 0) & (rows > 0)
    safe_x = np.where(used, channels, 1.0).astype(np.float64)
    safe_w = np.where(used, rows, 1.0)
    divisors = np.where(used, safe_x**alpha / safe_w ** (1.0 - alpha), 1.0)
    # A common factor of all channels is free. With a geometric mean of 1 the smoothed values stay within float16.
    if used.any():
        divisors /= np.exp(np.log(divisors[used]).mean())
    return np.where(used, np.clip(divisors, 1e-3, 1e3), 1.0).astype(np.float32)


def _smooth(graph: ir.Graph, x: ir.Value, layers: list[Linear], divisors: np.ndarray) -> None:
    """Divide an activation by its channel divisors and multiply the rows of all weights that read it."""
    normalization = find_producer(x, "LayerNormalization")
    readers = {use.node for use in x.uses()}
    has_other_readers = readers != {layer.node for layer in layers} or x.is_graph_output()
    if normalization is None or has_other_readers or any(constant(value) is None for value in normalization.inputs[1:]):
        source = _insert_division(graph, x, layers[0], divisors)
    else:
        source = x
        _divide_normalization(graph, x, normalization, divisors)
    for layer in layers:
        weight = constant(layer.weight)
        assert weight is not None
        layer.node.replace_input_with(0, source)
        scaled = (weight * divisors[:, None]).astype(np.float32)
        layer.node.replace_input_with(1, initializer(graph, f"{layer.weight.name}_smoothed", scaled))


def _divide_normalization(graph: ir.Graph, x: ir.Value, normalization: ir.Node, divisors: np.ndarray) -> None:
    """Divide the constant scale and bias of a LayerNormalization."""
    for index, value in enumerate(normalization.inputs):
        if index == 0:
            continue
        array = constant(value)
        assert array is not None
        divided = (array / divisors).astype(array.dtype)
        normalization.replace_input_with(index, initializer(graph, f"{x.name}_norm_smoothed", divided))


def _insert_division(graph: ir.Graph, x: ir.Value, layer: Linear, divisors: np.ndarray) -> ir.Value:
    """Insert a Mul by the reciprocal divisors before a layer and return its output."""
    factor = initializer(graph, f"{x.name}_smoothing", (1.0 / divisors).astype(np.float32))
    node = ir.node("Mul", [x, factor], name=f"{layer.name}/Smooth")
    result = node.outputs[0]
    result.name = f"{x.name}_smoothed"
    result.type = x.type
    result.shape = x.shape
    graph.insert_before(layer.node, [node])
    return result
