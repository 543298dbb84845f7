"""Heads whose answers are labels: single label (softmax) and multi label (one sigmoid per label)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.spec.protocols import Arrays, Evidence, Metric, additive
from edgekit.stats.divergence import kl_sigmoid, kl_softmax
from edgekit.tasks._head import FEW_LABELS, Head
from edgekit.tasks._labels import MULTI_LABEL, SINGLE_LABEL

NO_LABEL = "(none)"
"""Text for a multi-label answer without a label."""


def _accuracy(evidence: Evidence, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the first column: float64 ``[resamples]``."""
    return np.asarray((weights @ evidence[:, 0]) / weights.sum(axis=1))


def _micro_f1(sums: np.ndarray) -> np.ndarray:
    """Return F1 from the sums of (true positives, false positives, false negatives); 1 if all three are 0."""
    doubled = 2 * sums[:, 0]
    total = doubled + sums[:, 1] + sums[:, 2]
    return np.asarray(np.divide(doubled, total, out=np.ones(len(sums)), where=total > 0))


ACCURACY = Metric("accuracy", _accuracy, binary=True)
MICRO_F1 = Metric("micro F1", additive(_micro_f1))


class _LabelHead(Head):
    """The common part of heads that predict labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the model's order."""
        return self._names

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Return the probability of the label that is most probable in ``answer``: float64 ``[rows]``."""
        target = int(self._values([answer])[0].argmax())
        return self._numbers(outputs)[:, target]

    def target_name(self, answer: Arrays) -> str:
        """Return the name of the label that is most probable in ``answer``."""
        return self._names[int(self._values([answer])[0].argmax())]

    @abstractmethod
    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return the probability of each label, for statistics: float64 ``[rows, labels]``."""

    @staticmethod
    def _unless_nan(values: np.ndarray, evidence: np.ndarray) -> Evidence:
        """Return the evidence as float64, with NaN in rows whose outputs contain NaN.

        Comparisons with NaN give False, which would count as an answer.
        """
        evidence = evidence.astype(np.float64)
        evidence[np.isnan(values).any(axis=1)] = np.nan
        return evidence


