"""How far answers are from chance: Matthews' correlation coefficient of labels, R2 of numbers, each with its jackknife.

Sources: Gorodkin J., Computational Biology and Chemistry 28 (2004) 367-374 (the coefficient of several classes); Efron B. and Tibshirani R. J., An
Introduction to the Bootstrap (1993), chapter 11 (the jackknife's standard error; the interval is Student's t with rows - 1 degrees of freedom).
Items of one row, e.g. the words of a sentence, are right or wrong together, so a whole row is what the jackknife leaves out.
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
    """A statistic of items.

    Attributes:
        value: of all items.
        without: float64 ``[rows]``, its values when each row in turn is left out.
    """

    value: float
    without: np.ndarray

    @property
    def error(self) -> float:
        """The jackknife's standard error."""
        n = len(self.without)
        return math.sqrt((n - 1) / n * float(((self.without - self.without.mean()) ** 2).sum()))

    def ends(self) -> tuple[float, float]:
        """The 95 % interval."""
        # Student's quantile by its series in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5): to 1e-5 from 29 on, and scipy need not be here.
        z, freedom = NormalDist().inv_cdf(1 - TAIL), len(self.without) - 1
        quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        arm = quantile * self.error
        return self.value - arm, self.value + arm


def phi(right: np.ndarray, given: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
    """The coefficient of one label; 0 where it is not defined.

    Args:
        right: bool ``[items]``, whether an item has the label.
        given: bool ``[items]``, whether it is answered with it.
        rows: int64 ``[items]``, the row that each is of, ascending; None where each is a row.
    """
    each = _sums(np.eye(4)[(~right).astype(int) * 2 + (~given).astype(int)], rows)
    counts = each.sum(axis=0)

    def of(cells: np.ndarray) -> np.ndarray:
        a, b, c, d = cells.T
        scale = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
        return np.asarray(np.divide(a * d - b * c, scale, out=np.zeros_like(scale), where=scale > 0))

    return Estimate(float(of(counts[None])[0]), of(counts - each))


def phis(right: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Coefficients between each label that items have and each that is answered, ``[labels, labels]``; 0 where they are not defined.

    Args:
        right: bool ``[items, labels]``.
        given: bool ``[items, labels]``.
    """
    t, p, n = right.sum(axis=0).astype(float), given.sum(axis=0).astype(float), len(right)
    both = right.T.astype(np.float64) @ given.astype(np.float64)
    scale = np.sqrt(np.outer(t * (n - t), p * (n - p)))
    return np.divide(n * both - np.outer(t, p), scale, out=np.zeros_like(both), where=scale > 0)


def gorodkin(right: np.ndarray, given: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
    """The coefficient of all labels together, of items with one each.

    Args:
        right: bool ``[items, labels]``, one True an item.
        given: bool ``[items, labels]``, one True an item.
        rows: int64 ``[items]``, the row that each is of, ascending; None where each is a row.
    """
    truth, answer = right.argmax(axis=1), given.argmax(axis=1)
    same = (truth == answer).astype(np.float64)
    t, p = right.sum(axis=0, dtype=np.float64), given.sum(axis=0, dtype=np.float64)
    sizes, hits = _sums(np.ones(len(right)), rows), _sums(same, rows)

    def of(items: np.ndarray, hits: np.ndarray, tp: np.ndarray, tt: np.ndarray, pp: np.ndarray) -> np.ndarray:
        scale = np.sqrt(np.maximum(items * items - tt, 0.0) * np.maximum(items * items - pp, 0.0))
        return np.asarray(np.divide(hits * items - tp, scale, out=np.zeros_like(scale), where=scale > 0))

    def own(x: np.ndarray, y: np.ndarray, alone: np.ndarray | float) -> np.ndarray | float:
        """The product of a row's own counts; ``alone`` where it has one item, which takes no matrix of all rows and labels."""
        return alone if rows is None else (_sums(x, rows) * _sums(y, rows)).sum(axis=1)

    # With a row left out the labels' counts are less by its own. All of these are whole numbers, which float64 adds up without rounding.
    tp = t @ p - _sums(t[answer] + p[truth], rows) + own(right, given, same)
    tt = t @ t - 2 * _sums(t[truth], rows) + own(right, right, 1.0)
    pp = p @ p - 2 * _sums(p[answer], rows) + own(given, given, 1.0)
    whole = of(*(np.asarray(value)[None] for value in (sizes.sum(), hits.sum(), t @ p, t @ t, p @ p)))
    less = of(sizes.sum() - sizes, hits.sum() - hits, tp, tt, pp)
    return Estimate(float(whole[0]), less)


def _sums(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Sums of the items of each row: float64 ``[rows, ...]``."""
    numbers = values.astype(np.float64)
    return numbers if rows is None else np.add.reduceat(numbers, np.flatnonzero(np.diff(rows, prepend=-1)), axis=0)


def r2(right: np.ndarray, given: np.ndarray) -> Estimate:
    """Share of the right numbers' variance that the answers explain as they are.

    Args:
        right: float64 ``[items]``, not all equal.
        given: float64 ``[items]``.
    """
    n, error = len(right), (right - given) ** 2
    centred = right - right.mean()
    spread = centred @ centred
    less = np.maximum(spread - centred**2 * n / (n - 1), np.finfo(float).tiny)  # of the other items around their mean
    return Estimate(float(1 - error.sum() / spread), 1 - (error.sum() - error) / less)


def mean(each: Sequence[Estimate]) -> Estimate:
    """The mean of statistics of the same items."""
    return Estimate(float(np.mean([e.value for e in each])), np.mean([e.without for e in each], axis=0))


def standard_errors(labels: int) -> float:
    """Standard errors that the best of all permutations of so many labels exceeds by chance with a probability of at most 2.5 %."""
    return math.sqrt(2 * (math.lgamma(labels + 1) - math.log(TAIL)))
