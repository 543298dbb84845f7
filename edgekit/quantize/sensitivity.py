"""Which layers INT8 hurts, and the fewest to take back: "rank and revert".

Every layer is quantized alone, and ranked by the damage that this does to the outputs on the calibration set (KL
divergence; labels are not needed). Layers are then taken back to float from the top of that list until the caller says
that the result is good enough. Wu, Judd, Zhang, Isaev and Micikevicius, arXiv 2004.09602, section 6.3, do it so ("partial
quantization"). NNCF's accuracy control ranks by the same idea with the labelled metric, at a multiple of the cost.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.quantize import Method
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import in_float, linears, load
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress, silent
from edgekit.spec.quantization import Quantization

__all__ = ["Sensitivity", "rank", "revert"]


@dataclass(frozen=True)
class Sensitivity:
    """One layer.

    Attributes:
        layer: its name, as ``keep_float`` takes it.
        damage: divergence of the outputs when it alone is quantized; 0 where nothing changes.
    """

    layer: str
    damage: float


def rank(
    method: Method, graphs: GraphSet, calibration: Calibration, settings: Quantization, progress: Progress
) -> list[Sensitivity]:
    """Ranks the layers of all graphs, the most sensitive first.

    Args:
        method: by which a layer is quantized.
        graphs: float32 graphs. A recipe of one says which ``ranges`` and ``smooth`` were chosen for it; where neither that nor the settings say them they
            are searched anew for every layer.
        calibration: feeds of every graph; a layer's damage is that to the outputs of its own graph. No guard's feeds are run for it.
        settings: embeddings stay in float here.
        progress: told after each layer.
    """
    layers, calibration = [], calibration.unguarded()
    for graph in graphs.graphs:
        model = load(graph.path).graph
        names, kept = [layer.name for layer in linears(model)], in_float(model, settings)
        layers += [(graph, name, {*names} - {name}) for name in dict.fromkeys(names) if name not in kept]
    damages: dict[str, float] = {}
    for index, (graph, name, others) in enumerate(layers):
        # Names may hold characters that mean something in patterns; none of them is a bracket.
        alone = replace(settings, keep_float=tuple(sorted(others)), embeddings="float32", bias_correction=False)
        with tempfile.TemporaryDirectory() as folder:
            (made,) = _quantize(method, replace(graphs, graphs=(graph,)), calibration, alone, Path(folder)).graphs
            damage = calibration.of(graph.signature.name).damage(graph.path, made.path)
        damages[name] = max(
            damage, damages.get(name, damage)
        )  # of two graphs with a layer of this name both stay in float
        progress("rank layers", index + 1, len(layers))
    return [Sensitivity(name, damage) for name, damage in sorted(damages.items(), key=lambda item: (-item[1], item[0]))]


def _quantize(
    method: Method, graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path
) -> GraphSet:
    """Quantizes each graph with the ranges and the smoothing that were chosen for it."""
    made: list[Graph] = []
    for graph in graphs.graphs:
        chosen = replace(
            settings,
            ranges=graph.recipe.get("ranges", settings.ranges),
            smooth=graph.recipe.get("smooth", settings.smooth),
        )
        made += method.quantize(replace(graphs, graphs=(graph,)), calibration, chosen, out, silent).graphs
    return replace(graphs, graphs=tuple(made))


def revert(
    method: Method,
    graphs: GraphSet,
    calibration: Calibration,
    settings: Quantization,
    good: Callable[[GraphSet], bool],
    out: Path,
    progress: Progress,
) -> tuple[GraphSet, list[Sensitivity]] | None:
    """Quantizes with the fewest layers in float, from the top of the ranking, that are good enough.

    The count is doubled until it is enough, then halved in: more layers in float are taken to be better.

    Args:
        method: a method that reads ``keep_float``.
        graphs: float32 graphs, with what was chosen for all layers in INT8 as their recipes.
        calibration: feeds of every graph.
        settings: of the target.
        good: says of quantized graphs whether they hold the budget; ``settings`` as they are do not.
        out: folder for the graphs; must be empty.
        progress: told after each layer and each try.

    Returns:
        The graphs and the ranking, or None where only all layers in float would be good, or not even that.
    """
    ranking = rank(method, graphs, calibration, settings, progress)
    with tempfile.TemporaryDirectory() as scratch:
        tries: dict[int, GraphSet | None] = {}

        def fits(count: int) -> bool:
            place = Path(scratch) / str(count)
            place.mkdir()
            kept = tuple(sorted({*settings.keep_float, *(s.layer for s in ranking[:count])}))
            made = _quantize(method, graphs, calibration, replace(settings, keep_float=kept), place)
            tries[count] = made if good(made) else None
            progress("revert layers", len(tries), 0)
            return tries[count] is not None

        low, high = 0, 1  # low does not fit
        while high < len(ranking) and not fits(high):
            low, high = high, high * 2
        if high >= len(ranking):
            high = len(ranking) - 1
            if high <= low or not fits(high):
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        chosen = tries[high]
        assert chosen is not None
        shutil.copytree(Path(scratch) / str(high), out, dirs_exist_ok=True)
    moved = tuple(replace(g, path=out / g.path.name) for g in chosen.graphs)
    return replace(chosen, graphs=moved), ranking
