"""Accuracy: divergences against scipy, the calibration error against netcal and by hand, McNemar against statsmodels, flips against the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from heads import KINDS, MULTI, REGRESSION, SINGLE, evaluation, rows, score, task
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit.report import accuracy
from edgekit.report.accuracy import MOST_FLIPS
from edgekit.spec.gates import AccuracyGates
from edgekit.spec.parsing import plain


def ids(rows):
    return tuple(f"{i:016x}" for i in range(rows))


def compare(head, before, after, truth, row_ids, texts=None, **more):
    given = evaluation(head, truth, row_ids if len(row_ids) == len(truth) else None, texts)
    return accuracy.compare(given, rows(before), rows(after), row_ids, include_text=texts is not None, **more)


def calibration_error(head, outputs, truth):
    return accuracy.calibration_error(head, rows(outputs), truth)


def confusion(head, outputs, truth):
    return accuracy.confusion(head, rows(outputs), truth)


def divergences(head, after, before):
    return head.divergence(rows(after), rows(before))


def flipped(head, after, before):
    return np.flatnonzero(~head.same_answer(rows(after), rows(before)))


def data(kind, rows=400, noise=0.6, seed=0):
    """Logits before, logits after, truth."""
    draw = np.random.default_rng(seed)
    if kind == SINGLE:
        truth = draw.integers(0, 3, rows)
        signal = np.eye(3)[truth] * 2
    else:
        signal = draw.normal(size=(rows, 3)) * 2
        truth = signal > 0 if kind == MULTI else signal
    before = (signal + draw.normal(size=(rows, 3))).astype(np.float32)
    return before, (before + noise * draw.normal(size=(rows, 3))).astype(np.float32), truth


def logits_of(answers, strength=3.0):
    return (np.eye(3)[np.array(answers)] * strength).astype(np.float32)


# ---- divergence


def test_divergence_of_a_single_label_head_against_scipy():
    before, after, _ = data(SINGLE)
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (before, after))
    np.testing.assert_allclose(divergences(task(SINGLE), after, before), scipy.stats.entropy(p, q, axis=1), rtol=1e-9)


def test_divergence_of_a_multi_label_head_against_scipy():
    before, after, _ = data(MULTI)
    p, q = (scipy.special.expit(x.astype(np.float64)) for x in (before, after))
    expected = sum(scipy.stats.entropy([p[:, j], 1 - p[:, j]], [q[:, j], 1 - q[:, j]]) for j in range(3))
    np.testing.assert_allclose(divergences(task(MULTI), after, before), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_its_mean_and_percentile(kind):
    before, after, truth = data(kind)
    each = divergences(task(kind), after, before)
    found = compare(task(kind), before, after, truth, ids(400))
    assert each.shape == (400,)
    assert found.divergence_mean == pytest.approx(each.mean(), rel=1e-12)
    assert found.divergence_p95 == pytest.approx(np.sort(each)[379:381].mean(), rel=0.05)
    assert sum(each <= found.divergence_p95) == 380


# ---- calibration


def waves():
    i = np.arange(60)
    return np.stack([np.sin(1.7 * i) * 2, np.cos(0.9 * i) * 1.5, np.sin(0.37 * i + 1) * 2.5], 1).astype(np.float32)


def test_calibration_error_against_netcal():
    """netcal 1.4.0, ECE(bins=15), of the softmax probabilities and, for the multi-label head, of (1 - c, c) with c = max(p, 1 - p)."""
    i = np.arange(60)
    assert calibration_error(task(SINGLE), waves(), (i * 7) % 5 % 3) == pytest.approx(0.3721243597961663, rel=1e-9)
    flags = np.stack([i % 2, i % 3 == 0, i % 4 == 1], 1).astype(bool)
    assert calibration_error(task(MULTI), waves(), flags) == pytest.approx(0.2779718304793306, rel=1e-9)
    assert calibration_error(task(REGRESSION), waves(), waves()) is None


def test_calibration_error_by_hand():
    """Two labels. Four answers of 0.9, of which three are right: a gap of 0.15. One of 0.6, right: 0.4. (4 * 0.15 + 0.4) / 5 = 0.2."""
    p = np.array([0.9, 0.9, 0.9, 0.9, 0.6])
    logits = np.stack([np.log(p), np.log(1 - p)], 1)
    assert calibration_error(task(SINGLE, ("a", "b")), logits, np.array([0, 0, 0, 1, 0])) == pytest.approx(
        0.2, rel=1e-9
    )


def test_gaps_of_both_signs_cancel_in_a_bin_and_not_between_bins():
    p = np.array([0.81, 0.85, 0.55, 0.95])  # 0.81 and 0.85 share a bin, 12/15 to 13/15
    logits = np.stack([np.log(p), np.log(1 - p)], 1)
    found = calibration_error(task(SINGLE, ("a", "b")), logits, np.array([0, 1, 0, 1]))
    assert found == pytest.approx((abs(0.19 - 0.85) + 0.45 + 0.95) / 4, rel=1e-9)


def test_an_answer_on_the_edge_of_a_bin_belongs_below():
    """Three equal logits: 1/3 is the upper edge of the fifth bin, and 0.35 is in the sixth. 1.0 is the upper edge of the last."""
    assert float(np.linspace(0, 1, 16)[5]) == 1 / 3
    logits = np.array([[0.0, 0.0, 0.0], np.log([0.35, 0.325, 0.325])])
    assert calibration_error(task(SINGLE), logits, np.array([0, 1])) == pytest.approx((2 / 3 + 0.35) / 2, rel=1e-9)
    assert calibration_error(task(SINGLE, ("a", "b")), np.array([[800.0, -800.0]]), np.array([1])) == 1.0


# ---- confusion


def test_confusion():
    truth = np.array([0, 0, 1, 2, 2, 2])
    assert confusion(task(SINGLE), logits_of([0, 2, 1, 2, 2, 0]), truth) == ((1, 0, 1), (0, 1, 0), (1, 0, 2))
    assert confusion(task(SINGLE), logits_of([0]), np.array([0])) == ((1, 0, 0), (0, 0, 0), (0, 0, 0))
    before, _, many = data(SINGLE)
    matrix = np.array(confusion(task(SINGLE), before, many))
    assert np.trace(matrix) / 400 == score(task(SINGLE), before, many)
    assert matrix.sum(axis=1).tolist() == np.bincount(many).tolist()
    assert confusion(task(MULTI), *data(MULTI)[::2]) == ()


# ---- flips


@pytest.mark.parametrize("kind", KINDS)
def test_flips_are_those_that_the_task_counts(kind):
    before, after, truth = data(kind)
    found = compare(task(kind), before, after, truth, ids(400))
    expected = {SINGLE: after.argmax(1) != before.argmax(1), MULTI: ((after > 0) != (before > 0)).any(1)}
    expected[REGRESSION] = (np.abs(after - before) > 0.05 * np.ptp(before, axis=0)).any(1)
    assert flipped(task(kind), after, before).tolist() == np.flatnonzero(expected[kind]).tolist()
    assert found.flips == expected[kind].sum() > 20


def test_flips_in_words():
    before = np.array([[3.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0], [0.2, 0.1, 0]], np.float32)
    after = np.array([[0, 3.0, 0], [0, 2.0, 0], [1.0, 0, 0], [0, 0.1, 0.2]], np.float32)
    found = compare(
        task(SINGLE),
        before,
        after,
        np.array([0, 1, 2, 1]),
        ("aa", "bb", "cc", "dd"),
        texts=["one", "two", ("three", "pair"), "four"],
    )
    assert found.flips == 3
    assert [(f.id, f.row, f.truth, f.before, f.after) for f in found.flipped] == [
        ("aa", 1, "bad", "bad", "so-so"),
        ("cc", 3, "good", "good", "bad"),
        ("dd", 4, "so-so", "bad", "good"),
    ], "the clearest answer first"
    p = scipy.special.softmax([3.0, 0, 0])
    assert found.flipped[0].margin_before == pytest.approx(p[0] - p[1])
    q = scipy.special.softmax([0, 0.1, 0.2])
    assert found.flipped[2].margin_after == pytest.approx(q[2] - q[1])
    assert [f.text for f in found.flipped] == ["one", "three | pair", "four"]
    assert (found.losses, found.gains, found.drop) == (2, 0, 0.5)


def test_flips_of_a_multi_label_head():
    before = np.array([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0]], np.float32)
    after = np.array([[2.0, 1.0, -0.5], [-1.0, -1.0, -2.0]], np.float32)
    found = compare(task(MULTI), before, after, np.array([[True, False, True], [False, True, False]]), ids(2))
    assert [(f.row, f.truth, f.before, f.after) for f in found.flipped] == [
        (2, "so-so", "bad|so-so|good", "(none)"),
        (1, "bad|good", "bad|good", "bad|so-so"),
    ]
    by_row = {f.row: f for f in found.flipped}
    assert by_row[1].margin_before == pytest.approx(2 * (scipy.special.expit(0.5) - 0.5))
    assert by_row[2].margin_after == pytest.approx(2 * (scipy.special.expit(1.0) - 0.5))


def test_flips_of_numbers():
    before = np.array([[0.0], [10.0], [5.0], [2.0]], np.float32)
    after = before + np.array([[0.4], [-0.6], [3.0], [0.0]], np.float32)
    found = compare(task(REGRESSION, ("stars",)), before, after, np.array([[0.0], [9.0], [5.0], [1.25]]), ids(4))
    assert [(f.row, f.truth, f.before, f.after, f.margin_before) for f in found.flipped] == [
        (3, "5", "5", "8", None),
        (2, "9", "10", "9.4", None),
    ]


def test_at_most_200_flips_are_listed_and_all_are_counted():
    draw = np.random.default_rng(1)
    before = logits_of(np.zeros(500, int)) * draw.random((500, 1)).astype(np.float32)
    found = compare(task(SINGLE), before, logits_of(np.ones(500, int)), np.zeros(500, int), ids(500))
    assert (found.flips, len(found.flipped)) == (500, MOST_FLIPS)
    listed = [f.margin_before for f in found.flipped]
    assert listed == sorted(task(SINGLE).margin(rows(before)).tolist(), reverse=True)[:MOST_FLIPS]
    assert all(f.text == "" for f in found.flipped)


def test_a_head_of_one_label():
    one = np.zeros((3, 1), np.float32)
    found = compare(task(SINGLE, ("only",)), one, one, np.zeros(3, int), ids(3))
    assert (found.before, found.flips, found.calibration_before) == (1.0, 0, 0.0)


# ---- the comparison


@pytest.mark.parametrize(
    ("losses", "gains", "p_value"),
    [(12, 5, 0.143463134765625), (0, 6, 0.03125), (3, 14, 0.012725830078125), (40, 22, 0.030015864349067285)],
)
def test_mcnemar_against_statsmodels(losses, gains, p_value):
    """statsmodels 0.15.0, mcnemar([[100, losses], [gains, 30]], exact=True)."""
    truth = np.zeros(130 + losses + gains, int)
    before = logits_of([0] * (100 + losses) + [1] * (gains + 30))
    after = logits_of([0] * 100 + [1] * losses + [0] * gains + [1] * 30)
    found = compare(task(SINGLE), before, after, truth, ids(len(truth)))
    assert (found.losses, found.gains, found.rows) == (losses, gains, len(truth))
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_comparison(kind):
    before, after, truth = data(kind)
    found = compare(
        task(kind),
        before,
        after,
        truth,
        ids(400),
        margins=AccuracyGates(0.01, recall_drop=None),
        slices={"half": ["a"] * 200 + ["b"] * 200},
    )
    alone = evaluation(task(kind), truth).compare(rows(after), rows(before))
    assert (found.before, found.after) == (score(task(kind), before, truth), score(task(kind), after, truth))
    assert (found.rows, found.score_name, found.drop, found.low, found.high) == (
        400,
        task(kind).metrics[0].name,
        alone.drop,
        alone.low,
        alone.high,
    )
    assert found.higher_is_better
    assert (found.losses, found.gains, found.p_value) == (alone.losses, alone.gains, alone.p_value)
    assert found.drop == pytest.approx(found.before - found.after) and found.drop > 0
    assert (found.margin, found.rows_needed, found.resolvable) == (0.01, alone.rows_needed(0.01), alone.resolvable())
    assert [(s.value, s.rows) for s in found.slices] == [("a", 200), ("b", 200)]
    assert (found.calibration_before, found.calibration_after) == (
        calibration_error(task(kind), before, truth),
        calibration_error(task(kind), after, truth),
    )
    assert compare(task(kind), before[:40], after[:40], truth[:40], ids(40)).rows_needed is None
    assert found.comparable
    plain(found)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(st.sampled_from(KINDS), st.integers(0, 10**6))
def test_two_equal_models_pass(kind, seed):
    before, _, truth = data(kind, 400, seed=seed)
    found = compare(task(kind), before, before.copy(), truth, ids(400), margins=AccuracyGates(0.01, recall_drop=None))
    assert (found.flips, found.flipped, found.drop, found.divergence_mean, found.divergence_p95) == (
        0,
        (),
        0.0,
        0.0,
        0.0,
    )
    assert found.low < 0.0 < found.high <= 0.01, "settled against the margin: a pass"
    assert found.calibration_before == found.calibration_after
    assert found.p_value == 1.0


def test_a_score_that_is_not_defined():
    before, after, _ = data(REGRESSION, 30)
    found = compare(
        task(REGRESSION),
        before,
        after,
        np.ones((30, 3)),
        ids(30),
        margins=AccuracyGates(0.01, recall_drop=None),
        slices={"c": ["a"] * 30},
    )
    assert (found.before, found.after, found.drop, found.low, found.high, found.resolvable, found.rows_needed) == (
        None,
    ) * 7
    assert found.divergence_mean > 0
    assert found.flips > 0
    assert found.slices[0].said == "Pearson r is not defined on these rows"


def test_one_row():
    found = compare(
        task(SINGLE),
        logits_of([0]),
        logits_of([1]),
        np.array([0]),
        ids(1),
        margins=AccuracyGates(0.01, recall_drop=None),
        slices={"c": ["a"]},
    )
    assert (found.before, found.after, found.drop, found.resolvable) == (1.0, 0.0, 1.0, None)
    assert found.low < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind):
    before, after, truth = data(kind, 6)
    with refused("rows-differ", "5", "6"):
        compare(task(kind), before, after[:5], truth, ids(6))
    with refused("rows-differ", "6", "5"):
        compare(task(kind), before, after, truth[:5], ids(6))
    with refused("rows-differ", "5", "6"):
        compare(task(kind), before, after, truth, ids(5))
    with refused("outputs-shape", "6", "2", "3"):
        compare(task(kind), before, after[:, :2], truth, ids(6))
    with refused("rows-differ", "5", "c", "6"):
        compare(task(kind), before, after, truth, ids(6), slices={"c": ["x"] * 5})
    with refused("samples-empty"):
        compare(task(kind), before[:0], after[:0], truth[:0], ())
    for bad in (math.nan, math.inf, -math.inf):
        broken = after.copy()
        broken[2, 1] = bad
        with refused("outputs-not-finite", "1", "6"):
            compare(task(kind), before, broken, truth, ids(6))
