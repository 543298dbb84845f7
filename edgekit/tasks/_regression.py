"""The regression head: the outputs are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.spec.protocols import Arrays, Evidence, Metric
from edgekit.tasks import _pearson
from edgekit.tasks._head import Head
from edgekit.tasks._labels import REGRESSION

_SAME_WITHIN = 0.05
"""Share of the reference's range within which two numbers count as the same answer."""

PEARSON = Metric(
    "Pearson r",
    _pearson.score,
    undefined="All labels of the regression samples are equal, so Pearson's r is not defined. "
    "Give samples with different values.",
)


class Regression(Head):
    """One or more numbers, as the graph outputs them."""

    _kind = REGRESSION
    metrics: tuple[Metric, ...] = (PEARSON,)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers, in the model's order."""
        return self._names

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """Return the mean of the numbers of rows with equal inputs."""
        return np.mean(np.asarray(values, np.float64), axis=0)

    def evidence(self, outputs: Sequence[Arrays], truth: Sequence[Any], metric: Metric) -> Evidence:
        """Return the predicted and the true numbers of each row: float64 ``[rows, 2 * numbers]``."""
        true_numbers, predicted = self.number_matrix(outputs, truth)
        return np.concatenate([predicted, true_numbers], axis=1)

    def same_answer(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return whether all numbers of each row are close to the reference: bool ``[rows]``.

        Close means within 5 % of the reference's range over all rows.
        """
        x = self._values(outputs)
        y = self._values(reference)
        if not len(y):
            return np.zeros(0, bool)
        return np.asarray((np.abs(x - y) <= _SAME_WITHIN * np.ptp(y, axis=0)).all(axis=1))

    def divergence(self, outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> np.ndarray:
        """Return half the squared difference of each row, summed over its numbers: float64 ``[rows]``.

        This is the Kullback-Leibler divergence of normal distributions with unit variance.
        """
        x = self._values(outputs).astype(np.float64)
        y = self._values(reference).astype(np.float64)
        return np.asarray(((x - y) ** 2).sum(axis=1) / 2)

    def decided(self, outputs: Sequence[Arrays], tolerance: float) -> np.ndarray:
        """Return False for every row, since any change of an output changes the answer; True if the tolerance is 0."""
        return np.full(len(outputs), tolerance <= 0)

    def describe(self, outputs: Sequence[Arrays]) -> list[str]:
        """Return the predicted numbers of each row to six digits, joined by ``|``."""
        return self.describe_truth(self._values(outputs).tolist())

    def describe_truth(self, truth: Sequence[Any]) -> list[str]:
        """Return the true numbers of each row to six digits, joined by ``|``."""
        rows = np.asarray(truth).reshape(len(truth), len(self._names)).tolist()
        return ["|".join(map(_six_digits, row)) for row in rows]

    def number_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted numbers of each row, truth first: float64 ``[rows, numbers]`` each."""
        true_numbers = np.asarray(truth, np.float64).reshape(len(truth), len(self._names))
        return true_numbers, self._values(outputs).astype(np.float64)

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Return the first number of each row: float64 ``[rows]``."""
        return self._values(outputs)[:, 0].astype(np.float64)

    def target_name(self, answer: Arrays) -> str:
        """Return the name of the first number."""
        return self._names[0]

    def _scores(self, values: np.ndarray, rows: list[list[float]]) -> list[list[float]]:
        return rows

    def _predict(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        return 0, ()


def _six_digits(number: float) -> str:
    return f"{number:.6g}"
