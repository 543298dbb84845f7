"""From timed processes to ratios: latency, cold start, memory, size and energy of one bundle over another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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


def margins(gates: Gates) -> dict[str, float]:
    """The growth that is allowed, by metric; those that are not gated are left out."""
    found = {**vars(gates.latency), **vars(gates.footprint)}
    return {metric: found[metric] for metric in METRICS if found[metric] is not None}


def verdict(change: Change, margin: float) -> str:
    """Regression where the whole interval is above the margin, pass where none of it is, else inconclusive."""
    if change.low is None or change.high is None:
        return INCONCLUSIVE
    if change.low > 1 + margin:
        return REGRESSION
    return PASS if change.high <= 1 + margin else INCONCLUSIVE


def make_stop_rule(
    gated: Mapping[str, float], sizes_mb: tuple[float, float], seed: int
) -> Callable[[Sequence[Pair], Sequence[Look]], bool]:
    """Whether every gated metric is decided, for :func:`edgekit.timing.interleaved.time_interleaved`."""

    def decided(pairs: Sequence[Pair], looks: Sequence[Look]) -> bool:
        found = {c.metric: c for c in _changes(pairs, looks, gated, sizes_mb, seed)}
        # More time brings calls, and with them a percentile; it brings no meter, and energy is taken in the first pairs alone.
        hopeless = {
            "energy",
            *(metric for metric, change in found.items() if change.said and metric not in PERCENTILES),
        }
        return bool(gated) and all(
            metric in hopeless or verdict(found[metric], margin) != INCONCLUSIVE for metric, margin in gated.items()
        )

    return decided


def compare_paired(
    measured: InterleavedTiming, sizes_mb: tuple[float, float], gated: Mapping[str, float], seed: int
) -> Speed:
    """What a duel says.

    Args:
        measured: the processes and the looks that were taken at them.
        sizes_mb: of both bundles.
        gated: metric to margin. A metric is judged at the first look that decides it, as it was when the duel went on or ended.
        seed: of the resampling.
    """
    blocks = sum(len(before.blocks_ms) for before, _ in measured.pairs)
    calls = sum(len(block) for before, _ in measured.pairs for block in before.blocks_ms)
    return Speed(
        paired=True,
        changes=_changes(measured.pairs, measured.looks, gated, sizes_mb, seed),
        pairs=len(measured.pairs),
        blocks=blocks,
        calls=calls,
        looks=len(measured.looks),
        seconds=measured.seconds,
    )


def compare_unpaired(before: Subject, after: Subject, seconds: float, seed: int) -> Speed:
    """What runs at different times say: what the machine does between two of them is in the intervals (``sessions``).

    Args:
        before: read from a file, with all sessions that it has.
        after: measured now.
        seconds: what that took.
        seed: of the resampling.
    """
    earlier = sessions.list_sessions(before)
    found = [
        _exact(m, before.size_mb, after.size_mb) if m == "size" else _unpaired_change(m, earlier, after.processes, seed)
        for m in METRICS
    ]
    blocks = sum(len(p.blocks_ms) for p in after.processes)
    fewest = min(map(len, (*earlier, after.processes)))
    return Speed(
        False, tuple(found), fewest, blocks, sum(len(b) for p in after.processes for b in p.blocks_ms), 1, seconds
    )


def session_estimates(metric: str, every: Sequence[Sequence[Process]], seed: int) -> list[dict[str, Estimate]]:
    """Logarithm of a metric in each session, in each form that :func:`edgekit.report.sessions.forms` names."""
    forms, q = sessions.forms(metric, every), PERCENTILES.get(metric, 50) / 100
    return [{form: interval.quantile(_values(metric, session, form), q, seed) for form in forms} for session in every]


def _unpaired_change(metric: str, earlier: Sequence[Sequence[Process]], after: Sequence[Process], seed: int) -> Change:
    last = [_values(metric, earlier[-1]), _values(metric, after)]
    if said := next((s for session in (*earlier, after) if (s := _lacks(metric, [_values(metric, session)]))), ""):
        return _none(metric, last, said)
    if (fewest := min(map(len, (*earlier, after)))) < FEWEST:
        return _none(metric, last, f"{fewest} processes of a session, expected at least {FEWEST}")
    *before, now = session_estimates(metric, [*earlier, after], seed)
    found = sessions.compare(metric, before, now)
    return replace(
        _change(metric, last, found.estimate, ALPHA), sessions=len(earlier), spread=found.spread, probe=found.probe
    )


def _changes(
    pairs: Sequence[Pair], looks: Sequence[Look], gated: Mapping[str, float], sizes_mb: tuple[float, float], seed: int
) -> tuple[Change, ...]:
    return tuple(
        _exact(m, *sizes_mb) if m == "size" else _at_its_look(m, pairs, looks, gated.get(m), seed) for m in METRICS
    )


def _at_its_look(metric: str, pairs: Sequence[Pair], looks: Sequence[Look], margin: float | None, seed: int) -> Change:
    """A metric at the first look that decides it, or at the last."""
    found = None
    for look, alpha in zip(looks, interval.levels(looks), strict=True):
        if margin is None and look is not looks[-1]:
            continue
        found = _paired_change(metric, pairs[: look.pairs], alpha, seed)
        if margin is not None and verdict(found, margin) != INCONCLUSIVE:
            break
    assert found is not None
    return found


def _paired_change(metric: str, pairs: Sequence[Pair], alpha: float, seed: int) -> Change:
    if metric == "energy":  # it is not measured in all
        pairs = [(a, b) for a, b in pairs if a.energy_mj is not None and b.energy_mj is not None]
    sides: tuple[list[Process], list[Process]] = ([a for a, _ in pairs], [b for _, b in pairs])
    values = [_values(metric, side) for side in sides]
    if said := _lacks(metric, values):
        return _none(metric, values, said)
    if metric == "p50":
        estimate = interval.median([log_ratios(a, b) for a, b in pairs], seed)
    elif metric in PERCENTILES:
        estimate = interval.ratio_of_quantiles(values[0], values[1], PERCENTILES[metric] / 100, seed)
    else:
        estimate = interval.median([[math.log(b / a)] for (a,), (b,) in zip(*values, strict=True)], seed)
    return _change(metric, values, estimate, alpha)


def log_ratios(before: Process, after: Process) -> list[float]:
    """Logarithm of after over before, block by block: the median over the block's texts, each of which both sides answered twice."""

    def per_text(block: Sequence[float]) -> np.ndarray:
        return np.asarray(np.log(block).reshape(2, -1).mean(axis=0))

    return [float(np.median(per_text(b) - per_text(a))) for a, b in zip(before.blocks_ms, after.blocks_ms, strict=True)]


