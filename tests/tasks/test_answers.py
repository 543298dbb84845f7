"""Answers of classifiers: scores that are made when they are read, and probabilities against scipy."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
import warnings

import numpy as np
import pytest
import scipy.special
import small

from edgekit import Classification, LabelScores
from edgekit.spec.parsing import plain
from edgekit.spec.protocols import Encoded
from edgekit.tasks._head import FEW_LABELS
from edgekit.tasks.text_classification import Settings, bind

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
NAMES = ("bad", "so-so", "good")
LOGITS = np.array([[0.5, -2.0, 3.25], [1.0, 1.0, -4.0], [-1.0, -3.0, -2.0]], np.float32)


def answers(kind, logits, names=NAMES, truncated=False):
    encoded = [Encoded({}, truncated)] * len(logits)
    return bind(Settings(kind, names, 8, ("input_ids",)), None).postprocess(small.named(logits), encoded)


def whole():
    """An answer as its class makes it, and the same as a session makes it, its scores not read."""
    (lazy,) = answers(SINGLE, LOGITS[:1], truncated=True)
    p = scipy.special.softmax(LOGITS[0].astype(float))
    eager = Classification("good", lazy.score, dict(zip(NAMES, lazy_scores(), strict=True)), ("good",), True)
    np.testing.assert_allclose(list(eager.scores.values()), p, rtol=1e-6)
    assert "scores" not in vars(lazy)
    return lazy, eager


def lazy_scores():
    return list(answers(SINGLE, LOGITS[:1])[0].scores.values())


# ---- when they are read


def test_scores_are_made_when_they_are_read_and_stay_the_same_object():
    lazy, eager = whole()
    first = lazy.scores
    assert first == eager.scores
    assert list(first) == list(NAMES)
    assert lazy.scores is first
    assert first[lazy.label] == lazy.score


@pytest.mark.parametrize(
    "use",
    [
        lambda answer: answer,
        repr,
        plain,
        dataclasses.asdict,
        dataclasses.astuple,
        copy.copy,
        copy.deepcopy,
        lambda answer: pickle.loads(pickle.dumps(answer)),
        lambda answer: dataclasses.replace(answer, label="bad"),
        lambda answer: json.dumps(plain(answer)),
        lambda answer: json.dumps(answer.scores),
        lambda answer: [getattr(answer, field.name) for field in dataclasses.fields(answer)],
    ],
)
def test_an_answer_is_used_as_any_other_dataclass(use):
    lazy, eager = whole()
    assert use(lazy) == use(eager)


def test_a_copy_has_the_fields_alone():
    lazy, eager = whole()
    assert vars(pickle.loads(pickle.dumps(lazy))) == vars(eager)
    assert vars(copy.copy(lazy)) == vars(eager)


def test_answers_are_equal_only_if_all_fields_are():
    lazy, eager = whole()
    assert lazy == eager
    assert eager == lazy
    assert lazy != dataclasses.replace(eager, scores={**eager.scores, "bad": 0.5})
    assert lazy != dataclasses.replace(eager, truncated=False)


def test_an_answer_is_frozen():
    lazy, _ = whole()
    for name in ("scores", "label"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(lazy, name, {})


def test_an_answer_without_fields_says_so():
    with pytest.raises(AttributeError):
        _ = LabelScores.__new__(LabelScores).scores


def test_threads_get_the_same_scores():
    (answer,) = answers(SINGLE, np.zeros((1, 4000), np.float32), tuple(map(str, range(4000))))
    barrier = threading.Barrier(8)
    seen = []

    def work():
        barrier.wait()
        seen.append(answer.scores)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(scores is seen[0] for scores in seen)


# ---- their values


@pytest.mark.parametrize("count", [1, 2, 3, FEW_LABELS, FEW_LABELS + 1, 1000])
@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_scores_against_scipy(kind, count):
    rng = np.random.default_rng(count)
    logits = (rng.normal(size=(20, count)) * rng.choice([0.01, 1, 30], size=(20, 1))).astype(np.float32)
    names = tuple(map(str, range(count)))
    exact = logits.astype(float)
    truth = {
        SINGLE: lambda: scipy.special.softmax(exact, axis=1),
        MULTI: lambda: scipy.special.expit(exact),
        REGRESSION: lambda: exact,
    }[kind]()
    for row, expected, answer in zip(exact, truth, answers(kind, logits, names), strict=True):
        np.testing.assert_allclose(list(answer.scores.values()), expected, rtol=2e-6, atol=1e-30)
        assert answer.score == answer.scores[answer.label]
        if kind != REGRESSION:
            assert answer.label == names[row.argmax()]
        if kind == MULTI:
            assert answer.labels == tuple(name for name, value in zip(names, row, strict=True) if value > 0)


@pytest.mark.parametrize("kind", [SINGLE, MULTI])
@pytest.mark.parametrize("count", [3, FEW_LABELS + 1])
def test_an_answer_does_not_depend_on_the_other_rows(kind, count):
    logits = np.random.default_rng(1).normal(size=(33, count)).astype(np.float32) * 5
    names = tuple(map(str, range(count)))
    assert answers(kind, logits, names) == [answers(kind, logits[i : i + 1], names)[0] for i in range(33)]


@pytest.mark.parametrize("kind", [SINGLE, MULTI])
@pytest.mark.parametrize("count", [3, FEW_LABELS + 1])
def test_extreme_outputs_give_no_nan_and_no_warning(kind, count):
    rows = np.zeros((4, count), np.float32)
    rows[0, :2] = (1e38, -1e38)
    rows[1] = -1e30
    rows[2, 0] = 3e38
    rows[3, 1] = 1e-40
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for answer in answers(kind, rows, tuple(map(str, range(count)))):
            scores = np.array(list(answer.scores.values()))
            assert ((scores >= 0) & (scores <= 1)).all()
            if kind == SINGLE:
                assert scores.sum() == pytest.approx(1)


def test_labels_of_outputs_near_zero_are_those_that_evaluation_counts():
    logits = np.array([[1e-30, -1e-30, 0.0]], np.float32)
    task = bind(Settings(MULTI, NAMES, 8, ("input_ids",)), None)
    assert answers(MULTI, logits)[0].labels == ("bad",)
    assert task.describe(small.named(logits)) == ["bad"]
