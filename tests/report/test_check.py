"""The verbs' work from end to end, with real bundles in real processes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import short
import small
from refusals import refused

from edgekit.report import check as verbs
from edgekit.report import files, run
from edgekit.report.predictions import unpack
from edgekit.report.render import write_all
from edgekit.report.side import open_for_test
from edgekit.runtime.load import load
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.options import CheckOptions, CompareOptions, MeasureOptions
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION
from edgekit.spec.target import Budget
from edgekit.timing import interleaved

pytestmark = pytest.mark.slow
OPEN = Gates(LatencyGates(9.0, None, None), AccuracyGates(0.05), FootprintGates(9.0, 1.0, 0.1, None))
"""Margins that only a real fault exceeds: these tests share the machine."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A bundle is timed alone in one process, where its latency is not what a test is about."""
    with short.measurements(processes=1):
        yield


@pytest.fixture(scope="module")
def texts(tiny_samples):
    return [row["text"] for row in tiny_samples.rows]


@pytest.fixture(scope="module")
def logits(float32_ort, texts):
    with load(float32_ort) as session:
        return small.logits(session, texts)


@pytest.fixture(scope="module")
def kept(float32_ort, tiny_samples, tmp_path_factory):
    """A baseline of the float32 bundle in a file."""
    file = tmp_path_factory.mktemp("baseline") / "baseline.json"
    with short.measurements():
        files.write(verbs.baseline(float32_ort, tiny_samples.dev), file)
    return file


@pytest.fixture(scope="module")
def checked(float32_ort, tiny_bundle, tiny_samples):
    """The quantized bundle against the float32 one."""
    return verbs.check(
        tiny_bundle, float32_ort, tiny_samples.dev, options=CheckOptions(gates=OPEN, slices=["label"], max_time=0.0)
    )


def gates(report):
    return {gate.name: gate.verdict for gate in report.gates}


def test_a_check_against_a_bundle(checked, tiny_samples):
    assert set(gates(checked)) == {
        "accuracy.drop",
        "latency.p50",
        "footprint.first_answer",
        "footprint.memory",
        "footprint.size",
    }
    assert gates(checked)["accuracy.drop"] == gates(checked)["footprint.size"] == PASS
    assert set(gates(checked).values()) <= {PASS, INCONCLUSIVE}, (
        "four pairs of processes on a busy machine need not settle a time"
    )
    assert checked.exit_code() == 0
    before, after = checked.subjects
    assert (before.executed, before.score) == ("float32", pytest.approx(tiny_samples.accuracy)), (
        "float32 answers as torch does"
    )
    assert after.method != "float32" and checked.speed.pairs == len(after.processes) == 4
    assert checked.rows == len(tiny_samples.rows) == len(after.predictions.ids)
    assert {s.column for s in checked.accuracy.slices} == {"label", "length"}
    assert checked.faithfulness is None and not checked.robustness, "a gate is what a check is for"


def test_answers_are_those_of_a_session(checked, logits):
    assert np.array_equal(np.stack([row["logits"] for row in unpack(checked.subjects[0].predictions)]), logits)


def test_the_fingerprint_is_this_machines(checked):
    assert checked.fingerprint.cpus >= 1 and "onnxruntime" in checked.fingerprint.backends


