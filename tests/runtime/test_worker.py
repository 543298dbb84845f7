"""The process that measures: it answers as a session does, and its errors are the session's."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import small

import edgekit
from edgekit import BackendError, EdgekitError, InputError, IntegrityError
from edgekit.engines.trust import open_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.worker import Worker

TEXTS = [*small.texts(12, seed=6), "", "😀 שלום", "line\nbreak \u2028 \x00", "film " * 200]
PAIRS = [("the plot was dull", "their cast is strong"), ("", "")]


@pytest.fixture(scope="module")
def worker(float32_ort):
    with Worker(float32_ort) as started:
        yield started


def test_logits_equal_the_session(worker, float32_ort, tiny_module):
    with edgekit.load(float32_ort) as session:
        expected = session.logits([*TEXTS, *PAIRS])
    found = worker.logits([*TEXTS, *PAIRS])
    assert (found.dtype, found.shape) == (np.dtype(np.float32), expected.shape)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, small.torch_logits(tiny_module, [*TEXTS, *PAIRS]), atol=1e-3)


def test_times(worker):
    start = time.perf_counter()
    times = worker.time(TEXTS)
    whole = (time.perf_counter() - start) * 1e3
    assert len(times) == len(TEXTS)
    assert all(t > 0 for t in times)
    assert sum(times) <= whole


def test_first_answer_and_memory(float32_bundle):
    start = time.perf_counter()
    with Worker(float32_bundle, threads=1) as worker:
        first = worker.first_answer_ms("the film was fine")
        assert 20 < first <= (time.perf_counter() - start) * 1e3
        memory = worker.memory_mb()
        assert 20 < memory < 400
        with open(f"/proc/{worker._child.pid}/status") as status:
            peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
        assert memory == pytest.approx(peak, rel=0.1)
        assert worker.executed_precision() == "float32"


def test_a_variant_is_run_as_it_is(float32_ort, tiny_module):
    """Whatever the bundle's own variants say beside its graphs: nothing is lessened to the CPUs that there are."""
    variant = replace(open_bundle(float32_ort).manifest.variants[0], threads=3, streams=3, batch=2)
    expected = small.torch_logits(tiny_module, TEXTS)
    with Worker(float32_ort, variant=variant) as worker:
        assert worker.first_answer_ms(TEXTS[0]) > 20
        for batched in (False, True):
            np.testing.assert_allclose(worker.logits(TEXTS, batched=batched), expected, atol=1e-3)
        start = time.perf_counter()
        seconds = worker.seconds(TEXTS)
        assert 0 < seconds <= time.perf_counter() - start
        assert worker.executed_precision() == "float32"
    with Worker(float32_ort, variant=replace(variant, streams=4)) as worker, pytest.raises(BackendError, match=r"streams is 4 with 3 thread\(s\)"):
        worker.first_answer_ms("a")
    in_buckets = replace(variant, backend="openvino", threads=1, streams=1, shapes=(64,))
    with Worker(float32_ort, variant=in_buckets) as worker, Session(open_bundle(float32_ort), in_buckets) as session:
        one, several = (session.logits(TEXTS, batched=batched) for batched in (False, True))
        assert not np.array_equal(one, several), "single rows are padded to a bucket, so the last digits tell them from batches"
        assert np.array_equal(worker.logits(TEXTS), one)
        assert np.array_equal(worker.logits(TEXTS, batched=True), several)
        np.testing.assert_allclose(one, expected, atol=1e-3)


def test_errors_cross_the_pipe_with_their_types(worker):
    with pytest.raises(InputError, match="Input is int, expected a str"):
        worker.logits([3])
    with pytest.raises(InputError, match="lone surrogate"):
        worker.time(["\ud83d"])
    assert worker.logits(["still alive"]).shape == (1, 3)


@pytest.mark.parametrize(("options", "error"), [({"backend": "openvino"}, BackendError), ({"threads": 0}, InputError)], ids=["backend", "threads"])
def test_errors_of_loading(float32_ort, options, error):
    with Worker(float32_ort, **options) as worker, pytest.raises(error):
        worker.first_answer_ms("a")


def test_a_damaged_bundle(float32_ort, tmp_path):
    bundle = small.copy(float32_ort, tmp_path / "copy")
    (bundle / "graphs/model.onnx").write_bytes(b"x")
    with Worker(bundle) as worker, pytest.raises(IntegrityError, match=r"model.onnx has 1 bytes"):
        worker.first_answer_ms("a")


def test_a_killed_child(float32_ort):
    with Worker(float32_ort) as worker:
        worker.first_answer_ms("a")
        os.kill(worker._child.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"ended with status -9.*killed"):
            worker.logits(["a"])
        with pytest.raises(BackendError):
            worker.memory_mb()


def test_a_child_that_fails_says_why(float32_ort):
    with Worker(float32_ort) as worker, pytest.raises(BackendError, match="KeyError: 'do'"):
        worker._ask(nothing=1)


def test_leaving_ends_the_child(float32_ort):
    with pytest.raises(EdgekitError), Worker(float32_ort) as worker:
        worker.first_answer_ms("a")
        child = worker._child
        raise EdgekitError("in between")
    assert child.poll() is not None


def test_texts_are_not_in_the_arguments(float32_ort):
    with Worker(float32_ort) as worker:
        worker.first_answer_ms(small.CANARY)
        with open(f"/proc/{worker._child.pid}/cmdline", "rb") as arguments:
            assert small.CANARY.encode() not in arguments.read()
        with open(f"/proc/{worker._child.pid}/environ", "rb") as environment:
            assert small.CANARY.encode() not in environment.read()


def test_a_module_in_the_current_folder_is_not_run(float32_ort, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    with Worker(float32_ort) as worker:
        assert worker.first_answer_ms("a fine film") > 0
    assert not (tmp_path / "ran").exists()
