"""A process that waits for its turn is stopped, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refusals import refused

from edgekit.timing.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops them")
PARENT = """
import sys, time
from pathlib import Path
from edgekit.timing.worker import Worker
with Worker(Path(sys.argv[1])) as worker:
    with worker.turn():
        worker.time(["a"])
    print(worker._child.pid, flush=True)
    time.sleep(60)
"""


def state(pid):
    """Return the state letter of proc(5): R running, S sleeping, T stopped, Z zombie. Empty for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def becomes(pid, states, seconds=10.0):
    end = time.monotonic() + seconds
    while state(pid) not in states and time.monotonic() < end:
        time.sleep(0.01)
    return state(pid) in states


@pytest.fixture
def worker(float32_ort):
    with Worker(float32_ort) as started:
        yield started


def test_it_runs_in_its_turn_and_is_stopped_outside(worker):
    pid = worker._child.pid
    assert state(pid) != "T", "before its first turn it loads"
    for _ in range(3):
        with worker.turn():
            assert len(worker.time(["a", "b"])) == 2
            assert state(pid) in "RS"
        assert becomes(pid, "T")
    with worker.turn():
        assert worker.memory_mb() > 20


def test_a_stopped_child_is_closed_at_once(float32_ort):
    with Worker(float32_ort) as worker:
        with worker.turn():
            worker.time(["a"])
        assert becomes(worker._child.pid, "T")
        began = time.monotonic()
    assert time.monotonic() - began < 5 and worker._child.returncode == -signal.SIGKILL


def test_a_child_that_fails_in_its_turn_says_why(worker):
    with refused("worker-ended"), worker.turn():
        worker._child.kill()
        worker.time(["a"])


def test_what_is_raised_in_a_turn_leaves_the_child_alone(worker):
    """Whoever was interrupted has a reply outstanding: nothing more may be asked."""
    with worker.turn():
        worker.time(["a"])
    with contextlib.suppress(KeyboardInterrupt), worker.turn():
        raise KeyboardInterrupt
    assert state(worker._child.pid) != "T"


def test_a_stopped_child_ends_with_its_parent(float32_ort):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(float32_ort)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        assert becomes(child, "T")
        parent.kill()
        parent.wait()
        assert becomes(child, ("Z", "")), "nobody would ever wake it"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()