def test_a_file_stands_in_for_the_bundle_on_the_same_machine(float32_ort, tiny_samples, kept):
    with short.measurements():
        found = verbs.check(float32_ort, kept, tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert found.exit_code() == 0 and not found.speed.paired
    assert found.accuracy.flips == 0 and found.accuracy.drop == 0.0


def test_on_another_machine_accuracy_and_size_are_judged_and_latency_is_not(float32_ort, tiny_samples, kept, tmp_path):
    other = files.read(kept)
    files.write(
        replace(other, fingerprint=replace(other.fingerprint, cpu="another", governor="powersave"), digest=""),
        tmp_path / "other.json",
    )
    found = verbs.check(float32_ort, tmp_path / "other.json", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert gates(found) == {
        "accuracy.drop": PASS,
        "latency.p50": INCOMPARABLE,
        "footprint.first_answer": INCOMPARABLE,
        "footprint.memory": INCOMPARABLE,
        "footprint.size": PASS,
    }
    for gate in found.gates:
        if gate.verdict == INCOMPARABLE:
            assert "cpu: another, then" in gate.said and "governor" in gate.said
    assert (found.exit_code(), found.exit_code(allow_incomparable=True)) == (4, 0)


def test_samples_that_changed_since_are_incomparable(float32_ort, tiny_samples, kept, tmp_path):
    fewer = small.write_jsonl(tmp_path / "dev.jsonl", tiny_samples.rows[1:])
    found = verbs.check(float32_ort, kept, fewer, options=CheckOptions(gates=OPEN))
    assert (
        gates(found)["accuracy.drop"] == INCOMPARABLE
        and "the samples differ from those of baseline.json" in found.gates[0].said
    )
    assert gates(found)["latency.p50"] == INCOMPARABLE, "other texts take other times"
    assert "the samples differ from those of baseline.json" in found.gates[1].said
    assert found.exit_code() == 4


@pytest.fixture(scope="module")
def taught(float32_ort, tiny_samples, logits, texts):
    """A comparison with a teacher that is a function, and what it was asked. No text is asked for."""
    by_text = dict(zip(texts, logits, strict=True))
    asked = []

    def teacher(batch):
        asked.extend(batch)
        return np.array([by_text.get(text, logits[len(text) % len(logits)]) for text in batch], np.float32)

    return verbs.compare(teacher, float32_ort, tiny_samples.dev, options=CompareOptions(gates=OPEN)), asked


def test_a_teacher_as_a_function(taught, texts):
    found, asked = taught
    assert found.accuracy.flips == 0 and found.speed is None and found.subjects[0].name == "teacher"
    assert set(gates(found)) == {"accuracy.drop"}, "a teacher has no latency here"
    assert {r.name for r in found.robustness} and len(asked) > len(texts), "it is asked about disturbed texts too"
    assert found.faithfulness.rows > 0 and found.faithfulness.rank_correlation < 0.9, (
        "which words count is chance to this teacher"
    )


def test_a_check_against_what_has_no_times_is_no_pass(float32_ort, tiny_samples, logits, tmp_path):
    np.save(tmp_path / "teacher.npy", logits)
    found = verbs.check(float32_ort, tmp_path / "teacher.npy", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert (
        gates(found)["accuracy.drop"] == PASS and gates(found)["latency.p50"] == INCOMPARABLE and found.exit_code() == 4
    )


def test_a_machine_that_changes_meanwhile(float32_ort, tiny_samples, kept, monkeypatch):
    """Its latency is judged no more, and it makes no baseline."""
    here = run.fingerprint()
    states = iter([here, replace(here, governor="powersave", throttled=here.throttled + 3)] * 2)
    monkeypatch.setattr(run, "fingerprint", lambda: next(states))
    found = verbs.check(float32_ort, kept, tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert gates(found)["latency.p50"] == INCOMPARABLE and gates(found)["accuracy.drop"] == PASS
    assert "governor" in found.gates[1].said, "which is why, and not the single process"
    assert any("throttled 3 times" in note for note in found.notes)
    assert any("Both sides are the same bundle, files and settings" in note for note in found.notes)
    with refused("machine-changed"):
        verbs.baseline(float32_ort, tiny_samples.dev)


def test_other_threads_are_another_latency(float32_ort, tiny_samples, kept, tmp_path):
    other = files.read(kept)
    files.write(replace(other, subjects=(replace(other.subjects[0], threads=77),), digest=""), tmp_path / "other.json")
    found = verbs.check(float32_ort, tmp_path / "other.json", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert gates(found)["latency.p50"] == INCOMPARABLE and "77 thread(s)" in found.gates[1].said


def test_a_loss_of_accuracy_is_found_against_a_file_of_logits(float32_ort, tiny_samples, logits, tmp_path):
    """The file answers all rows rightly; the bundle has 6 of 120 wrong: a drop of 0.05, which a margin of 0 does not allow."""
    with load(float32_ort) as session:
        names = session.info.labels
    truth = np.eye(len(names), dtype=np.float32)[[names.index(row["label"]) for row in tiny_samples.rows]]
    np.save(tmp_path / "teacher.npy", truth * 5)
    found = verbs.compare(
        tmp_path / "teacher.npy",
        float32_ort,
        tiny_samples.dev,
        options=CompareOptions(gates=Gates(accuracy=AccuracyGates(0.0), budget=Budget(accuracy_drop=0.01))),
    )
    assert gates(found) == {"accuracy.drop": REGRESSION, "budget.accuracy_drop": OVER_BUDGET}
    assert found.accuracy.losses == 6 and found.accuracy.gains == 0 and found.exit_code() == 3
    assert {flip.row for flip in found.accuracy.flipped} == {
        i + 1 for i in np.flatnonzero(logits.argmax(1) != truth.argmax(1))
    }


@pytest.fixture(scope="module")
def reported(tiny_bundle, float32_ort, tiny_samples):
    """A report with everything, texts included."""
    budget = Gates(
        LatencyGates(None, None, None),
        AccuracyGates(None),
        FootprintGates(None, None, None, None),
        Budget(accuracy_drop=0.5, size_mb=0.01),
    )
    return verbs.report(
        tiny_bundle,
        tiny_samples.dev,
        options=MeasureOptions(reference=float32_ort, gates=budget, include_text=True, max_time=1.0),
    )


def test_a_report_holds_everything(reported):
    own = reported.subjects[-1]
    assert [s.name for s in own.scenarios] == ["SingleStream", "Offline", "Server"]
    assert own.robustness and reported.robustness and reported.faithfulness.rows > 0
    assert own.start.total_ms > own.start.load_ms > 0 and own.memory_mb > 20 and own.times.count > 100
    assert sum(map(sum, own.confusion)) == reported.rows and own.candidates
    assert gates(reported) == {"budget.accuracy_drop": PASS, "budget.size_mb": OVER_BUDGET}


def test_everything_is_written_and_read_back(reported, tmp_path):
    written = write_all(reported, tmp_path)
    assert {file.name for file in written} == {"report.json", "report.html", "report.md", "junit.xml", "history.json"}
    again = files.read(tmp_path / "report.json")
    assert replace(again, digest="") == replace(reported, digest="")
    assert small.CANARY in (tmp_path / "report.html").read_text("utf-8"), "texts were asked for"


def test_without_being_asked_no_output_holds_a_text(reported, checked, taught, kept, tmp_path, texts):
    """Of two bundles that ran in turns, and of what is told of single rows."""
    assert any(d.words for d in reported.faithfulness.drifts), "as it does where it is asked for"
    assert taught[0].faithfulness.drifts and taught[0].robustness
    for name, found in (("checked", checked), ("taught", taught[0])):
        write_all(found, tmp_path / name)
    for file in (*(tmp_path / "checked").iterdir(), *(tmp_path / "taught").iterdir(), kept):
        content = file.read_text("utf-8")
        assert small.CANARY not in content and not any(text in content for text in texts), file


def test_a_report_stands_in_for_a_bundle_as_a_baseline_does(reported, tiny_bundle, tiny_samples, tmp_path):
    files.write(reported, tmp_path / "report.json")
    found = verbs.check(tiny_bundle, tmp_path / "report.json", tiny_samples.dev, options=CheckOptions(gates=OPEN))
    assert found.accuracy.flips == 0 and found.subjects[0].method == reported.subjects[-1].method


def test_a_report_by_itself(float32_ort, tiny_samples):
    only_drop = Gates(budget=Budget(accuracy_drop=0.001))
    found = verbs.report(float32_ort, tiny_samples.dev, options=MeasureOptions(scenarios=(), gates=only_drop))
    assert len(found.subjects) == 1 and found.accuracy is None and found.subjects[0].robustness
    assert gates(found) == {"budget.accuracy_drop": PASS}, (
        "these are the samples of its build, so its model's score is known"
    )
    assert found.gates[0].value == pytest.approx(0.0, abs=1e-9)


def test_a_machine_that_is_noisier_than_the_margin_is_told(float32_ort, tiny_samples):
    tight = Gates(LatencyGates(0.0, None, None), AccuracyGates(None), FootprintGates(None, None, None, None))
    with refused("gates-below-noise", "0.0"):
        verbs.check(
            float32_ort, float32_ort, tiny_samples.dev, options=CheckOptions(gates=tight, self_check=True, max_time=0.0)
        )


def test_a_bundle_against_itself_tells_the_noise(float32_ort, tiny_samples):
    found = verbs.self_check(float32_ort, tiny_samples.dev, options=CheckOptions(max_time=0.0))
    floor = found.speed.noise_floor
    assert found.kind == "self-check" and floor["p50"] > 0 and all(math.isfinite(v) for v in floor.values())
    p50 = next(c for c in found.speed.changes if c.metric == "p50")
    assert floor["p50"] == pytest.approx(max(1 / p50.low, p50.high) - 1)
    assert json.loads(files.dumps(found))["speed"]["noise_floor"]["p50"] == floor["p50"]


def test_a_bundle_that_is_damaged_between_two_processes(float32_ort, tmp_path, texts):
    """It was whole when it was opened; the process that loads it finds out, and says which of the two it is."""
    side = open_for_test(small.copy(float32_ort, tmp_path / "candidate"))
    whole = open_for_test(float32_ort)
    graph = next((tmp_path / "candidate" / "graphs").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with refused("bundle-file-altered"):
        interleaved.time_interleaved((whole.worker, side.worker), texts, lambda *_: True, max_time=0.0)
