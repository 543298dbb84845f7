"""Activation ranges from running histograms: what a tensor's values look like, in memory that does not grow.

A histogram of absolute values over 2,048 bins keeps its number of bins for ever: when a value falls beyond its end,
neighbouring bins are merged and the range doubles. So ten thousand samples cost the memory of one.
"""

from __future__ import annotations

import numpy as np

BINS = 2048
LEVELS = 127  # of symmetric INT8, each side


class Histogram:
    """Counts of absolute values, and their exact maximum."""

    def __init__(self) -> None:
        """Starts empty; the first values set the range."""
        self.counts = np.zeros(BINS, np.float64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        """Counts the values of one batch; all must be finite."""
        sizes = np.abs(values, dtype=np.float32).ravel()
        top = float(sizes.max(initial=0.0))
        self.largest = max(self.largest, top)
        if self.limit == 0.0:
            self.limit = top
        if self.limit == 0.0:
            self.counts[0] += sizes.size
            return
        while top > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
            self.limit *= 2.0
        # In float64: with a range near the smallest floats the factor is beyond float32.
        index = np.minimum((sizes * np.float64(BINS / self.limit)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)


def least_squares(histogram: Histogram, steps: int = 256) -> float:
    """The threshold T at which symmetric INT8 of [-T, T] has the least mean squared error over the histogram.

    Clipping a rare outlier costs its own error once and makes every other value's rounding finer. Sung, Shin and
    Hwang, "Resiliency of Deep Neural Networks under Quantization", arXiv 1511.06488, choose thresholds in this way.
    """
    if histogram.largest == 0.0:
        return 0.0
    used = np.flatnonzero(histogram.counts)
    counts = histogram.counts[used]
    centres = np.minimum((used + 0.5) * (histogram.limit / BINS), histogram.largest)
    best, least = histogram.largest, np.inf
    for threshold in np.linspace(histogram.largest / 16, histogram.largest, steps):
        step = threshold / LEVELS
        error = float((counts * (np.minimum(np.rint(centres / step), LEVELS) * step - centres) ** 2).sum())
        if error < least:
            best, least = float(threshold), error
    return best
