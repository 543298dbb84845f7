"""Paired comparison of a candidate with a reference on the same samples: the drop, its interval, power, sample size.

The comparison uses the rows on which the two models differ. Two separate intervals would count the difficulty of the
samples twice, and miss a drop that the pairs prove.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Evidence, Metric
from edgekit.stats.tango import CONFIDENCE, Z_BOUND, fewest_rows, is_above, tango_interval

__all__ = ["CONFIDENCE", "Paired", "bootstrap", "compare", "fewest_rows", "proportions", "tango_interval"]

_POWER = 0.80
_Z_POWER = NormalDist().inv_cdf(_POWER)
_TAIL = 1e-10  # probability at each end of the number of discordant rows that the power leaves out
_DROP_HALVINGS = 20  # of the drops from 0 to 1: to one in a million
_FEWEST_RESAMPLES = 100  # 5 of them lie outside each end of the interval
_TRIES = 10  # draws per resample, on average, before the samples are refused


@dataclass(frozen=True)
class Paired:
    """Result of a paired comparison.

    Attributes:
        rows: Number of samples that both models answered.
        losses: Number of rows that only the reference answers correctly; None if the score is not a mean of correct
            rows (micro F1, Pearson r).
        gains: Number of rows that only the candidate answers correctly; None if ``losses`` is None.
        drop: Loss of score of the candidate, in the score's unit (0.01 is one point of accuracy); negative if the
            candidate is better.
        low: Lower end of the two-sided 90 % confidence interval of the drop.
        high: Upper end of the interval. It is a one-sided 95 % bound, which a non-inferiority gate compares with the
            limit.
        p_value: Two-sided p-value, 0 to 1: exact McNemar test of equal probabilities of losses and gains; approximate
            randomization if ``losses`` is None.
    """

    rows: int
    losses: int | None
    gains: int | None
    drop: float
    low: float
    high: float
    p_value: float | None

    def is_resolved(self, limit: float) -> bool:
        """Return whether the interval lies on one side of ``limit``, so that the rows decide about it."""
        return self.high <= limit or self.low > limit

    def rows_needed(self, limit: float) -> int | None:
        """Return the number of rows that decides about ``limit`` with a power of 80 %.

        The drop and the discordance are assumed to stay as observed. The formula is the sample size of a paired
        non-inferiority test with a one-sided alpha of 5 %: ``(z_.95 + z_.80)^2 variance / (limit - drop)^2``.

        Args:
            limit: Largest allowed drop, in the score's unit.

        Returns:
            Total number of rows, including those of this comparison; None if the drop equals the limit, which no number
            of rows can distinguish.
        """
        distance = limit - self.drop
        if math.isclose(self.drop, limit, rel_tol=1e-9, abs_tol=1e-12):
            return None
        needed = max(1, math.ceil((Z_BOUND + _Z_POWER) ** 2 * self._variance(limit) / distance**2))
        if self.losses is not None and limit > 0 and distance > 0:
            # With few discordant rows, the normal formula gives less rows than a set without any would need.
            return max(needed, fewest_rows(limit))
        return needed

    def power(self, drop: float, margin: float = 0.0) -> float:
        """Return the probability that this number of rows proves a true drop to be above ``margin``.

        It is the probability that ``low`` exceeds the margin. For correct and wrong rows it is the exact sum over the
        outcomes (losses, gains) of the trinomial. Its discordance, the share of rows that only one model answers
        correctly, is the observed one, raised to the drop if that is larger (then there are no gains). The formula of
        :meth:`rows_needed` is less accurate: for one loss and one gain in 1,821 rows it gives 0.80 for 0.0127 against
        0.01, and the exact value is 0.31. Other scores are assumed to be normal, with the standard error of the
        interval.

        Args:
            drop: True drop, in the score's unit; -1 to 1 for an accuracy.
            margin: Largest allowed drop.

        Raises:
            UsageError: If the drop of an accuracy is out of range.
        """
        if self.losses is None or self.gains is None:
            error = self._standard_error()
            return NormalDist().cdf((drop - margin) / error - Z_BOUND) if error else float(drop > margin)
        if not -1 <= drop <= 1:
            raise UsageError(
                f"The power is not defined at a drop of {drop:g}, expected -1 to 1: an accuracy cannot fall by more.",
                code="statistics-argument",
            )
        return self._exact_power(self._fewest_losses(margin), drop)

    def resolvable(self, margin: float = 0.0) -> float | None:
        """Return the smallest true drop that this number of rows proves to be above ``margin`` with a power of 80 %.

        Args:
            margin: Largest allowed drop, in the score's unit.

        Returns:
            Drop at which :meth:`power` is 0.80; None if even the loss of every row would not be detected, as with a
            single row.
        """
        if self.losses is None or self.gains is None:
            return margin + (Z_BOUND + _Z_POWER) * self._standard_error()
        fewest = self._fewest_losses(margin)
        missed = max(margin, -1.0)
        detected = 1.0
        if self._exact_power(fewest, detected) < _POWER:
            return None
        for _ in range(_DROP_HALVINGS):
            middle = (missed + detected) / 2
            if self._exact_power(fewest, middle) < _POWER:
                missed = middle
            else:
                detected = middle
        return detected

    def _fewest_losses(self, margin: float) -> Callable[[int], int]:
        """Return a function from the number of discordant rows to the fewest losses that prove a drop above the margin.

        It returns one more than the number of discordant rows if no number of losses is enough.
        """

        def fewest(discordant: int) -> int:
            def is_proof(losses: int) -> bool:
                return is_above(losses, discordant - losses, self.rows, margin)

            return bisect.bisect_left(range(discordant + 1), True, key=is_proof)

        return functools.cache(fewest)  # the power at another drop needs the same numbers

    def _exact_power(self, fewest: Callable[[int], int], drop: float) -> float:
        from scipy.stats import binom  # devices lack scipy, and the import is slow

        assert self.losses is not None and self.gains is not None
        discordance = max((self.losses + self.gains) / self.rows, abs(drop))
        if not discordance:
            return float(fewest(0) == 0)
        low, high = (int(end) for end in binom.isf((1 - _TAIL, _TAIL), self.rows, discordance))
        counts = np.arange(max(low, 0), high + 1)
        needed = np.array([fewest(count) for count in counts.tolist()])
        detected = binom.sf(needed - 1, counts, (discordance + drop) / (2 * discordance))
        return float((binom.pmf(counts, self.rows, discordance) * detected).sum())

    def text(self, limit: float | None) -> str:
        """Return one sentence for a report, without a full stop.

        Args:
            limit: Largest allowed drop, in the score's unit; None for the observed values only.
        """
        details = [f"{CONFIDENCE * 100:.0f} % interval {_format(self.low)} to {_format(self.high)}"]
        if self.losses is not None:
            details.append(f"{self.losses:,} lost, {self.gains:,} won")
        if self.p_value is not None:
            test = "randomization" if self.losses is None else "McNemar"
            details.append(f"{test} p {self.p_value:.2g}")
        observed = f"drop {_format(self.drop)} ({', '.join(details)})"
        rows = f"{self.rows:,} row{'s' if self.rows != 1 else ''}"
        if limit is None:
            return f"{observed} on {rows}"
        if self.high <= limit:
            return f"{observed}: within the limit of {limit:g} on {rows}"
        if self.low > limit:
            return f"{observed}: above the limit of {limit:g} on {rows}"
        inconclusive = f"{observed}: inconclusive against the limit of {limit:g} on {rows}"
        needed = self.rows_needed(limit)
        if needed is None:
            return f"{inconclusive}, and no number of rows would decide at exactly this drop"
        return f"{inconclusive}, about {_round_up(needed):,} would decide"

    def _standard_error(self) -> float:
        """Return the standard error of the drop of a score that is not a mean of correct rows."""
        return math.sqrt(self._variance(-math.inf) / self.rows)

    def _variance(self, limit: float) -> float:
        """Return the variance of one row's difference (reference minus candidate), or its equivalent for other scores.

        A set of 20 rows without a flip does not make flips impossible. So one row is added to each of the four cells
        (Laplace's rule of succession). Otherwise few rows without a flip would need fewer rows than those that have
        just not decided.
        """
        if self.losses is None or self.gains is None:
            # A skewed interval must be decided by its half width towards the limit, not by the mean half width.
            towards_limit = self.high - self.drop if limit > self.drop else self.drop - self.low
            half_width = max(towards_limit, (self.high - self.low) / 2)
            return self.rows * (half_width / Z_BOUND) ** 2
        lost = (self.losses + 1) / (self.rows + 4)
        won = (self.gains + 1) / (self.rows + 4)
        return lost + won - (lost - won) ** 2


def compare(metric: Metric, candidate: Evidence, reference: Evidence) -> Paired:
    """Compare a metric of two models on the same rows.

    Args:
        metric: Metric to compare: a binary one by :func:`proportions`, any other by :func:`bootstrap`.
        candidate: Evidence of the candidate, e.g. the quantized model: float64 ``[rows, k]``.
        reference: Evidence of the reference, e.g. the torch model: float64 ``[rows, k]``.

    Raises:
        UsageError: If the rows differ, or a value is not finite.
        SamplesError: If there is no row, or the score is not defined on the rows.
    """
    if candidate.shape != reference.shape or candidate.ndim != 2:
        raise UsageError(
            f"The candidate's evidence has the shape {list(candidate.shape)}, the reference's {list(reference.shape)}, "
            "expected [rows, k] of both. Pass both models' answers to the same rows in the same order.",
            code="rows-differ",
        )
    _check_rows(len(candidate))
    for name, evidence in (("candidate", candidate), ("reference", reference)):
        broken = int((~np.isfinite(evidence)).any(axis=1).sum())
        if broken:
            raise UsageError(
                f"{broken} of {len(evidence)} rows of the {name} contribute NaN or infinity to {metric.name}, expected "
                "numbers. A model with such outputs cannot be scored: reject it.",
                code="outputs-not-finite",
            )
    if metric.binary:
        return proportions(reference[:, 0] > 0, candidate[:, 0] > 0)
    return bootstrap(metric, candidate, reference)


def proportions(reference_right: np.ndarray, candidate_right: np.ndarray) -> Paired:
    """Compare two accuracies on the same rows: Tango's score interval and the exact McNemar test.

    Args:
        reference_right: Flags of the rows that the reference answers correctly: bool ``[rows]``.
        candidate_right: Flags of the rows that the candidate answers correctly: bool ``[rows]``.

    Raises:
        UsageError: If the arguments are not two bool vectors of the same length.
        SamplesError: If there is no row.
    """
    for name, right in (("reference_right", reference_right), ("candidate_right", candidate_right)):
        if right.dtype != np.bool_ or right.ndim != 1:
            raise UsageError(
                f"{name} is {right.dtype} of shape {list(right.shape)}, expected bool [rows]. "
                "Compare the answers with the truth first.",
                code="rows-differ",
            )
    if len(reference_right) != len(candidate_right):
        raise UsageError(
            f"There are {len(reference_right)} rows of the reference and {len(candidate_right)} of the candidate. "
            "Pass the same rows of both.",
            code="rows-differ",
        )
    rows = len(reference_right)
    _check_rows(rows)
    from scipy.stats import binomtest  # devices lack scipy, and the import is slow

    losses = int((reference_right & ~candidate_right).sum())
    gains = int((~reference_right & candidate_right).sum())
    low, high = tango_interval(losses, gains, rows)
    p_value = float(binomtest(losses, losses + gains, 0.5).pvalue) if losses + gains else 1.0
    return Paired(rows, losses, gains, (losses - gains) / rows, low, high, p_value)


def bootstrap(metric: Metric, candidate: Evidence, reference: Evidence, seed: int = 0, resamples: int = 2000) -> Paired:
    """Compare two scores that are not means of correct rows: percentile bootstrap over rows, and a randomization test.

    Both models are scored on the same resamples, which makes the comparison paired. Source: Efron B. and Tibshirani R.
    J., An Introduction to the Bootstrap (1993), chapter 13. Two additions keep the resampling from implying a false
    certainty:

    - If every resample gives the same drop (two models with equal answers), the interval is that of
      :func:`tango_interval` without a discordant row, around the drop. It assumes that a row with another answer
      changes the score by ``1 / rows``.
    - The interval always contains the drop. The percentiles of a biased score may not.

    The p-value is that of approximate randomization: the share of ``resamples`` random exchanges of the models' rows
    whose difference is at least as large as the observed one. Source: Noreen E. W., Computer-Intensive Methods for
    Testing Hypotheses (1989), chapter 2; Yeh A., COLING 2000, arXiv:cs/0008005.

    Args:
        metric: Metric to compare. A resample on which its score is NaN is drawn again.
        candidate: Evidence of the candidate: float64 ``[rows, k]``.
        reference: Evidence of the reference: float64 ``[rows, k]``.
        seed: Random seed for the resampling.
        resamples: Number of resamples, at least 100.

    Raises:
        SamplesError: If there is no row, the score is NaN on all rows, or it is defined on too few resamples.
        UsageError: If there are too few resamples.
    """
    rows = len(reference)
    _check_rows(rows)
    if resamples < _FEWEST_RESAMPLES:
        raise UsageError(
            f"The bootstrap has {resamples} resamples, expected at least {_FEWEST_RESAMPLES}: "
            "the ends of the interval are their 5 % and 95 % points.",
            code="statistics-argument",
        )
    drop = float(_drops(metric, candidate, reference, np.ones((1, rows), np.int64))[0])
    if math.isnan(drop):
        raise SamplesError(metric.undefined, code="metric-undefined")
    drops = _resample_drops(metric, candidate, reference, seed, resamples)
    low, high = (float(q) for q in np.quantile(drops, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    if drops.min() == drops.max():
        below, above = tango_interval(0, 0, rows)
        low = drop + below
        high = drop + above
    p_value = _randomization(metric, candidate, reference, abs(drop), seed, resamples)
    return Paired(rows, None, None, drop, min(low, drop), max(high, drop), p_value)


def _resample_drops(metric: Metric, candidate: Evidence, reference: Evidence, seed: int, resamples: int) -> np.ndarray:
    """Return the drop on each resample, without those on which a score is NaN: float64 ``[resamples]``."""
    rows = len(reference)
    generator = np.random.default_rng(seed)
    drops = np.zeros(0)
    for _ in range(_TRIES * math.ceil(resamples / _chunk_size(rows))):
        count = min(_chunk_size(rows), resamples)
        indices = generator.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        weights = np.bincount(indices.ravel(), minlength=count * rows).reshape(count, rows)
        chunk = _drops(metric, candidate, reference, weights)
        drops = np.concatenate([drops, chunk[~np.isnan(chunk)]])[:resamples]
        if len(drops) == resamples:
            return drops
    raise SamplesError(
        f"{metric.name} is defined on {len(drops)} of {_TRIES * resamples} resamples of the {rows} rows, expected "
        f"{resamples}: nearly all labels are equal. Add samples with different labels.",
        code="metric-undefined",
    )


def _randomization(
    metric: Metric, candidate: Evidence, reference: Evidence, observed: float, seed: int, shuffles: int
) -> float:
    """Return the p-value of approximate randomization. A shuffle with an undefined score counts as a larger one."""
    rows = len(reference)
    generator = np.random.default_rng([seed, 1])
    both = np.concatenate([reference, candidate])
    larger = 0
    for start in range(0, shuffles, _chunk_size(2 * rows)):
        count = min(_chunk_size(2 * rows), shuffles - start)
        swapped = generator.integers(0, 2, (count, rows))
        first = np.concatenate((1 - swapped, swapped), axis=1)
        second = np.concatenate((swapped, 1 - swapped), axis=1)
        differences = np.abs(metric.score(both, first) - metric.score(both, second))
        larger += int((~(differences < observed - 1e-12)).sum())
    return (larger + 1) / (shuffles + 1)


def _drops(metric: Metric, candidate: Evidence, reference: Evidence, weights: np.ndarray) -> np.ndarray:
    """Return the candidate's loss of score on each resample: float64 ``[resamples]``, NaN if a score is NaN."""
    drops = metric.score(reference, weights) - metric.score(candidate, weights)
    return drops if metric.higher_is_better else -drops


def _chunk_size(rows: int) -> int:
    """Return the number of resamples whose weights take about 32 MB."""
    return max(1, 2**22 // max(rows, 1))


def _check_rows(rows: int) -> None:
    if rows < 1:
        raise SamplesError(
            "There is no row to compare the models on, expected at least one. Provide labelled samples.",
            code="samples-empty",
        )


def _format(value: float) -> str:
    """Format with four decimals, without a minus sign before zero."""
    return f"{round(value, 4) + 0.0:.4f}"


def _round_up(value: int) -> int:
    """Round up to two significant digits: a sample size is an estimate and must not look more precise."""
    step = int(10 ** max(len(str(value)) - 2, 0))
    return -(-value // step) * step
