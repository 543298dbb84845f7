"""The models of a build, the model itself and its students, and the candidates that are made of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit import backends, quantize, tasks
from edgekit.bundle import assemble
from edgekit.machine.cpu import cpus
from edgekit.quantize.calibration import Calibration, squared_error
from edgekit.runtime import loops
from edgekit.runtime.loops import single
from edgekit.search import stand_in
from edgekit.search.checks import FULL_RANGE, STAND_IN
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.graphs import export_model, quantize_graphs, revert_layers, trim_vocabulary
from edgekit.search.record import Candidate
from edgekit.search.stand_in import graph_outputs
from edgekit.source import Source
from edgekit.spec.graph import GraphSet
from edgekit.spec.manifest import FORMAT, MAX_TOKENS, Manifest, Variant
from edgekit.spec.protocols import Arrays, Task
from edgekit.spec.target import Target

if TYPE_CHECKING:
    from edgekit.search.request import BuildRequest, BuildSamples

__all__ = [
    "ModelEntry",
    "Models",
    "make_calibration",
    "make_candidate",
    "make_candidates",
    "make_models",
    "prepare_model",
]

_LOG = logging.getLogger(__name__)

_CALIBRATION_BATCH = 4


@dataclass(frozen=True)
class ModelEntry:
    """A model that competes, with what its own preprocessing makes of the samples.

    Attributes:
        name: name of the student in tables; empty for the model itself.
        float_graphs: graphs of its export.
        evaluation: evaluation rows, with its own task.
        calibration: feeds of the calibration rows.
        sizes: size of each calibration row, e.g. in tokens.
        linear_macs: multiply-accumulates of one token in its linear layers.
        manifest_template: what the manifests of its candidates have in common.
    """

    name: str
    float_graphs: GraphSet
    evaluation: EvaluationSet
    calibration: Calibration
    sizes: Sequence[int]
    linear_macs: int
    manifest_template: Manifest


@dataclass(frozen=True)
class Models:
    """Models that compete.

    Attributes:
        sources: name of the student to its model; the model itself first, without a name.
        trimmed: name of the student to what was left out of its vocabulary, in two sentences.
    """

    sources: dict[str, Source]
    trimmed: dict[str, str] = field(default_factory=dict)


def make_models(ctx: BuildContext, model: Source, request: BuildRequest, files: BuildSamples) -> Models:
    """Trains students and trims vocabularies, or finds them in the cache.

    Raises:
        EdgekitError: a subclass says which of samples, tokens or training is at fault.
    """
    if request.tokens is not None:
        # A list that cannot be is refused before a student is trained.
        trim_vocabulary(ctx.cache, model, files.vocabulary, request.tokens, files.evaluation)
    for student in request.students:
        student.check(
            model, [file for file in (files.whole, files.evaluation, files.test, *files.training) if file is not None]
        )
    models = Models({"": model})
    if request.students:
        from edgekit.search.pruning import clock  # a build without students needs no clock, and none of pruning

        latency = clock(ctx)
        for student in request.students:
            models.sources[student.name] = student.make(
                model, files.training, files.evaluation, latency, ctx.cache.progress, ctx.cache.cache
            )
    for name, source in models.sources.items() if request.options.vocabulary is not None else ():
        models.sources[name], models.trimmed[name] = trim_vocabulary(
            ctx.cache, source, files.vocabulary, request.tokens, files.evaluation
        )
    return models


def prepare_model(ctx: BuildContext, name: str, model: Source) -> ModelEntry:
    """Exports a model, or a student of it, and preprocesses the samples as it does.

    Args:
        ctx: the build.
        name: name of the student; empty for the model itself.
        model: torch model; its memory is let go.
    """
    float_graphs = export_model(ctx.cache, model, ctx.calibration)
    model.release()
    task: Task = tasks.get(float_graphs.task).load(float_graphs.assets)
    rows = [encoded.arrays for encoded in task.preprocess(ctx.calibration.inputs)]
    sizes = [task.modality.size(row) for row in rows]
    inputs = ctx.evaluation.inputs
    halves = any("float16" in quantize.get(method).PRECISIONS for method in ctx.target.methods)
    long = (
        stand_in.long_rows(task, inputs, stand_in.longest(ctx.target, float_graphs.signature, task.max_size))
        if halves
        else []
    )

    def guard() -> Iterator[Sequence[Arrays]]:
        for start in range(0, len(inputs) if halves else 0, _CALIBRATION_BATCH):
            yield [encoded.arrays for encoded in task.preprocess(inputs[start : start + _CALIBRATION_BATCH])]
        yield from ([row] for row in long)

    _LOG.info("calibration of %s: %d rows, sizes %d to %d", name or "the model", len(rows), min(sizes), max(sizes))
    calibration = make_calibration(ctx, float_graphs, task, _in_calls(rows), guard)
    evaluation, macs = ctx.evaluation.with_task(task), quantize.linear_macs(float_graphs)
    return ModelEntry(name, float_graphs, evaluation, calibration, sizes, macs, _manifest_template(ctx, float_graphs))


def _in_calls(rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """A few rows each in the order of the file, so that short rows are padded as in use."""
    return [rows[start : start + _CALIBRATION_BATCH] for start in range(0, len(rows), _CALIBRATION_BATCH)]


def make_calibration(
    ctx: BuildContext,
    float_graphs: GraphSet,
    task: Task,
    calls: Sequence[Sequence[Arrays]],
    guard: Callable[[], Iterable[Sequence[Arrays]]],
) -> Calibration:
    """Feeds of every graph, as the loop brings them about; of one graph its outputs are judged by the task, of several each by its own outputs.

    Args:
        ctx: the build.
        float_graphs: graphs of the export, which are run where feeds of one are outputs of another, or of an earlier call.
        task: of the model.
        calls: calibration rows of each call.
        guard: gives the rows of each call that no 16-bit type may overflow on.
    """
    signatures = [graph.signature for graph in float_graphs.graphs]
    if len(signatures) == 1:  # a loop may read a row in parts; outputs are taken apart by what shared a call
        loop = loops.get(float_graphs.loop)
        calls = [part for rows in calls for part in loop.calls({signatures[0].name: signatures[0]}, rows)]
    first, feeds = signatures[0].name, dict[str, list[dict[str, np.ndarray]]]()
    for recorded in _record(ctx, float_graphs, calls):
        for name, batches in recorded.items():
            feeds.setdefault(name, []).extend(batches)

    def guarded(name: str) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        return lambda: (batch for recorded in _record(ctx, float_graphs, guard()) for batch in recorded[name])

    if len(signatures) > 1:
        each = {s.name: Calibration(feeds[s.name], squared_error, guarded(s.name)) for s in signatures}
        return Calibration(feeds[first], squared_error, guarded(first), graphs=each)

    def divergence(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
        return float(task.divergence(outputs, reference).mean())

    def split(batch: int, outputs: Mapping[str, np.ndarray]) -> list[Arrays]:
        return single.split(signatures[0], calls[batch], outputs)

    return Calibration(feeds[first], divergence, guarded(first), split)


def _record(
    ctx: BuildContext, float_graphs: GraphSet, calls: Iterable[Sequence[Arrays]]
) -> Iterator[Mapping[str, list[dict[str, np.ndarray]]]]:
    """Signature name to the feeds of its graph, call by call."""
    signatures = [graph.signature for graph in float_graphs.graphs]
    if len(signatures) == 1 and not signatures[0].state:  # its feeds are made of rows alone
        record = loops.get(float_graphs.loop).record
        yield from (record({}, {signatures[0].name: signatures[0]}, rows) for rows in calls)
        return
    paths = {graph.signature.name: graph.path for graph in float_graphs.graphs}
    with stand_in.open_graphs(
        paths, signatures, STAND_IN, "cpu", ctx.cache.scratch, threads=cpus(), loop=float_graphs.loop
    ) as runner:
        yield from map(runner.record, calls)


def make_candidates(ctx: BuildContext, model: ModelEntry, method: str) -> list[Candidate]:
    """The model by one method on each of the target's backends that runs it; where all layers in INT8 lose too much, also with fewer layers quantized."""
    runs_on = [backend for backend in ctx.target.backends if backend in quantize.get(method).BACKENDS]
    if not runs_on:
        return []
    own = replace(ctx, evaluation=model.evaluation)
    graphs = quantize_graphs(own, method, model.float_graphs, ctx.target.quantize, model.calibration)
    candidates = _on_each(ctx, model, graphs, runs_on)
    if method == "float32" or own.accuracy_limit is None or own.holds_budget(graph_outputs(own, graphs)):
        return candidates
    if ctx.late:
        ctx.note(f"The time allowed was used up: layers of '{method}' in float were not searched.")
        return candidates
    # Ranges and smoothing stay as they were chosen. Both forms race, so that the table shows what the layers in float cost.
    floats = [
        replace(graph, recipe=made.recipe) for graph, made in zip(model.float_graphs.graphs, graphs.graphs, strict=True)
    ]
    reverted = revert_layers(
        own, method, replace(model.float_graphs, graphs=tuple(floats)), ctx.target.quantize, model.calibration
    )
    if reverted.graphs is None:
        whose = f" of the student {model.name}" if model.name else ""
        ctx.note(f"No number of layers in float brings '{method}'{whose} inside the accuracy budget.")
        return candidates
    return candidates + [
        replace(c, sensitivity=reverted.ranking) for c in _on_each(ctx, model, reverted.graphs, runs_on)
    ]


