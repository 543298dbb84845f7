"""Static INT8: explicit symmetric Q/DQ, one file that OpenVINO, ONNX Runtime and TensorRT read alike.

Placement follows NVIDIA's rules for explicit quantization (TensorRT developer guide, "Q/DQ placement recommendations"):
both inputs of every linear, per-channel weights, per-tensor activations, nothing between MatMul, bias and GELU,
LayerNorm, Softmax, scores and residual additions in float. One activation has one Q/DQ pair however many layers read it,
so Q, K and V share theirs. Zero points are 0: TensorRT takes nothing else. ``tensorrt_rules`` holds the finished graph to this.

What the settings leave open is searched on the calibration set, without labels: how strongly to smooth (``_smooth``, 'off'
among the choices) and by which of four methods to choose ranges (``_ranges``), each judged by how far the outputs of the
finished INT8 graph are from the float graph's.

By hand rather than with ``onnxruntime.quantization``, which keeps every intermediate tensor of every sample until the end
and searches nothing, or NNCF, whose graphs ONNX Runtime does not fuse (five to seven times slower there than dynamic INT8).
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
    constant,
    in_float,
    initializer,
    levels,
    linears,
    load,
    per_channel,
    restored,
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

_WORTH = 0.9  # smoothing costs nodes: it must take a tenth off the damage


@dataclass(frozen=True)
class _Work:
    """What one graph is made from."""

    graph: Graph
    calibration: Calibration
    settings: Quantization
    progress: Progress
    scratch: Path


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Writes the static INT8 form of each graph.

    Args:
        graphs: cleaned float32 graphs.
        calibration: feeds, input name to ``int64 [batch, sequence]``, padded as in use.
        settings: what to keep in float, and how to choose ranges and smoothing.
        out: folder for the new graphs.
        progress: told after each calibration batch.

    Raises:
        QuantizeError: for an activation with NaN or infinity, named by its node; a graph that TensorRT would refuse.
    """

    def change(graph: Graph, model: ir.Model, _: set[str]) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as scratch:
            work = _Work(graph, calibration.of(graph.signature.name), settings, progress, Path(scratch))
            alpha = settings.smooth if settings.smooth != "auto" else _best_smoothing(work)
            ranges = settings.ranges if settings.ranges != "auto" else _best_ranges(work, alpha)
            _quantize(model, work, alpha, ranges)
        quantize_embeddings(model.graph, settings.embeddings)
        recipe = {
            "ranges": ranges,
            "smooth": alpha,
            "weights": f"{settings.weight_bits or 8} bit",
            "embeddings": settings.embeddings,
        }
        return recipe | ({"bias_correction": "yes"} if settings.bias_correction else {})

    return rewrite(graphs, settings, out, "static", change, check=lint)


def _best_smoothing(work: _Work) -> str:
    """The strength that does the least damage with the ranges that cost least to find; 'off' unless another is clearly better."""
    ranges = work.settings.ranges if work.settings.ranges != "auto" else "mse"
    damage = {}
    for index, alpha in enumerate(("off", *ALPHAS)):
        damage[alpha] = _damage(work, alpha, ranges, searching=True)
        work.progress("search smoothing", index + 1, len(ALPHAS) + 1)
    best = min(damage, key=lambda a: damage[a])
    return best if damage[best] < _WORTH * damage["off"] else "off"


def _best_ranges(work: _Work, alpha: str) -> str:
    damage = {}
    for index, name in enumerate(RANGES):
        damage[name] = _damage(work, alpha, name, searching=False)
        work.progress("search ranges", index + 1, len(RANGES))
    return min(damage, key=lambda r: damage[r])


def _damage(work: _Work, alpha: str, ranges: str, searching: bool) -> float:
    model = load(work.graph.path)
    _quantize(model, work, alpha, ranges, searching=searching)
    sweep(model)
    path = work.scratch / "trial.onnx"
    save(model, path)
    return work.calibration.damage(work.graph.path, path)


