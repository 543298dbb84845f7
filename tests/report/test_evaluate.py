"""Evaluation of many rows: each runs once, in batches only where the build has measured that answers stay the same, in
memory that hardly grows, and with the answers of single calls."""

from __future__ import annotations

import json
import random
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import samples
from edgekit.report import answers, evaluate
from edgekit.report.side import BundleUnderTest, open_for_test
from edgekit.spec import rows as row_format
from edgekit.spec.agreement import Agreement
from edgekit.spec.errors import InputError, OutputError
from edgekit.timing.worker import Answered, Worker

WORDS = small.vocabulary()[5:]


@pytest.fixture
def few(monkeypatch):
    """Small limits, so that 120 rows are many."""
    monkeypatch.setattr(answers, "MOST_TIMED", 30)
    monkeypatch.setattr(answers, "_LONGEST_ROWS", 4)
    monkeypatch.setattr(answers, "_WINDOW", 32)


@pytest.fixture
def requests(monkeypatch):
    """The number of inputs of each request, and whether they were batched."""
    sent = []
    answer = Worker.answer

    def noted(worker, inputs, *, batched=False):
        sent.append((list(inputs), batched))
        return answer(worker, inputs, batched=batched)

    monkeypatch.setattr(Worker, "answer", noted)
    return sent


def run_alone(bundle, inputs):
    """The truth: outputs of single calls."""
    with edgekit.load(bundle) as session:
        return [session.outputs([value])[0] for value in inputs]


def answer(bundle, inputs, progress=lambda *_: None):
    side = open_for_test(bundle)
    with side.worker() as worker:
        return side, answers.answer_rows(worker, side, inputs, progress)


# ---- which rows share calls


def test_few_rows_run_alone_and_once(float32_ort, tiny_samples, requests):
    texts = [row["text"] for row in tiny_samples.rows]
    _, found = answer(float32_ort, texts)
    assert [value for inputs, _ in requests for value in inputs] == texts
    assert not any(batched for _, batched in requests)
    assert len(found.times_ms) == len(texts)
    assert found.note == ""
    assert row_format.difference(list(found.outputs), run_alone(float32_ort, texts)) == 0


@pytest.mark.parametrize("name", ["float32_ort", "float32_openvino"])
def test_many_rows_share_calls_with_the_answers_of_single_calls(name, tiny_samples, few, requests, request):
    bundle = request.getfixturevalue(name)
    texts = [row["text"] for row in tiny_samples.rows]
    texts[17] = " ".join(texts[:6])  # the longest, which no random choice of 30 is sure to have
    steps = []
    side, found = answer(bundle, texts, lambda *step: steps.append(step))
    alone = [value for inputs, batched in requests if not batched for value in inputs]
    batched = [value for inputs, is_batched in requests if is_batched for value in inputs]
    assert sorted(alone + batched) == sorted(texts), "each row runs once"
    assert (len(alone), len(found.times_ms)) == (34, 30)
    assert texts[17] in alone, "so that the peak memory is that of the longest row"
    assert f"{len(texts) - 34:,} of {len(texts):,} rows shared calls" in found.note
    assert steps[-1] == ("evaluate", len(texts), len(texts))
    assert [done for _, done, _ in steps] == sorted({done for _, done, _ in steps})
    expected = run_alone(bundle, texts)
    limit = side.bundle.manifest.variants[0].lists.allowed * row_format.spread(expected)
    assert row_format.difference(list(found.outputs), expected) <= limit
    assert side.task.same_answer(found.outputs, expected).all()


@pytest.mark.parametrize("name", ["tiny_bundle", "litert_bundle"])
def test_a_bundle_whose_lists_run_row_by_row_is_evaluated_so(name, tiny_samples, few, requests, request):
    bundle = request.getfixturevalue(name)
    texts = [row["text"] for row in tiny_samples.rows]
    _, found = answer(bundle, texts)
    assert not any(batched for _, batched in requests)
    assert len(found.times_ms) == len(texts), "all of them are timed"
    assert f"All {len(texts):,} rows ran one by one: " in found.note
    assert row_format.difference(list(found.outputs), run_alone(bundle, texts)) == 0


@pytest.mark.parametrize(
    ("lists", "proven"),
    [
        (None, False),
        (Agreement(100, 1e-6, 0, 1e-5), True),
        (Agreement(100, 1e-4, 0, 1e-5), False),
        (Agreement(100, 1e-6, 1, 1e-5), False),
    ],
)
def test_rows_share_calls_only_where_the_build_has_measured_it(lists, proven):
    variant = SimpleNamespace(rows="together", lists=lists, method="float32", backend="onnxruntime")
    assert (answers.why_alone(variant) == "") is proven
    variant.rows = "alone"
    assert answers.why_alone(variant)


