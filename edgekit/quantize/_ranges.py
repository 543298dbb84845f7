"""Activation ranges from running histograms: what a tensor's values look like, in memory that does not grow.

A histogram of absolute values over 2,048 bins keeps its number of bins for ever: when a value falls beyond its end,
neighbouring bins are merged and the range doubles. So ten thousand samples cost the memory of one.

A range method reads a threshold T off a histogram; symmetric INT8 then covers [-T, T]. All four are read off the same
histogram, so trying them costs no further pass over the samples. ``onnxruntime.quantization`` has the same four, but keeps
the intermediate tensors of all samples until the end, and none of its methods sees more than one batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 2048
LEVELS = 127  # of symmetric INT8, each side
_PERCENTILE = 99.99
_FEWEST_BINS = 128


class Histogram:
    """Counts of absolute values and their exact maximum, over all values and channel by channel.

    Attributes:
        counts: float64 ``[bins]``.
        limit: where the last bin ends.
        largest: largest absolute value.
        channels: largest absolute value of each channel, the last axis: float32 ``[channels]``.
        total: sum of each channel: float64 ``[channels]``.
        seen: number of values in each channel.
    """

    def __init__(self) -> None:
        """Starts empty; the first values set the range."""
        self.counts = np.zeros(BINS, np.float64)
        self.limit = 0.0
        self.largest = 0.0
        self.channels = np.zeros(0, np.float32)
        self.total = np.zeros(0, np.float64)
        self.seen = 0

    def add(self, values: np.ndarray) -> None:
        """Counts the values of one batch, ``[..., channels]``; all must be finite."""
        rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        sizes = np.abs(rows, dtype=np.float32)
        if not len(self.channels):
            self.channels, self.total = np.zeros(rows.shape[1], np.float32), np.zeros(rows.shape[1], np.float64)
        self.channels = np.maximum(self.channels, sizes.max(axis=0, initial=0.0))
        self.total += rows.sum(axis=0, dtype=np.float64)
        self.seen += len(rows)
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
        index = np.minimum((sizes.ravel() * np.float64(BINS / self.limit)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)


def min_max(histogram: Histogram) -> float:
    """The largest absolute value: nothing that was seen is clipped."""
    return histogram.largest


def percentile(histogram: Histogram) -> float:
    """The smallest bin end that 99.99 % of the values do not exceed.

    Wu, Judd, Zhang, Isaev and Micikevicius, "Integer Quantization for Deep Learning Inference", arXiv 2004.09602.
    """
    whole = histogram.counts.sum()
    if not whole or histogram.largest == 0.0:
        return histogram.largest
    last = int(np.searchsorted(histogram.counts.cumsum(), whole * _PERCENTILE / 100.0))
    return min((last + 1) * histogram.limit / BINS, histogram.largest)


def mse(histogram: Histogram, steps: int = 256) -> float:
    """The threshold at which symmetric INT8 has the least mean squared error over the histogram.

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


def entropy(histogram: Histogram, stride: int = 8) -> float:
    """The threshold at which INT8 keeps most of the distribution: least KL divergence of the quantized from the clipped histogram.

    Migacz, "8-bit Inference with TensorRT", GTC 2017: the values beyond a threshold are counted at its last bin; what is
    inside is merged to 128 levels, and each level spread evenly over those of its bins that held a value.
    """
    counts = histogram.counts
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if histogram.largest == 0.0 or used <= _FEWEST_BINS:
        return histogram.largest
    best, least = used, np.inf
    for stop in sorted({*range(_FEWEST_BINS, used, stride), used}):
        inside = counts[:stop]
        clipped = inside.copy()
        clipped[-1] += counts[stop:].sum()
        starts = np.arange(_FEWEST_BINS) * stop // _FEWEST_BINS
        held = inside > 0
        sums, bins = np.add.reduceat(inside, starts), np.add.reduceat(held.astype(np.float64), starts)
        level = np.repeat(
            np.divide(sums, bins, out=np.zeros_like(sums), where=bins > 0), np.diff(np.append(starts, stop))
        )
        p, q = clipped / clipped.sum(), np.where(held, level, 0.0)
        q /= q.sum() or 1.0
        present = p > 0
        with np.errstate(divide="ignore"):
            divergence = float((p[present] * np.log(p[present] / q[present])).sum())  # infinite where q has nothing
        if divergence < least:
            best, least = stop, divergence
    return min(best * histogram.limit / BINS, histogram.largest)


METHODS: dict[str, Callable[[Histogram], float]] = {
    "min_max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
"""By the names that :class:`edgekit.spec.quantization.Quantization` knows."""
