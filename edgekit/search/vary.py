"""Which further candidates are worth measuring once the first ones are: shapes, threads, streams and batch sizes.

A full product would take an hour; each axis is varied around what has measured best so far.
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
    "buckets_under",
    "choose_buckets",
    "for_throughput",
    "with_buckets",
    "with_other_threads",
]

MOST_BUCKETS = 8
_BATCHES = (4, 8, 16, 32, 64)


def with_buckets(candidate: Candidate, lengths: Sequence[int]) -> Candidate | None:
    """The candidate with edges at quantiles of the lengths: the first guess, whose times say where better edges are.

    Args:
        candidate: measured with shapes of any size.
        lengths: tokens of each calibration row.

    Returns:
        None where the backend gains nothing from static shapes.
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
    """The candidate with the edges that cost least for these lengths, by what the first guess took.

    Args:
        plain: with shapes of any size.
        guess: with the first edges.
        race: the times of these two, in this order.
        timed_lengths: tokens of each text that was timed: ``[round][text]``.
        lengths: tokens of each calibration row.
        memory_mb: peak memory of the two.
        limit_mb: what the predicting process may take, or None.

    Returns:
        None where no bucket fits into the memory, no text that was timed fits into a bucket, or the guess had the best edges.
    """
    of_any, of_edges = (np.concatenate([np.asarray(turn) for turn in times]) for times in race.times_ms)
    flat = np.concatenate([np.asarray(turn) for turn in timed_lengths])[: len(of_any)]  # a race may have been cut short
    edges = np.asarray(guess.variant.shapes)
    held = flat <= edges[-1]
    if not held.any():
        return None
    at = edges[np.searchsorted(edges, flat[held])]
    dynamic, static = _line(flat, of_any), _line(at, of_edges[held])
    most = (
        MOST_BUCKETS
        if limit_mb is None
        else buckets_under(limit_mb, MOST_BUCKETS, (0, memory_mb[0]), (len(edges), memory_mb[1]))
    )
    chosen = choose_buckets(lengths, static, most, dynamic)
    return (
        None
        if not chosen or chosen == guess.variant.shapes
        else replace(guess, variant=replace(guess.variant, shapes=chosen))
    )


def with_other_threads(candidate: Candidate) -> list[Candidate]:
    """The candidate with fewer threads: half of the CPUs, and one."""
    counts = sorted({1, max(1, cpus() // 2)} - {candidate.variant.threads})
    return [replace(candidate, variant=replace(candidate.variant, threads=n)) for n in counts]


def for_throughput(candidate: Candidate, target: Target) -> list[Candidate]:
    """The candidate with each batch size that the target allows, on one stream and on a stream for each thread; no batches where rows run alone."""
    variant = candidate.variant
    batches = [1] if variant.rows == "alone" else [b for b in _BATCHES if b < target.max_batch] + [target.max_batch]
    streams = sorted({1, variant.threads})
    return [
        replace(candidate, variant=replace(variant, batch=b, streams=s, shapes=())) for s in streams for b in batches
    ]


def _line(lengths: np.ndarray, times: np.ndarray):  # type: ignore[no-untyped-def] # noqa: ANN202
    """Milliseconds by tokens: a straight line through the median time of each length, never falling, never negative."""
    known = np.unique(lengths)
    middle = np.array([np.median(times[lengths == n]) for n in known])
    counts = np.array([float((lengths == n).sum()) for n in known])
    slope, start = np.polyfit(known, middle, 1, w=np.sqrt(counts)) if len(known) > 1 else (0.0, float(middle[0]))
    if slope < 0:
        slope, start = 0.0, float(np.average(middle, weights=counts))
    return lambda tokens: max(start + slope * tokens, 0.0)


def choose_buckets(
    lengths: Sequence[int], latency_ms: Callable[[int], float], most: int, dynamic_ms: Callable[[int], float]
) -> tuple[int, ...]:
    """The edges with the least time over all rows, each padded to the smallest edge that holds it.

    Exact, by dynamic programming over the distinct lengths: the cheapest way to serve the rows up to a length with so many
    edges, the last one there, is the cheapest way with one edge less up to some shorter length, plus the rows between.
    Optimal edges are always lengths of rows where a longer shape takes no less time, so only those are candidates. They are
    not rounded up: in OpenVINO a multiple of 8 is not faster than its neighbours (``benchmarks/results/openvino_shapes.md``).

    Args:
        lengths: tokens of each row, at least 1.
        latency_ms: time of one row in a static shape of so many tokens.
        most: edges at the most.
        dynamic_ms: time of one row of so many tokens, longer than every edge, in shapes of any size.

    Returns:
        Ascending edges in tokens; of equally good choices one with the fewest. Empty where nothing beats shapes of any size.
    """
    known, rows = np.unique(np.asarray(lengths, np.int64), return_counts=True)
    if not known.size:
        return ()
    count = len(known)
    static = np.array([latency_ms(int(n)) for n in known], np.float64)
    dynamic = np.array([dynamic_ms(int(n)) for n in known], np.float64)
    before = np.concatenate([[0], np.cumsum(rows)])  # rows shorter than known[i]
    rest = np.concatenate(
        [np.cumsum((dynamic * rows)[::-1])[::-1], [0.0]]
    )  # time of the rows from known[i] on, without an edge
    cost = np.full(count + 1, np.inf)  # of the rows shorter than known[j], the last edge being known[j - 1]
    cost[0] = 0.0
    cheapest, chosen, ends = float(rest[0]), (0, 0), []  # `chosen`: number of edges, and j
    for used in range(1, min(most, count) + 1):
        longer, end = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
        for j in range(used, count + 1):
            options = cost[:j] + static[j - 1] * (before[j] - before[:j])
            end[j] = np.argmin(options)
            longer[j] = options[end[j]]
        cost = longer
        ends.append(end)
        total = cost + rest
        j = int(np.argmin(total))
        if total[j] < cheapest:
            cheapest, chosen = float(total[j]), (used, j)
    edges = []
    used, j = chosen
    while used:
        edges.append(int(known[j - 1]))
        used, j = used - 1, int(ends[used - 1][j])
    return tuple(reversed(edges))


def buckets_under(limit_mb: float, most: int, few: tuple[int, float], many: tuple[int, float]) -> int:
    """The largest number of buckets whose memory keeps a limit, on the straight line through two measurements.

    In OpenVINO the buckets of one model share the packed weights: each takes the same few MB more, whatever their number.

    Args:
        limit_mb: what the process may take.
        most: answers are at most this.
        few: number of buckets (0: shapes of any size) and memory in MiB.
        many: the same for more buckets.

    Returns:
        0 to ``most``; 0 also where not even shapes of any size keep the limit.
    """
    each = (many[1] - few[1]) / (many[0] - few[0])
    if each <= 0:  # within the noise of two processes
        return most if max(few[1], many[1]) <= limit_mb else 0
    fitting = few[0] + math.floor((limit_mb - few[1]) / each + 1e-9)  # so that exactly the limit is inside
    return max(0, min(most, fitting))
