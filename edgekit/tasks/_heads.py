"""The three heads of classifiers, whatever they classify: one label (softmax), any number of labels (a sigmoid each), numbers.

A task's class is a modality's part (what goes in) and one of these (what the outputs mean). Each is a class of its own, so that a task has the
capabilities of its head and no others: a regression is not ``HasLabels``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Arrays, Encoded, Evidence, Labelled, Metric, Truth, additive
from edgekit.spec.short import ShortRepr
from edgekit.tasks import _labels, _pearson
from edgekit.tasks._labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL

OUTPUT = "logits"
"""Name of the graph output that holds a value for each label."""

NO_LABEL = "(none)"
"""The answer of a multi-label head that gives no label, in words."""

_OFF = 0.05  # share of the reference's range by which a number is another answer


def _share(evidence: Evidence, weights: np.ndarray) -> np.ndarray:
    """Mean of the first column: float64 ``[resamples]``."""
    return np.asarray((weights @ evidence[:, 0]) / weights.sum(axis=1))


def _micro_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of the sums of (true positives, false positives, false negatives); 1 where there is nothing to find and nothing found."""
    both = 2 * sums[:, 0]
    everything = both + sums[:, 1] + sums[:, 2]
    return np.asarray(np.divide(both, everything, out=np.ones(len(sums)), where=everything > 0))


ACCURACY = Metric("accuracy", _share, binary=True)
MICRO_F1 = Metric("micro F1", additive(_micro_f1))
PEARSON = Metric(
    "Pearson r",
    _pearson.score,
    undefined="All labels of the regression samples are equal, so Pearson's r is not defined. Give samples with different values.",
)


@dataclass(frozen=True, repr=False)
class LabelScores(ShortRepr):
    """The answer for one example.

    Attributes:
        label: the most probable label; for regression the name of the (first) output.
        score: its probability, 0 to 1; for regression the predicted number.
        scores: every label's probability (or number), in the model's order.
        labels: labels that are given: one for a single-label head, those above 0.5 for a multi-label head, none for regression.
    """

    label: str
    score: float
    scores: Mapping[str, float]
    labels: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Classification(LabelScores):
    """The answer for one text.

    Attributes:
        truncated: the text was longer than the model takes and its end was not read.
    """

    truncated: bool


class Head(ABC):
    """What the heads share."""

    _kind: str
    answers_quote_input = False

    def __init__(self, names: Sequence[str]) -> None:
        """Binds a head to the names of a model's labels, in the order of its outputs."""
        self._names = tuple(names)

    @property
    def identity(self) -> Mapping[str, object]:
        """Kind of head and labels, which two models that are compared must share."""
        return {"problem_type": self._kind, "labels": list(self._names)}

    def labelled(self, rows: Sequence[Labelled]) -> list[bool]:
        """Which rows have a label that :meth:`parse_truth` reads."""
        return _labels.labelled(self._names, rows)

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Reads the labels of rows, from the label column or from a column for each label.

        Args:
            rows: of a sample file.
            where: the file, for messages.

        Returns:
            ``int64 [rows]`` for a single-label head, ``bool [rows, labels]`` for multi-label, ``float64 [rows, labels]`` for regression.

        Raises:
            SamplesError: when a row has no label or one that the model does not know, or two columns contradict each other.
        """
        return _labels.parse(self._kind, self._names, _labels.of_rows(self._kind, self._names, rows, where), where)

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """The most frequent truth of rows with equal inputs; of equally frequent ones the first."""
        counts = Counter(
            tuple(np.atleast_1d(value).tolist()) for value in values
        )  # keeps the order in which they are first seen
        return np.reshape(np.array(counts.most_common(1)[0][0], np.asarray(values[0]).dtype), np.shape(values[0]))[()]

    def _values(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """The output of all rows: float32 ``[rows, labels]``."""
        if not len(outputs):
            return np.zeros((0, len(self._names)), np.float32)
        values = np.array([row[OUTPUT] for row in outputs])
        if values.shape[1:] != (len(self._names),):
            raise UsageError(
                f"Outputs have the shape {list(values.shape)}, expected {[len(values), len(self._names)]}: rows, labels. Give outputs of this model.",
                code="outputs-shape",
            )
        return values

    @abstractmethod
    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """What an answer states of each label: float64 ``[rows, labels]``."""

    @abstractmethod
    def _answer(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        """Place of the label that leads, and the labels that are given."""

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Any]:
        """Makes the answer of each row."""
        answers = []
        for row, source in zip(self._numbers(outputs).tolist(), encoded, strict=True):
            top, given = self._answer(row)
            answers.append(
                self._stated(self._names[top], row[top], dict(zip(self._names, row, strict=True)), given, source)
            )
        return answers

    def _stated(
        self, label: str, score: float, scores: Mapping[str, float], given: tuple[str, ...], source: Encoded
    ) -> LabelScores:
        return LabelScores(label, score, scores, given)


class _Labels(Head):
    """What the two heads share that give labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        return self._names

    @staticmethod
    def _unless_nan(values: np.ndarray, evidence: np.ndarray) -> Evidence:
        """Evidence as float64, NaN in rows whose outputs hold NaN: compared with anything NaN looks like an answer."""
        evidence = evidence.astype(np.float64)
        evidence[np.isnan(values).any(axis=1)] = np.nan
        return evidence


