"""A competing model in the search, prepared once: its graphs, its samples as arrays, and its candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit import backends, quantize, tasks
from edgekit.bundle import assemble
from edgekit.machine.cpu import cpus
from edgekit.quantize import litert
from edgekit.quantize.calibration import Calibration, squared_error
from edgekit.runtime import loops
from edgekit.runtime.loops import single
from edgekit.search import stand_in
from edgekit.search.checks import FULL_RANGE, STAND_IN
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.graphs import convert_graphs, export_model, quantize_graphs, revert_layers
from edgekit.search.record import Candidate
from edgekit.search.stand_in import graph_outputs
from edgekit.source import Source
from edgekit.spec.errors import QuantizeError
from edgekit.spec.graph import GraphSet
from edgekit.spec.manifest import FORMAT, MAX_TOKENS, Manifest, Variant
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.target import Target

__all__ = [
    "ModelEntry",
    "make_calibration",
    "make_candidate",
    "make_candidates",
    "prepare_model",
]

_LOG = logging.getLogger(__name__)

_CALIBRATION_BATCH = 4


@dataclass(frozen=True)
class ModelEntry:
    """A model that competes in the search, and the samples in its own preprocessing.

    Attributes:
        name: Name of the student in tables. Empty for the model itself.
        float_graphs: Exported float32 graphs.
        evaluation: Evaluation rows, with the task of this model.
        calibration: Feeds of the calibration rows.
        sizes: Size of each calibration row, e.g. in tokens.
        linear_macs: Multiply-accumulates per token in the linear layers.
        manifest_template: Manifest with the fields that all candidates of this model share.
    """

    name: str
    float_graphs: GraphSet
    evaluation: EvaluationSet
    calibration: Calibration
    sizes: Sequence[int]
    linear_macs: int
    manifest_template: Manifest


def prepare_model(ctx: BuildContext, name: str, model: Source) -> ModelEntry:
    """Export a model or a student, and preprocess the samples with its own preprocessing.

    Args:
        ctx: Build context.
        name: Name of the student. Empty for the model itself.
        model: Torch model. Its weights are released after the export.
    """
    float_graphs = export_model(ctx.cache, model, ctx.calibration)
    model.release()
    task: Task = tasks.get(float_graphs.task).load(float_graphs.assets)
    rows = [encoded.arrays for encoded in task.preprocess(ctx.calibration.inputs)]
    sizes = [task.modality.size(row) for row in rows]
    inputs = ctx.evaluation.inputs
    has_float16 = any("float16" in quantize.get(method).PRECISIONS for method in ctx.target.methods)
    guarded_inputs: Sequence[Input] = ()
    long_rows: list[Arrays] = []
    if has_float16:
        guarded_inputs = inputs
        longest = stand_in.longest(ctx.target, float_graphs.signature, task.max_size)
        long_rows = stand_in.long_rows(task, inputs, longest)

    def guard() -> Iterator[Sequence[Arrays]]:
        for start in range(0, len(guarded_inputs), _CALIBRATION_BATCH):
            batch = guarded_inputs[start : start + _CALIBRATION_BATCH]
            yield [encoded.arrays for encoded in task.preprocess(batch)]
        yield from ([row] for row in long_rows)

    _LOG.info("calibration of %s: %d rows, sizes %d to %d", name or "the model", len(rows), min(sizes), max(sizes))
    # The batches follow the order of the file, so that short rows are padded as in production.
    batches = [rows[start : start + _CALIBRATION_BATCH] for start in range(0, len(rows), _CALIBRATION_BATCH)]
    calibration = make_calibration(ctx, float_graphs, task, batches, guard)
    return ModelEntry(
        name=name,
        float_graphs=float_graphs,
        evaluation=ctx.evaluation.with_task(task),
        calibration=calibration,
        sizes=sizes,
        linear_macs=quantize.linear_macs(float_graphs),
        manifest_template=_manifest_template(ctx, float_graphs),
    )


def make_calibration(
    ctx: BuildContext,
    float_graphs: GraphSet,
    task: Task,
    calls: Sequence[Sequence[Arrays]],
    guard: Callable[[], Iterable[Sequence[Arrays]]],
) -> Calibration:
    """Return the calibration of all graphs, with the feeds that the loop generates for them.

    The task judges the outputs of a single graph. With several graphs, the outputs of each are compared as numbers.

    Args:
        ctx: Build context.
        float_graphs: Exported float32 graphs. They are run if a graph reads outputs of another graph, or of an
            earlier call.
        task: Task of the model.
        calls: Calibration rows of each call.
        guard: Function that returns the rows of each call on which no 16-bit type may overflow.
    """
    signatures = [graph.signature for graph in float_graphs.graphs]
    first = signatures[0].name
    if len(signatures) == 1:
        # The loop may split a row into several calls. Outputs are later split by the rows of these calls.
        loop = loops.get(float_graphs.loop)
        calls = [part for rows in calls for part in loop.calls({first: signatures[0]}, rows)]
    feeds: dict[str, list[dict[str, np.ndarray]]] = {}
    for feeds_by_name in _record_feeds(ctx, float_graphs, calls):
        for name, batches in feeds_by_name.items():
            feeds.setdefault(name, []).extend(batches)

    def guard_feeds(name: str) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        def generate() -> Iterator[dict[str, np.ndarray]]:
            for feeds_by_name in _record_feeds(ctx, float_graphs, guard()):
                yield from feeds_by_name[name]

        return generate

    if len(signatures) > 1:
        calibrations = {s.name: Calibration(feeds[s.name], squared_error, guard_feeds(s.name)) for s in signatures}
        return Calibration(feeds[first], squared_error, guard_feeds(first), graphs=calibrations)

    def divergence(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
        return float(task.divergence(outputs, reference).mean())

    def split(batch: int, outputs: Mapping[str, np.ndarray]) -> list[Arrays]:
        return single.split(signatures[0], calls[batch], outputs)

    return Calibration(feeds[first], divergence, guard_feeds(first), split)


def _record_feeds(
    ctx: BuildContext, float_graphs: GraphSet, calls: Iterable[Sequence[Arrays]]
) -> Iterator[Mapping[str, list[dict[str, np.ndarray]]]]:
    """Yield the feeds of each graph by signature name, call by call."""
    signatures = [graph.signature for graph in float_graphs.graphs]
    if len(signatures) == 1 and not signatures[0].state:
        # The feeds depend on the rows alone, so the graph need not run.
        record = loops.get(float_graphs.loop).record
        yield from (record({}, {signatures[0].name: signatures[0]}, rows) for rows in calls)
        return
    paths = {graph.signature.name: graph.path for graph in float_graphs.graphs}
    with stand_in.open_graphs(
        paths, signatures, STAND_IN, "cpu", ctx.cache.scratch, threads=cpus(), loop=float_graphs.loop
    ) as runner:
        yield from map(runner.record, calls)


def make_candidates(ctx: BuildContext, model: ModelEntry, method: str) -> list[Candidate]:
    """Return the candidates of a model and a quantization method, one for each target backend that supports it.

    If quantizing all layers exceeds the accuracy budget, candidates with some layers in float are added; with some in
    INT8 for a method with weights of 4 bits, if the target limits the size.
    """
    runs_on = [backend for backend in ctx.target.backends if backend in quantize.get(method).BACKENDS]
    if not runs_on:
        return []
    model_ctx = replace(ctx, evaluation=model.evaluation)
    graphs = quantize_graphs(model_ctx, method, model.float_graphs, ctx.target.quantize, model.calibration)
    candidates = _write_candidates(ctx, model, graphs, runs_on)
    if not candidates:
        return []
    if method == "float32" or model_ctx.accuracy_limit is None:
        return candidates
    if model_ctx.holds_budget(graph_outputs(model_ctx, graphs)):
        return candidates
    precision = "INT8" if quantize.reverts_to(quantize.get(method)) == "keep_int8" else "float"
    if ctx.late:
        ctx.note(f"The time allowed was used up: layers of '{method}' in {precision} were not searched.")
        return candidates
    # With some layers in INT8, a graph with weights of 4 bits has over one in INT8 that it is smaller. Ranking the
    # layers takes a multiple of the time of all other steps for it.
    if precision == "INT8" and ctx.target.budget.size_mb is None:
        _LOG.info("layers of %s in INT8 were not searched: the target does not limit the size", method)
        return candidates
    # Ranges and smoothing stay as chosen for all layers. Both forms race, so that the table shows the cost of the
    # layers in float.
    graphs_with_recipes = []
    for float_graph, quantized in zip(model.float_graphs.graphs, graphs.graphs, strict=True):
        graphs_with_recipes.append(replace(float_graph, recipe=quantized.recipe))
    float_graphs = replace(model.float_graphs, graphs=tuple(graphs_with_recipes))
    reverted = revert_layers(model_ctx, method, float_graphs, ctx.target.quantize, model.calibration)
    if reverted.graphs is None:
        owner = f" of the student {model.name}" if model.name else ""
        ctx.note(f"No number of layers in {precision} brings '{method}'{owner} inside the accuracy budget.")
        return candidates
    for candidate in _write_candidates(ctx, model, reverted.graphs, runs_on):
        candidates.append(replace(candidate, sensitivity=reverted.ranking))
    return candidates


def make_candidate(ctx: BuildContext, model: ModelEntry, method: str, backend: str) -> Candidate | None:
    """Return the candidate of a model, a method and a backend, with all layers quantized that the target selects.

    Returns:
        The candidate, or None if the backend does not support the method or the graph, or is not installed.
    """
    if backend not in quantize.get(method).BACKENDS or backends.installed_version(backend) is None:
        return None
    graphs = quantize_graphs(ctx, method, model.float_graphs, ctx.target.quantize, model.calibration)
    return next(iter(_write_candidates(ctx, model, graphs, [backend])), None)


def _write_candidates(
    ctx: BuildContext, model: ModelEntry, graphs: GraphSet, runs_on: Sequence[str]
) -> list[Candidate]:
    """Write a bundle for each format of graphs to the scratch folder, complete except for golden outputs.

    Returns:
        A candidate per backend. There is none for LiteRT if its writer does not know an operator, which a note says.

    Raises:
        QuantizeError: LiteRT is the target's only backend, and its writer does not know an operator.
    """
    candidates = []
    rows = quantize.rows_of(graphs)
    direct = [backend for backend in runs_on if backends.get(backend).GRAPH != litert.SUFFIX]
    if direct:
        candidates += _write_bundle(ctx, model, graphs, direct, rows)
    for backend in runs_on:
        if backend in direct:
            continue
        try:
            converted = convert_graphs(ctx, graphs)
        except QuantizeError as error:
            if set(ctx.target.backends) == {backend}:
                raise
            method = graphs.graphs[0].method
            ctx.note(f"The method '{method}' is no candidate on '{backend}': {error}")
            continue
        # A graph of one row a call cannot run rows together.
        form = "alone" if ctx.target.use == "latency" else rows
        candidates += _write_bundle(ctx, model, converted, [backend], form)
    return candidates


def _write_bundle(
    ctx: BuildContext, model: ModelEntry, graphs: GraphSet, runs_on: Sequence[str], rows: str
) -> list[Candidate]:
    """Write one bundle, and return a candidate for each of its backends."""
    method = graphs.graphs[0].method
    variants = [_make_variant(ctx, model, graphs, backend, rows) for backend in runs_on]
    manifest = replace(model.manifest_template, variants=tuple(variants))
    scratch = ctx.cache.scratch
    folder = scratch / f"{method}-{len(list(scratch.glob(f'{method}-*')))}"
    bundle = assemble.write(folder, manifest, assemble.graph_files(graphs), scratch=True)
    return [Candidate(bundle, variant, model.name) for variant in variants]


def _make_variant(ctx: BuildContext, model: ModelEntry, graphs: GraphSet, backend: str, rows: str) -> Variant:
    """Return the variant of graphs on a backend, before anything is measured."""
    target = ctx.target
    tools = ctx.cache.tools
    module = backends.get(backend)
    method = graphs.graphs[0].method
    engine = None
    max_tokens = MAX_TOKENS
    if module.ENGINES:
        # The profiles of an engine determine its memory, so calls need no token limit.
        max_tokens = 0
        if target.engine is not None:
            axes = graphs.signature.varying
            bounds = {axis: model.evaluation.task.max_size for axis in axes[:1]}
            engine = target.engine.clamp_profiles({**bounds, "batch": target.max_batch}, {"batch", *axes})
    paths = {g.signature.name: f"graphs/{g.path.name}" for g in graphs.graphs}
    packages = (*module.PACKAGES, "numpy", "tokenizers")
    versions = {name: tools[name] for name in packages if name in tools}
    shapes = target.shapes if module.STATIC_SHAPES else None
    return Variant(
        backend=backend,
        method=method,
        graphs=paths,
        device=target.device,
        threads=target.threads or cpus(),
        executed="not measured",
        requires=_list_requirements(method, target),
        versions=versions,
        recipe=graphs.recipe,
        shapes=shapes or (),
        linear_macs=model.linear_macs,
        engine=engine,
        rows=rows,
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


def _list_requirements(method: str, target: Target) -> dict[str, str]:
    """Return what a device must have besides the backend.

    On x86 without VNNI, sums of full-range INT8 products saturate, so graphs with such products require VNNI.
    """
    if method in FULL_RANGE and target.quantize.weight_bits == 8:
        return {"instructions": "vnni"}
    return {}
