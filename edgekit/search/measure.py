"""Measurement of candidates: outputs, costs and times, measured here, or read from the cache or a race record."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import tasks
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.report.table import shown_scores
from edgekit.search import agree, race, record
from edgekit.search.checks import AS_WRITTEN, accuracy_backend, runs_here
from edgekit.search.record import Candidate, CandidateResult, Costs, Race
from edgekit.search.stand_in import graph_outputs
from edgekit.spec.errors import OutputError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.rows import difference, encode_each, finite

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.spec.protocols import Arrays, Task

__all__ = ["measure_candidate", "note_if_unresolved", "note_label_scores", "race_candidates", "settle", "settle_all"]

_LOG = logging.getLogger(__name__)


def settle_all(
    ctx: BuildContext, candidates: Sequence[Candidate], *, allow_none: bool = False
) -> tuple[list[Candidate], list[CandidateResult]]:
    """Settle candidates with :func:`settle`, and leave out those with outputs that are not finite, with a note.

    Args:
        ctx: Build context.
        candidates: Candidates, with ``rows`` as their graphs need it.
        allow_none: Whether an empty result is allowed.

    Returns:
        The settled candidates, each once, and their results in the same order.

    Raises:
        OutputError: No candidate is left, and ``allow_none`` is False.
    """
    usable: list[Candidate] = []
    results: list[CandidateResult] = []
    last_error: OutputError | None = None
    for candidate in candidates:
        try:
            settled, result, _ = settle(ctx, candidate)
        except OutputError as error:
            last_error = error
            ctx.note(f"{candidate} was left out: {error}")
            continue
        if settled not in usable:
            usable.append(settled)
            results.append(result)
    if last_error is not None and not usable and not allow_none:
        raise last_error
    return usable, results


def settle(ctx: BuildContext, candidate: Candidate) -> tuple[Candidate, CandidateResult, str]:
    """Measure a candidate, and fix how it runs lists of rows.

    If the outputs of a row depend on the other rows of a list, the candidate runs its rows one by one, with a note.
    Otherwise it cuts lists so that its calls fit into the memory limit.

    Returns:
        The settled candidate; its result; and the reason why it cannot be used, see :func:`measure_candidate`.
    """
    result, problem = measure_candidate(ctx, candidate)
    variant = candidate.variant
    lists = result.costs.lists
    if lists is None:
        return candidate, result, problem
    if not lists.is_within_limit and variant.rows != "alone":
        ctx.note(
            f"{variant.method} on {variant.backend}: {lists.text()}. "
            "Its rows therefore run one by one, also while candidates are timed."
        )
        return settle(ctx, replace(candidate, variant=replace(variant, rows="alone")))
    settled = replace(candidate, variant=replace(variant, lists=lists, max_tokens=result.costs.max_tokens))
    return settled, result, problem


def note_if_unresolved(ctx: BuildContext, result: CandidateResult) -> None:
    """Note if the evaluation rows do not decide whether the chosen candidate meets the accuracy budget."""
    limit = ctx.target.budget.accuracy_drop
    # With a difference of 0, the outputs equal the reference bit by bit.
    if limit is None or difference(result.outputs, ctx.evaluation.reference) == 0:
        return
    comparison = ctx.evaluation.compare(result.outputs)
    if not comparison.is_resolved(limit):
        ctx.note(f"Accuracy of the chosen candidate: {comparison.text(limit)}.")


def note_label_scores(ctx: BuildContext, result: CandidateResult) -> None:
    """Note macro F1 and the recall of each label of the chosen candidate, with those of the torch model in brackets."""
    rows = ctx.evaluation.rows
    reference = rows.label_scores(ctx.evaluation.reference)
    scores = shown_scores(rows.label_scores(result.outputs))
    parts = [f"{name} {value:.4f} ({reference[name]:.4f})" for name, value in scores.items() if name in reference]
    if parts:
        ctx.note(f"Labels, chosen candidate (torch): {', '.join(parts)}.")


def measure_candidate(ctx: BuildContext, candidate: Candidate) -> tuple[CandidateResult, str]:
    """Measure the outputs of a candidate for the evaluation rows, one by one and in lists, and its costs.

    If the target is another device, the candidate is scored here: on its backend if that runs here, otherwise on the
    stand-in. Its costs are then 0. Rows with outputs that are not finite get zeros, so that they can be scored.

    Returns:
        The result, and the reason why the candidate cannot be used, an empty string if it can.
    """
    variant = candidate.variant
    backend, device = accuracy_backend(variant.method, ctx.target)
    if ctx.target.choose_on == "host" or (device != AS_WRITTEN and runs_here(variant.backend)):
        return _measure_here(ctx, candidate), ""
    folder = candidate.bundle.path
    manifest = candidate.bundle.manifest
    graphs = tuple(
        Graph(signature, folder / variant.graphs[signature.name], variant.method) for signature in manifest.signatures
    )
    candidate_ctx = replace(ctx, evaluation=ctx.evaluation.with_task(_load_task(candidate)))
    outputs = graph_outputs(candidate_ctx, GraphSet(manifest.task, manifest.loop, graphs, folder / "assets"))
    rows = []
    for row, is_finite in zip(outputs.rows, finite(outputs.rows), strict=True):
        rows.append(row if is_finite else _zero_floats(row))
    result = CandidateResult(rows, Costs(0.0, 0.0, f"unknown (scored on {backend})"))
    return result, outputs.not_finite_reason(variant.method)


def _measure_here(ctx: BuildContext, candidate: Candidate) -> CandidateResult:
    """Measure a candidate on its backend on this machine, or read the result from the cache."""
    evaluation = ctx.evaluation
    limit_mb = ctx.target.budget.memory_mb
    parts = {
        "step": "answers",
        **_race_parts(ctx, [candidate]),
        "samples": evaluation.samples.digest,
        "limit_mb": limit_mb,
    }
    task = _load_task(candidate)
    inputs = list(evaluation.inputs)
    sizes = [task.modality.size(encoded.arrays) for encoded in encode_each(task, inputs)]
    longest = min(task.max_size, max(candidate.variant.max_tokens or task.max_size, *sizes))
    result = ctx.cache.values(
        "answers",
        parts,
        CandidateResult,
        lambda: race.measure_candidate(candidate, inputs, longest, limit_mb, ctx.cache.progress),
    )
    lists = agree.compare(
        task, result.outputs, result.listed, result.order, evaluation.reference, candidate.variant.method
    )
    result = replace(result, costs=replace(result.costs, lists=lists))
    if ctx.replayed is not None:
        result = ctx.replayed.with_costs(candidate, result)
    ctx.recorded.add_costs(candidate, result)
    costs = result.costs
    _LOG.debug(
        "%s: first answer %.0f ms, memory %.0f MB, executed in %s",
        candidate,
        costs.first_answer_ms,
        costs.memory_mb,
        costs.executed,
    )
    return result


def race_candidates(ctx: BuildContext, candidates: Sequence[Candidate], rounds: int, inputs_a_round: int) -> Race:
    """Return the times of candidates that run interleaved, from this machine, the cache or the race record.

    Args:
        ctx: Build context.
        candidates: Candidates to time.
        rounds: Number of rounds.
        inputs_a_round: Number of inputs that each candidate runs in a round.
    """
    evaluation = ctx.evaluation
    lists = ctx.target.use == "throughput"
    parts = {
        "step": "race",
        **_race_parts(ctx, candidates),
        "samples": evaluation.samples.digest,
        "rounds": rounds,
        "texts": inputs_a_round,
        "lists": lists,
    }
    # The deadline is part of the key, so that a later build with more time does not reuse a race that was cut short.
    parts["until"] = ctx.deadline

    def make() -> Race:
        inputs = list(evaluation.inputs)
        return race.time_candidates(
            candidates, inputs, rounds, inputs_a_round, ctx.cache.progress, lists=lists, until=ctx.deadline
        )

    result = ctx.cache.values("race", parts, Race, make) if ctx.replayed is None else ctx.replayed.race(candidates)
    ctx.recorded.add_race(candidates, result)
    summary = []
    for candidate, times in zip(candidates, result.times_ms, strict=True):
        median_ms = float(np.median(np.concatenate([np.asarray(turn) for turn in times])))
        summary.append(f"{candidate} {median_ms:.3f} ms")
    _LOG.info("race of %d rounds: %s", rounds, ", ".join(summary))
    return result


def _load_task(candidate: Candidate) -> Task:
    """Return the task of a candidate's bundle. The preprocessing of a student may differ from that of the model."""
    task: Task = tasks.get(candidate.bundle.manifest.task).load(candidate.bundle.path / "assets")
    return task


def _zero_floats(row: Arrays) -> Arrays:
    """Return a row with zeros for its float outputs. Integer outputs are unchanged: they index the float outputs."""
    zeros = {name: np.zeros_like(array) for name, array in row.items() if array.dtype.kind == "f"}
    return {**row, **zeros}


def _race_parts(ctx: BuildContext, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return the key parts of a measurement: candidates, machine and model."""
    machine = [cpu_name(), cpus(), platform.platform()]
    return {"candidates": [record.key(c) for c in candidates], "machine": machine, "model": ctx.model_digest}
