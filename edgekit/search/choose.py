"""From measurements to a choice: what each candidate is worth, and why it won or lost. Pure arithmetic: a recorded race gives the same choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends import is_int8
from edgekit.report import companions
from edgekit.search.race import ratio
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import Trial, Variant
from edgekit.stats.percentiles import latency

if TYPE_CHECKING:
    from edgekit.search.context import EvaluationSet
    from edgekit.search.record import Candidate, CandidateResult, Race
    from edgekit.spec.target import Budget, Target

__all__ = ["FLOAT", "LEVEL", "Choice", "choose", "excess", "files_mb", "not_as_asked", "timed", "trials"]

FLOAT = "float32"
_IN_INT8 = ("static", "dynamic")
LEVEL = 1.05
_BUCKETS_WORTH = 0.85  # each bucket is compiled at every start, which takes some tenths of a second
_UNITS = {
    "accuracy_drop": "",
    "p50_ms": " ms",
    "memory_mb": " MB",
    "first_answer_ms": " ms",
    "size_mb": " MB",
    "accuracy": "",
}
_LIGHT_SPEED = (
    0.8  # a candidate must take this share of a light one's time, or less, to be worth twice its start and memory
)
_LIGHT_SHARE = 0.5  # of start and of memory: what makes a candidate a light one beside another


@dataclass(frozen=True)
class Choice:
    """What a build ships.

    Attributes:
        winner: the candidate that is preferred.
        files: place in the bundle to the file that goes there, of all variants.
        variants: ways to run the model, the winner's first; several where the device is to choose.
        reason: why.
        trials: everything that was measured, with verdicts.
    """

    winner: Candidate
    files: Mapping[str, Path]
    variants: tuple[Variant, ...]
    reason: str
    trials: tuple[Trial, ...]


def files_mb(files: Mapping[str, Path | bytes]) -> float:
    """Size of the content of files, MiB."""
    return (
        sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values())
        / 2**20
    )


def trials(
    candidates: Sequence[Candidate],
    results: Sequence[CandidateResult],
    race: Race | None,
    evaluation: EvaluationSet,
    limit: float | None = None,
    beside_mb: float = 0.0,
) -> list[Trial]:
    """Puts measurements together, without verdicts.

    Args:
        candidates: in the order of the race.
        results: answers and costs of each.
        race: their times; None where this machine cannot say what they take on the device.
        evaluation: rows that they answered.
        limit: accuracy drop of the budget, which says how much a label's recall may fall; None for no limit.
        beside_mb: what each bundle has beside graphs and assets, MiB.
    """
    measured = [
        _trial(candidate, result, evaluation, limit, beside_mb)
        for candidate, result in zip(candidates, results, strict=True)
    ]
    return measured if race is None else timed(measured, race)


def _trial(
    candidate: Candidate, result: CandidateResult, evaluation: EvaluationSet, limit: float | None, beside_mb: float
) -> Trial:
    variant, costs, compared = candidate.variant, result.costs, evaluation.compare(result.outputs)
    error, recall = evaluation.companions(result.outputs, limit)
    kept_in_float = variant.recipe["keep_float"].split(", ") if "keep_float" in variant.recipe else []
    return Trial(
        method=variant.method,
        backend=variant.backend,
        executed=costs.executed,
        model=candidate.model,
        in_float=len(kept_in_float),
        score=evaluation.rows.score(result.outputs),
        drop=compared.drop,
        changed=int((~evaluation.task.same_answer(result.outputs, evaluation.reference)).sum()),
        p50_ms=0.0,
        p90_ms=0.0,
        first_answer_ms=costs.first_answer_ms,
        memory_mb=costs.memory_mb,
        size_mb=candidate.bundle.size / 2**20 + beside_mb,
        shapes=variant.shapes,
        threads=variant.threads,
        streams=variant.streams,
        batch=1 if variant.rows == "alone" else variant.batch or candidate.bundle.manifest.max_batch,
        losses=compared.losses,
        gains=compared.gains,
        drop_low=compared.low,
        drop_high=compared.high,
        p_value=compared.p_value,
        error_growth=error.growth if error else None,
        error_high=error.high if error else None,
        recall_lost=recall,
        rows=variant.rows,
        lists=costs.lists,
        memory_rows=costs.memory_rows * variant.streams,
        memory_tokens=costs.memory_tokens,
    )


def timed(made: Sequence[Trial], race: Race) -> list[Trial]:
    """The same trials with the times of a race."""
    # What is compared between candidates, in seconds of some kind: per text, or per list.
    costs = (
        [[[1.0 / rate] for rate in rates] for rates in race.rows_per_s]
        if race.rows_per_s
        else [list(map(list, t)) for t in race.times_ms]
    )
    floats = [i for i, t in enumerate(made) if t.method == FLOAT]
    result = []
    for index, trial in enumerate(made):
        summary = latency([t for turn in race.times_ms[index] for t in turn])
        assert summary.p50_ms is not None
        assert summary.p90_ms is not None
        # Against float32 of the same model: what a student gains by being smaller is no merit of INT8.
        own = [i for i in floats if made[i].model == trial.model]
        baseline = min(own, key=lambda i: float(np.median(np.concatenate(costs[i]))), default=None)
        compared = (0.0, 0.0) if baseline is None or index in floats else ratio(costs[index], costs[baseline])
        rate = float(np.median(race.rows_per_s[index])) if race.rows_per_s else 0.0
        result.append(
            replace(
                trial,
                p50_ms=summary.p50_ms,
                p90_ms=summary.p90_ms,
                rows_per_s=rate,
                ratio=compared[0],
                ratio_high=compared[1],
            )
        )
    return result


def choose(
    made: Sequence[Trial],
    target: Target,
    score_name: str,
    reference: float,
    *,
    strict: bool = False,
    higher_is_better: bool = True,
    reference_name: str = "torch",
) -> tuple[int, str, list[Trial]]:
    """Picks the fastest trial inside the budget, unless a light one is nearly as fast.

    Among those level with the fastest (within 5 %, about this protocol's noise) the one with the least memory is taken. That one loses to a
    light trial: one with at most half its start (``first_answer_ms``) and at most half its memory, of whose time the fastest takes off less
    than 20 %. The reason then names both sides of the trade.

    A quantized trial that is not faster than float32 beyond the noise is dropped where float32 itself is inside the budget, and so
    are static shapes that take less than 15 % off the time of shapes of any size.

    Args:
        made: trials of one race.
        target: its budget and use.
        score_name: for the words.
        reference: score of the torch model.
        strict: the interval's upper end of the accuracy drop must be inside the budget, not only the drop itself.
        higher_is_better: direction of the score.
        reference_name: name of the model that ``reference`` is of, for the words.

    Returns:
        Its index, the reason in words, and all trials with their verdicts.

    Raises:
        BudgetError: when none is inside, with how far each is.
    """
    reasons = [excess(trial, target.budget, strict, higher_is_better) or not_as_asked(trial) for trial in made]
    in_float = {t.model for t, reason in zip(made, reasons, strict=True) if not reason and t.method == FLOAT}
    reasons = [
        reason or (_not_worth_it(t) if t.model in in_float else "") for t, reason in zip(made, reasons, strict=True)
    ]
    plain = {_without_shapes(t): t for t, reason in zip(made, reasons, strict=True) if not reason and not t.shapes}
    reasons = [
        reason or _buckets_for_little(t, plain.get(_without_shapes(t))) for t, reason in zip(made, reasons, strict=True)
    ]
    inside = [i for i, reason in enumerate(reasons) if not reason]
    if not inside:
        raise BudgetError(
            _nobody(
                made,
                reasons,
                target,
                f"{reference_name} float32: {score_name} {reference:.4f}",
                strict,
                higher_is_better,
            ),
            code="budget-none-inside",
        )
    many = target.use == "throughput"
    cost = [1.0 / t.rows_per_s if many else t.p50_ms for t in made]
    fastest = min(cost[i] for i in inside)
    level = [i for i in inside if cost[i] <= fastest * LEVEL]
    quickest = min(level, key=lambda i: (made[i].memory_mb, cost[i]))
    winner = _light(made, cost, inside, quickest)
    won = made[winner]
    judged = [
        replace(
            t,
            verdict="chosen"
            if i == winner
            else reasons[i] or f"{cost[i] / cost[winner]:.2f} x the time of the chosen one",
        )
        for i, t in enumerate(made)
    ]
    floats = [i for i, t in enumerate(made) if t.method == FLOAT and won.method != FLOAT and t.model == won.model]
    against = min(floats, key=lambda i: cost[i], default=None)
    limits = ", ".join(f"{k} {v:g}" for k, v in vars(target.budget).items() if v is not None) or "none"
    how = "the fastest" if cost[winner] == fastest else "level with the fastest, and has the least memory,"
    if winner != quickest:
        how = "nearly as fast as the fastest, at half its start and memory or less,"
    speed = f"{won.rows_per_s:.0f} rows/s" if many else f"p50 {won.p50_ms:.2f} ms"
    reason = f"{_named(won)} is {how} of the {len(inside)} candidate(s) inside the budget ({limits}): {speed}"
    if (
        against is not None and won.ratio
    ):  # text by text, as in the table: two medians of a race contradict it on a machine that changes its state
        reason += f", {won.ratio:.2f} x the time of float32 on {made[against].backend}"
    if winner != quickest:
        reason += f"; {_trade(won, made[quickest], cost[winner] / cost[quickest])}"
    if won.method == FLOAT and any(t.method in _IN_INT8 for t in made):
        reason += "; INT8 is not worth it here"
    return winner, f"{reason}; {score_name} {won.score:.4f}, {reference_name} {reference:.4f}.", judged


def _light(made: Sequence[Trial], cost: Sequence[float], inside: Sequence[int], quickest: int) -> int:
    """The trial that is nearly as fast as the fastest at half its start and memory; the fastest itself where there is none.

    Args:
        made: all trials.
        cost: of each, in time a text.
        inside: indices of the trials that may win.
        quickest: index of the fastest, or of the one with the least memory among those level with it.
    """
    near = [i for i in inside if min(cost[j] for j in inside) > _LIGHT_SPEED * cost[i]]
    winner = quickest
    while lighter := [i for i in near if _is_light(made[i], made[winner])]:
        winner = min(lighter, key=lambda i: cost[i])
    return winner


def _is_light(trial: Trial, other: Trial) -> bool:
    known = min(trial.first_answer_ms, trial.memory_mb) > 0  # 0 where the system does not tell
    return (
        known
        and trial.first_answer_ms <= _LIGHT_SHARE * other.first_answer_ms
        and trial.memory_mb <= _LIGHT_SHARE * other.memory_mb
    )


def _trade(won: Trial, lost: Trial, faster: float) -> str:
    """What was traded for what, in words."""
    shapes = f" with {len(lost.shapes)} static shapes" if lost.shapes else ""
    return (
        f"{_named(lost)}{shapes} is {faster:.2f} x as fast, and takes {lost.first_answer_ms:.0f} ms to its first answer and {lost.memory_mb:.0f} MB "
        f"({won.first_answer_ms:.0f} ms and {won.memory_mb:.0f} MB here): less than 20 % off the time is not worth twice both"
    )


def _named(trial: Trial) -> str:
    return f"{trial.method} on {trial.backend}" + (f" of the student {trial.model}" if trial.model else "")


def excess(trial: Trial, budget: Budget, strict: bool = False, higher_is_better: bool = True) -> str:
    """What of the budget a trial breaks, in words; empty when nothing."""
    over = []
    for key, limit in vars(budget).items():
        measured = _measured(trial, key, strict)
        floor = key == "accuracy" and higher_is_better
        if limit is not None and not _keeps(measured, limit, floor):
            said = " (upper end of its interval)" if strict and key == "accuracy_drop" else ""
            side = "under" if floor else "over"
            over.append(f"{key} {measured:.4g}{_UNITS[key]}{said} {side} {limit:g}{_UNITS[key]}")
    if budget.accuracy_drop is not None:
        over += _unseen(trial, budget.accuracy_drop, strict)
    return "over budget: " + ", ".join(over) if over else ""


def _unseen(trial: Trial, drop: float, strict: bool) -> list[str]:
    """What the score does not see of what a trial lost, beyond what goes with the accuracy drop that is allowed."""
    limit, grown = companions.ERROR_OF_DROP * drop, trial.error_high if strict else trial.error_growth
    over = [f"{trial.recall_lost}, over {companions.RECALL_OF_DROP * drop:g}"] if trial.recall_lost else []
    if grown is not None and not grown <= limit + 1e-9:
        said = " (upper end of its interval)" if strict else ""
        over.append(f"mean absolute error grows by {grown:.4g}{said} of the labels' standard deviation, over {limit:g}")
    return over


def _keeps(measured: float, limit: float, floor: bool) -> bool:
    """Whether a value keeps a limit; NaN keeps none. Scores are ratios of counts: without slack one of exactly the limit fails in its last bit."""
    return measured >= limit - 1e-9 if floor else measured <= limit + 1e-9


def _measured(trial: Trial, key: str, strict: bool) -> float:
    """What a trial has of what a budget key limits."""
    if key == "accuracy":
        return trial.score
    return float((trial.drop_high if strict else trial.drop) if key == "accuracy_drop" else getattr(trial, key))


def not_as_asked(trial: Trial) -> str:
    """A candidate that is called INT8 but multiplied in float, beyond the layers that were to, is refused, however fast it is."""
    low = trial.method not in _IN_INT8 or is_int8(trial.executed, trial.in_float)
    return "" if low else f"refused: its linears were to run in int8, they ran in {trial.executed}"


def _without_shapes(trial: Trial) -> tuple[object, ...]:
    return trial.model, trial.method, trial.backend, trial.threads, trial.streams, trial.batch, trial.executed


def _buckets_for_little(trial: Trial, plain: Trial | None) -> str:
    """Static shapes must gain more than a slower start and more memory cost."""
    if not trial.shapes or plain is None or trial.p50_ms <= _BUCKETS_WORTH * plain.p50_ms:
        return ""
    more = trial.first_answer_ms - plain.first_answer_ms
    return f"dropped: {trial.p50_ms / plain.p50_ms:.2f} x the time of any shape, too little for {more:.0f} ms more at the start"


def _not_worth_it(trial: Trial) -> str:
    if trial.method == FLOAT or trial.ratio_high < 1.0:
        return ""
    return (
        f"dropped: {trial.ratio:.2f} x the time of float32 (up to {trial.ratio_high:.2f}), not faster beyond the noise"
    )


def _nobody(
    made: Sequence[Trial], reasons: Sequence[str], target: Target, reference: str, strict: bool, higher_is_better: bool
) -> str:
    def distance(index: int) -> tuple[bool, float, float]:
        over = []
        for key, limit in vars(target.budget).items():
            if limit is not None:
                share = _measured(made[index], key, strict) / max(limit, 1e-9)
                over.append(1.0 / max(share, 1e-9) if key == "accuracy" and higher_is_better else share)
        # One that is inside the budget was refused for another reason, which no other budget takes away.
        refused = not excess(made[index], target.budget, strict, higher_is_better)
        return refused, max(over, default=0.0), made[index].p50_ms

    order = sorted(range(len(made)), key=distance)
    lines = "\n".join(f"  {_named(made[i])}: {reasons[i]}" for i in order)
    return (
        f"No candidate is inside the budget of target '{target.name}', so nothing was written (the nearest first):\n{lines}\n"
        f"({reference}). Loosen it with --budget KEY=VALUE, or give a model with more margin."
    )
