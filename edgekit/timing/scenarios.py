"""Scenarios by the names of MLPerf Inference (mlcommons/inference_policies, inference_rules.adoc): how inputs arrive, and what is stated then.

MLPerf-style, not MLPerf-compliant: MLPerf asks for 600 s a scenario, and 24,576 samples of Offline. Percentiles are MLPerf's
early-stopping estimates: upper bounds at 99 % confidence, which cost few samples an honest, higher number.
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

__all__ = ["NAMES", "OFFLINE", "SERVER", "SINGLE_STREAM", "early_stopping", "needed", "run"]

SINGLE_STREAM, OFFLINE, SERVER = NAMES = ("SingleStream", "Offline", "Server")

_CONFIDENCE = 0.99
_SHARES = {
    SINGLE_STREAM: 1.0,
    OFFLINE: 1.0,
    SERVER: 3.0,
}  # of the time: Server answers thousands of queries, and pauses between them
_OFFLINE_SAMPLES = 24576  # that MLPerf asks for
_WARM_UP = 20
_REQUEST_S = 0.25
_LEAST_LIST = 64  # rows: two of the usual batches
_BOUND = 10.0  # times the median: at 662 queries the estimate is the longest of all, and one hiccup of the machine must not decide
_LEAST_BOUND_MS = 1.0
_LOWEST = 0.1  # of the capacity: the search for a rate is between it and the capacity
_FIRST = math.sqrt(
    _LOWEST
)  # of the capacity: the first rate that is tried: the middle of the search, which is by ratios
_PROBES = 5  # that the time should suffice for; each halves the search
_RESOLUTION = 1.02
_STYLE = "MLPerf-style, not MLPerf-compliant"


def early_stopping(times_ms: Sequence[float], percentile: float) -> float | None:
    """MLPerf's estimate of a percentile: no less than the true one with a confidence of 99 %, or None when there are too few times for that.

    Of n times the t - 1 largest are discarded and the largest of the rest is the estimate, with the largest t for which
    P(Binomial(n, 1 - percentile) <= t) <= 0.01 (inference_rules.adoc, "Early stopping criterion", with tolerance 0; LoadGen's results.cc).

    Args:
        times_ms: of single queries, in any order and unit.
        percentile: e.g. 90 or 99.9.

    Raises:
        UsageError: for a percentile below 50, or of 100 and more.
    """
    tail = _tail(percentile)
    allowed = _allowed(len(times_ms), tail)
    return float(sorted(times_ms)[-allowed]) if allowed >= 1 else None


def needed(percentile: float) -> int:
    """How many times :func:`early_stopping` needs: 11 for 50, 64 for 90, 130 for 95, 662 for 99, 6,636 for 99.9.

    Raises:
        UsageError: for a percentile below 50, or of 100 and more.
    """
    tail = _tail(percentile)
    most = math.ceil(20 / tail)  # where at most one time in the tail is out of the question: 21 exp(-20)
    return 1 + bisect_left(
        range(1, most), True, key=lambda n: (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) <= 1 - _CONFIDENCE
    )


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
    """Runs scenarios on a bundle, in the order SingleStream, Offline, Server.

    Args:
        worker: runs the bundle.
        inputs: queries are drawn from them: in a shuffled order, all before any comes again.
        names: some of ``NAMES``.
        seconds: for all of them; kept to within one request: a list or a probe that was predicted to fit. A slow bundle's first answers may exceed it.
        bound_ms: of Server: its 99th percentile may be no longer. By default 10 times the SingleStream median, and at least 1 ms.
        seed: of the order and the arrivals.
        progress: told after each request.

    Returns:
        One for each name, in the order of ``names``.

    Raises:
        UsageError: for a name that is not known, or a number that is not above 0.
        SamplesError: when there are no inputs.
        BackendError: when the worker fails, or the clock goes backwards.
    """
    check_known(names, NAMES, "scenario", listed="Scenarios")
    for what, value in (("seconds", seconds), ("bound_ms", bound_ms)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{what} is {value!r}, expected a finite number above 0.", code="scenario-settings")
    if not names:
        return ()
    end = time.monotonic() + seconds
    draw = InputSampler(inputs, seed)
    each_s = _warm_up(worker, draw, end - 0.9 * seconds)
    asked = [name for name in NAMES if name in names]
    found = {}
    if SERVER in asked:
        capacity = worker.streams() / each_s
        fit = int(capacity * _FIRST * seconds * _SHARES[SERVER] / sum(_SHARES[name] for name in asked))
        if fit < needed(99):  # known before the others have run, so that they may have its time
            asked.remove(SERVER)
            found[SERVER] = Scenario(
                SERVER,
                _rate_metric(bound_ms),
                None,
                "queries/s",
                0,
                f"{_too_few(fit, 99)} in the time there is; {_STYLE}",
            )
    share_s = {name: (end - time.monotonic()) * _SHARES[name] / sum(_SHARES[n] for n in asked) for name in asked}
    times_ms: list[float] = []
    if SINGLE_STREAM in asked or SERVER in asked:
        # Without SingleStream they are taken as well: Server's bound and rates come from them.
        times_ms = _one_by_one(
            worker, draw, each_s, time.monotonic() + share_s.get(SINGLE_STREAM, seconds / 10), progress
        )
    if SINGLE_STREAM in asked:
        found[SINGLE_STREAM] = _single_stream(times_ms)
    if OFFLINE in asked:
        found[OFFLINE] = _offline(worker, inputs, draw, each_s, end - share_s.get(SERVER, 0.0), progress)
    if SERVER in asked:
        found[SERVER] = _server(worker, draw, times_ms, bound_ms, seed, end, progress)
    return tuple(found[name] for name in names)


def _warm_up(worker: Worker, draw: InputSampler, until: float) -> float:
    """Seconds of a query, about."""
    warm = worker.time(draw.take(1))
    while len(warm) < _WARM_UP and time.monotonic() < until:
        warm += worker.time(draw.take(1))
    return median(warm) / 1e3


def _one_by_one(worker: Worker, draw: InputSampler, each_s: float, until: float, progress: Progress) -> list[float]:
    """Milliseconds of queries, each sent when the one before was answered."""
    times_ms: list[float] = []
    while not times_ms or time.monotonic() < until:
        times_ms += worker.time(draw.take(max(1, int(min(_REQUEST_S, until - time.monotonic()) / each_s))))
        progress(f"scenario {SINGLE_STREAM}", len(times_ms), 0)
    return times_ms


def _single_stream(times_ms: Sequence[float]) -> Scenario:
    value, count = early_stopping(times_ms, 90), len(times_ms)
    how = f"each query sent when the one before was answered, {sum(times_ms) / 1e3:.1f} s of the 600 s of MLPerf; {_STYLE}"
    detail = how if value is not None else f"{_too_few(count, 90)}; {how}"
    return Scenario(SINGLE_STREAM, "90th percentile, early-stopping estimate", value, "ms", count, detail)


def _offline(
    worker: Worker, inputs: Sequence[Input], draw: InputSampler, each_s: float, until: float, progress: Progress
) -> Scenario:
    # As many rows as two lists and a warm-up have time for, should batches save nothing; all where that is more.
    size = min(len(inputs), max(_LEAST_LIST, int((until - time.monotonic()) / 2.2 / each_s)))
    rows = list(inputs) if size == len(inputs) else draw.take(size)
    worker.seconds(rows[: max(1, min(_LEAST_LIST, size // 10))])
    taken: list[float] = []
    while (
        not taken or time.monotonic() + (taken[-1] if len(taken) > 1 else 0.0) <= until
    ):  # two even where they take longer than was thought
        taken.append(worker.seconds(rows))
        progress(f"scenario {OFFLINE}", len(taken), 0)
    count = len(taken) * size
    of = f" of the {len(inputs):,}, so that there was time for two lists" if size < len(inputs) else ""
    detail = f"{len(taken)} x a list of {size:,} rows{of}: {count:,} samples of the {_OFFLINE_SAMPLES:,} of MLPerf, {sum(taken):.1f} s of its 600 s; {_STYLE}"
    return Scenario(OFFLINE, "throughput of one list", count / sum(taken), "rows/s", count, detail)


def _server(
    worker: Worker,
    draw: InputSampler,
    times_ms: Sequence[float],
    bound_ms: float | None,
    seed: int,
    end: float,
    progress: Progress,
) -> Scenario:
    """The largest rate of Poisson arrivals at which the 99th percentile keeps the bound, by bisection of its logarithm."""
    bound = max(_BOUND * median(times_ms), _LEAST_BOUND_MS) if bound_ms is None else bound_ms
    said = f"bound {bound:.2f} ms" + (
        f" ({_BOUND:g} x the SingleStream median, at least {_LEAST_BOUND_MS:g} ms)" if bound_ms is None else ""
    )
    high = worker.streams() * 1e3 / fmean(times_ms)
    low = _LOWEST * high
    fit = int((end - time.monotonic()) * _FIRST * high)
    count = max(needed(99), fit // _PROBES)
    inputs, gaps = draw.take(count), _gaps(count, seed)
    kept: list[float] = []
    broken: list[float] = []
    while (left_s := end - time.monotonic()) > 0:
        rate = max(math.sqrt(low * high), count / left_s)  # a lower one would take longer than there is
        if rate * _RESOLUTION > high:
            break
        estimate = early_stopping(worker.serve(inputs, list(np.cumsum(gaps) / rate)), 99)
        if estimate is not None and estimate <= bound:
            low = rate
            kept.append(rate)
        else:
            high = rate
            broken.append(rate)
        progress(f"scenario {SERVER}", len(kept) + len(broken), 0)
    probes = len(kept) + len(broken)
    parts = [f"Poisson arrivals (seed {seed}), {said}; {probes} rates tried with {count:,} queries each"]
    if not probes:
        parts = [_too_few(fit, 99) + " in the time there is", said]
    elif not kept:
        parts.insert(0, f"{min(broken):.1f} queries/s were too many, and there was no time for a lower rate")
    elif broken:
        parts.append(f"{min(broken):.1f} queries/s were too many")
    return Scenario(
        SERVER,
        _rate_metric(bound_ms),
        max(kept, default=None),
        "queries/s",
        probes * count,
        "; ".join([*parts, _STYLE]),
    )


def _rate_metric(bound_ms: float | None) -> str:
    bound = "the bound" if bound_ms is None else f"{bound_ms:g} ms"
    return f"largest rate with a 99th percentile within {bound}, early-stopping estimate"


def _gaps(count: int, seed: int) -> np.ndarray:
    """Seconds between arrivals at a rate of 1 a second, float64 ``[count]``: exponential, and with a mean of 1 in the sample, too.

    One series serves all rates: a higher one then makes no query wait less, and the bisection has one rate to find.
    """
    gaps = np.random.default_rng(seed).exponential(size=count)
    return np.asarray(gaps / gaps.mean())


def _allowed(count: int, tail: float) -> int:
    """The largest t with P(Binomial(count, tail) <= t) <= 0.01; -1 where there is none."""
    total, t = 0.0, -1
    log_ways = math.lgamma(count + 1)
    while t < count:
        k = t + 1
        total += math.exp(
            log_ways
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(tail)
            + (count - k) * math.log1p(-tail)
        )
        if total > 1 - _CONFIDENCE:
            break
        t = k
    return t


def _tail(percentile: float) -> float:
    if not 50 <= percentile < 100:
        raise UsageError(
            f"percentile is {percentile!r}, expected a number from 50 to below 100, e.g. 99 or 99.9.",
            code="scenario-settings",
        )
    return (100 - percentile) / 100


def _too_few(count: int, percentile: float) -> str:
    return f"not estimable from {count:,} queries (needs {needed(percentile):,})"
