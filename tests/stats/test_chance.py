"""Coefficients against scipy and their definitions, and the jackknife against leaving out each item in turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from edgekit.stats import chance


def labels(count, items=150, right=0.6, seed=0):
    """Return one-hot true and answered labels, of which the share ``right`` agrees."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, count, items)
    answer = np.where(draw.random(items) < right, truth, draw.integers(0, count, items))
    return np.eye(count, dtype=bool)[truth], np.eye(count, dtype=bool)[answer]


def test_phi_is_the_correlation_of_two_indicators():
    right, answer = (side[:, 1] for side in labels(2))
    expected = scipy.stats.pearsonr(right.astype(float), answer.astype(float)).statistic
    assert chance.phi(right, answer).value == pytest.approx(expected)
    assert chance.phi(right, np.zeros(150, bool)).value == 0.0, "for an answer that never occurs"


def test_gorodkins_coefficient_by_its_definition():
    """It is the covariance of the two one-hot matrices over the root of their variances."""
    right, answer = labels(5)
    x, y = (side - side.mean(axis=0) for side in (right.astype(float), answer.astype(float)))
    assert chance.gorodkin(right, answer).value == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    two = labels(2)
    assert chance.gorodkin(*two).value == pytest.approx(chance.phi(two[0][:, 1], two[1][:, 1]).value), (
        "of two labels it is phi"
    )


def test_coefficients_between_labels():
    right, answer = labels(4)
    table = chance.phis(right, answer)
    for i in range(4):
        for j in range(4):
            assert table[i, j] == pytest.approx(chance.phi(right[:, i], answer[:, j]).value)


def test_r2_by_its_definition():
    draw = np.random.default_rng(1)
    right = draw.normal(3, 2, 60)
    answer = 0.7 * right + draw.normal(size=60)
    assert chance.r2(right, answer).value == pytest.approx(
        1 - ((right - answer) ** 2).sum() / ((right - right.mean()) ** 2).sum()
    )


@pytest.mark.parametrize("name", ["phi", "gorodkin", "r2", "mean"])
def test_the_jackknife_leaves_out_each_item_in_turn(name):
    right, answer = labels(3, items=40)
    if name == "phi":
        right = right[:, 0]
        answer = answer[:, 0]
    elif name == "r2":
        right, answer = np.random.default_rng(2).normal(size=(2, 40))

    def of(a, b):
        if name == "mean":
            return chance.mean([chance.phi(a[:, j], b[:, j]) for j in range(3)])
        return getattr(chance, name)(a, b)

    whole = of(right, answer)
    values = [of(np.delete(right, i, 0), np.delete(answer, i, 0)).value for i in range(40)]
    np.testing.assert_allclose(whole.without, values, atol=1e-12)
    expected = scipy.stats.t.interval(
        0.95, 39, whole.value, np.sqrt(39 / 40 * ((np.array(values) - np.mean(values)) ** 2).sum())
    )
    assert whole.ends() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["phi", "gorodkin"])
def test_items_of_a_row_are_left_out_together(name):
    right, answer = labels(3, items=60)
    if name == "phi":
        right = right[:, 0]
        answer = answer[:, 0]
    rows = np.repeat([0, 1, 2, 4, 5, 6], [1, 20, 5, 14, 18, 2])  # row 3 has no items
    of = getattr(chance, name)
    whole = of(right, answer, rows)
    values = [of(right[rows != row], answer[rows != row]).value for row in np.unique(rows)]
    np.testing.assert_allclose(whole.without, values, atol=1e-12)
    assert whole.value == of(right, answer).value
    alone = of(right, answer, np.arange(60))
    assert alone.value == of(right, answer).value and np.array_equal(alone.without, of(right, answer).without)
    copies = of(np.repeat(right, 9, axis=0), np.repeat(answer, 9, axis=0), np.repeat(np.arange(60), 9))
    assert copies.ends() == pytest.approx(of(right, answer).ends()), (
        "nine copies of an item prove no more than the item"
    )


def test_the_best_of_all_permutations():
    """The threshold is the union bound of the normal tail, exp(-z^2 / 2), over all permutations."""
    for count in (2, 5, 60):
        z = chance.standard_errors(count)
        assert math.exp(math.lgamma(count + 1) - z * z / 2) == pytest.approx(chance.TAIL)
