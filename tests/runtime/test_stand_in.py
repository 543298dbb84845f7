"""A device's bundle on this machine's CPU: a stand-in tells its answers, accuracy and size, and no times."""

from __future__ import annotations

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit.report import check
from edgekit.report.bench import bench
from edgekit.report.evaluate import evaluate
from edgekit.spec.options import BaselineOptions, BenchOptions, CheckOptions, EvaluateOptions
from edgekit.spec.report import INCOMPARABLE, REGRESSION


def test_a_session(jetson, tiny_module, tiny_samples):
    texts = [row["text"] for row in tiny_samples.rows[:20]]
    with edgekit.load(jetson, backend="onnxruntime") as session:
        assert (session.info.backend, session.variant_index) == ("onnxruntime", 0)
        assert "stand-in for tensorrt" in session.info.chosen
        logits = small.logits(session, texts)
    expected = small.torch_logits(tiny_module, texts)
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)


def test_scores(jetson, tiny_samples):
    scores = evaluate(jetson, tiny_samples.dev, options=EvaluateOptions(backend="onnxruntime"))
    assert scores.score == pytest.approx(tiny_samples.accuracy, abs=0.05)
    assert scores.stand_in_for == "tensorrt"
    text = scores.text()
    assert "stand-in" in text
    assert "incomparable" in text
    assert "p50" not in text


@pytest.mark.slow
def test_a_check_judges_accuracy_and_size_alone(jetson, float32_ort, tiny_samples):
    options = CheckOptions(backend="onnxruntime", max_time=0.1)
    report = check.check(jetson, float32_ort, tiny_samples.dev, options=options)
    verdicts = {gate.name: gate.verdict for gate in report.gates}
    incomparable = {"latency.p50", "latency.p90", "footprint.first_answer", "footprint.memory"}
    assert {name for name, verdict in verdicts.items() if verdict == INCOMPARABLE} == incomparable
    assert REGRESSION not in verdicts.values()
    assert (report.exit_code(), report.exit_code(allow_incomparable=True)) == (4, 0)
    assert sum("Stand-in" in note for note in report.notes) == 1
    after = report.subjects[-1]
    assert (after.times, after.start, after.memory_mb, after.processes) == (None, None, 0.0, ())
    assert after.score is not None


def test_times_are_refused(jetson, tiny_samples):
    with refused("stand-in-no-times"):
        bench(jetson, options=BenchOptions(batches=[1], lengths=[8], backend="onnxruntime"))
    with refused("stand-in-no-times"):
        check.self_check(jetson, tiny_samples.dev, options=CheckOptions(backend="onnxruntime"))
    with refused("stand-in-no-times"):
        check.baseline(jetson, tiny_samples.dev, options=BaselineOptions(backend="onnxruntime"))


def test_only_for_a_bundle_of_a_device(float32_openvino):
    with refused("backend-not-in-bundle"), edgekit.load(float32_openvino, backend="onnxruntime"):
        pass
