"""The process that measures: it answers as a session does, and its errors are the session's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import BackendError, EdgekitError, InputError, Trust
from edgekit.bundle.trust import open_bundle
from edgekit.runtime.session import Session
from edgekit.timing import frames
from edgekit.timing.worker import Worker

TEXTS = [*small.texts(12, seed=6), "", "😀 שלום", "line\nbreak \u2028 \x00", "film " * 200]
PAIRS = [("the plot was dull", "their cast is strong"), ("", "")]

# Child with a changed session: a call takes 30 ms, and some texts have a special effect.
CHANGED = """
import os, sys, time
sys.path[:] = [p for p in sys.path if p]
from edgekit.timing import child
from edgekit.runtime.session import Session
real, clock, ahead = Session.__call__, time.perf_counter, 0.0
def call(self, text):
    global ahead
    if text == "long":
        time.sleep(3600)
    elif text == "back":
        ahead -= 10.0
    elif text == "stop":
        now = clock()
        time.perf_counter = lambda: now
    elif text == "print":
        os.write(1, b"printed by a library in C")
        print("printed by a library in Python")
    elif text == "leave":
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
    else:
        time.sleep(0.03)
    return real(self, text)
Session.__call__ = call
time.perf_counter = lambda: clock() + ahead
child.main(*sys.argv[1:])
"""


class Changed(Worker):
    CHILD = CHANGED


@pytest.fixture(scope="module")
def worker(float32_ort):
    with Worker(float32_ort) as started:
        yield started


@pytest.fixture(scope="module")
def expected(float32_ort):
    """Logits of a session, for texts and for pairs."""
    with edgekit.load(float32_ort) as session:
        return small.logits(session, [*TEXTS, *PAIRS])


def test_logits_equal_the_session(worker, expected):
    logits = small.logits(worker, [*TEXTS, *PAIRS])
    assert (logits.dtype, logits.shape) == (np.dtype(np.float32), expected.shape)
    np.testing.assert_array_equal(logits, expected)


def test_times(worker):
    start = time.perf_counter()
    times = worker.time(TEXTS)
    whole = (time.perf_counter() - start) * 1e3
    assert len(times) == len(TEXTS)
    assert all(t > 0 for t in times)
    assert sum(times) <= whole


@pytest.mark.slow
def test_first_answer_and_memory(float32_bundle):
    start = time.perf_counter()
    with Worker(float32_bundle, threads=1) as worker:
        first = worker.start("the film was fine")
        assert 20 < first.total_ms <= (time.perf_counter() - start) * 1e3
        memory = worker.memory_mb()
        assert 20 < memory < 400
        with open(f"/proc/{worker._child.pid}/status") as status:
            peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
        assert memory == pytest.approx(peak, rel=0.1)
        assert worker.executed_precision() == "float32"


@pytest.mark.slow
def test_parts_of_a_start(float32_bundle):
    """The child does nothing else, so the parts add up to nearly the total."""
    began = time.perf_counter()
    with Worker(float32_bundle) as worker:
        start = worker.start(TEXTS[0])
        assert start.total_ms <= (time.perf_counter() - began) * 1e3
        parts = (start.import_ms, start.verify_ms, start.load_ms, start.answer_ms)
        assert min(parts) > 0
        assert start.total_ms / 2 < sum(parts) <= start.total_ms
        assert start.import_ms > 10, "an interpreter, numpy and tokenizers"
        with refused("worker-started"):
            worker.start(TEXTS[0])
        assert len(worker.time(TEXTS)) == len(TEXTS)


@pytest.mark.slow
def test_what_a_part_of_a_start_holds(float32_ort):
    """Each part sleeps for another time, and no part is shorter than its own sleep."""
    seconds = {"import_ms": 0.8, "verify_ms": 0.6, "load_ms": 0.4, "answer_ms": 0.2}

    class Slow(Worker):
        CHILD = f"""
