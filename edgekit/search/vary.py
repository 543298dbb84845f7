"""Which further candidates are worth measuring once the first ones are: shapes, threads, streams and batch sizes.

A full product would take an hour; each axis is varied around what has measured best so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgekit import backends
from edgekit.machine.cpu import cpus
from edgekit.search.results import Candidate, Race
from edgekit.search.shapes import buckets_under, choose_buckets
from edgekit.spec.target import Target

__all__ = ["MOST_BUCKETS", "better_buckets", "for_throughput", "with_buckets", "with_other_threads"]

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
    most = MOST_BUCKETS if limit_mb is None else buckets_under(limit_mb, MOST_BUCKETS, (0, memory_mb[0]), (len(edges), memory_mb[1]))
    chosen = choose_buckets(lengths, static, most, dynamic)
    return None if not chosen or chosen == guess.variant.shapes else replace(guess, variant=replace(guess.variant, shapes=chosen))


def with_other_threads(candidate: Candidate) -> list[Candidate]:
    """The candidate with fewer threads: half of the CPUs, and one."""
    counts = sorted({1, max(1, cpus() // 2)} - {candidate.variant.threads})
    return [replace(candidate, variant=replace(candidate.variant, threads=n)) for n in counts]


def for_throughput(candidate: Candidate, target: Target) -> list[Candidate]:
    """The candidate with each batch size that the target allows, on one stream and on a stream for each thread; no batches where rows run alone."""
    variant = candidate.variant
    batches = [1] if variant.rows == "alone" else [b for b in _BATCHES if b < target.max_batch] + [target.max_batch]
    streams = sorted({1, variant.threads})
    return [replace(candidate, variant=replace(variant, batch=b, streams=s, shapes=())) for s in streams for b in batches]


def _line(lengths: np.ndarray, times: np.ndarray):  # type: ignore[no-untyped-def] # noqa: ANN202
    """Milliseconds by tokens: a straight line through the median time of each length, never falling, never negative."""
    known = np.unique(lengths)
    middle = np.array([np.median(times[lengths == n]) for n in known])
    counts = np.array([float((lengths == n).sum()) for n in known])
    slope, start = np.polyfit(known, middle, 1, w=np.sqrt(counts)) if len(known) > 1 else (0.0, float(middle[0]))
    if slope < 0:
        slope, start = 0.0, float(np.average(middle, weights=counts))
    return lambda tokens: max(start + slope * tokens, 0.0)
