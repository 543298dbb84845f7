"""Reasons why a candidate cannot win: it is over the budget, ran in another precision, or brings no gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.backends import is_integer
from edgekit.report import companions
from edgekit.spec.manifest import Trial

if TYPE_CHECKING:
    from edgekit.spec.target import Budget, Target

__all__ = [
    "FLOAT",
    "INT8_METHODS",
    "excess",
    "find_rejections",
    "no_candidate_message",
    "precision_mismatch",
    "trial_name",
]

FLOAT = "float32"
"""Method that changes no precision, to which the others are compared."""
INT8_METHODS = ("static", "dynamic", "dynamic_rows", "dynamic_rows_int4")
"""Methods whose linear layers multiply in INT8."""
_INT4_METHODS = ("dynamic_rows_int4",)  # Those with weights of 4 bits.
_BUCKETS_WORTH = 0.85  # Each bucket is compiled at every start, which takes some tenths of a second.
_UNITS = {
    "accuracy_drop": "",
    "p50_ms": " ms",
    "memory_mb": " MB",
    "first_answer_ms": " ms",
    "size_mb": " MB",
    "accuracy": "",
}


def find_rejections(measured: Sequence[Trial], budget: Budget, strict: bool, higher_is_better: bool) -> list[str]:
    """Return for each trial the reason why it cannot win; empty for those that can.

    Args:
        measured: Trials of one race.
        budget: Limits.
        strict: Whether the upper end of the accuracy drop's interval counts, not the drop.
        higher_is_better: Direction of the score.
    """
    reasons = [excess(trial, budget, strict, higher_is_better) or precision_mismatch(trial) for trial in measured]
    float_models = {t.model for t, reason in zip(measured, reasons, strict=True) if not reason and t.method == FLOAT}
    for index, trial in enumerate(measured):
        if not reasons[index] and trial.model in float_models:
            reasons[index] = _no_speedup_reason(trial)
    any_shape: dict[tuple[object, ...], Trial] = {}
    for trial, reason in zip(measured, reasons, strict=True):
        if not reason and not trial.shapes:
            any_shape[_without_shapes(trial)] = trial
    for index, trial in enumerate(measured):
        if not reasons[index]:
            reasons[index] = _bucket_gain_reason(trial, any_shape.get(_without_shapes(trial)))
    return reasons


def trial_name(trial: Trial) -> str:
    """Return the method, backend and student of a trial, for messages."""
    return f"{trial.method} on {trial.backend}" + (f" of the student {trial.model}" if trial.model else "")


def excess(trial: Trial, budget: Budget, strict: bool = False, higher_is_better: bool = True) -> str:
    """Return a description of the limits that a trial exceeds; empty if it is inside the budget.

    Args:
        trial: Trial to judge.
        budget: Limits.
        strict: Whether the upper end of the accuracy drop's interval counts, not the drop.
        higher_is_better: Direction of the score.
    """
    over = []
    for key, limit in vars(budget).items():
        value = _budget_value(trial, key, strict)
        is_floor = key == "accuracy" and higher_is_better
        if limit is not None and not _is_within(value, limit, is_floor):
            suffix = " (upper end of its interval)" if strict and key == "accuracy_drop" else ""
            side = "under" if is_floor else "over"
            over.append(f"{key} {value:.4g}{_UNITS[key]}{suffix} {side} {limit:g}{_UNITS[key]}")
    if budget.accuracy_drop is not None:
        over += _list_hidden_losses(trial, budget.accuracy_drop, strict)
    return "over budget: " + ", ".join(over) if over else ""


def _list_hidden_losses(trial: Trial, drop: float, strict: bool) -> list[str]:
    """Return the losses that the score does not show and that exceed the limits for an allowed accuracy drop."""
    over = []
    if trial.recall_lost:
        over.append(f"{trial.recall_lost}, over {companions.RECALL_OF_DROP * drop:g}")
    limit = companions.ERROR_OF_DROP * drop
    growth = trial.error_high if strict else trial.error_growth
    if growth is not None and not growth <= limit + 1e-9:
        suffix = " (upper end of its interval)" if strict else ""
        over.append(
            f"mean absolute error grows by {growth:.4g}{suffix} of the labels' standard deviation, over {limit:g}"
        )
    return over


def _is_within(value: float, limit: float, is_floor: bool) -> bool:
    """Return whether a value meets a limit; NaN meets none.

    Scores are ratios of counts. The slack accepts a score that equals the limit but for its last bit.
    """
    return value >= limit - 1e-9 if is_floor else value <= limit + 1e-9


def _budget_value(trial: Trial, key: str, strict: bool) -> float:
    """Return the value of a trial that a budget key limits."""
    if key == "accuracy":
        return trial.score
    if key == "accuracy_drop":
        return float(trial.drop_high if strict else trial.drop)
    return float(getattr(trial, key))


def precision_mismatch(trial: Trial) -> str:
    """Return why an INT8 trial is refused if more layers ran in float than requested; empty if it is not.

    A trial with weights of 4 bits is refused if no layer has such weights: it would be one in INT8 under another name.
    """
    if trial.method not in INT8_METHODS:
        return ""
    expected = "int4" if trial.method in _INT4_METHODS else "int8"
    if trial.executed.startswith(expected) and is_integer(trial.executed, trial.in_float):
        return ""
    return f"refused: its linear layers ran in {trial.executed}, expected {expected}"


def _without_shapes(trial: Trial) -> tuple[object, ...]:
    return trial.model, trial.method, trial.backend, trial.threads, trial.streams, trial.batch, trial.executed


def _bucket_gain_reason(trial: Trial, any_shape: Trial | None) -> str:
    """Return why static shapes are rejected: their gain must outweigh a slower start and more memory."""
    if not trial.shapes or any_shape is None or trial.p50_ms <= _BUCKETS_WORTH * any_shape.p50_ms:
        return ""
    startup_ms = trial.first_answer_ms - any_shape.first_answer_ms
    return (
        f"dropped: {trial.p50_ms / any_shape.p50_ms:.2f} x the time without static shapes, "
        f"too little gain for {startup_ms:.0f} ms more to start"
    )


def _no_speedup_reason(trial: Trial) -> str:
    """Return why a quantized trial is rejected if it is not faster than float32; empty if it is."""
    if trial.method == FLOAT or trial.ratio_high < 1.0:
        return ""
    return (
        f"dropped: {trial.ratio:.2f} x the time of float32 (up to {trial.ratio_high:.2f}), not faster beyond the noise"
    )


def no_candidate_message(
    measured: Sequence[Trial],
    reasons: Sequence[str],
    target: Target,
    comparison: str,
    strict: bool,
    higher_is_better: bool,
) -> str:
    """Return the message of the error that no trial is inside the budget: the reason for each, nearest first.

    Args:
        measured: Trials of one race.
        reasons: Reason of each trial, from :func:`find_rejections`.
        target: Device class with the budget.
        comparison: Score of the reference model, as text.
        strict: Whether the upper end of the accuracy drop's interval counts, not the drop.
        higher_is_better: Direction of the score.
    """

    def distance(index: int) -> tuple[bool, float, float]:
        shares = []
        for key, limit in vars(target.budget).items():
            if limit is not None:
                share = _budget_value(measured[index], key, strict) / max(limit, 1e-9)
                is_floor = key == "accuracy" and higher_is_better
                shares.append(1.0 / max(share, 1e-9) if is_floor else share)
        # A trial inside the budget was refused for another reason, which no other budget changes, so it comes last.
        is_refused = not excess(measured[index], target.budget, strict, higher_is_better)
        return is_refused, max(shares, default=0.0), measured[index].p50_ms

    order = sorted(range(len(measured)), key=distance)
    lines = "\n".join(f"  {trial_name(measured[i])}: {reasons[i]}" for i in order)
    return (
        f"No candidate is inside the budget of target '{target.name}', so nothing was written (nearest first):\n"
        f"{lines}\n"
        f"For comparison, {comparison}. Relax the budget with --budget KEY=VALUE, or use a model with more margin."
    )
