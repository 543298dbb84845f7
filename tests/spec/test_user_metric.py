"""A metric of the user: its scores, their direction, paired statistics of a function that is no mean of rows, and what is refused."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from refusals import refused

from edgekit.samples.evaluation import Evaluation
from edgekit.spec.metric import Metric
from edgekit.spec.protocols import HasLabels, HasNumbers
from edgekit.spec.user_metric import FunctionMetric, resolve_metric, with_metric
from edgekit.tasks.text_classification import Settings, bind

LABELS = ("bad", "fair", "good")


def task(kind="single_label_classification", labels=LABELS):
    return bind(Settings(kind, labels, 8, ("input_ids",)), None)


def outputs(rows):
    return [{"logits": np.array(row, np.float32)} for row in rows]


def one_hot(answers):
    return outputs(np.eye(3)[np.asarray(answers)] * 4 - 2)


def macro_recall(predictions, truths):
    """As scikit-learn's balanced accuracy: the mean over labels of the share that is answered rightly."""
    pairs = list(zip(predictions, truths, strict=True))
    shares = []
    for label in sorted(set(truths)):
        of_label = [answer == right for answer, right in pairs if right == label]
        shares.append(sum(of_label) / len(of_label))
    return sum(shares) / len(shares)


def evaluation(metric, truth, kind="single_label_classification"):
    scored = with_metric(task(kind), resolve_metric(metric))
    return Evaluation(scored, [str(row) for row in range(len(truth))], truth, range(len(truth)))


def test_the_function_sees_names_of_labels_row_by_row():
    seen = []

    def keep(predictions, truths):
        seen.append((predictions, truths))
        return 0.5

    rows = evaluation(keep, [0, 1, 2])
    assert rows.score(one_hot([0, 2, 2])) == 0.5
    assert seen == [(["bad", "good", "good"], ["bad", "fair", "good"])]


def test_several_labels_a_row_are_tuples_and_numbers_are_numbers():
    seen = []

    def keep(predictions, truths):
        seen.append((predictions, truths))
        return 0.0

    rows = evaluation(keep, [[True, False, True], [False, False, False]], "multi_label_classification")
    rows.score(outputs([[1, -1, 1], [-1, -1, 1]]))
    assert seen == [([("bad", "good"), ("good",)], [("bad", "good"), ()])]
    numbers = with_metric(bind(Settings("regression", ("stars",), 8, ("input_ids",)), None), resolve_metric(keep))
    Evaluation(numbers, ["a", "b"], [[1.0], [2.0]], range(2)).score(outputs([[1.5], [2.5]]))
    assert seen[-1] == ([1.5, 2.5], [1.0, 2.0])


def test_the_metric_comes_first_and_the_task_keeps_its_own():
    scored = with_metric(task(), resolve_metric(macro_recall))
    assert [metric.name for metric in scored.metrics] == ["macro_recall", "accuracy"]
    assert isinstance(scored, HasLabels) and not isinstance(scored, HasNumbers)
    assert [metric.name for metric in task().metrics] == ["accuracy"]
    rows = evaluation(macro_recall, [0, 0, 0, 1, 2])
    answers = one_hot([0, 0, 1, 1, 0])
    assert rows.score(answers) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert rows.more_scores(answers) == {"accuracy": pytest.approx(3 / 5)}


def test_the_interval_of_a_function_is_that_of_the_same_metric_vectorised():
    """An accuracy as a function, against the bootstrap of the task's own evidence: the same draws give the same numbers."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 60).tolist()
    first, second = (one_hot(np.where(draw.random(60) < share, truth, draw.integers(0, 3, 60))) for share in (0.8, 0.7))

    def share(predictions, truths):
        return float(np.mean([a == b for a, b in zip(predictions, truths, strict=True)]))

    by_function = evaluation(share, truth).compare(second, first)
    vectorised = Metric("share", lambda evidence, weights: (weights @ evidence[:, 0]) / weights.sum(axis=1))
    by_metric = evaluation(vectorised, truth).compare(second, first)
    assert by_function == by_metric
    assert by_function.losses is None and by_function.low < by_function.drop < by_function.high


def test_a_drop_of_an_error_is_its_growth():
    def errors(predictions, truths):
        return sum(a != b for a, b in zip(predictions, truths, strict=True)) / len(truths)

    rows = evaluation(FunctionMetric(name="errors", function=errors, higher_is_better=False), [0, 1, 2, 0])
    found = rows.compare(one_hot([1, 1, 1, 1]), one_hot([0, 1, 2, 0]))
    assert found.drop == pytest.approx(0.75)
    errors.higher_is_better = False
    assert resolve_metric(errors).higher_is_better is False


def test_rows_with_nan_are_refused_as_for_every_metric():
    rows = evaluation(macro_recall, [0, 1])
    with refused("outputs-not-finite"):
        rows.score(outputs([[0.0, 1.0, 2.0], [np.nan, 0.0, 0.0]]))


def test_nan_of_the_function_is_a_score_that_is_not_defined():
    with refused("metric-undefined"):
        evaluation(lambda predictions, truths: math.nan, [0, 1]).score(one_hot([0, 1]))


@pytest.mark.parametrize(
    "function", [lambda p, t: 1 / 0, lambda p, t: "high", lambda p, t: math.inf], ids=["raises", "text", "infinity"]
)
def test_a_function_that_fails_is_an_error(function):
    with refused("metric-failed"):
        evaluation(function, [0, 1]).score(one_hot([0, 1]))


@pytest.mark.parametrize("source", [3, int, {"f1": 1}])
def test_what_is_no_metric_is_refused(source):
    with refused("metric-type"):
        resolve_metric(source)


@pytest.mark.parametrize("place", ["scores", "scores:", ":f", "no_such_module_here:f", "math:no_such_name"])
def test_a_place_without_a_metric_is_refused(place):
    with refused("metric-place"):
        resolve_metric(place)


def test_a_place_names_a_function_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text("def f2(predictions, truths):\n    return 0.25\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    metric = resolve_metric("my_scores:f2")
    assert (metric.name, metric.function([], [])) == ("f2", 0.25)


def test_a_metric_of_the_name_of_the_tasks_own_is_refused():
    with refused("metric-name"):
        with_metric(task(), FunctionMetric(name="accuracy", function=macro_recall))


def test_no_metric_leaves_the_task():
    own = task()
    assert with_metric(own, resolve_metric(None)) is own


def test_a_partial_function_and_an_object_have_names():
    assert resolve_metric(partial(macro_recall)).name == "partial"

    class F2:
        higher_is_better = True

        def __call__(self, predictions, truths):
            return 1.0

    assert resolve_metric(F2()).name == "F2"
