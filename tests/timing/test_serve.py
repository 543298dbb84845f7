"""Arrivals that do not wait for answers: what a query takes is timed from its arrival, whatever was in its way."""

from __future__ import annotations

import heapq
import time
from dataclasses import replace

import numpy as np
import pytest
import small
from refusals import refused

from edgekit.bundle.trust import open_bundle
from edgekit.timing.worker import Worker

TEXTS = [*small.texts(12, seed=6), "", "film " * 200]


class Slow(Worker):
    """Calls take 30 ms more. ``note FILE N`` appends N to the file, and ``meet N`` waits N seconds for a second call."""

    CHILD = """
import sys, threading, time
sys.path[:] = [p for p in sys.path if p]
from edgekit.timing import child
from edgekit.runtime.session import Session
real, pair = Session.__call__, threading.Barrier(2)
def call(self, text):
    time.sleep(0.03)
    if text.startswith("note"):
        with open(text.split()[1], "a") as notes:
            notes.write(text.split()[2] + "\\n")
    if text.startswith("meet"):
        pair.wait(float(text.split()[1]))
    return real(self, text)
Session.__call__ = call
child.main(*sys.argv[1:])
"""


def queue(arrivals_s, service_s, servers=1):
    """Seconds from arrival to answer in a first-come first-served queue; with one server, Lindley's recursion."""
    free = [0.0] * servers
    latencies = []
    for arrival in arrivals_s:
        done = max(arrival, heapq.heappop(free)) + service_s
        heapq.heappush(free, done)
        latencies.append(done - arrival)
    return np.array(latencies)


@pytest.fixture(scope="module")
def worker(float32_ort):
    with Worker(float32_ort) as started:
        yield started


def test_the_truth_is_lindleys():
    gaps = np.random.default_rng(4).exponential(0.04, 50)
    waits = [0.0]
    for gap in gaps[1:]:
        waits.append(max(0.0, waits[-1] + 0.03 - gap))
    np.testing.assert_allclose(queue(np.cumsum(gaps), 0.03), np.array(waits) + 0.03, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 2])
def test_a_query_that_waits_is_timed_from_its_arrival(float32_ort, streams):
    """Bursts, gaps and ties. A sleep never ends early, so no latency is below the exact one, and few are far above."""
    arrivals = [0.0, 0.0, 0.0, 0.01, 0.02, 0.02, 0.4, 0.41, 0.6, 0.9, 0.9, 0.9, 0.9, 0.91]
    expected = queue(arrivals, 0.03, streams) * 1e3
    assert expected.max() > (70 if streams == 2 else 150)
    variant = replace(open_bundle(float32_ort).manifest.variants[0], threads=streams, streams=streams)
    with Slow(float32_ort, variant=variant) as worker:
        assert worker.streams() == streams
        start = time.perf_counter()
        latencies_ms = np.array(worker.serve(["a"] * len(arrivals), arrivals))
        assert time.perf_counter() - start >= 0.91 + 0.03
    assert (latencies_ms >= expected - 0.5).all()
    assert np.median(latencies_ms - expected) < 100


@pytest.mark.slow
def test_as_many_at_the_same_time_as_there_are_streams(float32_ort):
    variant = replace(open_bundle(float32_ort).manifest.variants[0], threads=2, streams=2)
    with Slow(float32_ort, variant=variant) as worker:
        assert len(worker.serve(["meet 10"] * 4, [0.0, 0.0, 0.0, 0.5])) == 4
    with Slow(float32_ort) as worker, refused("worker-ended"):
        worker.serve(["meet 0.2"] * 2, [0.0, 0.0])


@pytest.mark.slow
def test_queries_are_answered_in_the_order_of_their_arrival(float32_ort, tmp_path):
    notes = tmp_path / "notes"
    with Slow(float32_ort) as worker:
        arrivals = np.cumsum(np.random.default_rng(2).exponential(0.02, 20))
        latencies_ms = worker.serve([f"note {notes} {i}" for i in range(20)], arrivals)
    assert [int(line) for line in notes.read_text().split()] == list(range(20))
    ends = np.array(latencies_ms) / 1e3 + arrivals
    assert (np.diff(ends) >= 0.029).all(), "one after the other"


@pytest.mark.slow
def test_serving_a_session(float32_bundle):
    """At a rate that it can easily keep no query waits for another."""
    with Worker(float32_bundle) as worker:
        median_ms = np.median(worker.time(TEXTS))
        gap = max(20 * median_ms, 20) / 1e3
        latencies_ms = worker.serve(TEXTS, [i * gap for i in range(len(TEXTS))])
        assert len(latencies_ms) == len(TEXTS)
        assert 0 < np.median(latencies_ms) < gap * 1e3
        assert worker.serve([], []) == []
        assert small.logits(worker, ["still alive"]).shape == (1, 3)


@pytest.mark.parametrize(
    "arrivals", [[0.0], [0.0, -1.0], [1.0, 0.5], [0.0, float("nan")], [0.0, float("inf")], [-1.0, 0.0]]
)
def test_arrivals_that_are_none(worker, arrivals):
    with refused("scenario-arrivals", "0"):
        worker.serve(["a", "b"], arrivals)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 2])
def test_an_error_ends_the_serving(float32_ort, streams):
    """Without waiting for the arrivals that were still to come."""
    variant = replace(open_bundle(float32_ort).manifest.variants[0], threads=streams, streams=streams)
    with Worker(float32_ort, variant=variant) as worker:
        worker.time(["a"])
        start = time.monotonic()
        with refused("text-surrogate"):
            worker.serve(["a", "a", "\ud83d", *["a"] * 20], [0.0, 0.0, 0.5, *range(1, 21)])
        assert time.monotonic() - start < 15
        assert len(worker.serve(["a"], [0.0])) == 1
