"""The steps that make graphs of a model: trim its vocabulary, export it, quantize it, take layers back to float."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import quantize, source
from edgekit.cache.store import key
from edgekit.compress.vocabulary import trimmed
from edgekit.export.graphs import export
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import check_layers
from edgekit.quantize.sensitivity import revert
from edgekit.samples import Samples
from edgekit.search.checks import accuracy_backend
from edgekit.search.context import BuildContext
from edgekit.search.stand_in import run_graph
from edgekit.search.step_cache import StepCache, read_graphs, write_graphs
from edgekit.source import Source
from edgekit.spec.digests import files_below, sha256
from edgekit.spec.graph import GraphSet
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.quantization import Quantization

__all__ = ["Reverted", "export_model", "quantize_graphs", "revert_layers", "trim_vocabulary"]

_LOG = logging.getLogger(__name__)

_RANKING = "sensitivity.json"


@dataclass(frozen=True)
class Reverted:
    """Graphs with the fewest layers in float that hold the accuracy budget.

    Attributes:
        graphs: None where not even all but one layer in float would hold it.
        ranking: layer to the damage that quantizing it alone does.
    """

    graphs: GraphSet | None
    ranking: Mapping[str, float]


def export_model(cache: StepCache, model: Source, calibration: Samples) -> GraphSet:
    """The float32 graphs of a model or of a student, compared with torch on the calibration inputs."""
    parts = {"step": "export", "model": model.digest, "samples": calibration.digest}
    cache.progress("export", 0, 0)
    graphs = cache.graphs("export", parts, lambda out: export(model, out, calibration.inputs))
    # The same files may have had another name when they were exported.
    return replace(graphs, provenance={**graphs.provenance, "model": model.model_id, "revision": model.revision})


def trim_vocabulary(
    cache: StepCache, model: Source, samples: Sequence[Samples], tokens: Sequence[str] | None, evaluation: Samples
) -> tuple[Source, str]:
    """The model or a student with the tokens of the samples, or of a list, alone; and what that came to, in two sentences."""
    listed = None if tokens is None else key(tokens=list(tokens))
    parts = {
        "step": "vocabulary",
        "model": model.digest,
        "samples": [s.digest for s in samples],
        "tokens": listed,
        "eval": evaluation.digest,
    }
    texts = [text for file in samples for text in file.inputs]

    def make(folder: Path) -> tuple[Source, str]:
        summary = trimmed(model, texts, tokens, evaluation.inputs, folder / "model", cache.progress).text()
        (folder / "summary.txt").write_text(summary, "utf-8")
        return read(folder)

    def read(folder: Path) -> tuple[Source, str]:
        return source.read(folder / "model"), (folder / "summary.txt").read_text("utf-8")

    smaller, summary = cache.get("vocabulary", parts, make, read, names_files=True)
    smaller.model_id, smaller.revision = model.model_id, model.revision
    return smaller, summary


def quantize_graphs(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> GraphSet:
    """The graphs by one method. The graphs of ``float32`` are those of the export."""
    if method == "float32":
        return float_graphs
    check_layers(float_graphs, settings)
    parts = _made_from(ctx, method, float_graphs, settings, calibration)
    graphs = ctx.cache.graphs(
        method,
        parts,
        lambda out: quantize.get(method).quantize(float_graphs, calibration, settings, out, ctx.cache.progress),
    )
    _LOG.info("quantized by '%s'%s", method, f": {dict(graphs.recipe)}" if graphs.recipe else "")
    return replace(graphs, assets=float_graphs.assets, provenance=float_graphs.provenance)


def revert_layers(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> Reverted:
    """The graphs with the fewest layers in float that hold the accuracy budget on the evaluation rows.

    Args:
        ctx: the build, with the evaluation rows as the model preprocesses them.
        method: by which the rest is quantized.
        float_graphs: graphs of the export, with what was chosen for all layers in INT8 as their recipes.
        settings: quantization of the target.
        calibration: feeds of the calibration rows.
    """
    backend = list(accuracy_backend(method, ctx.target))
    budget = [ctx.accuracy_limit, ctx.strict, backend, ctx.evaluation.samples.digest]
    parts = _made_from(ctx, method, float_graphs, settings, calibration) | {"revert": budget}
    if ctx.evaluation.metric is not None:
        parts["model"] = (
            None  # A metric of the user has no digest, so what is chosen by it is not taken from an earlier build.
        )

    def good(graphs: GraphSet) -> bool:
        return ctx.holds_budget(run_graph(ctx, graphs))

    def make(out: Path) -> Reverted:
        result = revert(quantize.get(method), float_graphs, calibration, settings, good, out, ctx.cache.progress)
        graphs, layers = result if result is not None else (None, [])
        ranking = {layer.layer: layer.damage for layer in layers}
        (out / _RANKING).write_text(to_json(ranking), "utf-8")
        if graphs is not None:
            write_graphs(out, graphs)
        return Reverted(graphs, ranking)

    def read(folder: Path) -> Reverted:
        ranking: dict[str, float] = json.loads((folder / _RANKING).read_text("utf-8"))
        return Reverted(read_graphs(folder) if ranking else None, ranking)

    reverted = ctx.cache.get(f"{method}, layers in float", parts, make, read, names_files=True)
    _LOG.info(
        "layers of '%s' in float: %s",
        method,
        "none hold the budget" if reverted.graphs is None else dict(reverted.graphs.recipe),
    )
    if reverted.graphs is None:
        return reverted
    graphs = replace(reverted.graphs, assets=float_graphs.assets, provenance=float_graphs.provenance)
    return replace(reverted, graphs=graphs)


def _made_from(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> dict[str, Any]:
    """What quantized graphs depend on. The assets decide what arrays the samples become."""
    guarded = "float16" in quantize.get(method).PRECISIONS
    return {
        "step": method,
        "graphs": [sha256(graph.path) for graph in float_graphs.graphs],
        "assets": [[name, sha256(float_graphs.assets / name)] for name in files_below(float_graphs.assets)],
        "samples": ctx.calibration.digest,
        "guard": calibration.guard_digest if guarded else "",
        "settings": plain(settings),
        "model": ctx.model_digest,
    }
