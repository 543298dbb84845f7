"""Percentiles against numpy and exact arithmetic, memory against what a process really takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import small
from hypothesis import given
from hypothesis import strategies as st

from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus, memory_mb
from edgekit.stats.percentiles import latency, percentile, samples_needed

FLOORS = {50: 11, 90: 64, 95: 130, 99: 662}


@pytest.mark.parametrize(("q", "floor"), FLOORS.items())
def test_floors(q, floor):
    assert samples_needed(q) == floor
    assert percentile([1.0] * (floor - 1), q) is None
    assert percentile([1.0] * floor, q) == 1.0
    assert percentile([], q) is None


@pytest.mark.parametrize(("q", "floor"), FLOORS.items())
def test_the_floors_are_those_of_the_binomial_bound(q, floor):
    """The fewest samples of which, with a probability of 99 %, at least two lie above the percentile."""
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
    summary = latency(times)
    assert (summary.count, summary.p50_ms, summary.p90_ms, summary.p99_ms) == (1000, 499.0, 899.0, 989.0)
    assert math.isclose(summary.mean_ms, 499.5)
    few = latency([3.0, 1.0])
    assert (few.count, few.mean_ms, few.p50_ms, few.p90_ms, few.p99_ms) == (2, 2.0, None, None, None)
    some = latency([1.0] * 64)
    assert (some.p50_ms, some.p90_ms, some.p99_ms) == (1.0, 1.0, None)


def test_memory_of_a_process_that_takes_200_mb():
    code = """
from edgekit.machine.cpu import memory_mb
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
    child = float(small.python("from edgekit.machine.cpu import memory_mb; print(memory_mb())").stdout)
    assert memory_mb() > 300
    assert child < 150
    del block


def test_cpus_are_those_that_the_process_may_use():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from edgekit.machine.cpu import cpus
print(cpus())
"""
    assert int(small.python(code).stdout) == 1
    assert cpus() >= 1


def test_what_is_known_of_the_cpu():
    assert cpu_name().strip()
    flags = small.run("cat", "/proc/cpuinfo").stdout.decode().split()
    assert all(name in flags for name in cpu_instructions())
    if "avx2" in flags:
        assert "avx2" in cpu_instructions()


def cpuinfo(*cores):
    """As arm64 kernels write it: numbers, and no name."""
    lines = [
        "processor\t: {i}",
        "BogoMIPS\t: 108.00",
        "Features\t: fp asimd asimddp",
        "CPU implementer\t: {0}",
        "CPU architecture: 8",
    ]
    block = "\n".join([*lines, "CPU variant\t: 0x4", "CPU part\t: {1}", "CPU revision\t: 1", "", ""])
    return "".join(block.format(*core, i=i) for i, core in enumerate(cores))


@pytest.mark.parametrize(
    ("text", "board", "name"),
    [
        (
            cpuinfo(*[("0x41", "0xd0b")] * 4),
            b"Raspberry Pi 5 Model B Rev 1.0\0",
            "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)",
        ),
        (
            cpuinfo(*[("0x41", "0xd08")] * 4),
            b"Raspberry Pi 4 Model B Rev 1.4\0",
            "Raspberry Pi 4 Model B Rev 1.4 (Cortex-A72)",
        ),
        (
            cpuinfo(*[("0x41", "0xd05")] * 4, *[("0x41", "0xd0b")] * 4),
            b"Radxa ROCK 5B\0",
            "Radxa ROCK 5B (Cortex-A55 + Cortex-A76)",
        ),
        (cpuinfo(("0x41", "0xd0c")), None, "Neoverse-N1"),
        (cpuinfo(("0x61", "0x022"), ("0x61", "0x023")), None, "M1 Icestorm + M1 Firestorm"),
        (cpuinfo(("0x41", "0xd99")), None, "core 0x41:0xd99"),
        ("model name\t: ARMv8 Processor rev 1 (v8l)\n" + cpuinfo(("0x41", "0xd0b")), None, "Cortex-A76"),
        ("processor\t: 0\nmodel name\t: AMD EPYC 9B45\nflags\t: avx2\n", None, "AMD EPYC 9B45"),
    ],
)
def test_the_name_of_a_cpu(tmp_path, text, board, name):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(text)
    if board is not None:
        (tmp_path / "proc/device-tree/model").write_bytes(board)
    assert cpu_name(tmp_path) == name