def test_a_bundle_without_a_measurement_runs_row_by_row(float32_ort, tiny_samples, few, requests, tmp_path):
    bundle = small.copy(float32_ort, tmp_path / "unmeasured")
    data = json.loads((bundle / "manifest.json").read_text("utf-8"))
    small.sign(bundle, variants=[{**v, "lists": None} for v in data["variants"]])
    scores = edgekit.evaluate(bundle, tiny_samples.dev)
    assert not any(batched for _, batched in requests)
    assert "could not compare answers in lists" in scores.notes[-1]


def test_scores_and_truncated_rows_are_those_of_single_calls(float32_ort, tiny_samples, few, tmp_path, monkeypatch):
    rows = [*tiny_samples.rows[:100], {"text": "film " * 90, "label": "neutral"}, *tiny_samples.rows[:3]]
    file = small.write_jsonl(tmp_path / "dev.jsonl", rows)
    batched = edgekit.evaluate(float32_ort, file)
    monkeypatch.setattr(answers, "MOST_TIMED", 1000)
    alone = edgekit.evaluate(float32_ort, file)
    assert (batched.truncated, alone.truncated) == (1, 1)
    assert (batched.rows, batched.score, batched.more_scores) == (alone.rows, alone.score, alone.more_scores)
    assert (batched.latency.count, alone.latency.count) == (30, 104)
    assert len(batched.notes) == len(alone.notes) + 1


@pytest.mark.parametrize("place", [2, 118])
def test_an_error_names_the_row(place, float32_ort, few, tiny_samples, monkeypatch):
    texts = [row["text"] for row in tiny_samples.rows[:120]]
    texts[place] = 7
    plan = answers._Plan(range(30), (), range(30, 120))
    monkeypatch.setattr(answers, "_make_plan", lambda *_: plan)
    with refused("input-type", f"Row {place + 1} of the samples: ") as caught:
        answer(float32_ort, texts)
    assert isinstance(caught.value, InputError)


def test_an_error_that_a_row_alone_does_not_have_is_raised_as_it_is(float32_ort, few, tiny_samples, monkeypatch):
    """A batch of a bundle that was measured elsewhere may overflow here."""
    texts = [row["text"] for row in tiny_samples.rows[:60]]
    real = Worker.answer

    def fail(worker, inputs, *, batched=False):
        if batched:
            raise OutputError("no numbers", code="output-not-finite")
        return real(worker, inputs)

    monkeypatch.setattr(Worker, "answer", fail)
    with refused("output-not-finite"):
        answer(float32_ort, texts)


# ---- memory


class Instant:
    """A process that answers at once, in place of a model."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, value):
        return SimpleNamespace(total_ms=1.0)

    def time(self, inputs):
        return [1.0] * len(inputs)

    def variant_index(self):
        return 0

    def method_and_backend(self):
        return "float32", "onnxruntime"

    def memory_mb(self):
        return 1.0

    def answer(self, inputs, *, batched=False):
        values = np.array([[len(text) % 3, len(text) % 5, 1] for text in inputs], np.float32)
        return Answered({"logits": values}, 0, [] if batched else [1.0] * len(inputs))


def peak_bytes(bundle, file):
    tracemalloc.start()
    try:
        scores = evaluate.evaluate(bundle, file)
        return scores, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_the_rows_of_the_file(float32_ort, tmp_path, monkeypatch):
    """The peak is that of reading them, when they are there twice: as columns of the file and as rows."""
    side = open_for_test(float32_ort)  # Reading the bundle takes more than the rows.
    monkeypatch.setattr(evaluate, "open_for_test", lambda *_: side)
    monkeypatch.setattr(BundleUnderTest, "worker", lambda side: Instant())
    monkeypatch.setattr(answers, "MOST_TIMED", 100)
    choose = random.Random(0)
    files = []
    for count in (1_000, 4_000):
        rows = []
        for index in range(count):
            text = " ".join(choose.choice(WORDS) for _ in range(choose.randrange(5, 30)))
            rows.append({"text": f"{text} {index}", "label": choose.choice(small.LABELS), "other": index})
        files.append(small.write_jsonl(tmp_path / f"{count}.jsonl", rows))
    edgekit.evaluate(float32_ort, files[0])  # Imports and caches are no growth.
    _, least = peak_bytes(float32_ort, files[0])
    scores, most = peak_bytes(float32_ort, files[1])
    assert (scores.rows, scores.latency.count) == (4_000, 100)
    growth = (most - least) / 3_000
    tracemalloc.start()
    rows = samples.read(files[1])
    in_rows = tracemalloc.get_traced_memory()[0] / len(rows)
    tracemalloc.stop()
    assert growth < 2 * in_rows, (growth, in_rows)
