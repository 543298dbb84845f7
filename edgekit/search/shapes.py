"""Which static shapes a backend should compile: the bucket edges that cost least for the lengths that will come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["buckets_under", "choose_buckets"]


def choose_buckets(lengths: Sequence[int], latency_ms: Callable[[int], float], most: int, dynamic_ms: Callable[[int], float]) -> tuple[int, ...]:
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
    rest = np.concatenate([np.cumsum((dynamic * rows)[::-1])[::-1], [0.0]])  # time of the rows from known[i] on, without an edge
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
