"""A score of labelled rows as a function of what each row contributes, and the statistics that it admits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Evidence", "Metric", "Score", "additive"]

Evidence = np.ndarray
"""float64 ``[rows, k]``: what each row contributes to a metric, e.g. ``(correct,)``, ``(tp, fp, fn)``, ``(edits, words)``."""

Score = Callable[[Evidence, np.ndarray], np.ndarray]
"""From evidence and weights, int64 ``[resamples, rows]``, how often each row counts, to float64 ``[resamples]``; NaN where it is not defined."""


@dataclass(frozen=True)
class Metric:
    """A score, and the statistics that it admits.

    Attributes:
        name: e.g. ``accuracy``, ``micro F1``, ``WER``.
        score: vectorised over resamples.
        binary: evidence is one column of 0 and 1, whose mean is the score: Tango's interval, exact McNemar test, exact power. Otherwise a paired
            bootstrap over rows, and approximate randomization for the p-value.
        higher_is_better: False for an error rate. A drop is a loss either way: reference minus candidate, or candidate minus reference.
        undefined: sentence for rows on which the score is NaN, with what to do.
    """

    name: str
    score: Score
    binary: bool = False
    higher_is_better: bool = True
    undefined: str = "The score is not defined on these rows. Give more samples, with different labels."

    def of(self, evidence: Evidence) -> float:
        """The score of all rows, each once; NaN where it is not defined."""
        return float(self.score(evidence, np.ones((1, len(evidence)), np.int64))[0])

    def drop(self, reference: float, candidate: float) -> float:
        """How much worse the candidate's score is, in the metric's unit; negative where it is better."""
        return reference - candidate if self.higher_is_better else candidate - reference


def additive(of_sums: Callable[[np.ndarray], np.ndarray]) -> Score:
    """A score of the evidence's column sums.

    Args:
        of_sums: float64 ``[resamples, k]`` to float64 ``[resamples]``, e.g. ``lambda s: s[:, 0] / s[:, 1]`` for the word error rate.
    """
    return lambda evidence, weights: of_sums(weights @ np.asarray(evidence, np.float64))
