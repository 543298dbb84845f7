"""Variations of candidates to measure next: bucket edges, threads, streams and batch sizes.

The full product of these settings would take an hour to measure. Each one is varied around the best candidate so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgekit import backends
from edgekit.machine.cpu import cpus
from edgekit.search.record import Candidate, Race
from edgekit.spec.target import Target

__all__ = [
    "MOST_BUCKETS",
    "better_buckets",
    "choose_buckets",
    "max_buckets_within",
    "throughput_variants",
    "with_buckets",
    "with_other_threads",
]

MOST_BUCKETS = 8
_BATCHES = (4, 8, 16, 32, 64)


def with_buckets(candidate: Candidate, lengths: Sequence[int]) -> Candidate | None:
    """Return the candidate with bucket edges at quantiles of the lengths, as a first guess.

    The measured times of this guess lead to better edges, see :func:`better_buckets`.

    Args:
        candidate: Candidate that was measured with dynamic shapes.
        lengths: Tokens of each calibration row.

    Returns:
        The candidate with buckets, or None if it has static shapes already or its backend does not benefit from them.
    """
    if candidate.variant.shapes or not backends.get(candidate.variant.backend).STATIC_SHAPES:
        return None
    shares = np.linspace(0, 1, MOST_BUCKETS + 1)[1:]
    edges = tuple(sorted({int(np.quantile(lengths, share, method="higher")) for share in shares}))
    return replace(candidate, variant=replace(candidate.variant, shapes=edges))


def better_buckets(
    plain: Candidate,
    guess: Candidate,
    race: Race,
    timed_lengths: Sequence[Sequence[int]],
    lengths: Sequence[int],
    memory_mb: tuple[float, float],
    limit_mb: float | None,
) -> Candidate | None:
    """Return the candidate with the bucket edges that cost the least time for the lengths.

    The time per length is a line through the measured times of two candidates.

    Args:
        plain: Candidate with dynamic shapes.
        guess: Candidate with the first bucket edges.
        race: Times of ``plain`` and ``guess``, in this order.
        timed_lengths: Tokens of each timed text: ``[round][text]``.
        lengths: Tokens of each calibration row.
        memory_mb: Peak memory of ``plain`` and ``guess`` in MiB.
        limit_mb: Memory limit of the predicting process in MiB, or None.

    Returns:
        The candidate with better edges. None if no bucket fits into memory, no timed text fits into a bucket, or
        ``guess`` has the best edges.
    """
    plain_ms, guess_ms = (_concatenate(rounds) for rounds in race.times_ms)
    # A race may have been cut short, so that not all of these texts were timed.
    text_lengths = _concatenate(timed_lengths)[: len(plain_ms)]
    edges = np.asarray(guess.variant.shapes)
    fits = text_lengths <= edges[-1]
    if not fits.any():
        return None
    padded_lengths = edges[np.searchsorted(edges, text_lengths[fits])]
    dynamic_ms = _fit_line(text_lengths, plain_ms)
    static_ms = _fit_line(padded_lengths, guess_ms[fits])
    most = MOST_BUCKETS
    if limit_mb is not None:
        most = max_buckets_within(limit_mb, MOST_BUCKETS, (0, memory_mb[0]), (len(edges), memory_mb[1]))
    best_edges = choose_buckets(lengths, static_ms, most, dynamic_ms)
    if not best_edges or best_edges == guess.variant.shapes:
        return None
    return replace(guess, variant=replace(guess.variant, shapes=best_edges))


def with_other_threads(candidate: Candidate) -> list[Candidate]:
    """Return the candidate with fewer threads: half of the CPUs, and one."""
    counts = sorted({1, max(1, cpus() // 2)} - {candidate.variant.threads})
    return [replace(candidate, variant=replace(candidate.variant, threads=n)) for n in counts]


def throughput_variants(candidate: Candidate, target: Target) -> list[Candidate]:
    """Return the candidate with each batch size that the target allows, on one stream and on one stream per thread.

    If the candidate runs rows one by one, only the streams vary.
    """
    variant = candidate.variant
    batches = [1]
    if variant.rows != "alone":
        batches = [*(batch for batch in _BATCHES if batch < target.max_batch), target.max_batch]
    candidates = []
    for streams in sorted({1, variant.threads}):
        for batch in batches:
            varied = replace(variant, batch=batch, streams=streams, shapes=())
            candidates.append(replace(candidate, variant=varied))
    return candidates


def _concatenate(rounds: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(values) for values in rounds])


def _fit_line(lengths: np.ndarray, times_ms: np.ndarray) -> Callable[[int], float]:
    """Return a function from tokens to milliseconds, which never falls and is never negative.

    It is a straight line through the median time of each length, weighted by the number of texts of that length.

    Args:
        lengths: Tokens of each text: ``[text]``.
        times_ms: Time of each text in ms: ``[text]``.
    """
    known = np.unique(lengths)
    medians = np.array([np.median(times_ms[lengths == n]) for n in known])
    counts = np.array([float((lengths == n).sum()) for n in known])
    slope = 0.0
    start = float(medians[0])
    if len(known) > 1:
        slope, start = np.polyfit(known, medians, 1, w=np.sqrt(counts))
    if slope < 0:
        slope = 0.0
        start = float(np.average(medians, weights=counts))
    return lambda tokens: max(start + slope * tokens, 0.0)


def choose_buckets(
    lengths: Sequence[int], latency_ms: Callable[[int], float], most: int, dynamic_ms: Callable[[int], float]
) -> tuple[int, ...]:
    """Return the bucket edges with the least total time, where each row is padded to the smallest edge that holds it.

    The result is exact. Dynamic programming runs over the distinct lengths: the least cost of the rows up to a length,
    with k edges of which the last is at that length, is the least cost with k - 1 edges up to a shorter length, plus
    the cost of the rows between the two lengths.

    If a longer shape is never faster, optimal edges are always lengths of rows, so only these are candidates. They are
    not rounded up, because in OpenVINO a multiple of 8 is not faster than its neighbours
    (``benchmarks/results/openvino_shapes.md``).

    Args:
        lengths: Tokens of each row, at least 1.
        latency_ms: Function from tokens to the time of a row in ms, in a static shape of that size.
        most: Maximum number of edges.
        dynamic_ms: Function from tokens to the time of a row in ms, in dynamic shapes. It applies to rows that are
            longer than every edge.

    Returns:
        Ascending edges in tokens. Of equally good choices, it is one with the fewest edges. It is empty if dynamic
        shapes are best.
    """
    known, rows = np.unique(np.asarray(lengths, np.int64), return_counts=True)
    if not known.size:
        return ()
    count = len(known)
    static = np.array([latency_ms(int(n)) for n in known], np.float64)
    dynamic = np.array([dynamic_ms(int(n)) for n in known], np.float64)
    # rows_before[i] is the number of rows shorter than known[i].
    rows_before = np.concatenate([[0], np.cumsum(rows)])
    # rest[i] is the time of the rows of known[i] and longer, in dynamic shapes.
    rest = np.concatenate([np.cumsum((dynamic * rows)[::-1])[::-1], [0.0]])
    # cost[j] is the least time of the first j lengths, where known[j - 1] is the last edge.
    cost = np.full(count + 1, np.inf)
    cost[0] = 0.0
    least_total = float(rest[0])
    best_used = 0
    best_j = 0
    # previous[k - 1][j] is the index of the edge before known[j - 1] if there are k edges.
    previous: list[np.ndarray] = []
    for used in range(1, min(most, count) + 1):
        next_cost = np.full(count + 1, np.inf)
        before = np.zeros(count + 1, np.int64)
        for j in range(used, count + 1):
            options = cost[:j] + static[j - 1] * (rows_before[j] - rows_before[:j])
            before[j] = np.argmin(options)
            next_cost[j] = options[before[j]]
        cost = next_cost
        previous.append(before)
        total = cost + rest
        j = int(np.argmin(total))
        if total[j] < least_total:
            least_total = float(total[j])
            best_used = used
            best_j = j
    edges = []
    j = best_j
    for before in reversed(previous[:best_used]):
        edges.append(int(known[j - 1]))
        j = int(before[j])
    return tuple(reversed(edges))


def max_buckets_within(limit_mb: float, most: int, smaller: tuple[int, float], larger: tuple[int, float]) -> int:
    """Return the largest number of buckets that fits into a memory limit, on a line through two measurements.

    In OpenVINO the buckets of a model share the packed weights, so that each bucket adds about the same few MB.

    Args:
        limit_mb: Memory limit of the process in MiB.
        most: Upper limit of the result.
        smaller: Number of buckets (0 for dynamic shapes) and memory in MiB.
        larger: Larger number of buckets and memory in MiB.

    Returns:
        Number of buckets, 0 to ``most``. It is also 0 if not even dynamic shapes fit.
    """
    bucket_mb = (larger[1] - smaller[1]) / (larger[0] - smaller[0])
    if bucket_mb <= 0:
        # The difference is within the noise between two processes.
        return most if max(smaller[1], larger[1]) <= limit_mb else 0
    # The small addend makes a number that exactly meets the limit count as fitting.
    fitting = smaller[0] + math.floor((limit_mb - smaller[1]) / bucket_mb + 1e-9)
    return max(0, min(most, fitting))
