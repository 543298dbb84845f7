"""Activation ranges from running histograms of constant size.

A histogram counts absolute values in 2,048 bins. If a value lies beyond the last bin, neighbouring bins are merged and
the range doubles, so ten thousand samples need the memory of one.

A range method reads a threshold T from a histogram; symmetric INT8 then covers [-T, T]. All four methods read the same
histogram, so comparing them needs no further pass over the samples. ``onnxruntime.quantization`` has the same four
methods, but keeps the intermediate tensors of all samples until the end, and none of its methods sees more than one
batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 2048
LEVELS = 127
"""Number of symmetric INT8 levels on each side of zero."""

_PERCENTILE = 99.99
_FEWEST_BINS = 128


class Histogram:
    """Histogram of the absolute values of a tensor, with its exact maximum and statistics of each channel.

    Attributes:
        counts: Number of values in each bin: float64 ``[bins]``.
        limit: Upper end of the last bin.
        largest: Largest absolute value.
        channels: Largest absolute value of each channel (last axis): float32 ``[channels]``.
        total: Sum of each channel: float64 ``[channels]``.
        squares: Sum of the squares of each channel: float64 ``[channels]``.
        seen: Number of values in each channel.
    """

    def __init__(self) -> None:
        """Create an empty histogram; the first values set its range."""
        self.counts = np.zeros(BINS, np.float64)
        self.limit = 0.0
        self.largest = 0.0
        self.channels = np.zeros(0, np.float32)
        self.total = np.zeros(0, np.float64)
        self.squares = np.zeros(0, np.float64)
        self.seen = 0

    def add(self, values: np.ndarray) -> None:
        """Count the values of one batch.

        Args:
            values: Array ``[..., channels]`` of finite values.
        """
        rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        sizes = np.abs(rows, dtype=np.float32)
        if not len(self.channels):
            self.channels = np.zeros(rows.shape[1], np.float32)
            self.total = np.zeros(rows.shape[1], np.float64)
            self.squares = np.zeros(rows.shape[1], np.float64)
        self.channels = np.maximum(self.channels, sizes.max(axis=0, initial=0.0))
        self.total += rows.sum(axis=0, dtype=np.float64)
        self.squares += np.square(rows, dtype=np.float64).sum(axis=0)
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
        # In float64: if the range is near the smallest floats, the factor overflows float32.
        index = np.minimum((sizes.ravel() * np.float64(BINS / self.limit)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)


def min_max(histogram: Histogram) -> float:
    """Return the largest absolute value: no calibration value is clipped."""
    return histogram.largest


def percentile(histogram: Histogram) -> float:
    """Return the smallest bin end that 99.99 % of the values do not exceed.

    Wu, Judd, Zhang, Isaev and Micikevicius, "Integer Quantization for Deep Learning Inference", arXiv 2004.09602.
    """
    count = histogram.counts.sum()
    if not count or histogram.largest == 0.0:
        return histogram.largest
    last = int(np.searchsorted(histogram.counts.cumsum(), count * _PERCENTILE / 100.0))
    return min((last + 1) * histogram.limit / BINS, histogram.largest)


def mse(histogram: Histogram, steps: int = 256) -> float:
    """Return the threshold at which symmetric INT8 has the least mean squared error over the histogram.

    Clipping a rare outlier costs one large error and makes the rounding of all other values finer. Sung, Shin and
    Hwang, "Resiliency of Deep Neural Networks under Quantization", arXiv 1511.06488, choose thresholds in this way.

    Args:
        histogram: Histogram of the activation.
        steps: Number of thresholds to compare.
    """
    if histogram.largest == 0.0:
        return 0.0
    used = np.flatnonzero(histogram.counts)
    counts = histogram.counts[used]
    centres = np.minimum((used + 0.5) * (histogram.limit / BINS), histogram.largest)
    best = histogram.largest
    least_error = np.inf
    for threshold in np.linspace(histogram.largest / 16, histogram.largest, steps):
        step = threshold / LEVELS
        error = float((counts * (np.minimum(np.rint(centres / step), LEVELS) * step - centres) ** 2).sum())
        if error < least_error:
            best = float(threshold)
            least_error = error
    return best


def entropy(histogram: Histogram, stride: int = 8) -> float:
    """Return the threshold with the least KL divergence of the quantized from the clipped histogram.

    Migacz, "8-bit Inference with TensorRT", GTC 2017: values beyond a threshold are counted in its last bin. The values
    within are merged to 128 levels, and each level is spread evenly over those of its bins that held a value.

    Args:
        histogram: Histogram of the activation.
        stride: Number of bins between two thresholds that are compared.
    """
    counts = histogram.counts
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if histogram.largest == 0.0 or used <= _FEWEST_BINS:
        return histogram.largest
    best = used
    least_divergence = np.inf
    for stop in sorted({*range(_FEWEST_BINS, used, stride), used}):
        divergence = _clipping_divergence(counts, stop)
        if divergence < least_divergence:
            best = stop
            least_divergence = divergence
    return min(best * histogram.limit / BINS, histogram.largest)


def _clipping_divergence(counts: np.ndarray, stop: int) -> float:
    """Return the KL divergence that clipping at a bin and merging to 128 levels causes; it can be infinite."""
    inside = counts[:stop]
    clipped = inside.copy()
    clipped[-1] += counts[stop:].sum()
    starts = np.arange(_FEWEST_BINS) * stop // _FEWEST_BINS
    occupied = inside > 0
    sums = np.add.reduceat(inside, starts)
    bins = np.add.reduceat(occupied.astype(np.float64), starts)
    means = np.divide(sums, bins, out=np.zeros_like(sums), where=bins > 0)
    levels = np.repeat(means, np.diff(np.append(starts, stop)))
    p = clipped / clipped.sum()
    q = np.where(occupied, levels, 0.0)
    q /= q.sum() or 1.0
    present = p > 0
    with np.errstate(divide="ignore"):
        return float((p[present] * np.log(p[present] / q[present])).sum())


METHODS: dict[str, Callable[[Histogram], float]] = {
    "min_max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
"""Range methods by the names of :class:`edgekit.spec.quantization.Quantization`."""
