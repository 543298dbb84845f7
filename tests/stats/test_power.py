"""Power of a comparison against the sum over all outcomes, against simulations with the interval, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit.spec.protocols import Metric, additive
from edgekit.stats.paired import Paired, bootstrap, tango_interval


def of(losses, gains, rows):
    return Paired(rows, losses, gains, (losses - gains) / rows, *tango_interval(losses, gains, rows), 1.0)


def by_all_outcomes(comparison, drop, margin):
    """Sum the trinomial probability of every table of losses and gains whose interval lies above the margin."""
    discordance = max((comparison.losses + comparison.gains) / comparison.rows, abs(drop))
    lost = (discordance + drop) / 2
    cells = [lost, max(discordance - lost, 0.0), 1 - discordance]
    total = 0.0
    for b in range(comparison.rows + 1):
        for c in range(comparison.rows + 1 - b):
            if tango_interval(b, c, comparison.rows)[0] > margin:
                total += scipy.stats.multinomial.pmf([b, c, comparison.rows - b - c], comparison.rows, cells)
    return total


@pytest.mark.parametrize(
    ("drop", "margin"),
    [(0.0, 0.0), (0.1, 0.0), (0.1, 0.05), (0.3, 0.1), (0.05, 0.05), (-0.05, 0.0), (0.9, 0.0), (0.02, -0.05)],
)
def test_power_against_all_outcomes(drop, margin):
    for comparison in (of(4, 2, 40), of(0, 0, 25), of(9, 9, 30)):
        assert comparison.power(drop, margin) == pytest.approx(by_all_outcomes(comparison, drop, margin), abs=1e-8)


@pytest.mark.parametrize(("margin", "drop"), [(0.0, 0.012), (0.01, 0.022), (0.01, 0.01)])
def test_power_against_draws(margin, drop):
    """The interval decides about simulated sets of 1,821 rows of which 4 % flip."""
    comparison = of(37, 36, 1821)
    discordance = 73 / 1821
    draw = np.random.default_rng(0)
    outcomes = draw.multinomial(1821, [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance], size=3000)
    hits = sum(tango_interval(b, c, 1821)[0] > margin for b, c, _ in outcomes.tolist())
    assert scipy.stats.binomtest(hits, 3000, comparison.power(drop, margin)).pvalue > 1e-4


def test_the_drop_that_is_resolvable_is_found_in_80_percent():
    for comparison in (of(9, 9, 1821), of(0, 0, 1821), of(91, 91, 1821), of(3, 1, 100)):
        for margin in (0.0, 0.01):
            drop = comparison.resolvable(margin)
            assert comparison.power(drop, margin) == pytest.approx(0.8, abs=2e-4)
            assert comparison.power(drop - 1e-4, margin) < 0.8


def test_with_many_flips_it_is_the_formula_of_the_sample_size():
    """It is (z_.95 + z_.80) sqrt(variance / N), or 2.49 sqrt(f / N): 0.0124 for 2,000 rows of which 5 % flip."""
    assert of(50, 50, 2000).resolvable() == pytest.approx(2.4865 * math.sqrt(0.05 / 2000), rel=0.02)
    assert of(500, 500, 10000).resolvable() == pytest.approx(2.4865 * math.sqrt(0.1 / 10000), rel=0.01)


def test_a_statement_with_few_flips():
    """Without an observed flip, all flips are losses, and 3 losses without a gain are the fewest that decide."""
    comparison = of(0, 0, 1821)
    assert tango_interval(3, 0, 1821)[0] > 0 > tango_interval(2, 0, 1821)[0]
    drop = comparison.resolvable()
    assert scipy.stats.binom.sf(2, 1821, drop) == pytest.approx(0.8, abs=0.001)


def test_no_flip_and_no_drop():
    assert of(0, 0, 50).power(0.0) == 0.0
    assert of(0, 0, 50).power(0.0, tango_interval(0, 0, 50)[0] - 0.001) == 1.0


def test_too_few_rows_to_find_anything():
    assert of(0, 0, 1).resolvable() is None
    assert of(0, 0, 2).resolvable() is None
    assert 0.5 < of(0, 0, 3).resolvable() < 1
    assert of(2, 1, 300).resolvable(0.999) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.data())
def test_power_grows_with_the_drop_and_falls_with_the_margin(rows, data):
    losses = data.draw(st.integers(0, rows))
    comparison = of(losses, data.draw(st.integers(0, rows - losses)), rows)
    drops = [comparison.power(drop) for drop in np.linspace(-1, 1, 21)]
    assert all(0 <= p <= 1 + 1e-9 for p in drops)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(drops))
    margins = [comparison.power(0.3, margin) for margin in (0.0, 0.05, 0.2, 0.3)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(margins))


def test_a_drop_that_cannot_be():
    for drop in (1.01, -1.5, math.nan):
        with refused("statistics-argument", "1"):
            of(1, 1, 10).power(drop)


def test_scores_that_are_no_mean_of_rows():
    """The bootstrap of a mean agrees with the exact sum if there are many flips."""
    mean = Metric("mean", additive(lambda s: s[:, 0] / s[:, 1]))
    reference = np.stack([np.repeat([1.0, -1.0, 0.0], [60, 60, 1880]), np.ones(2000)], axis=1)
    normal = bootstrap(mean, reference * (0.0, 1.0), reference)
    exact = of(60, 60, 2000)
    assert normal.resolvable() == pytest.approx(exact.resolvable(), rel=0.08)
    assert normal.resolvable(0.01) == pytest.approx(0.01 + normal.resolvable(), abs=1e-12)
    assert normal.power(normal.resolvable()) == pytest.approx(0.8, abs=1e-6)
    assert normal.power(0.01, 0.01) == pytest.approx(0.05, abs=1e-6)
    assert Paired(100, None, None, 0.1, 0.1, 0.1, None).power(0.2) == 1.0
    # A skewed interval: the test looks at its lower end, so the lower arm of 0.03 counts, not half the width.
    skewed = Paired(100, None, None, 0.02, -0.01, 0.03, None)
    assert skewed.resolvable() == pytest.approx(2.4865 * 0.03 / 1.6449, rel=1e-3)
