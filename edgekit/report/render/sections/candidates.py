"""Candidates of the build and their Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from edgekit.report.render.charts.pareto import Point, front, pareto
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.document import Block, Figure, Limits, Section, Table
from edgekit.report.render.sections.parts import left_out
from edgekit.report.render.words import NOTHING, cut, number, score
from edgekit.spec.manifest import Trial
from edgekit.spec.report import Report

__all__ = ["candidates"]


def candidates(report: Report, limits: Limits) -> Section:
    """Return the candidates of the build and their Pareto front."""
    trials = _trials(report)
    if not trials:
        return Section("candidates", "Candidates of the build", (), page_only=True)
    subject = report.subjects[-1]
    has_latency = any(trial.p50_ms for trial in trials)
    in_batches = not has_latency and any(trial.rows_per_s for trial in trials)
    costs = _costs(trials, in_batches)
    cost_name = "ms per row, in batches" if in_batches else "p50, ms"
    score_name = cut(subject.score_name, 30) or "score"
    points = {i: _point(trials[i], cost, subject.higher_is_better) for i, cost in costs.items()}
    best = front(list(points.values()), subject.higher_is_better)
    order = sorted(range(len(trials)), key=lambda i: (trials[i].verdict != "chosen", costs.get(i, math.inf)))
    rows = []
    for i in order[: limits.rows]:
        cost = number(costs[i]) if i in costs else NOTHING
        mark = "✓" if points.get(i) in best else ""
        verdict = cut(trials[i].verdict, limits.name) or NOTHING
        rows.append((_name(trials[i]), cost, score(trials[i].score), mark, verdict))
    header = ("candidate", cost_name, score_name, "front", "verdict")
    note = left_out(len(rows), len(trials), "candidates")
    table = Table("t-candidates", "Candidates, the chosen one first", header, tuple(rows), (4,), note=note)
    block: Block = table
    if points:
        text = (
            f"{len(points)} candidates; {len(best)} of them are on the front, from {best[0].name} to {best[-1].name}."
        )
        draw = partial(
            pareto,
            Head("front", "Pareto front of the build's candidates", text),
            list(points.values()),
            f"{cost_name} (logarithmic)",
            score_name,
            higher_is_better=subject.higher_is_better,
        )
        caption = (
            "Left is faster, up is better; no candidate is better than the line in both. "
            "Whiskers: the 90 % interval of the drop. Measured at build time on the build machine: "
            "compare these numbers with each other, not with those above."
        )
        block = Figure(draw, caption, table)
    return Section("candidates", "Candidates of the build", (block,), page_only=True)


def _trials(report: Report) -> tuple[Trial, ...]:
    """Return the candidates of the last subject that has some."""
    for subject in reversed(report.subjects):
        if subject.candidates:
            return subject.candidates
    return ()


def _costs(trials: Sequence[Trial], in_batches: bool) -> dict[int, float]:
    """Return the cost in ms of each candidate by index, without candidates that were not timed."""
    costs = {}
    for i, trial in enumerate(trials):
        cost = trial.p50_ms
        if in_batches:
            cost = 1e3 / trial.rows_per_s if trial.rows_per_s else 0.0
        if cost > 0:
            costs[i] = cost
    return costs


def _point(trial: Trial, cost: float, higher_is_better: bool) -> Point:
    low = high = trial.score
    if (trial.drop_low, trial.drop_high) != (0.0, 0.0):
        sign = 1 if higher_is_better else -1
        reference = trial.score + sign * trial.drop
        ends = (reference - sign * trial.drop_high, reference - sign * trial.drop_low)
        low = min(ends)
        high = max(ends)
    return Point(_name(trial), cost, trial.score, low, high, trial.verdict == "chosen")


def _name(trial: Trial) -> str:
    name = f"{trial.method}, {trial.backend}"
    if trial.model:
        name = f"{trial.model}, {name}"
    if trial.shapes:
        name += f" {'/'.join(map(str, trial.shapes))}"
    return cut(name, 80)