import sys, time
from edgekit.timing import child
from edgekit.runtime.session import Session
def slow(function, seconds):
    def later(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return later
time.sleep({seconds["import_ms"]})
child.open_bundle = slow(child.open_bundle, {seconds["verify_ms"]})
child.load_checked = slow(child.load_checked, {seconds["load_ms"]})
Session.__call__ = slow(Session.__call__, {seconds["answer_ms"]})
child.main(*sys.argv[1:])
"""

    with Slow(float32_ort) as worker:
        start = worker.start("a fine film")
    for part, slept in seconds.items():
        assert getattr(start, part) >= slept * 1e3, part
    assert start.total_ms >= 2000


def test_a_bundle_is_verified_once(float32_ort, tmp_path):
    class Counting(Worker):
        CHILD = f"""
import sys
from edgekit.bundle import trust
real = trust._open_file
def noted(path, expected):
    with open({str(tmp_path / "notes")!r}, "a") as notes:
        notes.write(path.name + "\\n")
    return real(path, expected)
trust._open_file = noted
{Worker.CHILD}
"""

    with Counting(float32_ort) as worker:
        worker.start("a fine film")
    names = (tmp_path / "notes").read_text().split()
    # The graph is read again as the bytes for the backend.
    files = [*open_bundle(float32_ort).manifest.files, "graphs/model.onnx"]
    assert sorted(names) == sorted(name.rpartition("/")[2] for name in files)


def test_a_scratch_bundle_is_not_hashed_again(float32_ort, tmp_path, expected):
    """Its weights could be others: who asks for this has written them."""
    bundle = small.copy(float32_ort, tmp_path / "copy")
    (bundle / "more").write_text("not in the manifest")
    with Worker(bundle) as worker, refused("bundle-file-extra"):
        worker.start("a")
    with Worker(bundle, checked=True) as worker:
        assert worker.start("a").total_ms > 0
        np.testing.assert_array_equal(small.logits(worker, TEXTS), expected[: len(TEXTS)])


def test_predictions_tell_how_far_they_are(worker):
    steps = []
    rows = worker.predict(["a"] * 120, lambda *step: steps.append(step), step="score the model")
    assert steps == [("score the model", done, 120) for done in (50, 100, 120)]
    assert len(rows) == 120
    assert worker.predict([]) == []
    steps.clear()
    worker.predict(["a"] * 120, lambda *step: steps.append(step), batched=True)
    assert steps == [("answers", 120, 120)], "a list is answered at once"


@pytest.mark.slow
def test_a_variant_is_run_as_it_is(float32_ort, expected):
    """Whatever the bundle's own variants say beside its graphs: nothing is lessened to the CPUs that there are."""
    variant = replace(open_bundle(float32_ort).manifest.variants[0], threads=3, streams=3, batch=2)
    expected = expected[: len(TEXTS)]
    with Worker(float32_ort, variant=variant) as worker:
        assert worker.start(TEXTS[0]).total_ms > 20
        for batched in (False, True):
            np.testing.assert_allclose(small.logits(worker, TEXTS, batched=batched), expected, atol=1e-3)
        start = time.perf_counter()
        seconds = worker.seconds(TEXTS)
        assert 0 < seconds <= time.perf_counter() - start
        assert worker.executed_precision() == "float32"
    with (
        Worker(float32_ort, variant=replace(variant, streams=4)) as worker,
        refused("streams-out-of-range", "4", "3"),
    ):
        worker.start("a")
    in_buckets = replace(variant, backend="openvino", threads=1, streams=1, shapes=(64,))
    with Worker(float32_ort, variant=in_buckets) as worker, Session(open_bundle(float32_ort), in_buckets) as session:
        one, several = (small.logits(session, TEXTS, batched=batched) for batched in (False, True))
        assert not np.array_equal(one, several), (
            "single rows are padded to a bucket, so the last digits tell them from batches"
        )
        assert np.array_equal(small.logits(worker, TEXTS), one)
        assert np.array_equal(small.logits(worker, TEXTS, batched=True), several)
        np.testing.assert_allclose(one, expected, atol=1e-3)


def test_errors_cross_the_pipe_with_their_types(worker):
    with refused("input-type"):
        small.logits(worker, [3])
    with refused("text-surrogate"):
        worker.time(["\ud83d"])
    assert small.logits(worker, ["still alive"]).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"backend": "openvino"}, BackendError, "backend-not-in-bundle"),
        ({"threads": 0}, InputError, "threads-out-of-range"),
    ],
    ids=["backend", "threads"],
)
def test_errors_of_loading(float32_ort, options, error, code):
    """They keep their class, and name the bundle."""
    with Worker(float32_ort, **options) as worker, refused(code, float32_ort) as caught:
        worker.start("a")
    assert type(caught.value) is error


