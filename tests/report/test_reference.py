"""The guard of the reference: against scipy's and hand-made coefficients, on answers of which it is known whether they fit the labels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from heads import MULTI, REGRESSION, SINGLE, evaluation, rows, score, task
from refusals import refused

from edgekit.report.reference import CLEAR, DOUBTFUL, TOO_FEW, check_reference, refuse_doubtful
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError


def ask(kind, logits, truth, inputs=None, **options):
    logits = np.asarray(logits, np.float32)
    return check_reference(
        evaluation(task(kind, logits.shape[1]), truth, inputs), rows(logits), "dev.csv", "torch", **options
    )


def answers(count, labels, right, seed=0, shares=None):
    """Labels, and logits that give the right one to a share of the rows and any one to the others."""
    choose = np.random.default_rng(seed)
    truth = choose.choice(labels, count, p=shares)
    given = np.where(choose.random(count) < right, truth, choose.integers(0, labels, count))
    return truth, np.eye(labels, dtype=np.float32)[given]


# ---- numbers


def test_the_coefficient_is_phi_of_two_labels():
    truth, logits = answers(150, 2, 0.5)
    found = ask(SINGLE, logits, truth).check
    assert found.value == pytest.approx(scipy.stats.pearsonr(truth, logits[:, 1]).statistic)
    alone = ask(MULTI, logits[:, 1:] - 0.5, truth[:, None].astype(bool)).check
    assert (alone.value, alone.low) == (pytest.approx(found.value), pytest.approx(found.low))


def test_the_coefficient_of_several_labels_by_gorodkins_definition():
    """The covariance between the two matrices of indicators, over the root of their variances."""
    truth, logits = answers(200, 5, 0.6)
    x, y = np.eye(5)[truth], logits.astype(float)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    assert ask(SINGLE, logits, truth).check.value == pytest.approx(
        (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    )


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_the_interval_is_the_jackknifes(kind):
    truth, logits = answers(40, 3, 0.6)
    if kind == MULTI:
        truth, logits = np.eye(3, dtype=bool)[truth], logits - 0.5
    elif kind == REGRESSION:
        truth, logits = np.random.default_rng(1).normal(size=(40, 1)), None
        logits = truth + np.random.default_rng(2).normal(size=(40, 1))
    whole = ask(kind, logits, truth).check
    values = [ask(kind, np.delete(logits, i, 0), np.delete(truth, i, 0)).check.value for i in range(40)]
    error = np.sqrt(39 / 40 * ((np.array(values) - np.mean(values)) ** 2).sum())
    expected = scipy.stats.t.interval(0.95, 39, whole.value, error)
    assert (whole.low, whole.high) == (pytest.approx(expected[0], abs=1e-4), pytest.approx(expected[1], abs=1e-4))


def test_r2_by_its_definition():
    y = np.random.default_rng(3).normal(size=(60, 1))
    x = (y * 0.7 + 0.2).astype(np.float32)
    expected = 1 - ((y - x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert ask(REGRESSION, x, y).check.value == pytest.approx(expected)


# ---- verdicts


@pytest.mark.parametrize(
    ("count", "labels", "right", "shares"),
    [
        (200, 2, 0.3, None),  # a coefficient of 0.3
        (100, 2, 0.95, None),
        (300, 10, 0.3, None),
        (400, 60, 0.5, None),
        (300, 2, 0.9, [0.95, 0.05]),
        (300, 3, 0.5, [0.7, 0.2, 0.1]),
        (30, 2, 1.0, None),
    ],
)
def test_weak_but_valid_models_pass(count, labels, right, shares):
    clear = [
        ask(SINGLE, logits, truth).check.outcome
        for truth, logits in (answers(count, labels, right, seed, shares) for seed in range(20))
    ]
    assert clear.count(CLEAR) >= 19


@pytest.mark.parametrize(("count", "labels"), [(40, 2), (200, 2), (200, 3), (300, 20)])
def test_chance_does_not_pass(count, labels):
    found = [
        ask(SINGLE, logits, truth).check.outcome
        for truth, logits in (answers(count, labels, 0.0, seed) for seed in range(40))
    ]
    assert found.count(DOUBTFUL) >= 36  # of 40, of which 2.5 % are expected to clear it


def test_no_numbering_is_claimed_of_chance():
    for labels in (2, 3, 6, 20):
        for seed in range(25):
            truth, logits = answers(200, labels, 0.0, seed)
            assert "numbering" not in ask(SINGLE, logits, truth).check.said


@pytest.mark.parametrize(
    ("labels", "order", "shares"),
    [
        (2, [1, 0], None),
        (3, [2, 1, 0], None),
        (3, [2, 1, 0], [0.15, 0.7, 0.15]),  # most rows are right as they are
        (5, [1, 2, 3, 4, 0], None),
        (10, [1, 0, *range(2, 10)], None),  # eight of ten labels are right
        (60, [*range(1, 60), 0], None),
    ],
)
def test_another_numbering_is_named(labels, order, shares):
    truth, logits = answers(400, labels, 0.9, shares=shares)
    asked = ask(SINGLE, logits, np.array(order)[truth])
    assert asked.check.outcome == DOUBTFUL
    first = order[0]
    assert "another numbering of the labels would fit" in asked.check.said
    if labels < 10:
        assert f"{first} (L{first}) is the model's 0 (L0)" in asked.check.said
    assert f"accuracy {score(task(SINGLE, labels), logits, truth):.2f} instead of" in asked.check.said


def test_a_label_that_is_taken_for_another_one_is_no_numbering():
    """Label 2 is answered as 1, which stays in its place."""
    truth, logits = answers(400, 3, 0.9)
    logits[truth == 2] = [0, 1, 0]
    assert ask(SINGLE, logits, truth).check.outcome == CLEAR


def test_a_constant_answer_is_doubtful():
    truth, _ = answers(200, 2, 1.0)
    asked = ask(SINGLE, np.tile(np.float32([0, 1]), (200, 1)), truth)
    assert (asked.check.outcome, asked.check.value) == (DOUBTFUL, 0.0)


def several(count=300, labels=4, noise=0.8, share=0.3, seed=0):
    choose = np.random.default_rng(seed)
    truth = choose.random((count, labels)) < share
    return truth, (truth - 0.5 + noise * choose.normal(size=truth.shape)).astype(np.float32)


def test_several_labels():
    truth, logits = several()
    assert ask(MULTI, logits, truth).check.outcome == CLEAR
    swapped = ask(MULTI, logits[:, [1, 0, 2, 3]], truth)
    assert "0 (L0) is the model's 1 (L1), 1 (L1) is the model's 0 (L0), with micro F1" in swapped.check.said
    turned = ask(MULTI, logits * np.float32([1, 1, -1, 1]), truth)
    assert (turned.check.outcome, "1 and 0 seem to be swapped for L2" in turned.check.said) == (
        DOUBTFUL,
        True,
    )
    chance = logits.copy()
    chance[:, 3] = np.random.default_rng(5).permutation(chance[:, 3])
    assert "for the label 'L3' it is" in ask(MULTI, chance, truth).check.said
    truth[:, 3], truth[:4, 3] = False, True  # of a label that hardly a row has nothing is concluded
    assert ask(MULTI, chance, truth).check.outcome == CLEAR
    truth[:, 3] = False
    assert ask(MULTI, logits, truth).check.outcome == CLEAR


def test_numbers_of_another_scale_or_sign():
    y = np.random.default_rng(0).normal(3, 1, (200, 1))
    x = y + np.random.default_rng(1).normal(0, 0.5, (200, 1))
    assert ask(REGRESSION, x, y).check.outcome == CLEAR
    for answers_, said in (
        (x / 5, "label = "),
        (6 - x, "the labels have another sign"),
        (np.random.default_rng(2).permutation(x), ""),
    ):
        asked = ask(REGRESSION, answers_, y)
        assert asked.check.outcome == DOUBTFUL
        assert said in asked.check.said
        assert ("would fit" in asked.check.said) == bool(said)
    weak = y.mean() + 0.2 * (y - y.mean())
    assert ask(REGRESSION, weak, y).check.outcome == CLEAR


def test_few_rows_or_one_label_are_a_note():
    truth, logits = answers(29, 2, 0.0)
    few = ask(SINGLE, logits, truth)
    assert (few.check.outcome, "29 different inputs, too few" in few.check.said) == (TOO_FEW, True)
    truth, logits = answers(200, 2, 0.0)
    copies = ask(SINGLE, logits, truth, inputs=[i % 20 for i in range(200)])
    assert copies.check.outcome == TOO_FEW
    alone = ask(SINGLE, logits, np.zeros(200, np.int64))
    assert (alone.check.outcome, alone.check.value, "only one label" in alone.check.said) == (TOO_FEW, None, True)
    assert refuse_doubtful(few, accept=False).outcome == TOO_FEW


def test_rows_with_equal_inputs_count_once():
    truth, logits = answers(60, 2, 0.3, seed=4)
    once, four = (
        ask(SINGLE, logits, truth).check,
        ask(SINGLE, np.tile(logits, (4, 1)), np.tile(truth, 4), inputs=[*range(60)] * 4).check,
    )
    assert once == four


def test_a_doubtful_reference_stops_and_shows_the_confusion():
    truth, logits = answers(200, 3, 0.9)
    asked = ask(SINGLE, logits, np.array([2, 1, 0])[truth])
    with refused("model-unlike-labels", "--accept-reference") as caught:
        refuse_doubtful(asked, accept=False)
    assert isinstance(caught.value, SamplesError)
    assert (refuse_doubtful(asked, accept=True).accepted, refuse_doubtful(asked, accept=True).outcome) == (
        True,
        DOUBTFUL,
    )
    truth, logits = answers(200, 3, 0.9)
    assert not refuse_doubtful(ask(SINGLE, logits, truth), accept=True).accepted


# ---- equal inputs


def merged(kind, inputs, truth):
    given = Evaluation(task(kind, 3 if kind == SINGLE else np.shape(truth)[1]), inputs, truth)
    return given, [np.asarray(t).tolist() for t in given.distinct.truth]


def test_distinct_inputs():
    inputs = ["a", ("b", "c"), "a", "d", "a", "d"]
    given, truth = merged(SINGLE, inputs, np.array([1, 0, 2, 1, 2, 0]))
    assert (given.places, given.distinct.inputs) == ([0, 1, 3], ["a", ("b", "c"), "d"])
    assert truth == [2, 0, 1], "most rows count, of equally many the first"
    assert given.note.startswith("6 rows have 3 different inputs: ")
    assert "2 of these have rows with different labels" in given.note
    assert merged(REGRESSION, inputs, np.array([[1.0], [0.0], [2.0], [1.0], [6.0], [0.0]]))[1] == [[3.0], [0.0], [0.5]]
    flags = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 1], [0, 1]], bool)
    assert merged(MULTI, inputs, flags)[1] == [[True, True], [False, False], [False, True]]
    assert merged(SINGLE, "abc", np.arange(3))[0].note == ""


class Nothing:
    """A task whose answers are neither labels nor numbers."""

    metrics = ()

    def merge_truth(self, values):
        return values[0]


def test_of_other_answers_nothing_is_known_of_chance():
    assert (
        check_reference(Evaluation(Nothing(), ["a", "b"], ["x", "y"], ["a", "b"]), rows([0, 1]), "dev.csv", "torch")
        is None
    )


# ---- parts of rows


class Words:
    """Rows of several items: words, each with one of two labels."""

    labels = ("other", "name")
    exclusive = True

    def label_matrix(self, outputs, truth):
        flags = np.eye(2, dtype=bool)
        return flags[np.concatenate(truth)], flags[np.concatenate([row["tags"] for row in outputs])]


def test_words_of_a_row_are_one_piece_of_evidence():
    """Forty sentences of which each says one thing 25 times: as sure as of forty words, and not of a thousand."""
    truth, logits = answers(40, 2, 0.3)
    given = logits.argmax(axis=1)
    sentences = Evaluation(Words(), list(range(40)), [np.repeat(label, 25) for label in truth], list(range(40)))
    words = check_reference(
        sentences, [{"tags": np.repeat(label, 25)} for label in given], "dev.csv", "torch", renumber=False
    ).check
    rows_alone = ask(SINGLE, logits, truth, renumber=False).check
    assert (words.value, words.low, words.high) == pytest.approx((rows_alone.value, rows_alone.low, rows_alone.high))
    assert words.outcome == rows_alone.outcome == DOUBTFUL
