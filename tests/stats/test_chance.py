"""Coefficients against scipy's and their definitions, and the jackknife against leaving out each item in turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from edgekit.stats import chance


def labels(count, items=150, right=0.6, seed=0):
    """Indicators of labels, one an item, of which a share is answered rightly."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, count, items)
    given = np.where(draw.random(items) < right, truth, draw.integers(0, count, items))
    return np.eye(count, dtype=bool)[truth], np.eye(count, dtype=bool)[given]


def test_phi_is_the_correlation_of_two_indicators():
    right, given = (side[:, 1] for side in labels(2))
    expected = scipy.stats.pearsonr(right.astype(float), given.astype(float)).statistic
    assert chance.phi(right, given).value == pytest.approx(expected)
    assert chance.phi(right, np.zeros(150, bool)).value == 0.0, "of an answer that is never given"


def test_gorodkins_coefficient_by_its_definition():
    """The covariance between the two matrices of indicators, over the root of their variances."""
    right, given = labels(5)
    x, y = (side - side.mean(axis=0) for side in (right.astype(float), given.astype(float)))
    assert chance.gorodkin(right, given).value == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    two = labels(2)
    assert chance.gorodkin(*two).value == pytest.approx(chance.phi(two[0][:, 1], two[1][:, 1]).value), (
        "of two labels it is phi"
    )


def test_coefficients_between_labels():
    right, given = labels(4)
    table = chance.phis(right, given)
    for i in range(4):
        for j in range(4):
            assert table[i, j] == pytest.approx(chance.phi(right[:, i], given[:, j]).value)


def test_r2_by_its_definition():
    draw = np.random.default_rng(1)
    right = draw.normal(3, 2, 60)
    given = 0.7 * right + draw.normal(size=60)
    assert chance.r2(right, given).value == pytest.approx(
        1 - ((right - given) ** 2).sum() / ((right - right.mean()) ** 2).sum()
    )


@pytest.mark.parametrize("name", ["phi", "gorodkin", "r2", "mean"])
def test_the_jackknife_leaves_out_each_item_in_turn(name):
    right, given = labels(3, items=40)
    if name == "phi":
        right, given = right[:, 0], given[:, 0]
    elif name == "r2":
        right, given = np.random.default_rng(2).normal(size=(2, 40))

    def of(a, b):
        return (
            chance.mean([chance.phi(a[:, j], b[:, j]) for j in range(3)])
            if name == "mean"
            else getattr(chance, name)(a, b)
        )

    whole = of(right, given)
    values = [of(np.delete(right, i, 0), np.delete(given, i, 0)).value for i in range(40)]
    np.testing.assert_allclose(whole.without, values, atol=1e-12)
    expected = scipy.stats.t.interval(
        0.95, 39, whole.value, np.sqrt(39 / 40 * ((np.array(values) - np.mean(values)) ** 2).sum())
    )
    assert whole.ends() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["phi", "gorodkin"])
def test_items_of_a_row_are_left_out_together(name):
    right, given = labels(3, items=60)
    if name == "phi":
        right, given = right[:, 0], given[:, 0]
    rows = np.repeat([0, 1, 2, 4, 5, 6], [1, 20, 5, 14, 18, 2])  # none of row 3
    whole, of = getattr(chance, name)(right, given, rows), getattr(chance, name)
    values = [of(right[rows != row], given[rows != row]).value for row in np.unique(rows)]
    np.testing.assert_allclose(whole.without, values, atol=1e-12)
    assert whole.value == of(right, given).value
    alone = of(right, given, np.arange(60))
    assert alone.value == of(right, given).value and np.array_equal(alone.without, of(right, given).without)
    copies = of(np.repeat(right, 9, axis=0), np.repeat(given, 9, axis=0), np.repeat(np.arange(60), 9))
    assert copies.ends() == pytest.approx(of(right, given).ends()), "nine copies of an item prove no more than the item"


def test_the_best_of_all_permutations():
    """The union bound of a normal distribution's tail, exp(-z^2 / 2), over all of them."""
    for count in (2, 5, 60):
        z = chance.standard_errors(count)
        assert math.exp(math.lgamma(count + 1) - z * z / 2) == pytest.approx(chance.TAIL)
