"""What the score cannot see: errors against scipy's paired t, recalls against counts by hand, and the verdicts on both."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from heads import MULTI, REGRESSION, SINGLE, evaluation, rows, task

from edgekit.report import accuracy, companions, gating
from edgekit.report.companions import holds
from edgekit.search.rejections import excess
from edgekit.spec.gates import AccuracyGates, Gates
from edgekit.spec.manifest import Trial
from edgekit.spec.protocols import HasLabels
from edgekit.spec.target import Budget


def error(head, before, after, truth):
    return companions.error(head, rows(before), rows(after), truth)


def recalls(head, before, after, truth, margin):
    return companions.recalls(head, rows(before), rows(after), truth, margin)


def of_rows(head, before, after, truth, limit):
    return companions.of_rows(head, rows(before), rows(after), truth, limit)


def numbers(rows=200, noise=0.3, seed=0):
    choose = np.random.default_rng(seed)
    truth = choose.normal(3, 2, (rows, 1))
    return truth, (truth + choose.normal(0, noise, (rows, 1))).astype(np.float32)


def judged(kind, before, after, truth, gates=None, ids=None):
    gates = gates or AccuracyGates()
    ids = [str(i) for i in range(len(truth))] if ids is None else ids
    given = evaluation(task(kind, before.shape[1]), truth, ids)
    found = accuracy.compare(
        given, rows(before), rows(after), ids, margins=AccuracyGates(gates.drop, recall_drop=gates.recall_drop)
    )
    return found, {
        g.name.removeprefix("accuracy."): g for g in gating.judge_comparison(Gates(accuracy=gates), found, None)
    }


# ---- numbers


def test_the_error_is_a_paired_t_interval():
    truth, before = numbers()
    after = before + np.random.default_rng(1).normal(0, 0.2, before.shape).astype(np.float32)
    found = error(task(REGRESSION, 1), before, after, truth)
    deviation = truth.std(ddof=1)
    growth = (np.abs(after.astype(float) - truth) - np.abs(before.astype(float) - truth))[:, 0]
    low, high = scipy.stats.t.interval(0.9, 199, growth.mean(), scipy.stats.sem(growth))
    assert (found.low * deviation, found.high * deviation) == (pytest.approx(low), pytest.approx(high))
    assert found.growth * deviation == pytest.approx(growth.mean())
    assert found.deviation == pytest.approx(deviation)


@pytest.mark.parametrize("moved", [lambda x: x / 2 + 2, lambda x: x + 0.5, lambda x: x * 1.5, lambda x: -x])
def test_numbers_that_moved_together_are_a_regression(moved):
    truth, before = numbers()
    _, gates = judged(REGRESSION, before, moved(before), truth)
    assert gates["error"].verdict == "regression"
    if moved(1) > moved(0):
        assert gates["drop"].verdict == "pass", "which Pearson's r cannot see"
    _, off = judged(REGRESSION, before, moved(before), truth, AccuracyGates(error=None))
    assert "error" not in off


def test_numbers_that_hardly_moved_pass():
    truth, before = numbers()
    found, gates = judged(REGRESSION, before, before + np.float32(0.001), truth)
    assert gates["error"].verdict == "pass"
    assert not found.identical
    steps = np.float32([[0.3], [-0.3]] * 4)
    _, gates = judged(REGRESSION, before[:8], before[:8] + steps, truth[:8])
    assert gates["error"].verdict == "inconclusive"


def test_several_outputs_and_none():
    truth, before = numbers()
    two, both = np.hstack([truth, 100 * truth]), np.hstack([before, 100 * before])
    one = error(task(REGRESSION, 1), before, before * 2, truth)
    assert error(task(REGRESSION, 2), both, both * 2, two).growth == pytest.approx(one.growth, rel=1e-4), (
        "each in its own deviation"
    )
    assert error(task(REGRESSION, 1), before, before, np.ones_like(truth)) is None
    assert error(task(REGRESSION, 1), before[:1], before[:1], truth[:1]) is None
    assert error(task(SINGLE, 2), before, before, truth) is None


# ---- labels


def rare(rows=1000, of=20, lost=0, seed=0):
    """A label that few rows have, of which some are no longer answered with it."""
    truth = np.zeros(rows, np.int64)
    truth[:of] = 1
    before = np.eye(2, dtype=np.float32)[truth]
    after = before.copy()
    after[:lost] = [1, 0]
    return truth, before, after


def test_recalls_by_hand():
    truth, before, after = rare(lost=3)
    after[500] = [0, 1]
    found = recalls(task(SINGLE, 2), before, after, truth, 0.05)
    assert [(r.label, r.rows, r.before, r.after, r.losses, r.gains) for r in found] == [
        ("L0", 980, 1.0, 979 / 980, 1, 0),
        ("L1", 20, 1.0, 0.85, 3, 0),
    ]
    p = scipy.stats.binomtest(3, 20, 0.05, "greater").pvalue
    assert found[1].p_holm == pytest.approx(2 * p)
    several = recalls(task(MULTI, 2), before - 0.5, after - 0.5, np.eye(2, dtype=bool)[truth], 0.05)
    assert several == found
    assert recalls(task(SINGLE, 2), before[:39], after[:39], truth[:39], 0.05) == (), (
        "20 rows of one and 19 of the other are balanced"
    )


def test_a_label_that_is_lost_is_a_regression():
    truth, before, after = rare(rows=2000, of=12, lost=12)
    _, gates = judged(SINGLE, before, after, truth)
    assert gates["drop"].verdict != "regression", "accuracy fell by 0.006"
    assert gates["recall_drop"].verdict == "regression"
    assert "of the label 'L1' 1.0000 to 0.0000 on 12 rows" in gates["recall_drop"].said
    assert judged(SINGLE, before, rare(2000, 12, 0)[2] * 2, truth)[1]["recall_drop"].verdict == "pass"
    assert judged(SINGLE, before, rare(2000, 12, 1)[2], truth)[1]["recall_drop"].verdict == "inconclusive"
    assert "recall_drop" not in judged(SINGLE, before, after, truth, AccuracyGates(recall_drop=None))[1]


def test_balanced_labels_have_no_such_gate():
    truth = np.arange(300) % 3
    before = np.eye(3, dtype=np.float32)[truth]
    assert "recall_drop" not in judged(SINGLE, before, np.roll(before, 1, axis=1), truth)[1]


class Words:
    """Items of rows: the words of a sentence, each with one of two labels."""

    labels = ("other", "name")
    exclusive = True

    def label_matrix(self, outputs, truth):
        flags = np.eye(2, dtype=bool)
        return flags[np.concatenate(truth)], flags[np.concatenate([row["tags"] for row in outputs])]


def sentences(rows, lost, seed=0, together=True):
    """Sentences of ten words, three of them names; names are lost sentence by sentence, or one by one."""
    draw = np.random.default_rng(seed)
    truth = [np.array([1, 1, 1] + [0] * 7)] * rows
    gone = [draw.random(1 if together else 3) < lost for _ in range(rows)]
    after = [
        {"tags": np.where(np.r_[np.broadcast_to(g, 3), [False] * 7], 0, right)}
        for g, right in zip(gone, truth, strict=True)
    ]
    return truth, [{"tags": right} for right in truth], after


def test_words_of_a_row_are_lost_together():
    assert isinstance(Words(), HasLabels)
    truth, before, after = sentences(200, 0.10)
    name = next(r for r in companions.recalls(Words(), before, after, truth, 0.05) if r.label == "name")
    lost = sum(row["tags"][:3].sum() == 0 for row in after)
    assert (name.rows, name.losses, name.gains, name.after) == (600, 3 * lost, 0, pytest.approx(1 - lost / 200))
    each = np.where([row["tags"][0] == 0 for row in after], 3, 0) - 3 * 0.05
    assert name.p_holm == pytest.approx(2 * scipy.stats.ttest_1samp(each, 0, alternative="greater").pvalue)
    naive = scipy.stats.binomtest(3 * lost, 600, 0.05, "greater").pvalue
    assert naive < 0.1 * name.p_holm, "as if each word were lost by itself"
    alarms = [
        companions.lost(companions.recalls(Words(), *sentences(200, 0.05, seed)[1:], truth, 0.05)) is not None
        for seed in range(100)
    ]
    assert sum(alarms) <= 12, "at the margin itself 5 of 100 are expected at most"


def test_recalls_are_rarely_a_false_alarm():
    """Of a candidate that loses as much as it wins, in sets of many rare labels."""
    choose, shares = np.random.default_rng(3), np.array([0.5, *[0.05] * 10])
    alarms = 0
    for _ in range(200):
        truth = choose.choice(11, 600, p=shares)
        answers = [np.where(choose.random(600) < 0.9, truth, choose.integers(0, 11, 600)) for _ in range(2)]
        before, after = (np.eye(11, dtype=np.float32)[a] for a in answers)
        alarms += any(r.p_holm <= 0.05 for r in recalls(task(SINGLE, 11), before, after, truth, 0.05))
    assert alarms <= 10


# ---- identical answers, equal inputs, rows that can never settle it


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_identical_answers_pass_every_gate(kind, rows):
    choose = np.random.default_rng(rows)
    logits = choose.normal(size=(rows, 3)).astype(np.float32)
    truth = {
        SINGLE: choose.integers(0, 3, rows),
        MULTI: logits > 0.3,
        REGRESSION: logits + choose.normal(size=(rows, 3)),
    }[kind]
    found, gates = judged(kind, logits, logits.copy(), truth, AccuracyGates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    told = {"calibration_error": "incomparable"} if kind == REGRESSION else {}
    assert {name: g.verdict for name, g in gates.items()} == {**dict.fromkeys(gates, "pass"), **told}
    assert found.undecidable_reason == ""
    assert found.is_decided


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_a_set_that_is_repeated_has_the_same_verdict(kind):
    times = 4
    choose = np.random.default_rng(7)
    before = choose.normal(size=(200, 3)).astype(np.float32)
    after = before + choose.normal(0, 0.05, before.shape).astype(np.float32)
    truth = {SINGLE: before.argmax(axis=1), MULTI: before > 0.0, REGRESSION: before + choose.normal(size=before.shape)}[
        kind
    ]
    ids = [str(i) for i in range(200)]
    once, gates = judged(kind, before, after, truth, ids=ids)
    tiled = [np.tile(a, (times, 1)) if a.ndim > 1 else np.tile(a, times) for a in (before, after, truth)]
    again, same = judged(kind, *tiled, ids=ids * times)
    assert same == gates
    assert (again.rows, again.inputs) == (200 * times, 200)
    assert (again.low, again.high, again.flips) == (once.low, once.high, once.flips)


def test_rows_that_can_never_settle_the_margin():
    truth, before, _ = rare(rows=200, of=100)
    found, gates = judged(SINGLE, before, before * 2, truth)
    assert found.undecidable_reason.startswith("200 different inputs cannot decide a drop of 0.01")
    assert "at least 268" in found.undecidable_reason
    assert gates["drop"].verdict == "inconclusive"
    assert "would decide" not in gates["drop"].said, "it is said once"
    truth, before, _ = rare(rows=300, of=150)
    found, gates = judged(SINGLE, before, before * 2, truth)
    assert (found.undecidable_reason, gates["drop"].verdict) == ("", "pass")


# ---- in a build


def test_a_candidate_of_a_build_is_held_to_both(trial):
    budget = Budget(accuracy_drop=0.01)
    assert excess(trial(), budget) == ""
    assert "mean absolute error grows by 0.03 of the labels' standard deviation, over 0.02" in excess(
        trial(error_growth=0.03, error_high=0.04), budget
    )
    assert excess(trial(error_growth=0.01, error_high=0.04), budget) == ""
    assert "upper end" in excess(trial(error_growth=0.01, error_high=0.04), budget, strict=True)
    assert excess(trial(error_growth=0.03, error_high=0.04), Budget(accuracy_drop=0.02)) == ""
    assert excess(trial(error_growth=9.0, error_high=9.0), Budget()) == ""
    assert "recall of 'L1'" in excess(trial(recall_lost="recall of 'L1' 1 to 0 on 12 rows"), budget)


def test_companions_of_a_candidate():
    truth, before = numbers()
    moved, recall = of_rows(task(REGRESSION, 1), before, before + np.float32(0.5), truth, 0.01)
    assert recall == ""
    assert (holds(moved, "", 0.01, False), holds(moved, "", None, False), holds(moved, "", 1.0, True)) == (
        False,
        True,
        True,
    )
    truth, before, after = rare(rows=2000, of=12, lost=12)
    found, recall = of_rows(task(SINGLE, 2), before, after, truth, 0.01)
    assert (found, recall) == (None, "recall of 'L1' 1.000 to 0.000 on 12 rows")
    assert not holds(found, recall, 0.01, False)
    assert of_rows(task(SINGLE, 2), before, after, truth, None)[1] == ""


@pytest.fixture
def trial():
    return lambda **changes: Trial("static", "onnxruntime", "int8", 0.9, 0.0, 0, 1.0, 1.0, 1.0, 1.0, 1.0, **changes)
