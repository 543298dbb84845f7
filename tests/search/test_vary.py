"""Which further candidates are tried: bucket edges from the lengths that come, other threads, batches and streams."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import backends
from edgekit.bundle.trust import Bundle
from edgekit.search.record import Candidate, Race
from edgekit.search.vary import MOST_BUCKETS, better_buckets, throughput_variants, with_buckets, with_other_threads
from edgekit.spec.manifest import Manifest, Variant
from edgekit.spec.target import Target


def candidate(backend="openvino", **changes):
    variant = replace(Variant(backend, "static", {"forward": "graphs/model.onnx"}, "cpu", 2, "int8"), **changes)
    return Candidate(
        Bundle(Path("somewhere"), Manifest(1, "t", "single", 32, (), (variant,), {}, "t", "", "accuracy", 0.9, ())),
        variant,
    )


def cost(lengths, edges, static, dynamic):
    """Row by row, as the runtime pads."""
    return sum(static(min(e for e in edges if e >= n)) if any(e >= n for e in edges) else dynamic(n) for n in lengths)


# ---- the first guess


@given(st.lists(st.integers(1, 512), min_size=1, max_size=200))
def test_the_first_edges_are_quantiles_of_the_lengths(lengths):
    made = with_buckets(candidate(), lengths)
    edges = list(made.variant.shapes)
    assert made.bundle == candidate().bundle
    assert replace(made.variant, shapes=()) == candidate().variant
    assert edges == sorted(set(edges))
    assert len(edges) <= MOST_BUCKETS
    assert set(edges) <= set(lengths), "a longer edge would only be padding"
    assert edges[-1] == max(lengths), "every row has a bucket"
    # The k-th of n-1 gaps between the rows in order, an eighth of the way each, and the row behind it.
    ordered, gaps = sorted(lengths), len(lengths) - 1
    assert edges == sorted({ordered[-(-k * gaps // MOST_BUCKETS)] for k in range(1, MOST_BUCKETS + 1)})


def test_the_first_edges_of_a_known_set():
    assert with_buckets(candidate(), list(range(1, 9))).variant.shapes == (2, 3, 4, 5, 6, 7, 8)
    assert with_buckets(candidate(), list(range(81))).variant.shapes == (10, 20, 30, 40, 50, 60, 70, 80)
    assert with_buckets(candidate(), [7] * 30).variant.shapes == (7,)
    assert with_buckets(candidate(), [5] * 90 + [400] * 10).variant.shapes == (5, 400)


def test_no_edges_where_the_backend_gains_nothing_from_them():
    assert not backends.get("onnxruntime").STATIC_SHAPES
    assert with_buckets(candidate("onnxruntime"), [1, 2, 3]) is None


def test_no_edges_where_the_target_has_said_some():
    assert with_buckets(candidate(shapes=(8, 16)), [1, 2, 3]) is None


# ---- the edges that cost least

LENGTHS = [10] * 50 + [20] * 30 + [40] * 15 + [100] * 5
TIMED = [[10, 20, 40, 100, 10, 30] for _ in range(4)]
GUESS = candidate(shapes=(10, 20, 60, 100))


def dynamic_ms(tokens):
    return 2.0 + 0.1 * tokens


def static_ms(tokens):
    return 1.0 + 0.1 * tokens


def race(timed=TIMED, edges=GUESS.variant.shapes, dynamic=dynamic_ms, static=static_ms):
    """Of a machine whose times are straight lines."""
    padded = [[min((e for e in edges if e >= n), default=None) for n in turn] for turn in timed]
    of_any = tuple(tuple(dynamic(n) for n in turn) for turn in timed)
    of_edges = tuple(
        tuple(dynamic(n) if e is None else static(e) for n, e in zip(turn, row, strict=True))
        for turn, row in zip(timed, padded, strict=True)
    )
    return Race((of_any, of_edges))


def better(limit=None, memory=(100.0, 140.0), guess=GUESS, times=None, timed=TIMED, lengths=LENGTHS):
    return better_buckets(candidate(), guess, times or race(timed, guess.variant.shapes), timed, lengths, memory, limit)


def test_there_is_an_edge_at_every_length_where_each_is_free():
    found = better()
    assert found.variant.shapes == (10, 20, 40, 100)
    assert found.bundle == GUESS.bundle
    assert replace(found.variant, shapes=()) == replace(GUESS.variant, shapes=())


@pytest.mark.parametrize(("limit", "most"), [(139.0, 3), (120.0, 2), (119.9, 1), (110.0, 1)])
def test_a_memory_limit_leaves_fewer(limit, most):
    """Four edges took 40 MB more than none, so each takes 10 above 100; the best so many of all that could be chosen."""
    found = better(limit).variant.shapes
    assert len(found) == most
    tried = [edges for count in range(most + 1) for edges in itertools.combinations(sorted(set(LENGTHS)), count)]
    least = min(cost(LENGTHS, edges, static_ms, dynamic_ms) for edges in tried)
    assert cost(LENGTHS, found, static_ms, dynamic_ms) == pytest.approx(least)


@pytest.mark.parametrize("limit", [109.9, 100.0, 50.0])
def test_none_where_not_even_one_fits(limit):
    assert better(limit) is None


def test_a_limit_that_all_keep_changes_nothing():
    assert better(1000.0) == better()
    assert better(141.0, memory=(100.0, 99.0)) == better(), (
        "memory that did not grow, within the noise of two processes"
    )


def test_none_where_the_guess_was_the_best():
    assert better(guess=candidate(shapes=(10, 20, 40, 100))) is None


def test_none_where_static_shapes_gain_nothing():
    assert better(times=race(static=lambda n: dynamic_ms(n) + 0.5)) is None


def test_times_that_fall_with_the_length_are_noise():
    """Equal rows of the shortest text took longest: static shapes are then worth their mean, 4 ms against 6, wherever the edge is."""
    fall = {10: 5.0, 20: 4.0, 60: 3.0, 100: 4.0}
    found = better(times=race(dynamic=lambda n: 6.0, static=fall.__getitem__))
    assert found.variant.shapes == (100,), "of equally good choices one with the fewest edges"
    assert better(times=race(dynamic=lambda n: 4.0, static=lambda n: 4.5 - n / 1000)) is None, (
        "the line at 0 tokens would be higher still"
    )
    assert better(times=race(dynamic=lambda n: 4.0 - n / 1000, static=lambda n: 4.0)) is None, (
        "and it would flatter static shapes here"
    )
    assert better(times=race(dynamic=lambda n: 5.2 - 0.03 * n, static=lambda n: 4.2)) is None, "4.15 ms on average"


def test_a_race_that_was_cut_short():
    """Fewer rounds were timed than were planned."""
    whole = race()
    short = Race(tuple(times[:2] for times in whole.times_ms))
    assert better(times=short) == better()


def test_texts_longer_than_every_bucket():
    assert better(guess=candidate(shapes=(5,))) is None
    timed = [[10, 20, 200, 10], [20, 10, 300, 20]]
    found = better(guess=candidate(shapes=(10, 20)), timed=timed, lengths=[10] * 5 + [20] * 5 + [30])
    assert found.variant.shapes == (10, 20, 30), "longer rows count by what they took without a bucket"


def test_texts_of_one_length():
    assert better(guess=candidate(shapes=(44,)), timed=[[40] * 4] * 4, lengths=[40] * 20).variant.shapes == (40,)


# ---- threads, and what answers lists


@pytest.mark.parametrize(
    ("cpus", "own", "others"),
    [(1, 1, []), (2, 2, [1]), (4, 4, [1, 2]), (8, 8, [1, 4]), (8, 4, [1]), (2, 1, []), (3, 3, [1])],
)
def test_other_threads(monkeypatch, cpus, own, others):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    start = candidate(threads=own, shapes=(8, 16))
    made = with_other_threads(start)
    assert [c.variant.threads for c in made] == others
    assert all(replace(c.variant, threads=own) == start.variant and c.bundle == start.bundle for c in made)


@pytest.mark.parametrize(
    ("threads", "most", "streams", "batches"),
    [
        (1, 32, [1], [4, 8, 16, 32]),
        (4, 32, [1, 4], [4, 8, 16, 32]),
        (2, 1, [1, 2], [1]),
        (2, 4, [1, 2], [4]),
        (2, 20, [1, 2], [4, 8, 16, 20]),
    ],
)
def test_every_batch_on_one_stream_and_on_a_stream_for_each_thread(threads, most, streams, batches):
    start = candidate(threads=threads, shapes=(8, 16), rows="together")
    made = throughput_variants(start, Target("t", "d", ("openvino",), ("static",), max_batch=most, use="throughput"))
    assert [(c.variant.streams, c.variant.batch) for c in made] == [(s, b) for s in streams for b in batches]
    assert all(replace(c.variant, streams=1, batch=0) == replace(start.variant, shapes=()) for c in made), (
        "batches have no buckets"
    )


def test_rows_that_run_alone_have_no_batches():
    made = throughput_variants(
        candidate(threads=4, rows="alone"), Target("t", "d", ("openvino",), ("static",), max_batch=32, use="throughput")
    )
    assert [(c.variant.streams, c.variant.batch) for c in made] == [(1, 1), (4, 1)]
