"""The choice of the winner from measurements, with the reason for each candidate's verdict.

The choice is pure arithmetic: a recorded race gives the same winner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.search.race import ratio
from edgekit.search.rejections import FLOAT, INT8_METHODS, find_rejections, no_candidate_message, trial_name
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import Trial, Variant
from edgekit.stats.percentiles import latency

if TYPE_CHECKING:
    from edgekit.search.context import EvaluationSet
    from edgekit.search.record import Candidate, CandidateResult, Race
    from edgekit.spec.target import Target

__all__ = ["LEVEL", "Choice", "choose", "files_mb", "timed", "trials"]

LEVEL = 1.05
"""Largest ratio of two times that still counts as equally fast."""
# A candidate must take at most this share of a light one's time to be worth twice its startup time and memory.
_LIGHT_SPEED = 0.8
# A candidate with at most this share of another's startup time and memory is light in comparison.
_LIGHT_SHARE = 0.5


@dataclass(frozen=True)
class Choice:
    """The content of a bundle, as chosen by the search.

    Attributes:
        winner: The chosen candidate.
        files: Files of all variants: path in the bundle to source file.
        variants: Variants of the bundle, the winner's first. There are several if the device chooses.
        reason: Explanation of the choice, one sentence.
        trials: All measurements, with verdicts.
    """

    winner: Candidate
    files: Mapping[str, Path]
    variants: tuple[Variant, ...]
    reason: str
    trials: tuple[Trial, ...]


def files_mb(files: Mapping[str, Path | bytes]) -> float:
    """Return the total size of files in MiB."""
    size = 0
    for content in files.values():
        size += len(content) if isinstance(content, bytes) else content.stat().st_size
    return size / 2**20


def trials(
    candidates: Sequence[Candidate],
    results: Sequence[CandidateResult],
    race: Race | None,
    evaluation: EvaluationSet,
    limit: float | None = None,
    overhead_mb: float = 0.0,
) -> list[Trial]:
    """Combine the measurements of each candidate, without verdicts.

    Args:
        candidates: Candidates in the order of the race.
        results: Outputs and costs of each candidate.
        race: Times of the candidates; None if this machine cannot time them for the device.
        evaluation: Rows that were predicted.
        limit: Accuracy drop of the budget, from which the allowed drop of a label's recall follows; None for no limit.
        overhead_mb: Size of each bundle apart from graphs and assets, in MiB.
    """
    measured = [
        _trial(candidate, result, evaluation, limit, overhead_mb)
        for candidate, result in zip(candidates, results, strict=True)
    ]
    return measured if race is None else timed(measured, race)


def _trial(
    candidate: Candidate, result: CandidateResult, evaluation: EvaluationSet, limit: float | None, overhead_mb: float
) -> Trial:
    variant = candidate.variant
    costs = result.costs
    compared = evaluation.compare(result.outputs)
    error, recall = evaluation.companions(result.outputs, limit)
    float_layers = variant.recipe["keep_float"].split(", ") if "keep_float" in variant.recipe else []
    batch = 1 if variant.rows == "alone" else variant.batch or candidate.bundle.manifest.max_batch
    trial = Trial(
        method=variant.method,
        backend=variant.backend,
        executed=costs.executed,
        model=candidate.model,
        in_float=len(float_layers),
        score=evaluation.rows.score(result.outputs),
        drop=compared.drop,
        changed=int((~evaluation.task.same_answer(result.outputs, evaluation.reference)).sum()),
        p50_ms=0.0,
        p90_ms=0.0,
        first_answer_ms=costs.first_answer_ms,
        memory_mb=costs.memory_mb,
        size_mb=candidate.bundle.size / 2**20 + overhead_mb,
        shapes=variant.shapes,
        threads=variant.threads,
        streams=variant.streams,
        batch=batch,
        losses=compared.losses,
        gains=compared.gains,
        drop_low=compared.low,
        drop_high=compared.high,
        p_value=compared.p_value,
        recall_lost=recall,
        rows=variant.rows,
        lists=costs.lists,
        memory_rows=costs.memory_rows * variant.streams,
        memory_tokens=costs.memory_tokens,
    )
    return trial if error is None else replace(trial, error_growth=error.growth, error_high=error.high)


def timed(measured: Sequence[Trial], race: Race) -> list[Trial]:
    """Return the same trials with the times of a race.

    The ratio of each trial is relative to the fastest float32 trial of the same model, so that a student's smaller size
    does not count as a gain of INT8.

    Args:
        measured: Trials in the order of the race.
        race: Times of the candidates.
    """
    # Times to compare: per row of a list if lists were timed, else per single input.
    costs = [list(map(list, turns)) for turns in race.times_ms]
    if race.rows_per_s:
        costs = [_row_times(rates) for rates in race.rows_per_s]
    floats = [i for i, t in enumerate(measured) if t.method == FLOAT]
    timed_trials = []
    for index, trial in enumerate(measured):
        summary = latency([t for turn in race.times_ms[index] for t in turn])
        assert summary.p50_ms is not None
        assert summary.p90_ms is not None
        same_model = [i for i in floats if measured[i].model == trial.model]
        baseline = min(same_model, key=lambda i: float(np.median(np.concatenate(costs[i]))), default=None)
        relative = (0.0, 0.0)
        if baseline is not None and index not in floats:
            relative = ratio(costs[index], costs[baseline])
        timed_trial = replace(
            trial,
            p50_ms=summary.p50_ms,
            p90_ms=summary.p90_ms,
            rows_per_s=float(np.median(race.rows_per_s[index])) if race.rows_per_s else 0.0,
            ratio=relative[0],
            ratio_high=relative[1],
        )
        timed_trials.append(timed_trial)
    return timed_trials


def _row_times(rows_per_s: Sequence[float]) -> list[list[float]]:
    """Return the seconds per row of each round, as a list of one value."""
    return [[1.0 / rate] for rate in rows_per_s]


def choose(
    measured: Sequence[Trial],
    target: Target,
    score_name: str,
    reference: float,
    *,
    strict: bool = False,
    higher_is_better: bool = True,
    reference_name: str = "torch",
) -> tuple[int, str, list[Trial]]:
    """Choose the fastest trial inside the budget, unless a light one is nearly as fast.

    Of the trials within 5 % of the fastest (about the noise of this protocol), the one with the least memory is chosen.
    A light trial is preferred to it: one with at most half its startup time (``first_answer_ms``) and at most half its
    memory, if the heavier one saves less than 20 % of the light one's time. The reason then states both.

    A quantized trial that is not faster than float32 beyond the noise is rejected if float32 itself is inside the
    budget. Static shapes are rejected if they save less than 15 % of the time without them.

    Args:
        measured: Trials of one race.
        target: Device class with its budget and use.
        score_name: Name of the score, for the reason.
        reference: Score of the torch model.
        strict: Whether the upper end of the accuracy drop's interval must be inside the budget, not only the drop.
        higher_is_better: Direction of the score.
        reference_name: Name of the model with the score ``reference``, for the reason.

    Returns:
        Index of the winner, the reason for the choice, and all trials with their verdicts.

    Raises:
        BudgetError: If no trial is inside the budget, with the reason for each.
    """
    reasons = find_rejections(measured, target.budget, strict, higher_is_better)
    inside = [i for i, reason in enumerate(reasons) if not reason]
    if not inside:
        comparison = f"{reference_name} float32: {score_name} {reference:.4f}"
        message = no_candidate_message(measured, reasons, target, comparison, strict, higher_is_better)
        raise BudgetError(message, code="budget-none-inside")
    cost = [t.p50_ms for t in measured]
    if target.use == "throughput":
        cost = [1.0 / t.rows_per_s for t in measured]
    fastest = min(cost[i] for i in inside)
    level = [i for i in inside if cost[i] <= fastest * LEVEL]
    quickest = min(level, key=lambda i: (measured[i].memory_mb, cost[i]))
    winner = _find_light(measured, cost, inside, quickest)
    judged = []
    for index, trial in enumerate(measured):
        verdict = "chosen"
        if index != winner:
            verdict = reasons[index] or f"{cost[index] / cost[winner]:.2f} x the time of the chosen one"
        judged.append(replace(trial, verdict=verdict))
    count = f"{len(inside)} candidates"
    rank = f"is the fastest of the {count} inside the budget" if len(inside) > 1 else "is alone inside the budget"
    quality = ""
    if winner != quickest:
        rank = f"is nearly as fast as the fastest of the {count} inside the budget"
        quality = " and takes at most half its startup time and memory"
    elif cost[winner] != fastest:
        rank = f"is within 5 % of the fastest of the {count} inside the budget"
        quality = " and uses the least memory of those"
    limits = ", ".join(f"{key} {limit:g}" for key, limit in vars(target.budget).items() if limit is not None)
    won = measured[winner]
    speed = f"{won.rows_per_s:.0f} rows/s" if target.use == "throughput" else f"p50 {won.p50_ms:.2f} ms"
    reason = f"{trial_name(won)} {rank} ({limits or 'none'}){quality}: {speed}"
    floats = [i for i, t in enumerate(measured) if t.method == FLOAT and t.model == won.model]
    baseline = min(floats, key=lambda i: cost[i], default=None)
    # The ratio is paired by text, as in the table. Two medians can contradict it on a machine that changes its speed.
    if won.method != FLOAT and baseline is not None and won.ratio:
        reason += f", {won.ratio:.2f} x the time of float32 on {measured[baseline].backend}"
    if winner != quickest:
        reason += f"; {_describe_trade(won, measured[quickest], cost[winner] / cost[quickest])}"
    if won.method == FLOAT and any(t.method in INT8_METHODS for t in measured):
        reason += "; INT8 is not worth it here"
    return winner, f"{reason}; {score_name} {won.score:.4f}, {reference_name} {reference:.4f}.", judged


def _find_light(measured: Sequence[Trial], cost: Sequence[float], inside: Sequence[int], quickest: int) -> int:
    """Return the index of a light trial that is nearly as fast as the fastest; ``quickest`` if there is none.

    Args:
        measured: All trials.
        cost: Time of each trial per input, in any unit.
        inside: Indices of the trials that may win.
        quickest: Index of the trial with the least memory among those level with the fastest.
    """
    fastest = min(cost[i] for i in inside)
    near = [i for i in inside if fastest > _LIGHT_SPEED * cost[i]]
    winner = quickest
    while lighter := [i for i in near if _is_light(measured[i], measured[winner])]:
        winner = min(lighter, key=lambda i: cost[i])
    return winner


def _is_light(trial: Trial, other: Trial) -> bool:
    """Return whether a trial takes at most half the startup time and memory of another."""
    is_known = min(trial.first_answer_ms, trial.memory_mb) > 0  # 0 if the system does not report it.
    return (
        is_known
        and trial.first_answer_ms <= _LIGHT_SHARE * other.first_answer_ms
        and trial.memory_mb <= _LIGHT_SHARE * other.memory_mb
    )


def _describe_trade(won: Trial, lost: Trial, speedup: float) -> str:
    """Return what the light winner saves, and how much faster the rejected trial is."""
    shapes = f" with {len(lost.shapes)} static shapes" if lost.shapes else ""
    return (
        f"{trial_name(lost)}{shapes} is {speedup:.2f} x as fast, but takes {lost.first_answer_ms:.0f} ms to its "
        f"first answer and {lost.memory_mb:.0f} MB (here {won.first_answer_ms:.0f} ms and {won.memory_mb:.0f} MB): "
        "saving less than 20 % of the time is not worth twice both"
    )
