"""Ratios of latency, cold start, memory, size and energy between two bundles, from their timed processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from edgekit.report import sessions
from edgekit.spec.errors import BackendError
from edgekit.spec.gates import Gates
from edgekit.spec.report import INCONCLUSIVE, PASS, REGRESSION, Change, Speed
from edgekit.spec.subject import Process, Subject
from edgekit.stats import interval
from edgekit.stats.interval import ALPHA, FEWEST, Estimate, Look
from edgekit.stats.percentiles import percentile, samples_needed
from edgekit.timing.interleaved import InterleavedTiming, Pair

__all__ = [
    "METRICS",
    "PERCENTILES",
    "compare_paired",
    "compare_unpaired",
    "log_ratios",
    "make_stop_rule",
    "margins",
    "session_estimates",
    "verdict",
]

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}
_UNITS = {**dict.fromkeys(PERCENTILES, "ms"), "first_answer": "ms", "memory": "MB", "size": "MB", "energy": "mJ"}
METRICS = tuple(_UNITS)

_Groups = Sequence[Sequence[float]]
"""Values of one side: ``[process][value]``."""


def margins(gates: Gates) -> dict[str, float]:
    """Return the allowed growth of each gated metric, as a share."""
    limits = {**vars(gates.latency), **vars(gates.footprint)}
    return {metric: limits[metric] for metric in METRICS if limits[metric] is not None}


def verdict(change: Change, margin: float) -> str:
    """Return the verdict of a change against a margin.

    It is a regression if the whole interval is above the margin, a pass if none of it is, and inconclusive otherwise.
    """
    if change.low is None or change.high is None:
        return INCONCLUSIVE
    if change.low > 1 + margin:
        return REGRESSION
    return PASS if change.high <= 1 + margin else INCONCLUSIVE


def make_stop_rule(
    gated: Mapping[str, float], sizes_mb: tuple[float, float], seed: int
) -> Callable[[Sequence[Pair], Sequence[Look]], bool]:
    """Return the stop rule of :func:`edgekit.timing.interleaved.time_interleaved`: every gated metric is decided.

    Args:
        gated: Margin by gated metric.
        sizes_mb: Sizes of both bundles, in MiB.
        seed: Random seed of the bootstrap.
    """

    def is_decided(pairs: Sequence[Pair], looks: Sequence[Look]) -> bool:
        changes = {change.metric: change for change in _changes(pairs, looks, gated, sizes_mb, seed)}
        if not gated:
            return False
        for metric, margin in gated.items():
            # More time brings more calls, and with them a percentile. It does not bring a meter, and energy is only
            # measured in the first pairs.
            is_hopeless = metric == "energy" or (changes[metric].said and metric not in PERCENTILES)
            if not is_hopeless and verdict(changes[metric], margin) == INCONCLUSIVE:
                return False
        return True

    return is_decided


def compare_paired(
    timing: InterleavedTiming, sizes_mb: tuple[float, float], gated: Mapping[str, float], seed: int
) -> Speed:
    """Return the comparison of two bundles that ran interleaved.

    Args:
        timing: Timed processes and the looks at their data.
        sizes_mb: Sizes of both bundles, in MiB.
        gated: Margin by gated metric. A metric is judged at the first look that decides it, as during the measurement.
        seed: Random seed of the bootstrap.
    """
    blocks = sum(len(before.blocks_ms) for before, _ in timing.pairs)
    calls = sum(len(block) for before, _ in timing.pairs for block in before.blocks_ms)
    return Speed(
        paired=True,
        changes=_changes(timing.pairs, timing.looks, gated, sizes_mb, seed),
        pairs=len(timing.pairs),
        blocks=blocks,
        calls=calls,
        looks=len(timing.looks),
        seconds=timing.seconds,
    )


def compare_unpaired(before: Subject, after: Subject, seconds: float, seed: int) -> Speed:
    """Return the comparison of two bundles that were timed in different runs.

    The intervals include the variation of the machine between runs (:mod:`edgekit.report.sessions`).

    Args:
        before: Baseline from a file, with all its sessions.
        after: Candidate of this run.
        seconds: Duration of the measurement.
        seed: Random seed of the bootstrap.
    """
    earlier = sessions.list_sessions(before)
    changes = []
    for metric in METRICS:
        if metric == "size":
            changes.append(_exact_change(metric, before.size_mb, after.size_mb))
        else:
            changes.append(_unpaired_change(metric, earlier, after.processes, seed))
    blocks = [block for process in after.processes for block in process.blocks_ms]
    return Speed(
        paired=False,
        changes=tuple(changes),
        pairs=min(map(len, (*earlier, after.processes))),
        blocks=len(blocks),
        calls=sum(map(len, blocks)),
        looks=1,
        seconds=seconds,
    )


def session_estimates(metric: str, every: Sequence[Sequence[Process]], seed: int) -> list[dict[str, Estimate]]:
    """Return the logarithm of a metric in each session, by form.

    Args:
        metric: Name of the metric, e.g. ``p50``.
        every: Processes of each session.
        seed: Random seed of the bootstrap.

    Returns:
        One dictionary per session, with the forms of :func:`edgekit.report.sessions.forms` as keys.
    """
    forms = sessions.forms(metric, every)
    share = PERCENTILES.get(metric, 50) / 100
    estimates = []
    for session in every:
        estimates.append({form: interval.quantile(_values(metric, session, form), share, seed) for form in forms})
    return estimates


def _unpaired_change(metric: str, earlier: Sequence[Sequence[Process]], after: Sequence[Process], seed: int) -> Change:
    values = [_values(metric, earlier[-1]), _values(metric, after)]
    for session in (*earlier, after):
        reason = _missing_reason(metric, [_values(metric, session)])
        if reason:
            return _undefined_change(metric, values, reason)
    fewest = min(map(len, (*earlier, after)))
    if fewest < FEWEST:
        return _undefined_change(metric, values, f"{fewest} processes in a session, expected at least {FEWEST}")
    *before, now = session_estimates(metric, [*earlier, after], seed)
    comparison = sessions.compare(metric, before, now)
    change = _change(metric, values, comparison.estimate, ALPHA)
    return replace(change, sessions=len(earlier), spread=comparison.spread, probe=comparison.probe)


def _changes(
    pairs: Sequence[Pair], looks: Sequence[Look], gated: Mapping[str, float], sizes_mb: tuple[float, float], seed: int
) -> tuple[Change, ...]:
    changes = []
    for metric in METRICS:
        if metric == "size":
            changes.append(_exact_change(metric, *sizes_mb))
        else:
            changes.append(_deciding_change(metric, pairs, looks, gated.get(metric), seed))
    return tuple(changes)


def _deciding_change(
    metric: str, pairs: Sequence[Pair], looks: Sequence[Look], margin: float | None, seed: int
) -> Change:
    """Return the change of a metric at the first look that decides it, or at the last look."""
    change = None
    for look, alpha in zip(looks, interval.levels(looks), strict=True):
        if margin is None and look is not looks[-1]:
            continue
        change = _paired_change(metric, pairs[: look.pairs], alpha, seed)
        if margin is not None and verdict(change, margin) != INCONCLUSIVE:
            break
    assert change is not None
    return change


def _paired_change(metric: str, pairs: Sequence[Pair], alpha: float, seed: int) -> Change:
    if metric == "energy":  # Not every pair has a measurement of energy.
        pairs = [(a, b) for a, b in pairs if a.energy_mj is not None and b.energy_mj is not None]
    before = _values(metric, [a for a, _ in pairs])
    after = _values(metric, [b for _, b in pairs])
    reason = _missing_reason(metric, [before, after])
    if reason:
        return _undefined_change(metric, [before, after], reason)
    if metric == "p50":
        estimate = interval.median([log_ratios(a, b) for a, b in pairs], seed)
    elif metric in PERCENTILES:
        estimate = interval.ratio_of_quantiles(before, after, PERCENTILES[metric] / 100, seed)
    else:
        estimate = interval.median([[math.log(b / a)] for (a,), (b,) in zip(before, after, strict=True)], seed)
    return _change(metric, [before, after], estimate, alpha)


def log_ratios(before: Process, after: Process) -> list[float]:
    """Return the logarithm of after over before for each block.

    The value of a block is the median over its inputs. Both sides answer each input twice.
    """

    def mean_logs(block: Sequence[float]) -> np.ndarray:
        return np.asarray(np.log(block).reshape(2, -1).mean(axis=0))

    blocks = zip(before.blocks_ms, after.blocks_ms, strict=True)
    return [float(np.median(mean_logs(b) - mean_logs(a))) for a, b in blocks]


def _values(metric: str, processes: Sequence[Process], form: str = "") -> list[list[float]]:
    """Return the values of a metric in a form of :mod:`edgekit.report.sessions`: ``[process][value]``."""
    if metric in PERCENTILES and form:
        return [sessions.in_form(process, form) for process in processes]
    if metric in PERCENTILES:
        return [list(chain.from_iterable(process.blocks_ms)) for process in processes]
    if metric == "first_answer" and form == sessions.START:
        return [[process.start.total_ms / (process.probe_start_ms or math.nan)] for process in processes]
    if metric == "first_answer":
        return [[process.start.total_ms] for process in processes]
    if metric == "memory":
        return [[process.memory_mb] for process in processes]
    return [[process.energy_mj] for process in processes if process.energy_mj is not None]


def _missing_reason(metric: str, sides: Sequence[_Groups]) -> str:
    """Return the reason why there is no ratio; empty if there is one."""
    for side in sides:
        values = [value for group in side for value in group]
        if metric in PERCENTILES:
            needed = samples_needed(PERCENTILES[metric])
            if len(values) < needed:
                return f"not estimable from {len(values)} samples (needs {needed})"
            if min(values) <= 0:
                raise BackendError(
                    "A call took 0 ms or less: the clock of this machine went backwards. "
                    "Run again once its time is steady.",
                    code="clock-backwards",
                )
        elif not values or min(values) <= 0:
            return "not reported by this machine"
    return ""


def _middle(metric: str, groups: _Groups) -> float | None:
    """Return the percentile of the metric, or the median; None without values."""
    values = [value for group in groups for value in group]
    if not values:
        return None
    return percentile(values, PERCENTILES[metric]) if metric in PERCENTILES else float(np.median(values))


def _undefined_change(metric: str, sides: Sequence[_Groups], reason: str) -> Change:
    before = _middle(metric, sides[0])
    after = _middle(metric, sides[1])
    return Change(metric, before, after, _UNITS[metric], None, None, None, said=reason)


def _change(metric: str, sides: Sequence[_Groups], estimate: Estimate, alpha: float) -> Change:
    before = _middle(metric, sides[0])
    after = _middle(metric, sides[1])
    ratio = math.exp(estimate.value)
    if estimate.pairs < FEWEST:
        reason = f"{estimate.pairs} processes per side, expected at least {FEWEST}"
        return Change(metric, before, after, _UNITS[metric], ratio, None, None, said=reason)
    low, high = estimate.bounds(alpha)
    resolvable = math.expm1(estimate.resolvable(alpha))
    return Change(metric, before, after, _UNITS[metric], ratio, math.exp(low), math.exp(high), resolvable)


def _exact_change(metric: str, before: float, after: float) -> Change:
    """Return the change of a metric without randomness."""
    if before <= 0 or after <= 0:
        return Change(metric, None, None, _UNITS[metric], None, None, None, said="one side has none")
    ratio = after / before
    return Change(metric, before, after, _UNITS[metric], ratio, ratio, ratio, 0.0)