class SingleLabel(_LabelHead):
    """A softmax over the labels: each row has one label."""

    _kind = SINGLE_LABEL
    exclusive = True
    metrics: tuple[Metric, ...] = (ACCURACY,)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Return 1 for each correct row and 0 for each wrong one: float64 ``[rows, 1]``."""
        values = self._values(outputs)
        correct = values.argmax(axis=1) == np.asarray(truth)
        return self._unless_nan(values, correct[:, None])

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return whether each row has the label of the reference: bool ``[rows]``."""
        return np.asarray(self._values(outputs).argmax(axis=1) == self._values(reference).argmax(axis=1))

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return the Kullback-Leibler divergence of each row from the reference: float64 ``[rows]``, in nats."""
        return kl_softmax(self._values(outputs), self._values(reference))

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Return whether the best label of each row leads by at least twice the tolerance: bool ``[rows]``."""
        x = self._values(outputs).astype(np.float64)
        if x.shape[1] < 2:
            return np.ones(len(x), bool)
        top = np.sort(x, axis=1)
        return np.asarray((top[:, -1] - top[:, -2]) / 2 >= tolerance)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Return the predicted label name of each row."""
        return self.describe_truth(self._values(outputs).argmax(axis=1).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Return the true label name of each row."""
        return [self._names[int(index)] for index in truth]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted label of each row as flags, truth first: bool ``[rows, labels]`` each."""
        flags = np.eye(len(self._names), dtype=bool)
        return flags[np.asarray(truth, np.int64)], flags[self._values(outputs).argmax(axis=1)]

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each row's label and whether it is correct: float64 ``[rows]``, bool ``[rows]``."""
        p = self._numbers(outputs)
        return p.max(axis=1), np.asarray(p.argmax(axis=1) == np.asarray(truth))

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return the probability of each label minus that of the next best: float64 ``[rows]``, 0 to 1."""
        # The column of zeros makes a single label lead by its whole probability.
        padded = np.pad(self._numbers(outputs), ((0, 0), (1, 0)))
        ordered = np.sort(padded, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])

    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        x = self._values(outputs).astype(np.float64)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(x / x.sum(axis=1, keepdims=True))

    def _scores(self, values: np.ndarray, rows: list[list[float]]) -> list[list[float]]:
        if values.shape[1] <= FEW_LABELS:
            return [_softmax(row) for row in rows]
        x = values.astype(np.float32, copy=False)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        scores: list[list[float]] = (x / x.sum(axis=1, keepdims=True)).tolist()
        return scores

    def _predict(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        top = values.index(max(values))
        return top, (self._names[top],)


class MultiLabel(_LabelHead):
    """A sigmoid for each label: a row has all labels with a probability above 0.5, i.e. an output above 0."""

    _kind = MULTI_LABEL
    exclusive = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Micro F1; accuracy for a head with a single output, whose sigmoid answers yes or no."""
        return (ACCURACY,) if len(self._names) == 1 else (MICRO_F1,)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Return what each row contributes to a metric.

        Returns:
            True positives, false positives and false negatives of each row, float64 ``[rows, 3]``; for accuracy,
            whether each row is correct, float64 ``[rows, 1]``.
        """
        values = self._values(outputs)
        predicted = values > 0.0
        actual = self._flags(truth)
        if metric is ACCURACY:
            return self._unless_nan(values, predicted == actual)
        groups = (predicted & actual, predicted & ~actual, ~predicted & actual)
        counts = [flags.sum(axis=1) for flags in groups]
        return self._unless_nan(values, np.stack(counts, axis=1))

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return whether each row has the labels of the reference: bool ``[rows]``."""
        return np.asarray(((self._values(outputs) > 0.0) == (self._values(reference) > 0.0)).all(axis=1))

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return the sum over the labels of each sigmoid's Kullback-Leibler divergence: float64 ``[rows]``, in nats."""
        return np.asarray(kl_sigmoid(self._values(outputs), self._values(reference)).sum(axis=1))

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Return whether all outputs of each row are at least the tolerance away from 0: bool ``[rows]``."""
        return np.asarray(np.abs(self._values(outputs).astype(np.float64)).min(axis=1) >= tolerance)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Return the predicted label names of each row, joined by ``|``."""
        return self.describe_truth((self._values(outputs) > 0.0).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Return the true label names of each row, joined by ``|``."""
        return ["|".join(self._select(row)) or NO_LABEL for row in self._flags(truth).tolist()]

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted labels of each row as flags, truth first: bool ``[rows, labels]`` each."""
        return self._flags(truth), self._values(outputs) > 0.0

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each yes or no and whether it is correct.

        Returns:
            Probabilities, float64 ``[rows * labels]``, and flags, bool ``[rows * labels]``.
        """
        p = self._numbers(outputs)
        correct = (self._values(outputs) > 0.0) == self._flags(truth)
        return np.maximum(p, 1.0 - p).ravel(), correct.ravel()

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return twice the distance to 0.5 of each row's least certain probability: float64 ``[rows]``, 0 to 1."""
        return np.asarray(2.0 * np.abs(self._numbers(outputs) - 0.5).min(axis=1))

    def _flags(self, truth: Sequence[Any]) -> np.ndarray:
        return np.asarray(truth, bool).reshape(len(truth), len(self._names))

    def _select(self, flags: Sequence[bool]) -> tuple[str, ...]:
        """Return the names whose flag is set."""
        return tuple(name for name, flag in zip(self._names, flags, strict=True) if flag)

    def _numbers(self, outputs: Sequence[Arrays]) -> np.ndarray:
        return np.asarray(np.exp(-np.logaddexp(0.0, -self._values(outputs).astype(np.float64))))

    def _scores(self, values: np.ndarray, rows: list[list[float]]) -> list[list[float]]:
        if values.shape[1] <= FEW_LABELS:
            return [list(map(_sigmoid, row)) for row in rows]
        x = values.astype(np.float32, copy=False)
        scores: list[list[float]] = np.exp(-np.logaddexp(np.float32(0.0), -x)).tolist()
        return scores

    def _predict(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        return values.index(max(values)), self._select([value > 0.0 for value in values])


def _softmax(values: Sequence[float]) -> list[float]:
    """Return the softmax of the outputs of a row."""
    top = max(values)
    # No exponent is positive and one is 0, so finite outputs give neither infinity nor NaN.
    exponentials = [math.exp(value - top) for value in values]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def _sigmoid(value: float) -> float:
    """Return the sigmoid of an output. The exponent is never positive, so nothing overflows."""
    exponential = math.exp(-abs(value))
    return 1.0 / (1.0 + exponential) if value >= 0.0 else exponential / (1.0 + exponential)
