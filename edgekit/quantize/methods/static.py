"""Static INT8: explicit symmetric Q/DQ in one file that OpenVINO, ONNX Runtime and TensorRT all read.

The placement follows NVIDIA's rules for explicit quantization (TensorRT developer guide, "Q/DQ placement
recommendations"): both inputs of every linear layer, per-channel weights, per-tensor activations, nothing between
MatMul, bias and GELU; LayerNorm, Softmax, attention scores and residual additions stay in float. An activation has one
Q/DQ pair however many layers read it, so Q, K and V share theirs. Zero points are 0, because TensorRT accepts nothing
else. ``tensorrt_rules`` checks the finished graph.

Settings that are ``auto`` are searched on the calibration set, without labels: the strength of smoothing (``_smooth``,
including 'off') and the method that chooses ranges (``_ranges``, four of them). Each choice is judged by how far the
outputs of the finished INT8 graph are from those of the float graph.

Two libraries were considered and not used. ``onnxruntime.quantization`` keeps every intermediate tensor of every sample
until the end and does not search. ONNX Runtime does not fuse the graphs of NNCF, which makes them five to seven times
slower there than dynamic INT8.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize._ranges import LEVELS, METHODS
from edgekit.quantize._smooth import ALPHAS, fold
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import (
    Linear,
    constant,
    dequantize_weight,
    discard,
    float_layer_names,
    initializer,
    levels,
    linears,
    load,
    per_channel,
    rewrite,
    save,
    sweep,
)
from edgekit.quantize.tensorrt_rules import lint
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import RANGES, Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "correct_biases", "insert_pairs", "quantize"]

BACKENDS = ("onnxruntime", "openvino")
NEEDS_SAMPLES = 16
PRECISIONS = ("int8",)

_WORTH = 0.9  # Smoothing adds nodes to the graph, so it must reduce the damage by at least a tenth.
_SMALLEST_THRESHOLD = 1e-6  # A tensor of zeros still needs a positive scale.


@dataclass(frozen=True)
class _Work:
    """Inputs for the quantization of one graph."""

    graph: Graph
    calibration: Calibration
    settings: Quantization
    progress: Progress
    scratch: Path


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write the static INT8 form of each graph.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Feeds, input name to ``int64 [batch, sequence]``, padded as in production.
        settings: Layers to keep in float, range method and smoothing.
        out: Folder for the new graphs.
        progress: Progress callback, called after each calibration batch.

    Raises:
        QuantizeError: An activation is NaN or infinite (the message names its node), or TensorRT would refuse the
            graph.
    """

    def change(graph: Graph, model: ir.Model, _: set[str]) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as scratch:
            work = _Work(graph, calibration.of(graph.signature.name), settings, progress, Path(scratch))
            alpha = settings.smooth
            if alpha == "auto":
                alpha = _search_smoothing(work)
            ranges = settings.ranges
            if ranges == "auto":
                ranges = _search_ranges(work, alpha)
            _quantize_model(model, work, alpha, ranges)
        quantize_embeddings(model.graph, settings.embeddings)
        recipe = {
            "ranges": ranges,
            "smooth": alpha,
            "weights": f"{settings.weight_bits or 8} bit",
            "embeddings": settings.embeddings,
        }
        if settings.bias_correction:
            recipe["bias_correction"] = "yes"
        return recipe

    return rewrite(graphs, settings, out, "static", change, check=lint)


def _search_smoothing(work: _Work) -> str:
    """Return the smoothing strength with the least damage; 'off' unless another strength is clearly better."""
    # One range method serves the comparison: by default the one that is cheapest to compute.
    ranges = "mse" if work.settings.ranges == "auto" else work.settings.ranges
    damage = {}
    for index, alpha in enumerate(("off", *ALPHAS)):
        damage[alpha] = _measure_damage(work, alpha, ranges, searching=True)
        work.progress("search smoothing", index + 1, len(ALPHAS) + 1)
    best = min(damage, key=lambda alpha: damage[alpha])
    return best if damage[best] < _WORTH * damage["off"] else "off"


def _search_ranges(work: _Work, alpha: str) -> str:
    """Return the range method with the least damage."""
    damage = {}
    for index, name in enumerate(RANGES):
        damage[name] = _measure_damage(work, alpha, name, searching=False)
        work.progress("search ranges", index + 1, len(RANGES))
    return min(damage, key=lambda name: damage[name])


def _measure_damage(work: _Work, alpha: str, ranges: str, searching: bool) -> float:
    """Return how far the outputs of a trial INT8 graph are from those of the float graph."""
    model = load(work.graph.path)
    _quantize_model(model, work, alpha, ranges, searching=searching)
    sweep(model)
    path = work.scratch / "trial.onnx"
    save(model, path)
    discard(model)
    return work.calibration.damage(work.graph.path, path)


def _quantize_model(model: ir.Model, work: _Work, alpha: str, ranges: str, searching: bool = False) -> None:
    """Quantize a newly loaded model with one smoothing strength and one range method, in place.

    Args:
        model: Float model.
        work: Graph, calibration and settings.
        alpha: Smoothing strength, or 'off'.
        ranges: Name of the range method.
        searching: True to measure activations on a sample of the rows only.
    """
    settings = work.settings
    calibration = work.calibration
    float_layers = float_layer_names(model.graph, settings)
    key = f"{work.graph.path} {'some' if searching else 'all'}"
    if alpha != "off":
        histograms = calibration.measure(model, work.progress, key=f"{key} off", searching=searching)
        fold(model.graph, histograms, float(alpha), float_layers)
        sweep(model)
        # Layers in float are not smoothed, which changes the activations; so the cache key names them.
        key += f" {sorted(float_layers)}"
    histograms = calibration.measure(model, work.progress, key=f"{key} {alpha}", searching=searching)
    thresholds = {name: METHODS[ranges](histogram) for name, histogram in histograms.items()}
    if settings.bias_correction:
        correct_biases(model, thresholds, calibration, levels(settings), float_layers, work.progress)
    insert_pairs(model.graph, thresholds, levels(settings), float_layers)


