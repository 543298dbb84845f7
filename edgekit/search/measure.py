"""What candidates answer, cost and take on this machine: measured, from the cache, or from the record of an earlier race."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import tasks
from edgekit.machine.busy import Busy, Watch
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.search import agree, kept_answers, race, record
from edgekit.search.checks import AS_WRITTEN, accuracy_backend, runs_here
from edgekit.search.outputs import graph_outputs
from edgekit.search.results import Candidate, CandidateResult, Race
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.rows import finite

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext
    from edgekit.spec.protocols import Arrays, Task

__all__ = ["measure_candidate", "measure_for_device", "race_candidates", "task_of"]


def measure_candidate(ctx: BuildContext, candidate: Candidate) -> CandidateResult:
    """What a candidate answers to the evaluation rows alone and in lists, how far these are apart, and what that costs on this machine."""
    evaluation, limit_mb = ctx.evaluation, ctx.target.budget.memory_mb
    parts = {"step": "answers", **_raced(ctx, [candidate]), "samples": evaluation.samples.digest, "limit_mb": limit_mb}
    task = task_of(candidate)
    inputs = list(evaluation.inputs)
    sizes = [task.modality.size(encoded.arrays) for encoded in task.preprocess(inputs)]
    longest = min(task.max_size, max(candidate.variant.max_tokens or task.max_size, *sizes))

    def make(folder: Path) -> tuple[CandidateResult, Busy]:
        watch = Watch()
        result = race.measure_candidate(candidate, inputs, longest, limit_mb, ctx.cache.progress)
        busy = watch.stop()
        kept_answers.write(folder, result, busy)
        return result, busy

    result, _ = ctx.cache.get("answers", parts, make, kept_answers.read, busy_of=lambda kept: kept[1])
    lists = agree.compare(task, result.outputs, result.listed, result.order, evaluation.reference, candidate.variant.method)
    result = replace(result, lists=lists)
    if ctx.replayed is not None:
        result = ctx.replayed.with_costs(candidate, result)
    ctx.recorded.add_costs(candidate, result)
    return result


def measure_for_device(ctx: BuildContext, candidate: Candidate) -> tuple[CandidateResult, str]:
    """What a candidate for a device elsewhere answers to the evaluation rows, and why it cannot be used, empty where it can.

    On the stand-in costs are 0, and a row that is not finite is answered by zeros, so that it can be scored.
    """
    variant, manifest = candidate.variant, candidate.bundle.manifest
    backend, device = accuracy_backend(variant.method, ctx.target)
    if device != AS_WRITTEN and runs_here(variant.backend):
        return measure_candidate(ctx, candidate), ""
    folder = candidate.bundle.path
    graphs = tuple(Graph(signature, folder / variant.graphs[signature.name], variant.method) for signature in manifest.signatures)
    own = replace(ctx, evaluation=ctx.evaluation.with_task(task_of(candidate)))
    outputs = graph_outputs(own, GraphSet(manifest.task, manifest.loop, graphs, folder / "assets"))
    rows = [row if sound else _zeros(row) for row, sound in zip(outputs.rows, finite(outputs.rows), strict=True)]
    return CandidateResult(rows, 0.0, 0.0, f"unknown (scored on {backend})"), outputs.trouble(variant.method)


def race_candidates(ctx: BuildContext, candidates: Sequence[Candidate], rounds: int, inputs_a_round: int) -> Race:
    """The times of candidates in turns, on this machine or from the record."""
    replayed = ctx.replayed
    result = _race_now(ctx, candidates, rounds, inputs_a_round) if replayed is None else replayed.race(candidates)
    ctx.recorded.add_race(candidates, result)
    return result


def _race_now(ctx: BuildContext, candidates: Sequence[Candidate], rounds: int, inputs_a_round: int) -> Race:
    samples, lists = ctx.evaluation.samples, ctx.target.use == "throughput"
    parts = {"step": "race", **_raced(ctx, candidates), "samples": samples.digest, "rounds": rounds, "texts": inputs_a_round, "lists": lists}
    parts["until"] = ctx.deadline  # a race that was cut short is found by no build that has more time

    def make(folder: Path) -> Race:
        inputs, progress = list(ctx.evaluation.inputs), ctx.cache.progress
        result = race.in_turns(candidates, inputs, rounds, inputs_a_round, progress, lists=lists, until=ctx.deadline)
        (folder / "race.json").write_text(to_json(plain(result)), "utf-8")
        return result

    def read(folder: Path) -> Race:
        return parse(Race, json.loads((folder / "race.json").read_text("utf-8")), "race in the build cache")

    return ctx.cache.get("race", parts, make, read, busy_of=lambda result: result.busy)


def task_of(candidate: Candidate) -> Task:
    """The task of a candidate's bundle: a student has a preprocessing of its own."""
    task: Task = tasks.get(candidate.bundle.manifest.task).load(candidate.bundle.path / "assets")
    return task


def _zeros(row: Arrays) -> Arrays:
    """The row with zeros for its computed values; arrays of whole numbers say where these belong and stay."""
    return {name: np.zeros_like(array) if array.dtype.kind == "f" else array for name, array in row.items()}


def _raced(ctx: BuildContext, candidates: Sequence[Candidate]) -> dict[str, Any]:
    machine = [cpu_name(), cpus(), platform.platform()]
    return {"candidates": [record.key(c) for c in candidates], "machine": machine, "model": ctx.model_digest}