def make_candidate(ctx: BuildContext, model: ModelEntry, method: str, backend: str) -> Candidate | None:
    """The model by one method on one backend, with all layers that the target quantizes; None where they do not go together."""
    if backend not in quantize.get(method).BACKENDS or backends.installed_version(backend) is None:
        return None
    graphs = quantize_graphs(ctx, method, model.float_graphs, ctx.target.quantize, model.calibration)
    return _on_each(ctx, model, graphs, [backend])[0]


def _on_each(ctx: BuildContext, model: ModelEntry, graphs: GraphSet, runs_on: Sequence[str]) -> list[Candidate]:
    """One bundle in the scratch folder, complete but for its golden outputs, and a way to run it on each backend."""
    method = graphs.graphs[0].method
    variants = [_variant(ctx, model, graphs, backend) for backend in runs_on]
    manifest = replace(model.manifest_template, variants=tuple(variants))
    bundle = assemble.write(
        _free_folder(ctx.cache.scratch, method), manifest, assemble.graph_files(graphs), scratch=True
    )
    return [Candidate(bundle, variant, model.name) for variant in variants]


def _free_folder(scratch: Path, method: str) -> Path:
    return scratch / f"{method}-{len(list(scratch.glob(f'{method}-*')))}"


def _variant(ctx: BuildContext, model: ModelEntry, graphs: GraphSet, backend: str) -> Variant:
    target, tools, how = ctx.target, ctx.cache.tools, backends.get(backend)
    signature, task = graphs.signature, model.evaluation.task
    # An engine's memory is that of its profiles, whatever a call holds.
    engine, max_tokens = None, MAX_TOKENS
    if how.ENGINES:
        bounds = {axis: task.max_size for axis in signature.varying[:1]} | {"batch": target.max_batch}
        engine, max_tokens = target.engine and target.engine.clamp_profiles(bounds, {"batch", *signature.varying}), 0
    return Variant(
        backend=backend,
        method=graphs.graphs[0].method,
        graphs={g.signature.name: f"graphs/{g.path.name}" for g in graphs.graphs},
        device=target.device,
        threads=target.threads or cpus(),
        executed="not measured",
        requires=_requires(graphs.graphs[0].method, target),
        versions={name: tools[name] for name in (*how.PACKAGES, "numpy", "tokenizers") if name in tools},
        recipe=graphs.recipe,
        shapes=(target.shapes or ()) if how.STATIC_SHAPES else (),
        linear_macs=model.linear_macs,
        engine=engine,
        rows=quantize.rows_of(graphs),
        max_tokens=max_tokens,
    )


def _manifest_template(ctx: BuildContext, float_graphs: GraphSet) -> Manifest:
    metric = ctx.evaluation.task.metrics[0]
    return Manifest(
        format=FORMAT,
        task=float_graphs.task,
        loop=float_graphs.loop,
        max_batch=ctx.target.max_batch,
        signatures=tuple(g.signature for g in float_graphs.graphs),
        variants=(),
        files={},
        target=ctx.target.name,
        reason="",
        score_name=metric.name,
        higher_is_better=metric.higher_is_better,
        reference_score=ctx.evaluation.reference_score,
        trials=(),
        choose_on=ctx.target.choose_on,
        provenance={**float_graphs.provenance, **ctx.provenance},
    )


def _requires(method: str, target: Target) -> dict[str, str]:
    """What a device must have beyond the backend: sums of INT8 products of full range saturate on x86 without VNNI, whatever they were made and scored on."""
    return {"instructions": "vnni"} if method in FULL_RANGE and target.quantize.weight_bits == 8 else {}
