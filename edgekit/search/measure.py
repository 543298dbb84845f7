"""Candidates as they are to be raced, and what they answer, cost and take: measured here, from the cache, or from the record of an earlier race."""

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
    """The candidates as they are to be raced, and what each answers; those whose answers are not finite are left out, which is noted.

    Args:
        ctx: the build.
        candidates: with their rows together or alone, as their graphs need it.
        allow_none: that none is left is no error.

    Raises:
        OutputError: when none is left.
    """
    able: list[Candidate] = []
    results: list[CandidateResult] = []
    problem: OutputError | None = None
    for candidate in candidates:
        try:
            settled, result, _ = settle(ctx, candidate)
        except OutputError as error:
            problem = error
            ctx.note(f"{candidate} was left out: {error}")
            continue
        if settled not in able:
            able.append(settled)
            results.append(result)
    if problem is not None and not able and not allow_none:
        raise problem
    return able, results


def settle(ctx: BuildContext, candidate: Candidate) -> tuple[Candidate, CandidateResult, str]:
    """A candidate with its rows alone where lists change its answers, which is noted, and with lists cut to fit into the memory.

    Returns:
        It, what it answers, and why it cannot be used, empty where it can: see :func:`measure_candidate`.
    """
    result, trouble = measure_candidate(ctx, candidate)
    lists, variant = result.costs.lists, candidate.variant
    if lists is None:
        return candidate, result, trouble
    if not lists.is_within_limit and variant.rows != "alone":
        ctx.note(
            f"{variant.method} on {variant.backend}: {lists.text()}. So its rows are run one by one, and it was raced like that."
        )
        return settle(ctx, replace(candidate, variant=replace(variant, rows="alone")))
    return (
        replace(candidate, variant=replace(variant, lists=lists, max_tokens=result.costs.max_tokens)),
        result,
        trouble,
    )


def note_if_unresolved(ctx: BuildContext, result: CandidateResult) -> None:
    """Notes that the rows do not settle whether the chosen candidate is inside the accuracy budget, where they do not."""
    limit, evaluation = ctx.target.budget.accuracy_drop, ctx.evaluation
    if limit is None or difference(result.outputs, evaluation.reference) == 0:  # to the last bit: nothing was lost
        return
    compared = evaluation.compare(result.outputs)
    if not compared.is_resolved(limit):
        ctx.note(f"Accuracy of the chosen candidate: {compared.text(limit)}.")


def note_label_scores(ctx: BuildContext, result: CandidateResult) -> None:
    """Note macro F1 and the recall of each label of the chosen candidate, with those of the torch model in brackets."""
    rows = ctx.evaluation.rows
    reference = rows.label_scores(ctx.evaluation.reference)
    scores = shown_scores(rows.label_scores(result.outputs))
    parts = [f"{name} {value:.4f} ({reference[name]:.4f})" for name, value in scores.items() if name in reference]
    if parts:
        ctx.note(f"Labels, chosen candidate (torch): {', '.join(parts)}.")


def measure_candidate(ctx: BuildContext, candidate: Candidate) -> tuple[CandidateResult, str]:
    """What a candidate answers to the evaluation rows alone and in lists, how far these are apart, and what that costs; and why it cannot be used.

    One for a device elsewhere is scored here as far as its backend runs here, else on the stand-in. There costs are 0, a row that is not finite is answered
    by zeros, so that it can be scored, and the second value says so; it is empty where the candidate can be used.
    """
    variant = candidate.variant
    backend, device = accuracy_backend(variant.method, ctx.target)
    if ctx.target.choose_on == "host" or (device != AS_WRITTEN and runs_here(variant.backend)):
        return _measure_here(ctx, candidate), ""
    folder, manifest = candidate.bundle.path, candidate.bundle.manifest
    graphs = tuple(
        Graph(signature, folder / variant.graphs[signature.name], variant.method) for signature in manifest.signatures
    )
    own = replace(ctx, evaluation=ctx.evaluation.with_task(_task_of(candidate)))
    outputs = graph_outputs(own, GraphSet(manifest.task, manifest.loop, graphs, folder / "assets"))
    rows = [row if sound else _zeros(row) for row, sound in zip(outputs.rows, finite(outputs.rows), strict=True)]
    return CandidateResult(rows, Costs(0.0, 0.0, f"unknown (scored on {backend})")), outputs.trouble(variant.method)


def _measure_here(ctx: BuildContext, candidate: Candidate) -> CandidateResult:
    evaluation, limit_mb = ctx.evaluation, ctx.target.budget.memory_mb
    parts = {"step": "answers", **_raced(ctx, [candidate]), "samples": evaluation.samples.digest, "limit_mb": limit_mb}
    task = _task_of(candidate)
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
    """The times of candidates in turns, on this machine or from the record."""
    samples, lists = ctx.evaluation.samples, ctx.target.use == "throughput"
    parts = {
        "step": "race",
        **_raced(ctx, candidates),
        "samples": samples.digest,
        "rounds": rounds,
        "texts": inputs_a_round,
        "lists": lists,
    }
    parts["until"] = ctx.deadline  # a race that was cut short is found by no build that has more time

    def make() -> Race:
        inputs, progress = list(ctx.evaluation.inputs), ctx.cache.progress
        return race.in_turns(candidates, inputs, rounds, inputs_a_round, progress, lists=lists, until=ctx.deadline)

    result = ctx.cache.values("race", parts, Race, make) if ctx.replayed is None else ctx.replayed.race(candidates)
    ctx.recorded.add_race(candidates, result)
    medians = [float(np.median(np.concatenate([np.asarray(turn) for turn in times]))) for times in result.times_ms]
    timed = [f"{candidate} {ms:.3f} ms" for candidate, ms in zip(candidates, medians, strict=True)]
    _LOG.info("race of %d rounds: %s", rounds, ", ".join(timed))
    return result


def _task_of(candidate: Candidate) -> Task:
    """The task of a candidate's bundle: a student has a preprocessing of its own."""
    task: Task = tasks.get(candidate.bundle.manifest.task).load(candidate.bundle.path / "assets")
    return task


def _zeros(row: Arrays) -> Arrays:
    """The row with zeros for its computed values; arrays of whole numbers say where these belong and stay."""
    return {name: np.zeros_like(array) if array.dtype.kind == "f" else array for name, array in row.items()}


def _raced(ctx: BuildContext, candidates: Sequence[Candidate]) -> dict[str, Any]:
    machine = [cpu_name(), cpus(), platform.platform()]
    return {"candidates": [record.key(c) for c in candidates], "machine": machine, "model": ctx.model_digest}
