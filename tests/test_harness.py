"""The harness of ``benchmarks/robustness`` at work on a few cases: its long runs are outside of ``make test``."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import small

pytestmark = [pytest.mark.slow, pytest.mark.system]
SCRIPTS = small.ROOT / "benchmarks" / "robustness"


@pytest.fixture
def work(float32_ort, tmp_path):
    shutil.copytree(float32_ort, tmp_path / "bundle")
    return tmp_path


def outcome(script, work, *options):
    done = small.run(
        sys.executable,
        SCRIPTS / script,
        "--work",
        work,
        "-o",
        work / "result.json",
        *options,
        PYTHONPATH=str(small.ROOT),
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-3000:]
    return json.loads((work / "result.json").read_text())


def test_some_fuzzed_cases(work):
    found = outcome("fuzz.py", work, "--cases", "150", "--seed", "7")
    assert (found["untyped"], found["died"], found["slow"], found["large"], found["faults"]) == (0, 0, 0, 0, [])
    assert found["answered"] > 0
    assert found["answered"] + found["refused"] == 150
    assert sum(n for name, n in found.items() if name.startswith("of ")) == 150


def test_a_fault_is_counted_and_the_next_child_goes_on(work):
    """What the counts rest on: a broken parser, a child that dies, a case that takes memory."""
    script = work / "fuzz.py"
    broken = """
def broken(self, rng):
    self.tries = getattr(self, "tries", 0) + 1
    if self.tries == 1:
        raise KeyError("untyped")
    if self.tries == 2:
        kept = bytearray(1200 << 20)
        kept[:: 4096] = b"x" * len(kept[:: 4096])
    if self.tries == 3:
        os.kill(os.getpid(), 9)
Surfaces.labels = broken

if __name__ == "__main__":"""
    text = (SCRIPTS / "fuzz.py").read_text("utf-8").replace('\nif __name__ == "__main__":', broken)
    script.write_text(text, "utf-8")
    shutil.copy(SCRIPTS / "common.py", work)
    (work / "common.py").write_text(
        (SCRIPTS / "common.py")
        .read_text("utf-8")
        .replace("Path(__file__).resolve().parents[2]", f"Path({str(small.ROOT)!r})")
    )
    done = small.run(
        sys.executable, script, "--work", work, "-o", work / "result.json", "--cases", "60", PYTHONPATH=str(small.ROOT)
    )
    found = json.loads((work / "result.json").read_text())
    assert done.returncode == 1
    assert found["untyped"] > 0
    assert found["died"] > 0
    assert found["large"] > 0
    assert any("KeyError" in f["fault"] for f in found["faults"])


def test_a_few_kills(work):
    found = outcome("kill.py", work, "--kills", "2")
    assert (found["killed"], found["lost"], found["failed"], found["left"]) == (2, 0, 0, 0)


def test_a_few_hundred_calls(work):
    found = outcome("soak.py", work, "--calls", "300")
    assert found["refused"] > 0
    assert found["growth_mb"] < 100
