"""An error rate from end to end: a task whose answers are transcripts, with ragged outputs, no labels, no numbers and no probabilities."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import reports

from edgekit.report import accuracy, companions, gating
from edgekit.report.faithfulness import faithfulness
from edgekit.report.reference import check_reference
from edgekit.report.render.history import history
from edgekit.report.render.html import html
from edgekit.report.render.markdown import markdown
from edgekit.report.slices import by_label
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.gates import OFF, AccuracyGates, Gates
from edgekit.spec.manifest import Manifest
from edgekit.spec.protocols import Metric, additive
from edgekit.spec.report import OVER_BUDGET, PASS, REGRESSION
from edgekit.spec.target import Budget

SECRET = "zyxcanaryqv"
WORDS = np.array([SECRET, "the", "ship", "sails", "at", "dawn", "tomorrow", "never"])


def edits(heard, said):
    """Levenshtein's distance between two lists."""
    row = list(range(len(said) + 1))
    for i, a in enumerate(heard, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(said, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


class Audio:
    perturbations: ClassVar = {}

    def content(self, value):
        return value.encode()

    def quote(self, value):
        return value


class Transcripts:
    modality = Audio()
    metrics = (
        Metric("WER", additive(lambda s: s[:, 0] / s[:, 1]), higher_is_better=False),
        Metric(
            "sentence errors",
            lambda evidence, weights: (weights @ (evidence[:, 0] > 0)) / weights.sum(axis=1),
            higher_is_better=False,
        ),
    )
    identity: ClassVar = {"languages": ["en"]}
    answers_quote_input = True

    def evidence(self, outputs, truth, metric):
        return np.array(
            [(edits(row["words"].tolist(), said), len(said)) for row, said in zip(outputs, truth, strict=True)], float
        )

    def merge_truth(self, values):
        return values[0]

    def same_answer(self, outputs, reference):
        return np.array([np.array_equal(a["words"], b["words"]) for a, b in zip(outputs, reference, strict=True)])

    def divergence(self, outputs, reference):
        return np.array(
            [float(edits(a["words"].tolist(), b["words"].tolist())) for a, b in zip(outputs, reference, strict=True)]
        )

    def describe(self, outputs):
        return self.describe_truth([row["words"] for row in outputs])

    def describe_truth(self, truth):
        return [" ".join(WORDS[np.asarray(said)]) for said in truth]


def heard(truth, wrong, seed):
    """Outputs in which a share of the words is another one, or left out."""
    draw = np.random.default_rng(seed)
    rows = []
    for said in truth:
        words = np.where(draw.random(len(said)) < wrong, draw.integers(0, len(WORDS), len(said)), said)
        rows.append({"words": words[: len(words) - int(draw.random() < wrong)]})
    return rows


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0)
    truth = [draw.integers(0, len(WORDS), draw.integers(4, 15)).tolist() for _ in range(300)]
    return Evaluation(Transcripts(), [f"{i}.wav" for i in range(300)], truth)


@pytest.fixture(scope="module")
def good(rows):
    return heard(rows.truth, 0.02, 1)


@pytest.fixture(scope="module")
def bad(rows):
    return heard(rows.truth, 0.12, 2)


def compared(rows, before, after, **options):
    ids = [f"{i:016x}" for i in range(len(rows))]
    return accuracy.compare(
        rows,
        before,
        after,
        ids,
        margins=AccuracyGates(0.01, recall_drop=None),
        slices={"half": ["a", "b"] * 150},
        **options,
    )


def verdicts(found):
    return {
        g.name: g.verdict
        for g in gating.judge_comparison(
            Gates(OFF.latency, AccuracyGates(0.01, slice_drop=0.01), OFF.footprint), found, None
        )
    }


def test_more_errors_are_a_regression(rows, good, bad):
    found = compared(rows, good, bad)
    assert 0 < found.before < 0.05 < found.after and not found.higher_is_better and found.score_name == "WER"
    assert found.drop == pytest.approx(found.after - found.before)
    assert 0.01 < found.low < found.drop < found.high and found.p_value < 0.01
    assert (found.losses, found.calibration_before, found.recalls, found.deviation) == (None, None, (), None)
    assert verdicts(found) == {"accuracy.drop": REGRESSION, "slice.half=a": REGRESSION, "slice.half=b": REGRESSION}
    assert found.divergence_mean == pytest.approx(Transcripts().divergence(bad, good).mean())


def test_the_other_scores_are_reported(rows, good):
    wrong = np.mean([row["words"].tolist() != said for row, said in zip(good, rows.truth, strict=True)])
    assert rows.more_scores(good) == {"sentence errors": pytest.approx(wrong)}
    assert "sentence errors" in html(reports.speech())


def test_fewer_errors_pass(rows, good, bad):
    found = compared(rows, bad, good)
    assert found.drop < 0 and set(verdicts(found).values()) == {PASS}
    assert [s.drop < 0 for s in found.slices] == [True, True]


def test_answers_that_are_text_of_the_user_are_shown_where_text_is(rows, good, bad):
    silent, told = compared(rows, good, bad), compared(rows, good, bad, include_text=True)
    assert silent.flips == told.flips > 10
    assert {(f.truth, f.before, f.after, f.text, f.margin_before) for f in silent.flipped} == {("", "", "", "", None)}
    assert any(SECRET in f.truth for f in told.flipped)
    largest = Transcripts().divergence(bad, good).max()
    first = silent.flipped[0].row - 1
    assert edits(bad[first]["words"].tolist(), good[first]["words"].tolist()) == largest, "the largest steps first"


def test_what_such_a_task_has_not(rows, good):
    task = Transcripts()
    assert accuracy.confusion(task, good, rows.truth) == ()
    assert accuracy.calibration_error(task, good, rows.truth) is None
    assert companions.of_rows(task, good, good, rows.truth, 0.01) == (None, "")
    assert by_label(rows, good) == []
    assert check_reference(rows, good, "dev.csv", "torch") is None
    assert faithfulness(rows, lambda x: good[: len(x)], lambda x: good[: len(x)], rows.inputs, filler="") is None


def test_a_budget_of_errors_is_an_upper_limit():
    one = reports.speech().subjects[-1]
    for limit, verdict in ((0.09, OVER_BUDGET), (0.11, PASS)):
        (gate,) = gating.judge_budget(Budget(accuracy_drop=None, accuracy=limit), one, (None, ""))
        assert (gate.verdict, gate.value) == (verdict, 0.1)
        assert "the budget allows" in gate.said


def test_the_drop_against_the_models_own_score():
    one = reports.speech().subjects[-1]
    digest = "0" * 64
    fields = {
        "score_name": one.score_name,
        "reference_score": 0.08,
        "provenance": {"evaluation_digest": f"sha256:{digest}"},
    }
    manifest = type("Known", (), fields)()
    assert Manifest.__dataclass_fields__.keys() >= fields.keys()
    assert gating.compute_drop(manifest, one, digest) == (pytest.approx(0.02), "")
    assert gating.compute_drop(manifest, replace(one, score=0.06), digest)[0] == pytest.approx(-0.02)


def test_pages_say_it_the_right_way_round():
    report = reports.speech()
    page, comment = html(report), markdown(report)
    text = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "+0.0200" in text, "the error rate grew"
    assert "a drop of 0.0200" in text and "right of 0 is worse" in text
    assert "p = 0.0005" in comment and "rows lost" not in comment
    assert "Confusion" not in page and "alibration error" not in comment and "margin before" not in comment
    assert {e["name"]: e["value"] for e in json.loads(history(report))}["WER"] == 0.1
