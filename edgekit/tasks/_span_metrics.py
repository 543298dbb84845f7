"""Metrics of token classification: F1 of spans and token accuracy."""

from __future__ import annotations

import numpy as np

from edgekit.spec.metric import Metric, additive


def _f1(sums: np.ndarray) -> np.ndarray:
    """Return F1 from the sums of (true positives, false positives, false negatives); NaN if all three are 0."""
    doubled = 2 * sums[:, 0]
    total = doubled + sums[:, 1] + sums[:, 2]
    return np.asarray(np.divide(doubled, total, out=np.full(len(sums), np.nan), where=total > 0))


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Return the first sum divided by the second; NaN if the second is 0."""
    return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0))


SPAN_F1 = Metric(
    "span F1",
    additive(_f1),
    undefined="No row has a span, neither true nor predicted, so the F1 of spans is not defined. Give rows with spans.",
)
TOKEN_ACCURACY = Metric(
    "token accuracy",
    additive(_ratio),
    undefined="No row has a word, so token accuracy is not defined. Give rows with words.",
)
