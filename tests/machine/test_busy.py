"""How busy a machine is: counts of the kernel by hand, and a process that really takes time away."""

from __future__ import annotations

import os
import sys

import pytest
import small

from edgekit.machine import busy
from edgekit.machine.busy import Busy, Watch

CPUS = sorted(os.sched_getaffinity(0))


def write(root, user=0, idle=0, iowait=0, steal=0, loadavg="1.25 0.50 0.25 2/345 6789"):
    """The same counts for each CPU that this process may use, and much on one that it may not."""
    line = f"{user} 0 0 {idle} {iowait} 0 0 {steal} 0 0"
    lines = [f"cpu{n} {line}" for n in CPUS] + [f"cpu{max(CPUS) + 1} {user * 100 + 5} 0 0 0 0 0 0 0 0 0"]
    (root / "stat").write_text("\n".join([f"cpu  {line}", *lines, "intr 1 2 3", "ctxt 5"]) + "\n")
    (root / "loadavg").write_text(loadavg + "\n")


def test_what_others_took(tmp_path):
    write(tmp_path, user=1000, idle=1000)
    watch = Watch(tmp_path)
    write(tmp_path, user=61_000, idle=31_000, iowait=5_000, steal=5_000)
    load = watch.stop()
    # This process itself took next to nothing of 1,000 seconds.
    assert load.others == pytest.approx(0.60, abs=0.01)
    assert load.stolen == pytest.approx(0.05)
    assert (load.queue, load.loud) == (1.25, load.others > busy.OTHERS)
    assert load.text() == "other processes took 60 % of the CPUs' time, the hypervisor 5 % (run queue 1.2)"


@pytest.mark.parametrize(
    ("others", "stolen", "loud"), [(0.0, 0.0, False), (0.09, 0.01, False), (0.11, 0.0, True), (0.0, 0.03, True)]
)
def test_from_when_on_it_counts(monkeypatch, others, stolen, loud):
    monkeypatch.setattr(busy, "OTHERS", 0.10)
    monkeypatch.setattr(busy, "STOLEN", 0.02)
    assert Busy(0.0, 1.0, others, stolen, 0.0).loud is loud


@pytest.mark.parametrize("content", [None, "", "cpu\n", "cpuX 1 2\n", "cpu0 a b c d e f g h\n"])
def test_where_the_system_does_not_tell(tmp_path, content):
    if content is not None:
        (tmp_path / "stat").write_text(content)
    load = Watch(tmp_path).stop()
    assert (load.others, load.stolen, load.queue, load.loud) == (0.0, 0.0, 0.0, False)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs proc_stat(5)")
def test_a_process_that_takes_a_cpu_is_another_and_one_that_has_ended_is_ours():
    burn = (
        "import time\nend = time.process_time() + 1.0\nprint('in', flush=True)\nwhile time.process_time() < end: pass"
    )
    before = os.times()
    mine = Watch()
    with small.started(sys.executable, "-c", burn, stdout=-1, text=True) as child:
        assert child.stdout.readline() == "in\n"
        other = Watch()
        while (os.times().elapsed - before.elapsed) < 0.7:
            pass
        running = other.stop()
        child.wait()
    ended = mine.stop()
    assert running.others > 0.3 / len(CPUS), "while it runs nobody knows whose it is"
    used = running.others * running.seconds
    assert ended.others * ended.seconds <= used + (ended.seconds - running.seconds), (
        "its time is taken off when it has been waited for"
    )
