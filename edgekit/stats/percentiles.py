"""Percentiles of call times, None where there are too few calls to state one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Latency", "latency", "percentile", "samples_needed"]

# How many samples a percentile needs before an upper bound at 99 % confidence exists: MLPerf's early stopping
# (mlcommons/inference_policies, inference_rules.adoc, "Early stopping criterion"), with no sample above it discarded.
_SAMPLES_NEEDED = {50: 11, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Latency:
    """Times of single calls, in milliseconds. A percentile that the count cannot carry is None.

    Attributes:
        count: number of calls.
        mean_ms: their mean.
        p50_ms, p90_ms, p99_ms: percentiles.
    """

    count: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


def latency(times_ms: Sequence[float]) -> Latency:
    """Summarizes times of single calls."""
    return Latency(len(times_ms), sum(times_ms) / len(times_ms), *(percentile(times_ms, q) for q in (50, 90, 99)))


def percentile(values: Sequence[float], q: int) -> float | None:
    """The nearest-rank percentile, or None when there are too few values to state it (50: 11, 90: 64, 95: 130, 99: 662)."""
    if len(values) < _SAMPLES_NEEDED[q]:
        return None
    return sorted(values)[max(0, math.ceil(q / 100 * len(values)) - 1)]


def samples_needed(q: int) -> int:
    """How many values :func:`percentile` needs."""
    return _SAMPLES_NEEDED[q]