class _InputSums:
    """Sums of one activation over all rows, before and after quantization.

    Attributes:
        exact: Sum of the float values: float64 ``[channels]``.
        rounded: Sum of the quantized values: float64 ``[channels]``.
        rows: Number of rows.
    """

    def __init__(self, channels: int) -> None:
        """Create empty sums."""
        self.exact = np.zeros(channels, np.float64)
        self.rounded = np.zeros(channels, np.float64)
        self.rows = 0

    def add(self, rows: np.ndarray, threshold: float) -> None:
        """Add rows ``float32 [rows, channels]`` of an activation with a quantization threshold."""
        step = max(threshold, _SMALLEST_THRESHOLD) / LEVELS
        quantized = np.clip(np.rint(rows / step), -LEVELS - 1, LEVELS) * step
        self.exact += rows.sum(axis=0, dtype=np.float64)
        self.rounded += quantized.sum(axis=0, dtype=np.float64)
        self.rows += len(rows)


def correct_biases(
    model: ir.Model,
    thresholds: dict[str, float],
    calibration: Calibration,
    steps: int,
    skip: set[str],
    progress: Progress,
) -> None:
    """Subtract the mean quantization error of each layer from its bias, in place.

    Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", arXiv 1906.04721, section 4.2, in its empirical form. The error of a layer is measured on its float
    input, so one pass corrects every layer independently.

    Args:
        model: Float model.
        thresholds: Largest value that INT8 represents, by activation name.
        calibration: Calibration feeds.
        steps: Number of weight levels on each side of zero.
        skip: Names of the layers that stay in float.
        progress: Progress callback, called after each batch.
    """
    sums: dict[str, _InputSums] = {}

    def visit(name: str, values: np.ndarray) -> None:
        rows = values.reshape(-1, values.shape[-1])
        sums.setdefault(name, _InputSums(rows.shape[1])).add(rows, thresholds[name])

    calibration.visit(model, visit, progress)
    for layer in linears(model.graph):
        name = layer.x.name or ""
        if layer.name not in skip and name in sums:
            _correct_bias(model.graph, layer, sums[name], steps)


def _correct_bias(graph: ir.Graph, layer: Linear, sums: _InputSums, steps: int) -> None:
    """Subtract the mean error of one layer from its bias; a layer without a bias is left alone."""
    weight = constant(layer.weight)
    bias = constant(layer.bias)
    if weight is None or bias is None or layer.bias is None:
        return
    values, scales = per_channel(weight, steps)
    exact = sums.exact @ weight.astype(np.float64)
    quantized = sums.rounded @ (values * scales.astype(np.float64))
    error = (quantized - exact) / sums.rows
    corrected = initializer(graph, f"{layer.bias.name}_corrected", (bias - error).astype(np.float32))
    layer.last.replace_input_with(1 if layer.last.inputs[1] is layer.bias else 0, corrected)


def insert_pairs(
    graph: ir.Graph, thresholds: dict[str, float], steps: int = LEVELS, skip: set[str] | frozenset[str] = frozenset()
) -> int:
    """Insert Q/DQ pairs before both inputs of every linear layer that has a threshold.

    Args:
        graph: Graph to change in place.
        thresholds: Largest value that INT8 represents, by activation name.
        steps: Number of weight levels on each side of zero.
        skip: Names of the layers that stay in float.

    Returns:
        Number of quantized layers.
    """
    pairs: dict[str, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    count = 0
    for layer in linears(graph):
        name = layer.x.name or ""
        if name not in thresholds or layer.name in skip:
            continue
        if name not in pairs:
            pairs[name] = _insert_activation_pair(graph, layer, name, thresholds[name])
        layer.node.replace_input_with(0, pairs[name])
        # Layers that share a weight (ALBERT) share its INT8 form.
        if layer.weight not in weights:
            weights[layer.weight] = dequantize_weight(graph, layer, steps)
        layer.node.replace_input_with(1, weights[layer.weight])
        count += 1
    return count


def _insert_activation_pair(graph: ir.Graph, layer: Linear, name: str, threshold: float) -> ir.Value:
    """Insert a Q/DQ pair before a layer and return the dequantized activation."""
    step = np.array(max(threshold, _SMALLEST_THRESHOLD) / LEVELS, np.float32)
    scale = initializer(graph, f"{name}_scale", step)
    zero_point = initializer(graph, f"{name}_zero_point", np.array(0, np.int8))
    quantize_node = ir.node("QuantizeLinear", [layer.x, scale, zero_point], name=f"{name}/QuantizeLinear")
    dequantize_node = ir.node(
        "DequantizeLinear", [quantize_node.outputs[0], scale, zero_point], name=f"{name}/DequantizeLinear"
    )
    result = dequantize_node.outputs[0]
    result.type = layer.x.type
    result.shape = layer.x.shape
    graph.insert_before(layer.node, [quantize_node, dequantize_node])
    return result