def test_whom_is_trusted_holds_for_a_given_variant_too(float32_ort, tmp_path):
    from edgekit.bundle.keys import make_keys

    trust = Trust([make_keys(tmp_path / "maker")])
    variant = open_bundle(float32_ort).manifest.variants[0]
    for options in ({}, {"variant": variant}):
        with Worker(float32_ort, trust=trust, **options) as worker, refused("bundle-not-signed"):
            worker.start("a")


def test_a_damaged_bundle(float32_ort, tmp_path):
    bundle = small.copy(float32_ort, tmp_path / "copy")
    (bundle / "graphs/model.onnx").write_bytes(b"x")
    with Worker(bundle) as worker, refused("bundle-file-size", "model.onnx", "1"):
        worker.start("a")


def test_a_killed_child(float32_ort):
    with Worker(float32_ort) as worker:
        worker.start("a")
        os.kill(worker._child.pid, signal.SIGKILL)
        with refused("worker-ended", f"{float32_ort}", "9"):
            small.logits(worker, ["a"])
        with refused("worker-ended"):
            worker.memory_mb()


def test_a_child_that_fails_says_why(float32_ort):
    with Worker(float32_ort) as worker, refused("worker-ended", "do"):
        worker._request(nothing=1)


def test_leaving_ends_the_child(float32_ort):
    with refused("error"), Worker(float32_ort) as worker:
        worker.start("a")
        child = worker._child
        raise EdgekitError("in between")
    assert child.poll() is not None


def test_texts_are_not_in_the_arguments(worker):
    worker.time([small.CANARY])
    for file in ("cmdline", "environ"):
        with open(f"/proc/{worker._child.pid}/{file}", "rb") as stream:
            assert small.CANARY.encode() not in stream.read()


def test_a_module_in_the_current_folder_is_not_run(float32_ort, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    with Worker(float32_ort) as worker:
        assert worker.start("a fine film").total_ms > 0
    assert not (tmp_path / "ran").exists()


# ---- an end whatever comes


def ended(pid, seconds=20.0):
    """Whether a process ends within some time; one that nobody has waited for has."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a call"])
def test_a_child_does_not_outlive_a_killed_parent(float32_ort, busy):
    code = f"""
import sys
from pathlib import Path
from edgekit.timing.worker import Worker
class Changed(Worker):
    CHILD = {CHANGED!r}
worker = Changed(Path(sys.argv[1]))
worker.start("a")
print(worker._child.pid, flush=True)
worker.time(["long"]) if {busy} else sys.stdin.read()
"""
    with small.started(
        sys.executable, "-c", code, float32_ort, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert not ended(child, 0.1)
        parent.kill()
        try:
            assert ended(child)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_close_waits_for_nobody(float32_ort):
    """Not for a child in a call, and not for what a child has started and left behind."""
    worker = Changed(float32_ort)
    worker.start("leave")
    frames.write(worker._child.stdin, {"do": "time", "inputs": ["long"]})
    start = time.monotonic()
    worker.close()
    assert time.monotonic() - start < 9
    assert worker._child.poll() is not None
    worker.close()


def test_a_library_that_prints(float32_ort):
    with Changed(float32_ort) as worker:
        assert worker.time(["print", "a"])[1] >= 30


# ---- the clock


def test_a_clock_that_goes_backwards(float32_ort):
    with Changed(float32_ort) as worker:
        for ask in (worker.start, lambda text: worker.time([text]), lambda text: worker.serve([text], [0.0])):
            with refused("clock-backwards"):
                ask("back")


def test_a_clock_that_stands_still(float32_ort):
    with Changed(float32_ort) as worker:
        worker.time(["a"])
        with refused("clock-backwards", "0 ms"):
            worker.time(["stop", "a"])


@pytest.mark.parametrize("ahead", [-1000.0, 1000.0], ids=["behind", "ahead"])
def test_clocks_of_parent_and_child_that_differ(float32_ort, ahead):
    class Differs(Worker):
        CHILD = f"import time; real = time.perf_counter; time.perf_counter = lambda: real() + {ahead}; {Worker.CHILD}"

    with Differs(float32_ort) as worker, refused("clock-backwards", "import_ms"):
        worker.start("a")
