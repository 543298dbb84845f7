"""Percentiles against numpy and exact arithmetic, memory against what a process really takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import small
from hypothesis import given
from hypothesis import strategies as st

from edgekit.engines.measure import cpu_instructions, cpu_name, cpus, latency, memory_mb, percentile, samples_needed

FLOORS = {50: 11, 90: 64, 95: 130, 99: 662}


@pytest.mark.parametrize(("q", "floor"), FLOORS.items())
def test_floors(q, floor):
    assert samples_needed(q) == floor
    assert percentile([1.0] * (floor - 1), q) is None
    assert percentile([1.0] * floor, q) == 1.0
    assert percentile([], q) is None


@pytest.mark.parametrize(("q", "floor"), FLOORS.items())
def test_the_floors_are_those_of_the_binomial_bound(q, floor):
    """The fewest samples of which at least two lie above the percentile with a probability of 99 %: one stays as the bound."""
    few = next(n for n in range(1, 1000) if scipy.stats.binom.cdf(1, n, 1 - q / 100) <= 0.01)
    assert few == floor


@pytest.mark.parametrize("q", FLOORS)
def test_every_count_against_exact_ranks(q):
    for count in range(FLOORS[q], 3000):
        assert percentile(range(1, count + 1), q) == -(-q * count // 100)


@given(st.integers(0, 2**32), st.integers(662, 900), st.integers(1, 10**6), st.sampled_from(sorted(FLOORS)))
def test_against_numpy(seed, count, distinct, q):
    values = (np.random.default_rng(seed).integers(0, distinct, count) / 7).tolist()
    assert percentile(values, q) == np.percentile(values, q, method="inverted_cdf")


def test_latency():
    times = [float(t) for t in np.random.default_rng(0).permutation(1000)]
    found = latency(times)
    assert (found.count, found.p50_ms, found.p90_ms, found.p99_ms) == (1000, 499.0, 899.0, 989.0)
    assert math.isclose(found.mean_ms, 499.5)
    few = latency([3.0, 1.0])
    assert (few.count, few.mean_ms, few.p50_ms, few.p90_ms, few.p99_ms) == (2, 2.0, None, None, None)
    some = latency([1.0] * 64)
    assert (some.p50_ms, some.p90_ms, some.p99_ms) == (1.0, 1.0, None)


def test_memory_of_a_process_that_takes_200_mb():
    code = """
from edgekit.engines.measure import memory_mb
before = memory_mb()
block = bytearray(b"x") * (200 * 2**20)
during = memory_mb()
del block
print(before, during, memory_mb())
"""
    before, during, after = map(float, small.python(code).stdout.split())
    assert 5 < before < 150
    assert 195 < during - before < 230
    assert after == pytest.approx(during, abs=1), "the peak stays"


def test_the_memory_of_the_parent_is_not_in_it():
    block = bytearray(b"x") * (300 * 2**20)
    child = float(small.python("from edgekit.engines.measure import memory_mb; print(memory_mb())").stdout)
    assert memory_mb() > 300
    assert child < 150
    del block


def test_cpus_are_those_that_the_process_may_use():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from edgekit.engines.measure import cpus; print(cpus())"
    assert int(small.python(code).stdout) == 1
    assert cpus() >= 1


def test_what_is_known_of_the_cpu():
    assert cpu_name().strip()
    flags = small.run("cat", "/proc/cpuinfo").stdout.decode().split()
    assert all(name in flags for name in cpu_instructions())
    if "avx2" in flags:
        assert "avx2" in cpu_instructions()
