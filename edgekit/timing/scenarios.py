"""MLPerf Inference scenarios (mlcommons/inference_policies, inference_rules.adoc): arrival patterns and their metrics.

The scenarios are MLPerf-style, not MLPerf-compliant: MLPerf requires 600 s per scenario and 24,576 samples of Offline.
Percentiles are MLPerf's early-stopping estimates. They are upper bounds at 99 % confidence, so a small sample gives a
higher number, not a less certain one.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from edgekit.spec.errors import UsageError, check_known
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Input
from edgekit.spec.subject import Scenario
from edgekit.timing.sampler import InputSampler
from edgekit.timing.worker import Worker

__all__ = ["NAMES", "OFFLINE", "SERVER", "SINGLE_STREAM", "early_stopping", "min_queries", "run"]

SINGLE_STREAM = "SingleStream"
OFFLINE = "Offline"
SERVER = "Server"
NAMES = (SINGLE_STREAM, OFFLINE, SERVER)

_CONFIDENCE = 0.99
_TIME_SHARES = {SINGLE_STREAM: 1.0, OFFLINE: 1.0, SERVER: 3.0}
"""Relative shares of the time. Server runs thousands of queries with idle time between them."""
_MLPERF_OFFLINE_SAMPLES = 24576
_WARM_UP_CALLS = 20
_REQUEST_S = 0.25
_MIN_LIST_ROWS = 64
"""Rows of the shortest Offline list: two batches of the usual size."""
_BOUND_FACTOR = 10.0
"""Default latency bound of Server, as a multiple of the SingleStream median. It is generous, because with 662 queries
the estimate is the longest latency, and a single interruption of the machine must not decide."""
_MIN_BOUND_MS = 1.0
_LOWEST_RATE = 0.1
"""Lowest rate of the search, as a share of the capacity. The highest rate is the capacity."""
_FIRST_RATE = math.sqrt(_LOWEST_RATE)
"""First rate of the search, as a share of the capacity: the middle of the search interval on a logarithmic scale."""
_PLANNED_RATES = 5
"""Rates that the time should suffice for. Each one halves the search interval."""
_RATE_RESOLUTION = 1.02
_STYLE = "MLPerf-style, not MLPerf-compliant"


def early_stopping(times_ms: Sequence[float], percentile: float) -> float | None:
    """Return MLPerf's early-stopping estimate of a percentile, which is at least the true value with 99 % confidence.

    The estimate discards the t - 1 largest of n times and is the largest of the rest, with the largest t for which
    P(Binomial(n, 1 - percentile) <= t) <= 0.01 (inference_rules.adoc, "Early stopping criterion", with tolerance 0;
    results.cc of LoadGen).

    Args:
        times_ms: Latencies of single queries, in any order and unit.
        percentile: Percentile from 50 to below 100, e.g. 90 or 99.9.

    Returns:
        The estimate, or None if there are too few times.

    Raises:
        UsageError: If the percentile is out of range.
    """
    tail = _tail_probability(percentile)
    discarded = _max_discarded(len(times_ms), tail)
    return float(sorted(times_ms)[-discarded]) if discarded >= 1 else None


def min_queries(percentile: float) -> int:
    """Return the fewest times that :func:`early_stopping` needs.

    It is 11 for percentile 50, 64 for 90, 130 for 95, 662 for 99 and 6,636 for 99.9.

    Args:
        percentile: Percentile from 50 to below 100.

    Raises:
        UsageError: If the percentile is out of range.
    """
    tail = _tail_probability(percentile)
    # With this many queries, the probability of at most one in the tail is below 21 exp(-20).
    most = math.ceil(20 / tail)

    def is_enough(n: int) -> bool:
        at_most_one = (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1)
        return at_most_one <= 1 - _CONFIDENCE

    return 1 + bisect_left(range(1, most), True, key=is_enough)


def run(
    worker: Worker,
    inputs: Sequence[Input],
    names: Sequence[str],
    *,
    seconds: float,
    bound_ms: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Scenario, ...]:
    """Run scenarios on a bundle, in the order SingleStream, Offline, Server.

    Args:
        worker: Worker process of the bundle.
        inputs: Inputs to sample queries from, in random permutations.
        names: Scenarios to run, a subset of ``NAMES``.
        seconds: Time limit for all scenarios. It is exceeded by at most one request whose duration was predicted to
            fit, or by the first answers of a slow bundle.
        bound_ms: Latency bound of Server in milliseconds, for the 99th percentile. By default 10 times the
            SingleStream median, and at least 1 ms.
        seed: Random seed for the order of the inputs and the arrivals.
        progress: Progress callback, called after each request.

    Returns:
        One result for each name, in the order of ``names``.

    Raises:
        UsageError: If a name is unknown or a number is not positive.
        SamplesError: If there are no inputs.
        BackendError: If the worker fails or the clock goes backwards.
    """
    check_known(names, NAMES, "scenario", listed="Scenarios")
    for option, value in (("seconds", seconds), ("bound_ms", bound_ms)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{option} is {value!r}, expected a finite number above 0.", code="scenario-settings")
    if not names:
        return ()
    end = time.monotonic() + seconds
    sampler = InputSampler(inputs, seed)
    query_s = _warm_up(worker, sampler, end - 0.9 * seconds)
    pending = [name for name in NAMES if name in names]
    results = {}
    if SERVER in pending:
        # This is decided first, so that the other scenarios get the time of a Server scenario that cannot finish.
        capacity = worker.streams() / query_s
        share = _TIME_SHARES[SERVER] / sum(_TIME_SHARES[name] for name in pending)
        queries = int(capacity * _FIRST_RATE * seconds * share)
        if queries < min_queries(99):
            pending.remove(SERVER)
            detail = f"{_too_few(queries, 99)} in the available time; {_STYLE}"
            results[SERVER] = Scenario(SERVER, _rate_metric(bound_ms), None, "queries/s", 0, detail)
    left_s = end - time.monotonic()
    all_shares = sum(_TIME_SHARES[name] for name in pending)
    share_s = {name: left_s * _TIME_SHARES[name] / all_shares for name in pending}
    times_ms: list[float] = []
    if SINGLE_STREAM in pending or SERVER in pending:
        # Server needs these times for its bound and its rates, even if SingleStream itself is not run.
        until = time.monotonic() + share_s.get(SINGLE_STREAM, seconds / 10)
        times_ms = _time_single_stream(worker, sampler, query_s, until, progress)
    if SINGLE_STREAM in pending:
        results[SINGLE_STREAM] = _single_stream_result(times_ms)
    if OFFLINE in pending:
        results[OFFLINE] = _run_offline(worker, inputs, sampler, query_s, end - share_s.get(SERVER, 0.0), progress)
    if SERVER in pending:
        results[SERVER] = _run_server(worker, sampler, times_ms, bound_ms, seed, end, progress)
    return tuple(results[name] for name in names)


def _warm_up(worker: Worker, sampler: InputSampler, until: float) -> float:
    """Run the warm-up and return the approximate seconds of a query."""
    times_ms = worker.time(sampler.next_inputs(1))
    while len(times_ms) < _WARM_UP_CALLS and time.monotonic() < until:
        times_ms += worker.time(sampler.next_inputs(1))
    return median(times_ms) / 1e3


def _time_single_stream(
    worker: Worker, sampler: InputSampler, query_s: float, until: float, progress: Progress
) -> list[float]:
    """Return the latencies of queries in milliseconds. Each query is sent after the answer to the previous one."""
    times_ms: list[float] = []
    while not times_ms or time.monotonic() < until:
        request_s = min(_REQUEST_S, until - time.monotonic())
        times_ms += worker.time(sampler.next_inputs(max(1, int(request_s / query_s))))
        progress(f"scenario {SINGLE_STREAM}", len(times_ms), 0)
    return times_ms


def _single_stream_result(times_ms: Sequence[float]) -> Scenario:
    value = early_stopping(times_ms, 90)
    count = len(times_ms)
    detail = (
        "each query is sent after the answer to the previous one, "
        f"{sum(times_ms) / 1e3:.1f} s (MLPerf requires 600 s); {_STYLE}"
    )
    if value is None:
        detail = f"{_too_few(count, 90)}; {detail}"
    return Scenario(SINGLE_STREAM, "90th percentile, early-stopping estimate", value, "ms", count, detail)


def _run_offline(
    worker: Worker,
    inputs: Sequence[Input],
    sampler: InputSampler,
    query_s: float,
    until: float,
    progress: Progress,
) -> Scenario:
    """Measure the throughput of a list of rows."""
    # The list is as long as the time allows for two lists and a warm-up without any gain from batching.
    affordable = int((until - time.monotonic()) / 2.2 / query_s)
    size = min(len(inputs), max(_MIN_LIST_ROWS, affordable))
    rows = list(inputs) if size == len(inputs) else sampler.next_inputs(size)
    worker.seconds(rows[: max(1, min(_MIN_LIST_ROWS, size // 10))])
    durations_s: list[float] = []
    while True:
        # A second list is run even if the first one took longer than predicted.
        next_s = durations_s[-1] if len(durations_s) > 1 else 0.0
        if durations_s and time.monotonic() + next_s > until:
            break
        durations_s.append(worker.seconds(rows))
        progress(f"scenario {OFFLINE}", len(durations_s), 0)
    total_s = sum(durations_s)
    count = len(durations_s) * size
    subset = f" of the {len(inputs):,}, so that there was time for two lists" if size < len(inputs) else ""
    detail = (
        f"{len(durations_s)} lists of {size:,} rows{subset}: {count:,} samples "
        f"(MLPerf requires {_MLPERF_OFFLINE_SAMPLES:,}), {total_s:.1f} s (MLPerf requires 600 s); {_STYLE}"
    )
    return Scenario(OFFLINE, "throughput of one list", count / total_s, "rows/s", count, detail)


def _run_server(
    worker: Worker,
    sampler: InputSampler,
    times_ms: Sequence[float],
    bound_ms: float | None,
    seed: int,
    end: float,
    progress: Progress,
) -> Scenario:
    """Find the largest rate of Poisson arrivals whose 99th percentile is within the bound.

    The search bisects the logarithm of the rate.
    """
    bound = max(_BOUND_FACTOR * median(times_ms), _MIN_BOUND_MS) if bound_ms is None else bound_ms
    bound_text = f"bound {bound:.2f} ms"
    if bound_ms is None:
        bound_text += f" ({_BOUND_FACTOR:g} x the SingleStream median, at least {_MIN_BOUND_MS:g} ms)"
    high = worker.streams() * 1e3 / fmean(times_ms)
    low = _LOWEST_RATE * high
    affordable = int((end - time.monotonic()) * _FIRST_RATE * high)
    count = max(min_queries(99), affordable // _PLANNED_RATES)
    inputs = sampler.next_inputs(count)
    gaps = _arrival_gaps(count, seed)
    passed: list[float] = []
    failed: list[float] = []
    while (left_s := end - time.monotonic()) > 0:
        rate = max(math.sqrt(low * high), count / left_s)  # A lower rate would exceed the remaining time.
        if rate * _RATE_RESOLUTION > high:
            break
        estimate = early_stopping(worker.serve(inputs, list(np.cumsum(gaps) / rate)), 99)
        if estimate is not None and estimate <= bound:
            low = rate
            passed.append(rate)
        else:
            high = rate
            failed.append(rate)
        progress(f"scenario {SERVER}", len(passed) + len(failed), 0)
    tried = len(passed) + len(failed)
    parts = [f"Poisson arrivals (seed {seed}), {bound_text}; {tried} rates tried with {count:,} queries each"]
    if not tried:
        parts = [_too_few(affordable, 99) + " in the available time", bound_text]
    elif not passed:
        parts.insert(0, f"{min(failed):.1f} queries/s exceeded the bound, and there was no time for a lower rate")
    elif failed:
        parts.append(f"{min(failed):.1f} queries/s exceeded the bound")
    detail = "; ".join([*parts, _STYLE])
    return Scenario(SERVER, _rate_metric(bound_ms), max(passed, default=None), "queries/s", tried * count, detail)


def _rate_metric(bound_ms: float | None) -> str:
    bound = "the bound" if bound_ms is None else f"{bound_ms:g} ms"
    return f"largest rate with a 99th percentile within {bound}, early-stopping estimate"


def _arrival_gaps(count: int, seed: int) -> np.ndarray:
    """Return exponential gaps between arrivals in seconds, float64 ``[count]``, with a sample mean of 1.

    One series is scaled to all rates. A higher rate then makes no query wait less, so the bisection is monotonic.
    """
    gaps = np.random.default_rng(seed).exponential(size=count)
    return np.asarray(gaps / gaps.mean())


def _max_discarded(count: int, tail: float) -> int:
    """Return the largest t with P(Binomial(count, tail) <= t) <= 0.01, or -1 if there is none."""
    cumulative = 0.0
    t = -1
    while t < count:
        k = t + 1
        log_ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        cumulative += math.exp(log_ways + k * math.log(tail) + (count - k) * math.log1p(-tail))
        if cumulative > 1 - _CONFIDENCE:
            break
        t = k
    return t


def _tail_probability(percentile: float) -> float:
    if not 50 <= percentile < 100:
        raise UsageError(
            f"percentile is {percentile!r}, expected a number from 50 to below 100, e.g. 99 or 99.9.",
            code="scenario-settings",
        )
    return (100 - percentile) / 100


def _too_few(count: int, percentile: float) -> str:
    return f"not estimable from {count:,} queries (needs {min_queries(percentile):,})"
