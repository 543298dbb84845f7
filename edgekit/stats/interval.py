"""Uncertainty of a latency ratio: bootstrap over process pairs, and error levels for repeated looks at the data.

Two runs of a program differ by more than the calls within a run do: by the placement of its pages, the alignment of its
code, the CPU that it starts on. So the bootstrap draws processes, not calls: Kalibera T. and Jones R., "Rigorous
Benchmarking in Reasonable Time" (ISMM 2013).

The interval is the estimate plus and minus Student's t times the bootstrap standard error (Efron B. and Tibshirani R.
J., An Introduction to the Bootstrap, 1993, chapters 12 and 13). The standard error is widened by sqrt(n / (n - 1)),
since a bootstrap of few draws is too narrow by that factor (Hesterberg T., "What Teachers Should Know About the
Bootstrap", The American Statistician 69, 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# fmt: off
__all__ = [
    "ALPHA", "FEWEST", "POWER", "Estimate", "Look", "levels", "median", "quantile", "ratio_of_quantiles", "spend_alpha",
]
# fmt: on

ALPHA = 0.05
"""Probability of each of two errors over all looks: a limit that holds is called exceeded, or the reverse."""

POWER = 0.80
"""Probability to detect an effect of the size :meth:`Estimate.resolvable`."""

FEWEST = 4
"""Least number of process pairs for a decision."""

_RESAMPLES = 1000
_CHUNK = 2_000_000  # weights at a time: 16 MB


@dataclass(frozen=True)
class Estimate:
    """Logarithm of a ratio, with its standard error.

    Attributes:
        value: Estimate.
        error: Standard error; infinite if it is not known.
        pairs: Number of independent draws: process pairs, or processes.
    """

    value: float
    error: float
    pairs: int

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return the lower and the upper bound, each wrong with probability ``alpha``."""
        if self.error == 0.0:
            return self.value, self.value
        if self.pairs < 2 or not math.isfinite(self.error):
            return -math.inf, math.inf
        half_width = _t_quantile(1 - alpha, self.pairs - 1) * self.error
        return self.value - half_width, self.value + half_width

    def resolvable(self, alpha: float) -> float:
        """Return the smallest true logarithm whose lower bound is above 0 with a probability of 80 %."""
        if self.pairs < 2 or not math.isfinite(self.error):
            return math.inf
        freedom = self.pairs - 1
        return (_t_quantile(1 - alpha, freedom) + _t_quantile(POWER, freedom)) * self.error


@dataclass(frozen=True)
class Look:
    """A look at the data for a decision.

    Attributes:
        pairs: Number of process pairs at that time.
        share: Share of the largest number of pairs, above 0; 1 for the last look.
    """

    pairs: int
    share: float


def levels(looks: Sequence[Look]) -> list[float]:
    """Return the error level of each look. Their sum is at most ``ALPHA``."""
    cumulative = [0.0, *(spend_alpha(look.share) for look in looks)]
    return [after - before for before, after in pairwise(cumulative)]


def spend_alpha(share: float) -> float:
    """Return the part of ``ALPHA`` that may be spent at this share of the data: the Pocock-like spending function.

    The levels of single looks are its differences. They add up to ``ALPHA`` by the union bound, so no joint
    distribution is assumed.

    Source: Lan K. K. G. and DeMets D. L., "Discrete Sequential Boundaries for Clinical Trials", Biometrika 70 (1983)
    659-663.

    Args:
        share: Share of the largest amount of data, 0 to 1.
    """
    return ALPHA * math.log(1 + (math.e - 1) * min(max(share, 0.0), 1.0))


def median(groups: Sequence[Sequence[float]], seed: int) -> Estimate:
    """Estimate the median of all values, e.g. of the log ratios of blocks. Groups (process pairs) are resampled.

    Args:
        groups: Values ``[group][value]``, at least one in each group.
        seed: Random seed of the resampling.
    """
    value, resampled = _resample_quantile(groups, 0.5, seed)
    return _estimate(value, resampled, len(groups))


def ratio_of_quantiles(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], q: float, seed: int
) -> Estimate:
    """Estimate the logarithm of the ratio of a quantile, after to before. Groups of both sides are resampled together.

    Args:
        before: Values ``[group][value]``, above 0.
        after: Values of the same groups, above 0.
        q: Quantile, 0 to 1.
        seed: Random seed of the resampling.
    """
    value_before, resampled_before = _resample_quantile(before, q, seed)
    value_after, resampled_after = _resample_quantile(after, q, seed)
    return _estimate(math.log(value_after / value_before), np.log(resampled_after / resampled_before), len(before))


def quantile(groups: Sequence[Sequence[float]], q: float, seed: int) -> Estimate:
    """Estimate the logarithm of a quantile of all values, for sides that were not timed together.

    Args:
        groups: Values ``[group][value]``, above 0. Groups (processes) are resampled.
        q: Quantile, 0 to 1.
        seed: Random seed of the resampling.
    """
    value, resampled = _resample_quantile(groups, q, seed)
    return _estimate(math.log(value), np.log(resampled), len(groups))


def _estimate(value: float, resampled: np.ndarray, groups: int) -> Estimate:
    """Return an estimate with the widened bootstrap standard error."""
    if groups < 2:
        return Estimate(value, math.inf, groups)
    return Estimate(value, float(resampled.std()) * math.sqrt(groups / (groups - 1)), groups)


def _resample_quantile(groups: Sequence[Sequence[float]], q: float, seed: int) -> tuple[float, np.ndarray]:
    """Return a quantile of all values, and that of each resample of the groups: float64 ``[resamples]``.

    The same seed and number of groups give the same resamples.
    """
    probabilities = np.full(len(groups), 1 / len(groups))
    # Number of times that each group is in each resample: [resamples, groups].
    counts = np.random.default_rng(seed).multinomial(len(groups), probabilities, _RESAMPLES)
    values = np.concatenate([np.asarray(group, np.float64) for group in groups])
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(values, kind="stable")
    once = np.ones((1, len(groups)), np.int64)
    value = _weighted_quantiles(values[order], owners[order], once, q)
    return float(value[0]), _weighted_quantiles(values[order], owners[order], counts, q)


def _weighted_quantiles(values: np.ndarray, owners: np.ndarray, counts: np.ndarray, q: float) -> np.ndarray:
    """Return a quantile of each resample: float64 ``[resamples]``.

    The median of an even number of values is the mean of the middle two.

    Args:
        values: Values in ascending order: float64 ``[values]``.
        owners: Group of each value: int64 ``[values]``.
        counts: Number of times that each group is in each resample: int64 ``[resamples, groups]``.
        q: Quantile, 0 to 1.
    """
    chunks = []
    step = max(1, _CHUNK // max(1, len(values)))
    for start in range(0, len(counts), step):
        cumulative = counts[start : start + step, owners].cumsum(axis=1)
        target = q * cumulative[:, -1:]
        low = (cumulative < target - 1e-9).sum(axis=1)
        high = np.minimum((cumulative <= target + 1e-9).sum(axis=1), len(values) - 1)
        chunks.append((values[low] + values[high]) / 2)
    return np.concatenate(chunks)


def _t_quantile(p: float, freedom: int) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.special import stdtrit  # devices lack scipy

    return float(stdtrit(freedom, p))