def _quantize(model: ir.Model, work: _Work, alpha: str, ranges: str, searching: bool = False) -> None:
    """Brings a model that was just loaded to INT8 by one smoothing and one range method; ``searching`` looks at a part of the rows."""
    settings, calibration = work.settings, work.calibration
    skip = in_float(model.graph, settings)
    key = f"{work.graph.path} {'some' if searching else 'all'}"
    if alpha != "off":
        # What was kept in float before must not change how the rest is smoothed, so the key says which layers are.
        fold(
            model.graph,
            calibration.measure(model, work.progress, key=f"{key} off", searching=searching),
            float(alpha),
            skip,
        )
        sweep(model)
        key += f" {sorted(skip)}"
    histograms = calibration.measure(model, work.progress, key=f"{key} {alpha}", searching=searching)
    thresholds = {name: METHODS[ranges](histogram) for name, histogram in histograms.items()}
    if settings.bias_correction:
        correct_biases(model, thresholds, calibration, levels(settings), skip, work.progress)
    insert_pairs(model.graph, thresholds, levels(settings), skip)


def correct_biases(
    model: ir.Model,
    thresholds: dict[str, float],
    calibration: Calibration,
    steps: int,
    skip: set[str],
    progress: Progress,
) -> None:
    """Takes the mean error of each quantized layer out of its bias, in place.

    Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    arXiv 1906.04721, section 4.2, in its empirical form: the error of a layer on its float input, so that layers are
    corrected each for itself in one pass.
    """
    plain: dict[str, np.ndarray] = {}
    rounded: dict[str, np.ndarray] = {}
    seen: dict[str, int] = {}

    def see(name: str, values: np.ndarray) -> None:
        rows = values.reshape(-1, values.shape[-1])
        step = max(thresholds[name], 1e-6) / LEVELS
        plain[name] = plain.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
        rounded[name] = rounded.get(name, 0.0) + (np.clip(np.rint(rows / step), -LEVELS - 1, LEVELS) * step).sum(
            axis=0, dtype=np.float64
        )
        seen[name] = seen.get(name, 0) + len(rows)

    calibration.visit(model, see, progress)
    for layer in linears(model.graph):
        name, weight, bias = layer.x.name or "", constant(layer.weight), constant(layer.bias)
        if layer.name in skip or weight is None or bias is None or name not in seen:
            continue
        values, scales = per_channel(weight, steps)
        error = (rounded[name] @ (values * scales.astype(np.float64)) - plain[name] @ weight.astype(np.float64)) / seen[
            name
        ]
        corrected = initializer(model.graph, f"{layer.bias.name}_corrected", (bias - error).astype(np.float32))  # type: ignore[union-attr]
        layer.last.replace_input_with(1 if layer.last.inputs[1] is layer.bias else 0, corrected)


def insert_pairs(
    graph: ir.Graph, thresholds: dict[str, float], steps: int = LEVELS, skip: set[str] | frozenset[str] = frozenset()
) -> int:
    """Puts Q/DQ in front of both inputs of every linear that has a threshold; returns how many linears.

    Args:
        graph: changed in place.
        thresholds: largest value that an activation's INT8 stands for, by the activation's name.
        steps: of a weight to each side of zero.
        skip: names of layers that stay in float.
    """
    zero = np.array(0, np.int8)
    pairs: dict[str, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    count = 0
    for layer in linears(graph):
        x, name = layer.x, layer.x.name or ""
        if name not in thresholds or layer.name in skip:
            continue
        if name not in pairs:
            # A tensor that was zero throughout still needs a positive scale.
            step = np.array(max(thresholds[name], 1e-6) / LEVELS, np.float32)
            scale, point = initializer(graph, f"{name}_scale", step), initializer(graph, f"{name}_zero_point", zero)
            quantized = ir.node("QuantizeLinear", [x, scale, point], name=f"{name}/QuantizeLinear")
            back = ir.node("DequantizeLinear", [quantized.outputs[0], scale, point], name=f"{name}/DequantizeLinear")
            back.outputs[0].type, back.outputs[0].shape = x.type, x.shape
            graph.insert_before(layer.node, [quantized, back])
            pairs[name] = back.outputs[0]
        layer.node.replace_input_with(0, pairs[name])
        if layer.weight not in weights:  # layers that share a weight (ALBERT) share its INT8 form
            weights[layer.weight] = restored(graph, layer, steps)
        layer.node.replace_input_with(1, weights[layer.weight])
        count += 1
    return count
