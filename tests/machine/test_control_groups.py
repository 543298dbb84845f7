"""Threads that a process can run: CPUs that it may use, and the CPU quota of its container, from a tree of kernel files."""

from __future__ import annotations

import os

import pytest
from fake_jetson import write

from edgekit.machine.control_groups import cpu_limit
from edgekit.machine.cpu import cpus
from edgekit.runtime import choice
from edgekit.spec.manifest import Variant

MOUNT_1 = "40 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
MOUNT_2 = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def version_2(root, quotas, group="/"):
    """A tree of version 2 with the content of ``cpu.max`` by group."""
    files = {f"sys/fs/cgroup{name}/cpu.max": f"{quota}\n" for name, quota in quotas.items()}
    return write(root, {"proc/self/mountinfo": MOUNT_2, "proc/self/cgroup": f"0::{group}\n", **files})


@pytest.mark.parametrize(
    ("quota", "limit", "count"),
    [
        ("max 100000", 0.0, 8),
        ("10000 100000", 0.1, 1),
        ("99999 100000", 0.99999, 1),
        ("150000 100000", 1.5, 1),
        ("199999 100000", 1.99999, 1),
        ("200000 100000", 2.0, 2),
        ("125000 50000", 2.5, 2),
        ("1600000 100000", 16.0, 8),
        ("0 100000", 0.0, 8),
        ("150000 0", 0.0, 8),
        ("150000", 0.0, 8),
        ("many 100000", 0.0, 8),
        ("", 0.0, 8),
    ],
)
def test_a_fraction_of_a_cpu_is_rounded_down(tmp_path, quota, limit, count):
    root = version_2(tmp_path, {"": quota})
    assert cpu_limit(root) == pytest.approx(limit)
    assert cpus(root) == count


def test_the_smallest_quota_of_all_parents_counts(tmp_path):
    quotas = {"/a": "600000 100000", "/a/b": "250000 100000", "/a/b/c": "400000 100000", "/a/x": "100000 100000"}
    assert cpus(version_2(tmp_path, quotas, "/a/b/c")) == 2
    assert cpus(version_2(tmp_path, {"": "300000 100000"}, "/a")) == 3


@pytest.mark.parametrize(("quota_us", "count"), [("-1", 8), ("150000", 1), ("300000", 3), ("10000", 1), ("", 8)])
def test_version_1(tmp_path, quota_us, count):
    group = "sys/fs/cgroup/cpu/docker/abc"
    files = {f"{group}/cpu.cfs_quota_us": f"{quota_us}\n", f"{group}/cpu.cfs_period_us": "100000\n"}
    files |= {"proc/self/mountinfo": MOUNT_1, "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n"}
    assert cpus(write(tmp_path, files)) == count


def test_affinity_and_cpusets_limit_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cpus(version_2(tmp_path, {"": "600000 100000"})) == 2
    assert cpus(version_2(tmp_path, {"": "150000 100000"})) == 1
    assert cpus(tmp_path / "nothing") == 2


def test_threads_of_a_variant_are_limited_by_the_quota(tmp_path, monkeypatch):
    root = version_2(tmp_path, {"": "250000 100000"})
    monkeypatch.setattr(choice, "cpus", lambda: cpus(root))
    tuned = Variant("onnxruntime", "float32", {}, "cpu", 8, "float32", streams=4)
    limited = choice.cap_threads(tuned)
    assert (limited.threads, limited.streams) == (2, 2)
    assert choice.cap_threads(tuned, 6).threads == 6
