"""Pearson's correlation of predicted and true numbers, averaged over a model's outputs, for weighted rows."""

from __future__ import annotations

import numpy as np

from edgekit.spec.protocols import Evidence


def score(evidence: Evidence, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r, averaged over the outputs.

    If all predictions of an output are equal, its r is 0. If all true numbers are equal, r is not defined. Both cases
    are detected by comparing values: the standard deviation of equal numbers need not be 0 in floating point.

    Args:
        evidence: Predictions, then true numbers: float64 ``[rows, 2 * outputs]``.
        weights: Count of each row in each resample, int64 ``[resamples, rows]``.

    Returns:
        Array float64 ``[resamples]``; NaN where the true numbers of an output are all equal.
    """
    predictions, truths = np.split(np.asarray(evidence, np.float64), 2, axis=1)
    columns = [_correlation(x, y, weights) for x, y in zip(predictions.T, truths.T, strict=True)]
    return np.asarray(np.mean(columns, axis=0))


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r of one output: float64 ``[resamples]``."""
    counts = weights.astype(np.float64)
    constant = _is_constant(x, weights)
    undefined = _is_constant(y, weights)
    x = _center(x, counts)
    y = _center(y, counts)
    products = np.einsum("rn,rn,rn->r", counts, x, y)
    norms = np.sqrt(np.einsum("rn,rn,rn->r", counts, x, x)) * np.sqrt(np.einsum("rn,rn,rn->r", counts, y, y))
    r = np.divide(products, norms, out=np.zeros(len(weights)), where=(norms > 0) & ~constant)
    return np.where(undefined, np.nan, np.clip(r, -1.0, 1.0))


def _center(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the differences from each resample's mean: float64 ``[resamples, rows]``.

    Raw sums of squares would lose the digits of numbers far from 0.
    """
    means = counts @ values / np.maximum(counts.sum(axis=1), 1.0)
    return np.asarray(values - means[:, None])


def _is_constant(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return whether the rows with a weight have one value: bool ``[resamples]``; true without such rows."""
    drawn = weights > 0
    low = np.where(drawn, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(drawn, values, -np.inf).max(axis=1, initial=-np.inf)
    return np.asarray(low >= high)
