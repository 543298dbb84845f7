"""Build steps that make graphs of a model: trim its vocabulary, export it, quantize it, revert layers to float."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import quantize, source
from edgekit.cache.store import key
from edgekit.compress.vocabulary import trim_source
from edgekit.export.graphs import export
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import check_layers
from edgekit.quantize.litert import convert
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

__all__ = ["Reverted", "convert_graphs", "export_model", "quantize_graphs", "revert_layers", "trim_vocabulary"]

_LOG = logging.getLogger(__name__)

_RANKING = "sensitivity.json"


@dataclass(frozen=True)
class Reverted:
    """Graphs with the fewest layers in float that meet the accuracy budget.

    Attributes:
        graphs: Graphs; None if the budget is missed even with all but one layer in float.
        ranking: Damage of quantizing a layer alone, by layer name.
    """

    graphs: GraphSet | None
    ranking: Mapping[str, float]


def export_model(cache: StepCache, model: Source, calibration: Samples) -> GraphSet:
    """Export a model or a student to float32 graphs, and compare them with torch on the calibration inputs.

    Args:
        cache: Cache of step results.
        model: Model to export.
        calibration: Calibration rows.
    """
    parts = {"step": "export", "model": model.digest, "samples": calibration.digest}
    cache.progress("export", 0, 0)
    graphs = cache.graphs("export", parts, lambda out: export(model, out, calibration.inputs))
    # A cached export may be of the same files under another name.
    return replace(graphs, provenance={**graphs.provenance, "model": model.model_id, "revision": model.revision})


def trim_vocabulary(
    cache: StepCache, model: Source, samples: Sequence[Samples], tokens: Sequence[str] | None, evaluation: Samples
) -> tuple[Source, str]:
    """Reduce the vocabulary of a model or a student to the tokens of the samples, or to a list of tokens.

    Args:
        cache: Cache of step results.
        model: Model to trim.
        samples: Sample files whose tokens stay.
        tokens: Tokens that stay in addition; None without a list.
        evaluation: Labelled rows, in which the summary counts the effect.

    Returns:
        The smaller model, and a summary in two sentences.
    """
    token_digest = None if tokens is None else key(tokens=list(tokens))
    parts = {
        "step": "vocabulary",
        "model": model.digest,
        "samples": [s.digest for s in samples],
        "tokens": token_digest,
        "eval": evaluation.digest,
    }
    texts = [text for file in samples for text in file.inputs]

    def make(folder: Path) -> tuple[Source, str]:
        summary = trim_source(model, texts, tokens, evaluation.inputs, folder / "model", cache.progress).text()
        (folder / "summary.txt").write_text(summary, "utf-8")
        return read(folder)

    def read(folder: Path) -> tuple[Source, str]:
        return source.read(folder / "model"), (folder / "summary.txt").read_text("utf-8")

    smaller, summary = cache.get("vocabulary", parts, make, read, names_files=True)
    smaller.model_id = model.model_id
    smaller.revision = model.revision
    return smaller, summary


def quantize_graphs(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> GraphSet:
    """Quantize graphs with a method. The method ``float32`` returns the exported graphs.

    Args:
        ctx: Build.
        method: Name of the quantization method.
        float_graphs: Float32 graphs of the export.
        settings: Quantization settings of the target.
        calibration: Feeds of the calibration rows.
    """
    if method == "float32":
        return float_graphs
    check_layers(float_graphs, settings)
    parts = _key_parts(ctx, method, float_graphs, settings, calibration)
    graphs = ctx.cache.graphs(
        method,
        parts,
        lambda out: quantize.get(method).quantize(float_graphs, calibration, settings, out, ctx.cache.progress),
    )
    _LOG.info("quantized by '%s'%s", method, f": {dict(graphs.recipe)}" if graphs.recipe else "")
    return replace(graphs, assets=float_graphs.assets, provenance=float_graphs.provenance)


def convert_graphs(ctx: BuildContext, graphs: GraphSet) -> GraphSet:
    """Return graphs in the format of LiteRT.

    They take one row a call where the target wants the shortest time for a text, so that changes of shape stay inside
    XNNPACK, and any number of rows where it wants the most texts per second.

    Args:
        ctx: Build.
        graphs: ONNX graphs of any method.

    Raises:
        QuantizeError: The graphs have an operator that LiteRT graphs cannot hold.
    """
    method = graphs.graphs[0].method
    batch = 1 if ctx.target.use == "latency" else None
    digests = [sha256(graph.path) for graph in graphs.graphs]
    signatures = [plain(graph.signature) for graph in graphs.graphs]
    parts = {
        "step": "convert",
        "graphs": digests,
        "signatures": signatures,
        "batch": batch,
        "model": ctx.model_digest,
    }
    converted = ctx.cache.graphs(f"{method} for LiteRT", parts, lambda out: convert(graphs, out, batch))
    return replace(converted, assets=graphs.assets, provenance=graphs.provenance)


def revert_layers(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> Reverted:
    """Quantize graphs with the fewest layers in float that meet the accuracy budget on the evaluation rows.

    Args:
        ctx: Build, whose evaluation rows have the preprocessing of the model.
        method: Name of the quantization method for the other layers.
        float_graphs: Float32 graphs of the export, with the settings of the fully quantized graphs as their recipes.
        settings: Quantization settings of the target.
        calibration: Feeds of the calibration rows.
    """
    backend = list(accuracy_backend(method, ctx.target))
    budget = [ctx.accuracy_limit, ctx.strict, backend, ctx.evaluation.samples.digest]
    parts = _key_parts(ctx, method, float_graphs, settings, calibration) | {"revert": budget}
    if ctx.evaluation.metric is not None:
        # A user metric has no digest, so results that depend on it are not reused from an earlier build.
        parts["model"] = None

    def holds_budget(graphs: GraphSet) -> bool:
        return ctx.holds_budget(run_graph(ctx, graphs))

    def make(out: Path) -> Reverted:
        result = revert(
            quantize.get(method), float_graphs, calibration, settings, holds_budget, out, ctx.cache.progress
        )
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


def _key_parts(
    ctx: BuildContext, method: str, float_graphs: GraphSet, settings: Quantization, calibration: Calibration
) -> dict[str, Any]:
    """Return all inputs of a quantization, as parts of its cache key.

    The assets are among them because they decide how samples are converted to arrays.
    """
    guarded = "float16" in quantize.get(method).PRECISIONS
    graph_digests = [sha256(graph.path) for graph in float_graphs.graphs]
    asset_digests = [[name, sha256(float_graphs.assets / name)] for name in files_below(float_graphs.assets)]
    return {
        "step": method,
        "graphs": graph_digests,
        "assets": asset_digests,
        "samples": ctx.calibration.digest,
        "guard": calibration.guard_digest if guarded else "",
        "settings": plain(settings),
        "model": ctx.model_digest,
    }