class SingleLabel(_Labels):
    """Softmax over the labels: one label a row."""

    _kind = SINGLE_LABEL
    exclusive = True
    metrics: tuple[Metric, ...] = (ACCURACY,)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Whether each row is right: 0 or 1, float64 ``[rows, 1]``."""
        values = self._values(outputs)
        return self._unless_nan(values, (values.argmax(axis=1) == np.asarray(truth))[:, None])

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Whether each row has the same label: bool ``[rows]``."""
        return np.asarray(self._values(outputs).argmax(axis=1) == self._values(reference).argmax(axis=1))

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Kullback-Leibler divergence of each row's distribution over the labels from the reference's: float64 ``[rows]``, nats."""
        x, y = (self._values(rows).astype(np.float64) for rows in (outputs, reference))
        x, y = (a - np.logaddexp.reduce(a, axis=1, keepdims=True) for a in (x, y))
        return np.asarray((np.exp(y) * (y - x)).sum(axis=1))

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Rows whose best label leads by twice the tolerance: bool ``[rows]``."""
        x = self._values(outputs).astype(np.float64)
        if x.shape[1] < 2:
            return np.ones(len(x), bool)
        top = np.sort(x, axis=1)
        return np.asarray((top[:, -1] - top[:, -2]) / 2 >= tolerance)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Each row's label."""
        return self.describe_truth(self._values(outputs).argmax(axis=1).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Each row's right label."""
        return [self._names[int(index)] for index in truth]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Right label and answered label of each row as flags: bool ``[rows, labels]`` each, truth first."""
        flags = np.eye(len(self._names), dtype=bool)
        return flags[np.asarray(truth, np.int64)], flags[self._values(outputs).argmax(axis=1)]

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each row's label, float64 ``[rows]``, and whether it is right, bool ``[rows]``."""
        p = self._numbers(outputs)
        return p.max(axis=1), np.asarray(p.argmax(axis=1) == np.asarray(truth))

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Probability of the label minus that of the next best one: float64 ``[rows]``, 0 to 1."""
        ordered = np.sort(
            np.pad(self._numbers(outputs), ((0, 0), (1, 0))), axis=1
        )  # with a single label its probability leads by 1
        return np.asarray(ordered[:, -1] - ordered[:, -2])

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Probability of the label that ``answer`` gives: float64 ``[rows]``."""
        return self._numbers(outputs)[:, int(self._numbers([answer])[0].argmax())]

    def target_name(self, answer: Arrays) -> str:
        """Name of that label."""
        return self._names[int(self._numbers([answer])[0].argmax())]

    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        x = self._values(outputs).astype(np.float64)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(x / x.sum(axis=1, keepdims=True))

    def _answer(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        top = values.index(max(values))
        return top, (self._names[top],)


class MultiLabel(_Labels):
    """A sigmoid for each label: a row is given the labels whose probability is above one half, that is whose output is above 0."""

    _kind = MULTI_LABEL
    exclusive = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Micro F1; accuracy of a head with one output, whose sigmoid says yes or no."""
        return (ACCURACY,) if len(self._names) == 1 else (MICRO_F1,)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """True positives, false positives and false negatives of each row: float64 ``[rows, 3]``; of accuracy whether it is right: ``[rows, 1]``."""
        values = self._values(outputs)
        given, right = values > 0.0, self._flags(truth)
        if metric is ACCURACY:
            return self._unless_nan(values, given == right)
        counts = [flags.sum(axis=1) for flags in (given & right, given & ~right, ~given & right)]
        return self._unless_nan(values, np.stack(counts, axis=1))

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Whether each row has the same labels: bool ``[rows]``."""
        return np.asarray(((self._values(outputs) > 0.0) == (self._values(reference) > 0.0)).all(axis=1))

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Kullback-Leibler divergence of each label's yes and no, summed over the labels of a row: float64 ``[rows]``, nats."""
        x, y = (self._values(rows).astype(np.float64) for rows in (outputs, reference))
        p = np.exp(-np.logaddexp(0.0, -y))
        yes, no = np.logaddexp(0.0, -x) - np.logaddexp(0.0, -y), np.logaddexp(0.0, x) - np.logaddexp(0.0, y)
        return np.asarray((p * yes + (1.0 - p) * no).sum(axis=1))

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Rows all of whose outputs are at least the tolerance away from 0: bool ``[rows]``."""
        return np.asarray(np.abs(self._values(outputs).astype(np.float64)).min(axis=1) >= tolerance)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Each row's labels, joined by ``|``."""
        return self.describe_truth((self._values(outputs) > 0.0).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Each row's right labels, joined by ``|``."""
        return [
            "|".join(name for name, given in zip(self._names, row, strict=True) if given) or NO_LABEL
            for row in self._flags(truth).tolist()
        ]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Right labels and answered labels of each row as flags: bool ``[rows, labels]`` each, truth first."""
        return self._flags(truth), self._values(outputs) > 0.0

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each yes or no, float64 ``[rows * labels]``, and whether it is right, bool ``[rows * labels]``."""
        p = self._numbers(outputs)
        return np.maximum(p, 1.0 - p).ravel(), ((self._values(outputs) > 0.0) == self._flags(truth)).ravel()

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Twice the distance to 0.5 of the probability that is nearest to it: float64 ``[rows]``, 0 to 1."""
        return np.asarray(2.0 * np.abs(self._numbers(outputs) - 0.5).min(axis=1))

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Probability of the label that is most probable in ``answer``: float64 ``[rows]``."""
        return self._numbers(outputs)[:, int(self._numbers([answer])[0].argmax())]

    def target_name(self, answer: Arrays) -> str:
        """Name of that label."""
        return self._names[int(self._numbers([answer])[0].argmax())]

    def _flags(self, truth: Sequence[Any]) -> np.ndarray:
        return np.asarray(truth, bool).reshape(len(truth), len(self._names))

    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        return np.asarray(np.exp(-np.logaddexp(0.0, -self._values(outputs).astype(np.float64))))

    def _answer(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        return values.index(max(values)), tuple(
            name for name, value in zip(self._names, values, strict=True) if value > 0.5
        )


class Regression(Head):
    """Numbers as they are."""

    _kind = REGRESSION
    metrics: tuple[Metric, ...] = (PEARSON,)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        return self._names

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """The mean of the numbers of rows with equal inputs."""
        return np.mean(np.asarray(values, np.float64), axis=0)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Answered numbers and right numbers of each row: float64 ``[rows, 2 * numbers]``."""
        right, answered = self.number_matrix(outputs, truth)
        return np.concatenate([answered, right], axis=1)

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Whether each number of a row is within 5 % of the range that the reference's numbers have in all rows: bool ``[rows]``."""
        x, y = self._values(outputs), self._values(reference)
        return np.asarray((np.abs(x - y) <= _OFF * np.ptp(y, axis=0)).all(axis=1)) if len(y) else np.zeros(0, bool)

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Half the squared difference of each row, summed over its numbers: the Kullback-Leibler divergence of normal distributions of unit variance."""
        x, y = (self._values(rows).astype(np.float64) for rows in (outputs, reference))
        return np.asarray(((x - y) ** 2).sum(axis=1) / 2)

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """No row: any change of a number changes it. With a tolerance of 0 all rows."""
        return np.full(len(outputs), tolerance <= 0)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Each row's numbers to six digits, joined by ``|``."""
        return self.describe_truth(self._values(outputs).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Each row's right numbers to six digits, joined by ``|``."""
        return [
            "|".join(f"{number:.6g}" for number in row)
            for row in np.asarray(truth).reshape(len(truth), len(self._names)).tolist()
        ]

    def number_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Right numbers and answered numbers of each row: float64 ``[rows, numbers]`` each, truth first."""
        return np.asarray(truth, np.float64).reshape(len(truth), len(self._names)), self._values(outputs).astype(
            np.float64
        )

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """The first number: float64 ``[rows]``."""
        return self._values(outputs)[:, 0].astype(np.float64)

    def target_name(self, answer: Arrays) -> str:
        """Name of the first number."""
        return self._names[0]

    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        return self._values(outputs).astype(np.float64)

    def _answer(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        return 0, ()


HEADS: Mapping[str, type[SingleLabel | MultiLabel | Regression]] = {
    SINGLE_LABEL: SingleLabel,
    MULTI_LABEL: MultiLabel,
    REGRESSION: Regression,
}
"""Transformers' ``problem_type`` to the head."""
