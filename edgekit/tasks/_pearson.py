"""Pearson's correlation of answers and truths, averaged over a model's outputs, on weighted rows."""

from __future__ import annotations

import numpy as np

from edgekit.spec.protocols import Evidence


def score(evidence: Evidence, weights: np.ndarray) -> np.ndarray:
    """Pearson's r, mean over the outputs.

    An output whose answers are all equal has an r of 0. Where its truths are all equal r is not defined. Both are decided by comparing values: the
    standard deviation of equal numbers need not be 0 in floating point.

    Args:
        evidence: float64 ``[rows, 2 * outputs]``: answers, then truths.
        weights: int64 ``[resamples, rows]``, how often each row counts.

    Returns:
        float64 ``[resamples]``; NaN where the truths of an output are all equal.
    """
    answers, truths = np.split(np.asarray(evidence, np.float64), 2, axis=1)
    columns = [_correlation(x, y, weights) for x, y in zip(answers.T, truths.T, strict=True)]
    return np.asarray(np.mean(columns, axis=0))


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r of one output: float64 ``[resamples]``."""
    counts = weights.astype(np.float64)
    constant, undefined = _all_equal(x, weights), _all_equal(y, weights)
    x, y = _centred(x, counts), _centred(y, counts)
    products = np.einsum("rn,rn,rn->r", counts, x, y)
    sizes = np.sqrt(np.einsum("rn,rn,rn->r", counts, x, x)) * np.sqrt(np.einsum("rn,rn,rn->r", counts, y, y))
    found = np.divide(products, sizes, out=np.zeros(len(weights)), where=(sizes > 0) & ~constant)
    return np.where(undefined, np.nan, np.clip(found, -1.0, 1.0))


def _centred(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Distances to each resample's own mean: float64 ``[resamples, rows]``. Sums of squares alone would lose the digits of numbers far from 0."""
    return np.asarray(values - (counts @ values / np.maximum(counts.sum(axis=1), 1.0))[:, None])


def _all_equal(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Whether the rows that count have one value: bool ``[resamples]``; true where no row counts."""
    drawn = weights > 0
    low = np.where(drawn, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(drawn, values, -np.inf).max(axis=1, initial=-np.inf)
    return np.asarray(low >= high)
