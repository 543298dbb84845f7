"""What a check and a comparison refuse before anything is measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import reports
import small
from refusals import refused

from edgekit.report import check as verbs
from edgekit.report import files
from edgekit.spec.gates import OFF
from edgekit.spec.options import CheckOptions


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A baseline in a file, of a bundle of the same task."""
    file = tmp_path_factory.mktemp("baseline") / "baseline.json"
    files.write(reports.check(), file)
    return file


def test_a_baseline_of_another_task(float32_ort, tiny_samples, kept, tmp_path):
    other = files.read(kept)
    last = other.subjects[-1]
    identity = {**last.identity, "labels": list(reversed(last.labels))}
    subjects = (other.subjects[0], replace(last, identity=identity))
    files.write(replace(other, subjects=subjects, digest=""), tmp_path / "other.json")
    with refused("model-other-task"):
        verbs.check(float32_ort, tmp_path / "other.json", tiny_samples.dev)


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-40], lambda t: t.replace('"rows":872', '"rows":873'), lambda t: "", lambda t: "{}"]
)
def test_a_damaged_baseline_is_never_a_pass(float32_ort, tiny_samples, kept, tmp_path, damage):
    file = tmp_path / "damaged.json"
    file.write_text(damage(kept.read_text("utf-8")), "utf-8")
    assert file.read_text("utf-8") != kept.read_text("utf-8")
    with refused("report-damaged") as caught:
        verbs.check(float32_ort, file, tiny_samples.dev)
    assert caught.value.exit_code == 5


def test_a_baseline_that_was_forged_with_times_that_cannot_be(float32_ort, tiny_samples, kept, tmp_path):
    other = files.read(kept)
    process = other.subjects[-1].processes[0]
    data = json.loads(files.dumps(other).replace(json.dumps(process.start.total_ms), "0.0"))
    data["digest"] = files._digest(data)
    (tmp_path / "forged.json").write_text(files._text(data), "utf-8")
    with refused("report-damaged"):
        verbs.check(float32_ort, tmp_path / "forged.json", tiny_samples.dev)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"baseline": "nothing"}, "baseline-not-found"),
        ({"baseline": "notes.txt"}, "baseline-not-found"),
        ({"gates": OFF}, "gates-off"),
        ({"max_time": math.inf}, "check-settings"),
        ({"max_time": math.nan}, "check-settings"),
        ({"max_time": -1.0}, "check-settings"),
        ({"seed": -1}, "check-settings"),
        ({"baseline": "kept.json", "self_check": True}, "self-check-file"),
        ({"samples": "no labels"}, "samples-no-label"),
    ],
)
def test_what_cannot_be_checked(float32_ort, tiny_samples, kept, tmp_path, change, code):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "kept.json").write_bytes(kept.read_bytes())
    options = dict(change)
    baseline, samples = float32_ort, tiny_samples.dev
    if "baseline" in options:
        baseline = tmp_path / options.pop("baseline")
    if options.pop("samples", None):
        samples = small.write_jsonl(tmp_path / "dev.jsonl", [{"text": row["text"]} for row in tiny_samples.rows])
    with refused(code):
        verbs.check(float32_ort, baseline, samples, options=CheckOptions(**options))


def test_a_teacher_that_answers_another_number_of_labels(float32_ort, tiny_samples):
    with refused("predictions-shape", "120", "9", "3"):
        verbs.compare(lambda batch: np.zeros((len(batch), 9)), float32_ort, tiny_samples.dev)
