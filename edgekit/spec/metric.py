"""Metrics: scores of labelled rows as functions of the evidence of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Evidence", "Metric", "Score", "additive"]

Evidence = np.ndarray
"""Contribution of each row to a metric: float64 ``[rows, k]``.

Examples of rows are ``(correct,)``, ``(tp, fp, fn)``, ``(edits, words)``.
"""

Score = Callable[[Evidence, np.ndarray], np.ndarray]
"""Function of the evidence and of weights, which returns one score per resample: float64 ``[resamples]``.

The weights, int64 ``[resamples, rows]``, say how often each row counts. An undefined score is NaN.
"""


@dataclass(frozen=True)
class Metric:
    """A score, and the statistics that apply to it.

    Attributes:
        name: Name of the score, e.g. ``accuracy``, ``micro F1``, ``WER``.
        score: Score function, vectorized over resamples.
        binary: True if the evidence is one column of 0 and 1 whose mean is the score. Comparisons then use Tango's
            interval, the exact McNemar test and exact power; otherwise a paired bootstrap over rows, and approximate
            randomization for the p-value.
        higher_is_better: Direction of the score; False for an error rate. A drop is a loss in either direction.
        undefined: Error message for rows on which the score is NaN, with the remedy.
    """

    name: str
    score: Score
    binary: bool = False
    higher_is_better: bool = True
    undefined: str = "The score is not defined on these rows. Give more samples, with different labels."

    def of(self, evidence: Evidence) -> float:
        """Return the score of all rows, each counted once; NaN if it is not defined."""
        return float(self.score(evidence, np.ones((1, len(evidence)), np.int64))[0])

    def drop(self, reference: float, candidate: float) -> float:
        """Return the candidate's loss of score, in the metric's unit; negative if the candidate is better."""
        return reference - candidate if self.higher_is_better else candidate - reference


def additive(of_sums: Callable[[np.ndarray], np.ndarray]) -> Score:
    """Return a score that is a function of the column sums of the evidence.

    Args:
        of_sums: Function from sums, float64 ``[resamples, k]``, to scores, float64 ``[resamples]``, e.g.
            ``lambda s: s[:, 0] / s[:, 1]`` for the word error rate.
    """
    return lambda evidence, weights: of_sums(weights @ np.asarray(evidence, np.float64))