def _values(metric: str, processes: Sequence[Process], probe: str = "") -> list[list[float]]:
    """What each process has of a metric, as it is or in a form of ``sessions``: ``[process][value]``."""
    if metric in PERCENTILES and probe:
        return [sessions.in_form(process, probe) for process in processes]
    if metric in PERCENTILES:
        return [[t for block in p.blocks_ms for t in block] for p in processes]
    if metric == "first_answer":
        return [
            [p.start.total_ms / (p.probe_start_ms or math.nan if probe == sessions.START else 1.0)] for p in processes
        ]
    if metric == "memory":
        return [[p.memory_mb] for p in processes]
    return [[p.energy_mj] for p in processes if p.energy_mj is not None]


def _lacks(metric: str, values: Sequence[Sequence[Sequence[float]]]) -> str:
    """Why there is no ratio; empty where there is one."""
    for side in values:
        flat = [v for group in side for v in group]
        if metric in PERCENTILES:
            needed = samples_needed(PERCENTILES[metric])
            if len(flat) < needed:
                return f"not estimable from {len(flat)} samples (needs {needed})"
            if min(flat) <= 0:
                raise BackendError(
                    "A call took no time or less: this machine's clock went backwards. Run again once its time is steady.",
                    code="clock-backwards",
                )
        elif not flat or min(flat) <= 0:
            return "this machine does not tell it"
    return ""


def _middle(metric: str, groups: Sequence[Sequence[float]]) -> float | None:
    flat = [v for group in groups for v in group]
    if not flat:
        return None
    return percentile(flat, PERCENTILES[metric]) if metric in PERCENTILES else float(np.median(flat))


def _none(metric: str, values: Sequence[Sequence[Sequence[float]]], said: str) -> Change:
    return Change(
        metric, _middle(metric, values[0]), _middle(metric, values[1]), _UNITS[metric], None, None, None, None, said
    )


def _change(metric: str, values: Sequence[Sequence[Sequence[float]]], estimate: Estimate, alpha: float) -> Change:
    before, after = _middle(metric, values[0]), _middle(metric, values[1])
    if estimate.pairs < FEWEST:
        said = f"{estimate.pairs} processes of a side, expected at least {FEWEST}"
        return Change(metric, before, after, _UNITS[metric], math.exp(estimate.value), None, None, None, said)
    low, high = estimate.bounds(alpha)
    resolvable = math.expm1(estimate.resolvable(alpha))
    return Change(
        metric, before, after, _UNITS[metric], math.exp(estimate.value), math.exp(low), math.exp(high), resolvable
    )


def _exact(metric: str, before: float, after: float) -> Change:
    """A metric in which nothing is random."""
    if before <= 0 or after <= 0:
        return Change(metric, None, None, _UNITS[metric], None, None, None, None, "one side has none")
    ratio = after / before
    return Change(metric, before, after, _UNITS[metric], ratio, ratio, ratio, 0.0)
