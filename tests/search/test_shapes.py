"""Bucket edges against every possible choice, and the number of buckets that a memory limit leaves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.search.vary import choose_buckets, max_buckets_within

LONGEST = 12
times = st.lists(st.floats(0.125, 50), min_size=LONGEST + 1, max_size=LONGEST + 1)
histograms = st.lists(st.integers(1, LONGEST), min_size=1, max_size=24)


def cost(lengths, edges, static, dynamic):
    """Row by row, as the runtime pads."""
    total = 0.0
    for n in lengths:
        fitting = [e for e in edges if e >= n]
        total += static(min(fitting)) if fitting else dynamic(n)
    return total


def cheapest(lengths, static, most, dynamic, candidates):
    options = [edges for k in range(most + 1) for edges in itertools.combinations(sorted(candidates), k)]
    return min(cost(lengths, edges, static, dynamic) for edges in options)


@settings(max_examples=300, deadline=None)
@given(histograms, times, times, st.integers(0, 5))
@example([3, 3, 3, 9], [1.0] * 13, [2.0] * 13, 1)
def test_no_choice_among_the_lengths_is_better(lengths, static, dynamic, most):
    """Whatever the times are, also ones that fall with the length."""
    found = choose_buckets(lengths, static.__getitem__, most, dynamic.__getitem__)
    assert len(found) <= most
    assert list(found) == sorted(set(found))
    assert set(found) <= set(lengths)
    least = cheapest(lengths, static.__getitem__, most, dynamic.__getitem__, set(lengths))
    assert cost(lengths, found, static.__getitem__, dynamic.__getitem__) == pytest.approx(least, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=12), times, times, st.integers(1, 3))
def test_no_other_edge_is_better_where_a_longer_shape_takes_longer(lengths, static, dynamic, most):
    """Then it is enough to look among the lengths: against all subsets of 1 to 8."""
    static = sorted(static)
    found = choose_buckets(lengths, static.__getitem__, most, dynamic.__getitem__)
    least = cheapest(lengths, static.__getitem__, most, dynamic.__getitem__, range(1, 9))
    assert cost(lengths, found, static.__getitem__, dynamic.__getitem__) == pytest.approx(least, rel=1e-12)


def test_what_is_chosen_for_a_known_case():
    """Nine rows of 10 and one of 100: with time as tokens, one edge at 10 leaves 100 dynamic (2 x), two cost nothing."""
    lengths, twice = [10] * 9 + [100], lambda n: 2.0 * n
    assert choose_buckets(lengths, float, 1, twice) == (10,)
    assert choose_buckets(lengths, float, 2, twice) == (10, 100)
    assert choose_buckets(lengths, float, 8, twice) == (10, 100)
    assert choose_buckets([10] + [100] * 9, float, 1, lambda n: 1.5 * n) == (100,)


def test_no_edge_where_none_gains():
    assert choose_buckets([4, 8, 15], float, 3, float) == ()
    assert choose_buckets([4, 8, 15], lambda n: n + 1.0, 3, float) == ()
    assert choose_buckets([4, 8, 15], float, 0, lambda n: 9.0 * n) == ()
    assert choose_buckets([], float, 3, float) == ()


def test_the_fewest_of_equally_good_edges():
    assert choose_buckets([4, 8, 15], lambda n: 1.0, 3, lambda n: 2.0) == (15,)


def test_a_whole_histogram():
    """As large as it gets in use: all lengths to 512, eight edges; not worse than evenly spread ones."""
    lengths = np.random.default_rng(0).integers(1, 513, 5000).tolist()
    static, dynamic = (lambda n: 1.0 + 0.05 * n + 0.0001 * n * n), (lambda n: 3.0 + 0.05 * n + 0.0001 * n * n)
    found = choose_buckets(lengths, static, 8, dynamic)
    assert len(found) == 8
    assert cost(lengths, found, static, dynamic) < cost(lengths, range(64, 513, 64), static, dynamic)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(99.9, 0), (100, 0), (109.9, 0), (110, 1), (135, 3), (180, 8), (1000, 8)],
    ids=lambda v: str(v),
)
def test_buckets_under_a_limit(limit, expected):
    """100 MB and 10 for each bucket, measured with none and with four."""
    assert max_buckets_within(limit, 8, (0, 100.0), (4, 140.0)) == expected
    assert max_buckets_within(limit, 8, (2, 120.0), (8, 180.0)) == expected


@given(st.floats(10, 1000), st.floats(0.125, 50), st.floats(0, 2000), st.integers(0, 3), st.integers(4, 9))
def test_the_number_keeps_the_limit_and_one_more_does_not(base, each, limit, few, many):
    found = max_buckets_within(limit, 12, (few, base + few * each), (many, base + many * each))
    slack = 1e-6 * (base + limit)
    assert found == 0 or base + found * each <= limit + slack
    assert found == 12 or base + (found + 1) * each > limit - slack


def test_memory_that_does_not_grow():
    assert max_buckets_within(130, 8, (0, 120.0), (4, 119.0)) == 8
    assert max_buckets_within(119.5, 8, (0, 120.0), (4, 119.0)) == 0
