"""A candidate against the reference, row by row on the same samples: how large the drop is, and what the rows can prove of it.

Two scores of one set are compared by the rows on which the two models differ. Two separate intervals would count the difficulty
of the samples twice, and call a drop unproved that the pairs prove.
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

__all__ = ["CONFIDENCE", "Paired", "bootstrap", "compare", "fewest_rows", "proportions", "tango_interval"]

CONFIDENCE = 0.90
"""Of the two-sided interval; each of its ends is a one-sided 95 % bound."""

_Z_BOUND = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_POWER = 0.80
_Z_POWER = NormalDist().inv_cdf(_POWER)
_TAIL = 1e-10  # probability of the numbers of discordant rows that a power leaves out, at each end
_DROP_HALVINGS = 20  # of the drops from 0 to 1: to one in a million
_FEWEST_RESAMPLES = 100  # 5 of them lie outside each end
_MOST_ROWS = 10**15  # that a number is given for: a limit of next to nothing would need more than a float holds
_TRIES = 10  # draws for one resample, on average, before the samples are called unfit
_HALVINGS = 64  # of an interval of at most 2: below the spacing of float64


@dataclass(frozen=True)
class Paired:
    """What the same rows say of two models.

    Attributes:
        rows: samples that both models answered.
        losses: rows that the reference has right and the candidate wrong; None for a score that is no mean of rows (micro F1, Pearson r).
        gains: rows that the candidate has right and the reference wrong; None where ``losses`` is.
        drop: how much worse the candidate's score is, in the score's unit (0.01 is one point of accuracy); negative when the candidate is better.
        low: lower end of the two-sided 90 % confidence interval of the drop.
        high: its upper end. It is thereby a one-sided 95 % bound, which is what a non-inferiority gate compares with the limit.
        p_value: exact two-sided McNemar test of "losses and gains are equally likely", 0 to 1; where ``losses`` is None, of approximate randomization.
    """

    rows: int
    losses: int | None
    gains: int | None
    drop: float
    low: float
    high: float
    p_value: float | None

    def is_resolved(self, limit: float) -> bool:
        """Whether the rows settle if the drop is within ``limit``: the interval lies wholly at or below it, or wholly above."""
        return self.high <= limit or self.low > limit

    def rows_needed(self, limit: float) -> int | None:
        """Rows that would settle it with a probability of 80 %, should the drop and the discordance stay as seen.

        The paired sample size of a non-inferiority test, one-sided alpha 5 %: ``(z_.95 + z_.80)^2 variance / (limit - drop)^2``.

        Args:
            limit: the largest drop that is allowed, in the score's unit.

        Returns:
            The number of rows in all, not in addition; None where the drop equals the limit, which no number of rows can tell apart.
        """
        distance = limit - self.drop
        if math.isclose(self.drop, limit, rel_tol=1e-9, abs_tol=1e-12):
            return None
        needed = max(1, math.ceil((_Z_BOUND + _Z_POWER) ** 2 * self._variance(limit) / distance**2))
        # The normal formula asks for too few where hardly a row differs: not even a set without a flip would prove it.
        return max(needed, fewest_rows(limit)) if self.losses is not None and limit > 0 and distance > 0 else needed

    def power(self, drop: float, margin: float = 0.0) -> float:
        """Probability that as many rows as these would prove a true drop to be above ``margin``: that ``low`` would come out above it.

        For right and wrong rows it is the exact sum over the outcomes (losses, gains) of the trinomial whose discordance, the share of rows
        that only one model has right, is the one seen; a larger drop raises it, and has no gains. So no flip seen is no certainty here, and
        no row needs to be added. The formula of :meth:`rows_needed` does not see that: of a loss and a gain in 1,821 rows it says 0.80
        for 0.0127 against 0.01, where 0.31 is true. Other scores are taken for normal, with the standard error that the interval implies.

        Args:
            drop: the true one, in the score's unit; of an accuracy -1 to 1.
            margin: the largest drop that is allowed.

        Raises:
            UsageError: for an accuracy and a drop that is none.
        """
        if self.losses is None or self.gains is None:
            error = math.sqrt(self._variance(-math.inf) / self.rows)
            return NormalDist().cdf((drop - margin) / error - _Z_BOUND) if error else float(drop > margin)
        if not -1 <= drop <= 1:
            raise UsageError(
                f"The power at a drop of {drop:g} was asked for, expected -1 to 1: an accuracy cannot fall by more.",
                code="statistics-argument",
            )
        return self._exact_power(self._fewest_losses(margin), drop)

    def resolvable(self, margin: float = 0.0) -> float | None:
        """The smallest true drop that as many rows as these would prove to be above ``margin`` with a probability of 80 %.

        Args:
            margin: the largest drop that is allowed, in the score's unit.

        Returns:
            The drop at which :meth:`power` is 0.80; None where not even the loss of every row would be found, as with a single row.
        """
        if self.losses is None or self.gains is None:
            return margin + (_Z_BOUND + _Z_POWER) * math.sqrt(self._variance(-math.inf) / self.rows)
        fewest = self._fewest_losses(margin)
        missed, found = max(margin, -1.0), 1.0
        if self._exact_power(fewest, found) < _POWER:
            return None
        for _ in range(_DROP_HALVINGS):
            middle = (missed + found) / 2
            if self._exact_power(fewest, middle) < _POWER:
                missed = middle
            else:
                found = middle
        return found

    def _fewest_losses(self, margin: float) -> Callable[[int], int]:
        """From a number of discordant rows to the fewest losses among them whose interval lies above the margin; one more than there are where none does."""

        def fewest(discordant: int) -> int:
            return bisect.bisect_left(
                range(discordant + 1), True, key=lambda losses: _above(losses, discordant - losses, self.rows, margin)
            )

        return functools.cache(fewest)  # a power at another drop asks for the same numbers

    def _exact_power(self, fewest: Callable[[int], int], drop: float) -> float:
        from scipy.stats import binom  # not on a device, and slow to import

        assert self.losses is not None and self.gains is not None
        discordance = max((self.losses + self.gains) / self.rows, abs(drop))
        if not discordance:
            return float(fewest(0) == 0)
        low, high = (int(end) for end in binom.isf((1 - _TAIL, _TAIL), self.rows, discordance))
        counts = np.arange(max(low, 0), high + 1)
        found = binom.sf(
            np.array([fewest(n) for n in counts.tolist()]) - 1, counts, (discordance + drop) / (2 * discordance)
        )
        return float((binom.pmf(counts, self.rows, discordance) * found).sum())

    def text(self, limit: float | None) -> str:
        """One sentence for a report.

        Args:
            limit: the largest drop that is allowed, in the score's unit; None to say only what was seen.
        """
        counts = "" if self.losses is None else f", {self.losses:,} lost, {self.gains:,} won"
        test = (
            ""
            if self.p_value is None
            else f", {'randomization' if self.losses is None else 'McNemar'} p {self.p_value:.2g}"
        )
        seen = f"drop {_four(self.drop)} ({CONFIDENCE:.0%} interval {_four(self.low)} to {_four(self.high)}{counts}{test})".replace(
            "%", " %"
        )
        by = f"{self.rows:,} row{'s' if self.rows != 1 else ''}"
        if limit is None:
            return f"{seen} by {by}"
        if self.is_resolved(limit):
            return f"{seen}: {'within' if self.high <= limit else 'above'} {limit:g} by {by}"
        needed = self.rows_needed(limit)
        more = (
            "and no number would at a drop of just that"
            if needed is None
            else f"about {_two_digits_up(needed):,} would"
        )
        return f"{seen}: not resolved against {limit:g} by {by}, {more}"

    def _variance(self, limit: float) -> float:
        """Variance of one row's difference (reference right minus candidate right), or what stands for it in another score.

        No flip in 20 rows does not make flips impossible. So one row is added to each of the four cells, as Laplace's rule of
        succession does; with less, a few rows without a flip would "need" fewer rows than those that have just not settled it.
        """
        if self.losses is None or self.gains is None:
            # The arm towards the limit: a skewed interval is not settled by its mean width.
            arm = max(self.high - self.drop if limit > self.drop else self.drop - self.low, (self.high - self.low) / 2)
            return self.rows * (arm / _Z_BOUND) ** 2
        lost, won = (self.losses + 1) / (self.rows + 4), (self.gains + 1) / (self.rows + 4)
        return lost + won - (lost - won) ** 2


def compare(metric: Metric, candidate: Evidence, reference: Evidence) -> Paired:
    """Compares a metric of two models on the same rows.

    Args:
        metric: whose score is compared: a binary one by :func:`proportions`, any other by :func:`bootstrap`.
        candidate: float64 ``[rows, k]``, what each row contributes to the score of the candidate, e.g. of the quantized model.
        reference: the same of the reference, e.g. of the torch model.

    Raises:
        UsageError: when the two are not of the same rows, or not finite.
        SamplesError: when there is no row, or the score is not defined on them.
    """
    if candidate.shape != reference.shape or candidate.ndim != 2:
        raise UsageError(
            f"The candidate's evidence has the shape {list(candidate.shape)}, the reference's {list(reference.shape)}, expected [rows, k] of both. "
            "Give both models' answers to the same rows in the same order.",
            code="rows-differ",
        )
    _check_rows(len(candidate))
    for name, evidence in (("candidate", candidate), ("reference", reference)):
        if broken := int((~np.isfinite(evidence)).any(axis=1).sum()):
            raise UsageError(
                f"{broken} of {len(evidence)} rows of the {name} contribute NaN or infinity to {metric.name}, expected numbers. "
                "A model that answers so cannot be scored: reject it.",
                code="outputs-not-finite",
            )
    if metric.binary:
        return proportions(reference[:, 0] > 0, candidate[:, 0] > 0)
    return bootstrap(metric, candidate, reference)


def proportions(reference_right: np.ndarray, candidate_right: np.ndarray) -> Paired:
    """Compares two accuracies on the same rows: Tango's score interval and the exact McNemar test.

    Args:
        reference_right: bool ``[rows]``, whether the reference answers the row rightly.
        candidate_right: bool ``[rows]``, the same of the candidate.

    Raises:
        UsageError: when they are not two bool vectors of one length.
        SamplesError: when there is no row.
    """
    for name, right in (("reference_right", reference_right), ("candidate_right", candidate_right)):
        if right.dtype != np.bool_ or right.ndim != 1:
            raise UsageError(
                f"{name} is {right.dtype} of shape {list(right.shape)}, expected bool [rows]. Compare the answers with the truth first.",
                code="rows-differ",
            )
    if len(reference_right) != len(candidate_right):
        raise UsageError(
            f"There are {len(reference_right)} rows of the reference and {len(candidate_right)} of the candidate. Give the same rows of both.",
            code="rows-differ",
        )
    rows = len(reference_right)
    _check_rows(rows)
    from scipy.stats import binomtest  # not on a device, and slow to import

    losses = int((reference_right & ~candidate_right).sum())
    gains = int((~reference_right & candidate_right).sum())
    low, high = tango_interval(losses, gains, rows)
    p_value = float(binomtest(losses, losses + gains, 0.5).pvalue) if losses + gains else 1.0
    return Paired(rows, losses, gains, (losses - gains) / rows, low, high, p_value)


def tango_interval(losses: int, gains: int, rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions, ``(losses - gains) / rows``.

    It holds its confidence with few discordant rows and has a width with none, where the textbook (Wald) interval says 0 to 0.
    Source: Tango T., Statistics in Medicine 17 (1998) 891-908.

    Args:
        losses: rows that only the first has right, 0 to ``rows``.
        gains: rows that only the second has right, 0 to ``rows - losses``.
        rows: all rows, those on which both are right or both wrong too; at least 1.
        confidence: two-sided, above 0 and below 1.

    Returns:
        Lower and upper end, -1 to 1.

    Raises:
        UsageError: for counts or a confidence out of these ranges.
    """
    if rows < 1 or losses < 0 or gains < 0 or losses + gains > rows or not 0 < confidence < 1:
        raise UsageError(
            f"The interval of {losses} losses and {gains} gains in {rows} rows at a confidence of {confidence:g} is not defined. Expected counts of 0 "
            "or more that together are no more than the rows, at least one row, and a confidence between 0 and 1.",
            code="statistics-argument",
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return -_upper(gains, losses, rows, z), _upper(losses, gains, rows, z)


def fewest_rows(limit: float) -> int:
    """Rows that prove a drop within ``limit`` of two models that agree on all: :func:`tango_interval` then ends at ``z^2 / (rows + z^2)``.

    Args:
        limit: the largest drop that is allowed, above 0.
    """
    return max(1, math.ceil(min(_Z_BOUND**2 * (1 - limit) / limit, _MOST_ROWS)))


def bootstrap(metric: Metric, candidate: Evidence, reference: Evidence, seed: int = 0, resamples: int = 2000) -> Paired:
    """Compares two scores that are no mean of right and wrong rows: percentile interval over rows drawn with replacement, and a randomization test.

    Both models are scored on the same draw, which is what pairs them. Source: Efron B. and Tibshirani R. J., An Introduction to the
    Bootstrap (1993), chapter 13. Two things are added, because a gate must not read certainty off the resampling itself:

    - Where every resample gives the same drop (two models that answer alike), the interval is that of :func:`tango_interval` for no
      discordant row, around the drop. It takes a row that is answered differently to weigh ``1 / rows``.
    - The interval always holds the drop: of a biased score the percentiles alone need not.

    The p-value is that of approximate randomization: the share of ``resamples`` random exchanges of both models' rows that bring about as large a
    difference. Source: Noreen E. W., Computer-Intensive Methods for Testing Hypotheses (1989), chapter 2; Yeh A., COLING 2000, arXiv:cs/0008005.

    Args:
        metric: whose score is compared. A resample on which it is NaN is drawn again.
        candidate: float64 ``[rows, k]``.
        reference: float64 ``[rows, k]``.
        seed: of the draws: the same seed gives the same interval.
        resamples: at least 100.

    Raises:
        SamplesError: when there is no row, the score is not a number on all rows, or it is defined on too few of the resamples.
        UsageError: for too few resamples.
    """
    rows = len(reference)
    _check_rows(rows)
    if resamples < _FEWEST_RESAMPLES:
        raise UsageError(
            f"{resamples} resamples were asked for, expected at least {_FEWEST_RESAMPLES}: the ends of the interval are their 5 % and 95 % points.",
            code="statistics-argument",
        )
    drop = float(_drops(metric, candidate, reference, np.ones((1, rows), np.int64))[0])
    if math.isnan(drop):
        raise SamplesError(metric.undefined, code="metric-undefined")
    draw, drops = np.random.default_rng(seed), np.zeros(0)
    for _ in range(_TRIES * math.ceil(resamples / _at_once(rows))):
        count = min(_at_once(rows), resamples)
        drawn = draw.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        weights = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        found = _drops(metric, candidate, reference, weights)
        drops = np.concatenate([drops, found[~np.isnan(found)]])[:resamples]
        if len(drops) == resamples:
            break
    else:
        raise SamplesError(
            f"{metric.name} is defined on {len(drops)} of {_TRIES * resamples} resamples of the {rows} rows, expected {resamples}: "
            "their labels are nearly all equal. Give more samples, with different labels.",
            code="metric-undefined",
        )
    low, high = (float(q) for q in np.quantile(drops, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    if drops.min() == drops.max():
        below, above = tango_interval(0, 0, rows)
        low, high = drop + below, drop + above
    return Paired(
        rows,
        None,
        None,
        drop,
        min(low, drop),
        max(high, drop),
        _randomization(metric, candidate, reference, abs(drop), seed, resamples),
    )


def _randomization(
    metric: Metric, candidate: Evidence, reference: Evidence, observed: float, seed: int, shuffles: int
) -> float:
    """P-value of approximate randomization; a shuffle on which the score is not defined counts as one with a larger difference."""
    rows, draw = len(reference), np.random.default_rng([seed, 1])
    both, larger = np.concatenate([reference, candidate]), 0
    for start in range(0, shuffles, _at_once(2 * rows)):
        swapped = draw.integers(0, 2, (min(_at_once(2 * rows), shuffles - start), rows))
        first, second = (np.concatenate(parts, axis=1) for parts in ((1 - swapped, swapped), (swapped, 1 - swapped)))
        differences = np.abs(metric.score(both, first) - metric.score(both, second))
        larger += int((~(differences < observed - 1e-12)).sum())
    return (larger + 1) / (shuffles + 1)


def _drops(metric: Metric, candidate: Evidence, reference: Evidence, weights: np.ndarray) -> np.ndarray:
    """How much worse the candidate is on each resample: float64 ``[resamples]``, NaN where one of the scores is."""
    drops = metric.score(reference, weights) - metric.score(candidate, weights)
    return drops if metric.higher_is_better else -drops


def _at_once(rows: int) -> int:
    """Resamples whose weights take some 32 MB."""
    return max(1, 2**22 // max(rows, 1))


def _upper(b: int, c: int, n: int, z: float) -> float:
    """Upper end of Tango's interval for ``b`` losses and ``c`` gains in ``n`` rows; the lower end is the upper one of the swapped counts.

    The score statistic falls as the difference grows, so the differences that it does not reject end at one point, which bisection
    finds. A root finder would stop at the estimate itself, where both sides of the equation are 0 when no row is discordant.
    """
    inside, outside = (b - c) / n, 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if (b - c - n * middle) ** 2 <= z * z * n * _variance_at(middle, b, c, n):
            inside = middle
        else:
            outside = middle
    return inside


def _above(b: int, c: int, n: int, delta: float) -> bool:
    """Whether the lower end of the 90 % interval of ``b`` losses and ``c`` gains lies above ``delta``: the score test rejects it."""
    distance = b - c - n * delta
    return distance > 0 and distance * distance > _Z_BOUND**2 * n * _variance_at(delta, b, c, n)


def _variance_at(delta: float, b: int, c: int, n: int) -> float:
    """Variance of one row's difference where that difference is ``delta`` in truth, the rest by maximum likelihood (Tango 1998).

    The probability ``q`` of a gain is the larger root of ``2n q^2 + linear q + constant``; that of a loss is then ``q + delta``.
    """
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    # Of the two forms of the root the one that does not subtract numbers of like size.
    q = -2 * constant / (root + linear) if linear > 0 else (root - linear) / (4 * n)
    return max(2 * q + delta * (1 - delta), 0.0)


def _check_rows(rows: int) -> None:
    if rows < 1:
        raise SamplesError(
            "There is no row to compare the models on, expected at least one. Give labelled samples.",
            code="samples-empty",
        )


def _four(value: float) -> str:
    """Four decimals, and no minus before a zero."""
    return f"{round(value, 4) + 0.0:.4f}"


def _two_digits_up(value: int) -> int:
    """The next number of two significant digits: the sample size is an estimate and must not look finer."""
    step = int(10 ** max(len(str(value)) - 2, 0))
    return -(-value // step) * step
