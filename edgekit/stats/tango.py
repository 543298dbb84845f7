"""Tango's score interval for the difference of two paired proportions.

The interval keeps its confidence level with few discordant rows, and has a width with none, where the textbook (Wald)
interval is 0 to 0.

Source: Tango T., Statistics in Medicine 17 (1998) 891-908.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from edgekit.spec.errors import UsageError

__all__ = ["CONFIDENCE", "Z_BOUND", "fewest_rows", "is_above", "tango_interval"]

CONFIDENCE = 0.90
"""Confidence level of the two-sided interval. Each of its ends is a one-sided 95 % bound."""

Z_BOUND = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Quantile of the standard normal distribution for one end of the interval."""

_MOST_ROWS = 10**15  # largest result of fewest_rows: a limit close to 0 would need more than a float holds
_HALVINGS = 64  # of an interval of at most 2: below the spacing of float64


def tango_interval(losses: int, gains: int, rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of ``(losses - gains) / rows``, the difference of two paired proportions.

    Args:
        losses: Number of rows that only the first model answers correctly, 0 to ``rows``.
        gains: Number of rows that only the second model answers correctly, 0 to ``rows - losses``.
        rows: Number of all rows, concordant rows included; at least 1.
        confidence: Two-sided confidence level, above 0 and below 1.

    Returns:
        Lower and upper end, -1 to 1.

    Raises:
        UsageError: If an argument is out of range.
    """
    if rows < 1 or losses < 0 or gains < 0 or losses + gains > rows or not 0 < confidence < 1:
        raise UsageError(
            f"The interval of {losses} losses and {gains} gains in {rows} rows at a confidence of {confidence:g} is "
            "not defined. Expected counts of at least 0 with a sum of at most the rows, at least one row, and a "
            "confidence between 0 and 1.",
            code="statistics-argument",
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return -_upper_end(gains, losses, rows, z), _upper_end(losses, gains, rows, z)


def fewest_rows(limit: float) -> int:
    """Return the number of rows that proves a drop within ``limit`` for two models without any discordant row.

    The upper end of :func:`tango_interval` is then ``z^2 / (rows + z^2)``.

    Args:
        limit: Largest allowed drop, above 0.
    """
    return max(1, math.ceil(min(Z_BOUND**2 * (1 - limit) / limit, _MOST_ROWS)))


def is_above(losses: int, gains: int, rows: int, margin: float) -> bool:
    """Return whether the lower end of the 90 % interval lies above a margin, i.e. the score test rejects the margin."""
    distance = losses - gains - rows * margin
    return distance > 0 and distance * distance > Z_BOUND**2 * rows * _variance(margin, losses, gains, rows)


def _upper_end(losses: int, gains: int, rows: int, z: float) -> float:
    """Return the upper end of the interval. The lower end is the negated upper end for swapped counts.

    The score statistic falls with the difference, so the differences that it does not reject end at one point, which
    bisection finds. A root finder would stop at the estimate if no row is discordant: both sides of the equation are 0
    there.
    """
    inside = (losses - gains) / rows
    outside = 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if (losses - gains - rows * middle) ** 2 <= z * z * rows * _variance(middle, losses, gains, rows):
            inside = middle
        else:
            outside = middle
    return inside


def _variance(difference: float, losses: int, gains: int, rows: int) -> float:
    """Return the variance of one row's difference, if the true difference is ``difference``.

    The other parameter is estimated by maximum likelihood (Tango 1998): the probability ``q`` of a gain is the larger
    root of ``2 rows q^2 + linear q + constant``, and the probability of a loss is ``q + difference``.
    """
    linear = -losses - gains + (2 * rows - losses + gains) * difference
    constant = -gains * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * rows * constant, 0.0))
    # Of the two forms of the root, use the one without a difference of nearly equal numbers.
    q = -2 * constant / (root + linear) if linear > 0 else (root - linear) / (4 * rows)
    return max(2 * q + difference * (1 - difference), 0.0)
