"""Lists in batches, several at a time: the answers are torch's and in order, whatever runs beside them."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit.bundle.trust import open_bundle
from edgekit.machine import cpu as measure
from edgekit.runtime import choice
from edgekit.runtime.choice import cap_threads
from edgekit.runtime.load import load
from edgekit.runtime.session import Session
from edgekit.spec.manifest import Variant

TEXTS = [*small.texts(33, seed=15), "", "film " * 200, "שלום"]
BUCKETS = (8, 16, 32)


def opened(path, **changes):
    bundle = open_bundle(path)
    return Session(
        bundle,
        replace(bundle.manifest.variants[0], **{"threads": 2, "streams": 2, "batch": 4, "shapes": (), **changes}),
    )


@pytest.fixture(scope="module")
def load_once():
    """Load each bundle once, whatever the order of the tests."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda bundle, shapes: stack.enter_context(opened(bundle, shapes=shapes)))


@pytest.fixture(params=["onnxruntime", "openvino", "buckets"])
def session(request, load_once):
    bundle = request.getfixturevalue("float32_ort" if request.param == "onnxruntime" else "float32_openvino")
    return load_once(bundle, BUCKETS if request.param == "buckets" else ())


@pytest.fixture(scope="module")
def expected(tiny_module):
    return small.torch_logits(tiny_module, TEXTS)


@pytest.fixture
def calls(session, monkeypatch):
    """Sizes ``(rows, tokens)`` of what the engine is given from now on, and the most calls at the same time."""
    real, lock, found = session._engine.run, threading.Lock(), {"sizes": [], "now": 0, "most": 0}

    def run(feeds):
        with lock:
            found["sizes"].append(feeds["input_ids"].shape)
            found["now"] += 1
            found["most"] = max(found["most"], found["now"])
        try:
            return real(feeds)
        finally:
            with lock:
                found["now"] -= 1

    monkeypatch.setattr(session._engine, "run", run)
    return found


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_a_list_equals_torch_in_its_order(session, expected):
    close(small.logits(session, TEXTS, batched=True), expected)
    close(small.logits(session, TEXTS[::-1], batched=True), expected[::-1])
    answers = session(TEXTS)
    assert [a.label for a in answers] == [small.LABELS[i] for i in expected.argmax(axis=1)]
    assert [a.truncated for a in answers] == [t == "film " * 200 for t in TEXTS]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 31])
def test_lists_of_any_length(session, expected, count):
    """One batch, whole batches, and a rest of one row, which goes into a bucket where there are any."""
    close(small.logits(session, TEXTS[:count], batched=True), expected[:count])


def test_one_by_one_equals_torch(session, expected):
    close(small.logits(session, TEXTS), expected)
    assert session(TEXTS[0]).label == small.LABELS[expected[0].argmax()]


def test_an_empty_list(session):
    assert session([]) == []


def test_batches_are_as_large_as_the_variant_says(session, calls):
    session(TEXTS)
    lengths = sorted(min(len(small.tokenizer()(t)["input_ids"]), small.MAX_LENGTH) for t in TEXTS)
    assert sorted(rows for rows, _ in calls["sizes"]) == [4] * 9
    assert sorted(tokens for _, tokens in calls["sizes"]) == lengths[3::4], (
        "texts of similar length together, padded to the longest of the four only"
    )
    assert calls["most"] <= 2


def test_one_row_goes_into_its_bucket_and_a_batch_does_not(session, calls):
    session("the film was fine")
    session(["the film was fine", "so was the song"])
    tokens = len(small.tokenizer()("the film was fine")["input_ids"])
    assert tokens < 8
    assert calls["sizes"] == [(1, 8 if session.info.shapes else tokens), (2, tokens)]


def test_two_calls_run_at_the_same_time(session, expected, monkeypatch):
    """Each call waits for another one to begin: with one stream the first would wait in vain."""
    real, meet = session._engine.run, threading.Barrier(2, timeout=30)

    def run(feeds):
        meet.wait()
        return real(feeds)

    monkeypatch.setattr(session._engine, "run", run)
    close(small.logits(session, TEXTS[:16], batched=True), expected[:16])


def test_one_stream_runs_one_call_after_the_other(float32_bundle, expected):
    with opened(float32_bundle, streams=1) as session:
        real, inside = session._engine.run, []

        def run(feeds):
            assert inside == []
            inside.append(1)
            try:
                return real(feeds)
            finally:
                inside.clear()

        session._engine.run = run
        close(small.logits(session, TEXTS, batched=True), expected)
        assert (session.info.streams, session.info.batch) == (1, 4)


