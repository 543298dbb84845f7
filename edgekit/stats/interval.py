"""How sure a ratio of times is: bootstrap over pairs of processes, and levels for looking more than once.

Two runs of one program differ by more than the calls inside a run do: where its pages lie, how its code is aligned, which CPU it began on.
So processes are what is drawn, not calls: Kalibera T. and Jones R., "Rigorous Benchmarking in Reasonable Time" (ISMM 2013). The interval is
the estimate plus and minus Student's t times the bootstrap standard error (Efron B. and Tibshirani R. J., An Introduction to the Bootstrap,
1993, chapters 12 and 13), with the standard error widened by sqrt(n / (n - 1)), since a bootstrap of few draws is too narrow by just that
(Hesterberg T., "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = [
    "ALPHA",
    "FEWEST",
    "POWER",
    "Estimate",
    "Look",
    "levels",
    "median",
    "quantile",
    "ratio_of_quantiles",
    "spent",
]

ALPHA = 0.05
"""Chance that a limit is called exceeded though it is not, and that it is called kept though it is not: each of the two, over all looks."""

POWER = 0.80
FEWEST = 4
"""Pairs of processes below which nothing is decided."""

_RESAMPLES = 1000
_CHUNK = 2_000_000  # weights at a time: 16 MB


@dataclass(frozen=True)
class Estimate:
    """A logarithm of a ratio.

    Attributes:
        value: the estimate.
        error: its standard error; infinite where nothing can be said of it.
        pairs: how many draws it rests on.
    """

    value: float
    error: float
    pairs: int

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with a chance of ``alpha``."""
        if self.error == 0.0:
            return self.value, self.value
        if self.pairs < 2 or not math.isfinite(self.error):
            return -math.inf, math.inf
        arm = _t(1 - alpha, self.pairs - 1) * self.error
        return self.value - arm, self.value + arm

    def resolvable(self, alpha: float) -> float:
        """The smallest true logarithm that a lower bound would have been above 0 for, with a chance of 80 %."""
        if self.pairs < 2 or not math.isfinite(self.error):
            return math.inf
        return (_t(1 - alpha, self.pairs - 1) + _t(POWER, self.pairs - 1)) * self.error


@dataclass(frozen=True)
class Look:
    """A look at the data for a decision.

    Attributes:
        pairs: how many there were.
        share: of the most that there could be; 1 for the last look.
    """

    pairs: int
    share: float


def levels(looks: Sequence[Look]) -> list[float]:
    """The chance of error of each look; together they are no more than ``ALPHA``."""
    reached = [0.0, *(spent(look.share) for look in looks)]
    return [after - before for before, after in pairwise(reached)]


def spent(share: float) -> float:
    """How much of ``ALPHA`` may be spent once this share of the data is there: the Pocock-like spending function.

    Levels of single looks are the differences, and add up to ``ALPHA`` by the union bound: no joint distribution is assumed.
    Source: Lan K. K. G. and DeMets D. L., "Discrete Sequential Boundaries for Clinical Trials", Biometrika 70 (1983) 659-663.

    Args:
        share: of the most data that there will be, 0 to 1.
    """
    return ALPHA * math.log(1 + (math.e - 1) * min(max(share, 0.0), 1.0))


def median(groups: Sequence[Sequence[float]], seed: int) -> Estimate:
    """Median of all values, e.g. of the blocks' log ratios, with the groups (pairs of processes) drawn.

    Args:
        groups: values ``[group][value]``, at least one of each.
        seed: of the draws.
    """
    return _estimate(*_drawn(groups, 0.5, seed), len(groups))


def ratio_of_quantiles(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], q: float, seed: int
) -> Estimate:
    """Logarithm of the ratio of a quantile of all values after to that before; a group is drawn on both sides at once.

    Args:
        before: values ``[group][value]``, above 0.
        after: the same groups.
        q: 0 to 1.
        seed: of the draws.
    """
    (was, low), (now, high) = _drawn(before, q, seed), _drawn(after, q, seed)
    return _estimate(math.log(now / was), np.log(high / low), len(before))


def quantile(groups: Sequence[Sequence[float]], q: float, seed: int) -> Estimate:
    """Logarithm of a quantile of all values, with the groups (processes) drawn. For sides that were not measured together.

    Args:
        groups: values ``[group][value]``, above 0.
        q: 0 to 1.
        seed: of the draws.
    """
    at, drawn = _drawn(groups, q, seed)
    return _estimate(math.log(at), np.log(drawn), len(groups))


def _estimate(value: float, drawn: np.ndarray, groups: int) -> Estimate:
    if groups < 2:
        return Estimate(value, math.inf, groups)
    return Estimate(value, float(drawn.std()) * math.sqrt(groups / (groups - 1)), groups)


def _drawn(groups: Sequence[Sequence[float]], q: float, seed: int) -> tuple[float, np.ndarray]:
    """A quantile of all values, and that of each resample of the groups: ``[resamples]``; of as many groups a seed gives the same resamples."""
    counts = np.random.default_rng(seed).multinomial(
        len(groups), np.full(len(groups), 1 / len(groups)), _RESAMPLES
    )  # how often each group is in each
    values = np.concatenate([np.asarray(g, np.float64) for g in groups])
    owners = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    order = np.argsort(values, kind="stable")
    at = _quantiles(values[order], owners[order], np.ones((1, len(groups)), np.int64), q)
    return float(at[0]), _quantiles(values[order], owners[order], counts, q)


def _quantiles(values: np.ndarray, owners: np.ndarray, counts: np.ndarray, q: float) -> np.ndarray:
    """A quantile of each resample: ``[resamples]``. Of an even number of values the median is the mean of the middle two."""
    found = []
    step = max(1, _CHUNK // max(1, len(values)))
    for start in range(0, len(counts), step):
        reached = counts[start : start + step, owners].cumsum(axis=1)
        wanted = q * reached[:, -1:]
        low = (reached < wanted - 1e-9).sum(axis=1)
        high = np.minimum((reached <= wanted + 1e-9).sum(axis=1), len(values) - 1)
        found.append((values[low] + values[high]) / 2)
    return np.concatenate(found)


def _t(p: float, freedom: int) -> float:
    from scipy.special import stdtrit  # scipy is not on a device

    return float(stdtrit(freedom, p))
