"""Percentiles of call latencies. A percentile is None if there are too few calls to estimate it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Latency", "latency", "percentile", "samples_needed"]

# Number of samples a percentile needs so that an upper bound at 99 % confidence exists: the early stopping of MLPerf
# (mlcommons/inference_policies, inference_rules.adoc, "Early stopping criterion"), if no sample above it is discarded.
_SAMPLES_NEEDED = {50: 11, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Latency:
    """Latency of single calls. A percentile is None if there are too few calls.

    Attributes:
        count: Number of calls.
        mean_ms: Mean, in ms.
        p50_ms, p90_ms, p99_ms: Percentiles, in ms.
    """

    count: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


def latency(times_ms: Sequence[float]) -> Latency:
    """Summarize the latencies of single calls.

    Args:
        times_ms: Latency of each call in ms, at least one.
    """
    return Latency(
        count=len(times_ms),
        mean_ms=sum(times_ms) / len(times_ms),
        p50_ms=percentile(times_ms, 50),
        p90_ms=percentile(times_ms, 90),
        p99_ms=percentile(times_ms, 99),
    )


def percentile(values: Sequence[float], q: int) -> float | None:
    """Return the nearest-rank percentile, or None if there are fewer values than :func:`samples_needed`.

    Args:
        values: Values in any order.
        q: Percentile: 50, 90, 95 or 99.
    """
    if len(values) < _SAMPLES_NEEDED[q]:
        return None
    rank = math.ceil(q / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def samples_needed(q: int) -> int:
    """Return the number of values that :func:`percentile` needs: 11 for 50, 64 for 90, 130 for 95, 662 for 99."""
    return _SAMPLES_NEEDED[q]
