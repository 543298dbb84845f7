"""Tango's interval against published tables, a brute-force inversion of the score test, and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_counts import compare_counts, counts
from refusals import refused

from edgekit.stats.paired import proportions
from edgekit.stats.tango import tango_interval


@pytest.mark.parametrize(
    ("losses", "gains", "rows", "confidence", "low", "high"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8; their R package
        # contingencytables tests the second.
        (1, 7, 21, 0.95, -0.517, -0.026),  # Bentur 2009
        (6, 16, 161, 0.95, -0.1240, -0.0054),  # Cavo 2012
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # R's PropCIs::scoreci.mp(25, 28, 618, 0.90)
    ],
)
def test_published_intervals(losses, gains, rows, confidence, low, high):
    digits = 3 if rows == 21 else 4
    assert tuple(round(end, digits) for end in tango_interval(losses, gains, rows, confidence)) == (low, high)


def brute_force(b, c, n, z):
    """Return the ends of the differences that the score test accepts.

    The nuisance parameter maximizes the trinomial likelihood numerically.
    """

    def statistic(delta):
        def minus_log_likelihood(q):
            cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
            return -sum(k * math.log(p) for k, p in cells if k)

        lowest = max(0.0, -delta)
        highest = (1 - delta) / 2
        gain = scipy.optimize.minimize_scalar(
            minus_log_likelihood,
            bounds=(lowest + 1e-13, highest - 1e-13),
            method="bounded",
            options={"xatol": 1e-13, "maxiter": 2000},
        ).x
        loss = gain + delta
        return ((b - c) / n - delta) / math.sqrt((gain + loss - (loss - gain) ** 2) / n)

    grid = np.linspace(-1, 1, 2001)[1:-1] + 1e-7  # not 0, where the statistic is 0 / 0 without a discordant row
    accepted = [d for d in grid if abs(statistic(d)) <= z]
    step = grid[1] - grid[0]
    low = scipy.optimize.brentq(lambda d: statistic(d) - z, accepted[0] - step, accepted[0])
    high = scipy.optimize.brentq(lambda d: statistic(d) + z, accepted[-1], accepted[-1] + step)
    return low, high


@pytest.mark.parametrize(
    ("losses", "gains", "rows"),
    [(12, 9, 872), (3, 0, 50), (0, 4, 40), (0, 0, 60), (40, 20, 160), (9, 1, 12), (7, 3, 10), (1, 1, 20)],
)
def test_interval_against_a_brute_force_inversion(losses, gains, rows):
    z = scipy.stats.norm.ppf(0.95)
    np.testing.assert_allclose(tango_interval(losses, gains, rows), brute_force(losses, gains, rows, z), atol=2e-6)
    result = compare_counts(losses, gains, rows)
    assert (result.low, result.high) == tango_interval(losses, gains, rows), (
        "the interval of a comparison is the 90 % one"
    )


def test_no_discordant_row_by_hand():
    """Without a discordant row the likelihood puts delta into one cell: n delta^2 = z^2 delta (1 - delta)."""
    z2 = scipy.stats.norm.ppf(0.95) ** 2
    for rows in (1, 20, 872, 10**6):
        assert tango_interval(0, 0, rows) == pytest.approx((-z2 / (rows + z2), z2 / (rows + z2)), rel=1e-9)


def test_all_rows_discordant():
    low, high = tango_interval(5, 0, 5)
    assert high == 1.0
    assert 0 < low < 0.5
    assert tango_interval(0, 5, 5) == (-1.0, -low)


@pytest.mark.parametrize(
    ("lost", "won", "rows"),
    [(0.02, 0.02, 200), (0.03, 0.01, 200), (0.10, 0.05, 60), (0.02, 0.002, 400), (0.05, 0.06, 120)],
)
def test_coverage_exactly(lost, won, rows):
    """Over all outcomes, the interval contains the truth in about 90 %, and its upper end bounds it in about 95 %."""
    within = bounded = mass = 0.0
    for losses in range(rows + 1):
        for gains in range(rows + 1 - losses):
            if losses + gains >= 45:
                continue
            weight = scipy.stats.binom.pmf(losses, rows, lost)
            weight *= scipy.stats.binom.pmf(gains, rows - losses, won / (1 - lost))
            if weight > 1e-9:
                low, high = tango_interval(losses, gains, rows)
                mass += weight
                within += weight * (low <= lost - won <= high)
                bounded += weight * (lost - won <= high)
    assert mass > 0.9999
    assert within == pytest.approx(0.90, abs=0.02)  # the outcomes are discrete, so 0.90 cannot be reached exactly
    assert bounded == pytest.approx(0.95, abs=0.015)


def test_coverage_by_simulation():
    """Right and wrong answers are drawn for 872 rows, the size of SST-2."""
    draw = np.random.default_rng(0)
    trials = 1500
    within = above = 0
    for _ in range(trials):
        kind = draw.choice(4, 872, p=[0.88, 0.02, 0.012, 0.088])  # both right, lost, won, both wrong
        result = proportions((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        within += result.low <= 0.008 <= result.high
        above += result.high < 0.008
    assert within / trials == pytest.approx(0.90, abs=4 * math.sqrt(0.09 / trials))
    assert above / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.0475 / trials))


@settings(deadline=None)
@given(counts())
def test_interval_contains_the_drop_and_stays_within_bounds(numbers):
    result = compare_counts(*numbers)
    assert -1 <= result.low <= result.drop <= result.high <= 1
    assert result.high - result.low > 0


@settings(deadline=None)
@given(counts())
def test_swapping_the_models_mirrors_everything(numbers):
    losses, gains, rows = numbers
    one = compare_counts(losses, gains, rows)
    other = compare_counts(gains, losses, rows)
    assert (other.drop, other.low, other.high, other.losses, other.gains) == (
        -one.drop,
        -one.high,
        -one.low,
        one.gains,
        one.losses,
    )
    assert other.p_value == pytest.approx(one.p_value, rel=1e-12)


@settings(deadline=None)
@given(counts(), st.integers(2, 9))
def test_more_of_the_same_rows_narrow_the_interval(numbers, copies):
    one = compare_counts(*numbers)
    more = compare_counts(*(copies * number for number in numbers))
    assert more.drop == pytest.approx(one.drop, abs=1e-15)
    assert more.high - more.low < one.high - one.low


@settings(deadline=None)
@given(counts(), st.floats(0.5, 0.98))
def test_more_confidence_is_wider(numbers, confidence):
    narrow = tango_interval(*numbers, confidence)
    wide = tango_interval(*numbers, confidence + 0.01)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide != narrow


@pytest.mark.parametrize("numbers", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5), (1, 1, 5, 0.0), (1, 1, 5, 1.0)])
def test_invalid_counts(numbers):
    with refused("statistics-argument", "0"):
        tango_interval(*numbers)
