"""Agreement beyond chance: Matthews correlation coefficient of labels, R2 of numbers, each with a jackknife interval.

The jackknife leaves out a whole row, since items of one row (e.g. the words of a sentence) are not independent.

Sources: Gorodkin J., Computational Biology and Chemistry 28 (2004) 367-374, for the coefficient of several classes;
Efron B. and Tibshirani R. J., An Introduction to the Bootstrap (1993), chapter 11, for the jackknife standard error.
The interval uses Student's t with rows - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["TAIL", "Estimate", "gorodkin", "mean", "phi", "phis", "r2", "standard_errors"]

TAIL = 0.025
"""Probability beyond each end of an interval."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its jackknife values.

    Attributes:
        value: Statistic of all items.
        without: Statistic without each row in turn: float64 ``[rows]``.
    """

    value: float
    without: np.ndarray

    @property
    def error(self) -> float:
        """Jackknife standard error."""
        n = len(self.without)
        return math.sqrt((n - 1) / n * float(((self.without - self.without.mean()) ** 2).sum()))

    def ends(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval."""
        # Student's quantile by its series in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5). It is accurate to
        # 1e-5 from 29 degrees of freedom on, and needs no scipy, which devices lack.
        z = NormalDist().inv_cdf(1 - TAIL)
        freedom = len(self.without) - 1
        quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        half_width = quantile * self.error
        return self.value - half_width, self.value + half_width


def phi(truth: np.ndarray, answer: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
    """Return the coefficient of one label; 0 if it is not defined.

    Args:
        truth: Flags of the items that have the label: bool ``[items]``.
        answer: Flags of the items that are answered with the label: bool ``[items]``.
        rows: Row of each item, ascending: int64 ``[items]``. None if each item is a row.
    """
    cell = (~truth).astype(int) * 2 + (~answer).astype(int)
    row_counts = _sum_by_row(np.eye(4)[cell], rows)
    counts = row_counts.sum(axis=0)

    def coefficient(cells: np.ndarray) -> np.ndarray:
        a, b, c, d = cells.T
        scale = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
        return np.asarray(np.divide(a * d - b * c, scale, out=np.zeros_like(scale), where=scale > 0))

    return Estimate(float(coefficient(counts[None])[0]), coefficient(counts - row_counts))


def phis(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Return the coefficients between each true and each answered label; 0 where they are not defined.

    Args:
        truth: True labels: bool ``[items, labels]``.
        answer: Answered labels: bool ``[items, labels]``.

    Returns:
        Coefficients: float64 ``[labels, labels]``, true labels first.
    """
    n = len(truth)
    t = truth.sum(axis=0).astype(float)
    p = answer.sum(axis=0).astype(float)
    both = truth.T.astype(np.float64) @ answer.astype(np.float64)
    scale = np.sqrt(np.outer(t * (n - t), p * (n - p)))
    return np.divide(n * both - np.outer(t, p), scale, out=np.zeros_like(both), where=scale > 0)


def gorodkin(truth: np.ndarray, answer: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
    """Return the coefficient of all labels together, for items with one label each.

    Args:
        truth: True labels: bool ``[items, labels]``, one True per item.
        answer: Answered labels: bool ``[items, labels]``, one True per item.
        rows: Row of each item, ascending: int64 ``[items]``. None if each item is a row.
    """
    true_label = truth.argmax(axis=1)
    answer_label = answer.argmax(axis=1)
    same = (true_label == answer_label).astype(np.float64)
    t = truth.sum(axis=0, dtype=np.float64)
    p = answer.sum(axis=0, dtype=np.float64)
    sizes = _sum_by_row(np.ones(len(truth)), rows)
    hits = _sum_by_row(same, rows)

    def coefficient(items: np.ndarray, hits: np.ndarray, tp: np.ndarray, tt: np.ndarray, pp: np.ndarray) -> np.ndarray:
        scale = np.sqrt(np.maximum(items * items - tt, 0.0) * np.maximum(items * items - pp, 0.0))
        return np.asarray(np.divide(hits * items - tp, scale, out=np.zeros_like(scale), where=scale > 0))

    def row_product(x: np.ndarray, y: np.ndarray, single_item: np.ndarray | float) -> np.ndarray | float:
        """Return the product of the label counts of each row; ``single_item`` if each row is one item.

        That shortcut needs no matrix of all rows and labels.
        """
        if rows is None:
            return single_item
        return np.asarray((_sum_by_row(x, rows) * _sum_by_row(y, rows)).sum(axis=1))

    # Without a row, the label counts are smaller by those of the row. All counts are integers, which float64 sums
    # exactly.
    tp = t @ p - _sum_by_row(t[answer_label] + p[true_label], rows) + row_product(truth, answer, same)
    tt = t @ t - 2 * _sum_by_row(t[true_label], rows) + row_product(truth, truth, 1.0)
    pp = p @ p - 2 * _sum_by_row(p[answer_label], rows) + row_product(answer, answer, 1.0)
    totals = (sizes.sum(), hits.sum(), t @ p, t @ t, p @ p)
    whole = coefficient(*(np.asarray(total)[None] for total in totals))
    without = coefficient(sizes.sum() - sizes, hits.sum() - hits, tp, tt, pp)
    return Estimate(float(whole[0]), without)


def _sum_by_row(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Sum the values of the items of each row: float64 ``[rows, ...]``."""
    numbers = values.astype(np.float64)
    if rows is None:
        return numbers
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return np.add.reduceat(numbers, starts, axis=0)


def r2(truth: np.ndarray, answer: np.ndarray) -> Estimate:
    """Return the share of the true numbers' variance that the answers explain, without any rescaling.

    Args:
        truth: True numbers, not all equal: float64 ``[items]``.
        answer: Answered numbers: float64 ``[items]``.
    """
    n = len(truth)
    error = (truth - answer) ** 2
    centred = truth - truth.mean()
    total = centred @ centred
    # Sum of squares of the other items around their mean, for each item that is left out.
    remaining = np.maximum(total - centred**2 * n / (n - 1), np.finfo(float).tiny)
    return Estimate(float(1 - error.sum() / total), 1 - (error.sum() - error) / remaining)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of statistics of the same items."""
    value = float(np.mean([estimate.value for estimate in estimates]))
    return Estimate(value, np.mean([estimate.without for estimate in estimates], axis=0))


def standard_errors(labels: int) -> float:
    """Return a threshold for the best of all permutations of the labels, in standard errors.

    Without any association, the best permutation exceeds it with a probability of at most 2.5 %.

    Args:
        labels: Number of labels.
    """
    return math.sqrt(2 * (math.lgamma(labels + 1) - math.log(TAIL)))