def test_from_several_threads_at_once(session, expected):
    """More callers than streams, each with lists of its own and single texts between them."""
    wrong, start = [], threading.Barrier(6)

    def work(offset):
        start.wait()
        order = [*range(offset, len(TEXTS)), *range(offset)]
        for _ in range(3):
            found = small.logits(session, [TEXTS[i] for i in order], batched=True)
            if not np.allclose(found, expected[order], atol=1e-4 * np.ptp(expected)):
                wrong.append(("list", offset))
            one = small.logits(session, [TEXTS[offset]])
            if not np.allclose(one[0], expected[offset], atol=1e-4 * np.ptp(expected)):
                wrong.append(("text", offset))

    threads = [threading.Thread(target=work, args=(5 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_goes_wrong_in_a_stream_is_told(float32_ort):
    session = opened(float32_ort)
    session.close()
    with refused("session-closed"):
        session(TEXTS)
    with opened(float32_ort) as session, refused("graph-run-failed"):
        session._runner.run([{n: np.full(5, 10**6) for n in ("input_ids", "token_type_ids", "attention_mask")}] * 9)


def test_info_says_how_lists_are_answered(session):
    info = session.info
    assert (info.threads, info.streams, info.batch) == (2, 2, 4)
    assert info.shapes in ((), BUCKETS)
    assert info.chosen == "it was requested"


def test_a_batch_of_none_is_the_bundles(float32_ort, expected):
    with opened(float32_ort, batch=0) as session:
        assert session.info.batch == session._bundle.manifest.max_batch == 32
        close(small.logits(session, TEXTS, batched=True), expected)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_more_streams_than_threads(request, name):
    bundle = request.getfixturevalue("float32_ort" if name == "onnxruntime" else "float32_openvino")
    with refused("streams-out-of-range", "3", "2"):
        opened(bundle, streams=3)


def test_buckets_are_for_a_backend_that_gains_from_them(float32_ort):
    with refused("shapes-unsupported"):
        opened(float32_ort, shapes=BUCKETS)


# ---- loaded on another machine


@pytest.mark.parametrize(
    ("cpus", "threads", "expected"),
    [
        (8, None, (4, 4)),
        (4, None, (4, 4)),
        (2, None, (2, 2)),
        (1, None, (1, 1)),
        (8, 1, (1, 1)),
        (8, 3, (3, 3)),
        (2, 6, (6, 4)),
    ],
)
def test_no_more_threads_than_cpus_and_no_more_streams_than_threads(monkeypatch, cpus, threads, expected):
    monkeypatch.setattr(choice, "cpus", lambda: cpus)
    variant = Variant(
        "onnxruntime", "float32", {"forward": "graphs/model.onnx"}, "cpu", 4, "float32", streams=4, batch=8
    )
    found = cap_threads(variant, threads)
    assert (found.threads, found.streams) == expected
    assert replace(found, threads=4, streams=4) == variant


def test_a_bundle_for_throughput(float32_ort, tmp_path, expected):
    """As the command line and ``edgekit.load`` open it, with fewer threads than it was built for."""
    bundle = small.copy(float32_ort, tmp_path / "copy")
    (variant,) = open_bundle(bundle).manifest.variants
    small.sign(
        bundle,
        variants=[
            {
                **small.json.loads((bundle / "manifest.json").read_text())["variants"][0],
                "threads": 4,
                "streams": 4,
                "batch": 5,
            }
        ],
    )
    with edgekit.load(bundle) as session:
        most = min(4, measure.cpus())
        assert (session.info.threads, session.info.streams, session.info.batch) == (most, most, 5)
        assert session.info.chosen == "it won the race where the bundle was built"
        close(small.logits(session, TEXTS, batched=True), expected)
    with load(bundle, threads=1, backend=variant.backend) as session:
        assert (session.info.threads, session.info.streams, session.info.chosen) == (1, 1, "the backend was requested")
        sizes, real = [], session._engine.run
        session._engine.run = lambda feeds: sizes.append(len(feeds["input_ids"])) or real(feeds)
        close(small.logits(session, TEXTS, batched=True), expected)
        assert sorted(sizes) == sorted([5] * (len(TEXTS) // 5) + [len(TEXTS) % 5]) and len(sizes) == math.ceil(
            len(TEXTS) / 5
        )
