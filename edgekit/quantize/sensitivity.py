"""Sensitivity ranking and partial quantization: return the fewest layers to float that restore the accuracy.

Every layer is quantized alone and ranked by the damage to the outputs on the calibration set (KL divergence; no labels
needed). Layers are then kept in float from the top of the ranking until the caller accepts the result. This is "partial
quantization" of Wu, Judd, Zhang, Isaev and Micikevicius, arXiv 2004.09602, section 6.3. NNCF's accuracy control follows
the same idea with the labelled metric, at a multiple of the cost.

Layers of a method with weights of 4 bits are kept in INT8 instead (:func:`edgekit.quantize.reverts_to`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.quantize import Method, reverts_to
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import float_layer_names, layer_names, linears, load
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress, silent
from edgekit.spec.quantization import Quantization

__all__ = ["Sensitivity", "rank", "revert"]


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of one layer.

    Attributes:
        layer: Layer name, as in ``keep_float``.
        damage: Divergence of the outputs when only this layer is quantized; 0 if nothing changes.
    """

    layer: str
    damage: float


def rank(
    method: Method, graphs: GraphSet, calibration: Calibration, settings: Quantization, progress: Progress
) -> list[Sensitivity]:
    """Rank the layers of all graphs, the most sensitive first.

    Args:
        method: Quantization method.
        graphs: Float32 graphs. ``ranges`` and ``smooth`` in the recipe of a graph are used for its layers. If neither
            the recipe nor the settings fix them, they are searched again for every layer.
        calibration: Feeds of every graph. The damage of a layer is that to the outputs of its graph. The guard feeds
            are not run.
        settings: Quantization settings; embeddings stay in float for the ranking.
        progress: Progress callback, called after each layer.
    """
    calibration = calibration.unguarded()
    setting = reverts_to(method)
    trials = []
    for graph in graphs.graphs:
        model = load(graph.path).graph
        names = [layer.name for layer in linears(model)]
        skipped_layers = float_layer_names(model, settings) | layer_names(model, getattr(settings, setting))
        for name in dict.fromkeys(names):
            if name not in skipped_layers:
                trials.append((graph, name, set(names) - {name}))
    damages: dict[str, float] = {}
    for index, (graph, name, others) in enumerate(trials):
        # ``keep_float`` takes patterns. Layer names contain no brackets, so each name matches itself.
        alone = replace(
            settings, keep_float=tuple(sorted(others)), keep_int8=(), embeddings="float32", bias_correction=False
        )
        with tempfile.TemporaryDirectory() as folder:
            one_graph = replace(graphs, graphs=(graph,))
            (quantized,) = _quantize(method, one_graph, calibration, alone, Path(folder)).graphs
            damage = calibration.of(graph.signature.name).damage(graph.path, quantized.path)
        # If two graphs have a layer of this name, both layers stay in float together.
        damages[name] = max(damage, damages.get(name, damage))
        progress("rank layers", index + 1, len(trials))
    ordered = sorted(damages.items(), key=lambda item: (-item[1], item[0]))
    return [Sensitivity(name, damage) for name, damage in ordered]


def _quantize(
    method: Method, graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path
) -> GraphSet:
    """Quantize each graph with the ranges and the smoothing of its recipe."""
    quantized: list[Graph] = []
    for graph in graphs.graphs:
        graph_settings = replace(
            settings,
            ranges=graph.recipe.get("ranges", settings.ranges),
            smooth=graph.recipe.get("smooth", settings.smooth),
        )
        one_graph = replace(graphs, graphs=(graph,))
        quantized += method.quantize(one_graph, calibration, graph_settings, out, silent).graphs
    return replace(graphs, graphs=tuple(quantized))


def revert(
    method: Method,
    graphs: GraphSet,
    calibration: Calibration,
    settings: Quantization,
    good: Callable[[GraphSet], bool],
    out: Path,
    progress: Progress,
) -> tuple[GraphSet, list[Sensitivity]] | None:
    """Quantize with the fewest layers in float, from the top of the ranking, that the caller accepts.

    A method with weights of 4 bits keeps them in INT8 instead. The number of layers is doubled until the result is
    accepted, then found by bisection. This assumes that more such layers are never worse.

    Args:
        method: Quantization method that supports ``keep_float``.
        graphs: Float32 graphs; their recipes have the ranges and smoothing chosen with all layers in INT8.
        calibration: Feeds of every graph.
        settings: Quantization settings of the target, which ``good`` rejects.
        good: Function that accepts or rejects quantized graphs.
        out: Empty folder for the accepted graphs.
        progress: Progress callback, called after each layer and each trial.

    Returns:
        The accepted graphs and the ranking; None if no trial with at least one layer as the method has it is accepted.
    """
    setting = reverts_to(method)
    ranking = rank(method, graphs, calibration, settings, progress)
    with tempfile.TemporaryDirectory() as scratch:
        trials: dict[int, GraphSet | None] = {}

        def fits(count: int) -> bool:
            folder = Path(scratch) / str(count)
            folder.mkdir()
            reverted_layers = {*getattr(settings, setting), *(sensitivity.layer for sensitivity in ranking[:count])}
            change: dict[str, Any] = {setting: tuple(sorted(reverted_layers))}
            trial_settings = replace(settings, **change)
            quantized = _quantize(method, graphs, calibration, trial_settings, folder)
            trials[count] = quantized if good(quantized) else None
            progress("revert layers", len(trials), 0)
            return trials[count] is not None

        low = 0  # The largest count that is known to be rejected.
        high = 1
        while high < len(ranking) and not fits(high):
            low = high
            high *= 2
        if high >= len(ranking):
            high = len(ranking) - 1
            if high <= low or not fits(high):
                return None
        while high - low > 1:
            middle = (low + high) // 2
            if fits(middle):
                high = middle
            else:
                low = middle
        accepted = trials[high]
        assert accepted is not None
        shutil.copytree(Path(scratch) / str(high), out, dirs_exist_ok=True)
    moved = tuple(replace(graph, path=out / graph.path.name) for graph in accepted.graphs)
    return replace(accepted, graphs=moved), ranking
