"""Paired comparisons of accuracies: the McNemar test, sample sizes and texts, against scipy and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_counts import compare_counts, counts
from refusals import refused

from edgekit.stats.paired import Paired, proportions
from edgekit.stats.tango import tango_interval

# ---- McNemar and the counts


def test_mcnemar_by_hand():
    """One loss of six: 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64."""
    assert compare_counts(1, 5, 40).p_value == pytest.approx(14 / 64, rel=1e-12)
    assert compare_counts(8, 0, 40).p_value == pytest.approx(2 / 2**8, rel=1e-12)
    assert compare_counts(4, 4, 40).p_value == compare_counts(0, 0, 40).p_value == 1.0


@settings(deadline=None)
@given(counts())
def test_mcnemar_against_scipy(numbers):
    losses, gains, _ = numbers
    result = compare_counts(*numbers)
    assert (result.losses, result.gains, result.rows) == numbers
    if losses + gains:
        assert result.p_value == scipy.stats.binomtest(losses, losses + gains).pvalue


def test_the_drop_is_the_difference_of_the_accuracies():
    draw = np.random.default_rng(1)
    reference = draw.random(500) < 0.9
    candidate = draw.random(500) < 0.8
    assert proportions(reference, candidate).drop == pytest.approx(reference.mean() - candidate.mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("reference", "candidate", "error"),
    [
        (np.ones(3, bool), np.ones(4, bool), ("rows-differ", "3", "4")),
        (np.ones(3), np.ones(3, bool), ("rows-differ", "reference_right", "float64")),
        (np.ones(3, bool), np.ones((3, 1), bool), ("rows-differ", "candidate_right", "[3, 1]")),
        (np.ones(0, bool), np.ones(0, bool), ("samples-empty",)),
    ],
)
def test_bad_input_of_proportions(reference, candidate, error):
    with refused(error):
        proportions(reference, candidate)


# ---- verdicts, sample sizes, sentences


def test_resolved():
    result = Paired(100, 3, 2, 0.01, -0.02, 0.04, 1.0)
    assert [result.is_resolved(limit) for limit in (-0.03, -0.02, 0.0, 0.039, 0.04, 0.05)] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_rows_needed_by_hand():
    """(1.6449 + 0.8416)^2 = 6.1826; one more row per cell: variance of 41 and 25 in 1004; the limit is 0.016 away."""
    lost = 41 / 1004
    won = 25 / 1004
    expected = (1.6448536 + 0.8416212) ** 2 * (lost + won - (lost - won) ** 2) / 0.016**2
    assert (
        compare_counts(40, 24, 1000).rows_needed(0.0)
        == compare_counts(40, 24, 1000).rows_needed(0.032)
        == math.ceil(expected)
    )
    # With a discordance of 5 % and 2,000 rows, the smallest detectable drop is 2.49 sqrt(0.05 / 2000), or 1.24 points.
    assert compare_counts(100, 100, 4000).rows_needed(2.487 * math.sqrt(0.05 / 2000)) == pytest.approx(2000, rel=0.02)


def test_that_many_rows_have_the_power():
    """With that many rows, data with the observed drop and discordance are decided in about 80 % of simulations."""
    needed = compare_counts(24, 20, 800).rows_needed(0.02)
    draw = np.random.default_rng(2)
    outcomes = draw.multinomial(needed, [0.03, 0.025, 0.945], size=800)
    power = np.mean([tango_interval(b, c, needed)[1] <= 0.02 for b, c, _ in outcomes.tolist()])
    assert power == pytest.approx(0.8, abs=0.06)


def test_no_flip_is_no_certainty():
    few = compare_counts(0, 0, 20)
    assert not few.is_resolved(0.01)
    assert few.rows_needed(0.01) > 250, "a set without a flip decides at 268 rows"
    assert compare_counts(0, 0, 268).is_resolved(0.01)
    assert not compare_counts(0, 0, 267).is_resolved(0.01)


@settings(deadline=None)
@given(counts(), st.floats(-0.3, 0.3))
def test_an_undecided_comparison_needs_more_rows(numbers, limit):
    result = compare_counts(*numbers)
    needed = result.rows_needed(limit)
    if needed is not None and not result.is_resolved(limit):
        assert needed > result.rows


def test_a_drop_equal_to_the_limit_has_no_number_of_rows():
    assert compare_counts(3, 2, 100).rows_needed(0.01) is None
    assert compare_counts(11, 0, 1100).rows_needed(0.01) is None
    assert compare_counts(0, 0, 100).rows_needed(0.0) is None


def test_text():
    result = Paired(872, 12, 9, 3 / 872, -0.0021, 0.0190, 0.6636)
    values = "drop 0.0034 (90 % interval -0.0021 to 0.0190, 12 lost, 9 won, McNemar p 0.66)"
    assert result.rows_needed(0.01) == 3771  # 6.1826 (23 / 876 - (3 / 876)^2) / (0.01 - 3 / 872)^2
    for limit, words in (
        (0.01, ("inconclusive", "0.01", "872 rows", "3,800")),
        (0.02, ("within", "0.02", "872 rows")),
        (-0.05, ("above", "-0.05", "872 rows")),
        (None, ("872 rows",)),
        (3 / 872, ("inconclusive", "no number of rows")),
    ):
        text = result.text(limit)
        assert text.startswith(values)
        assert [word for word in words if word not in text.removeprefix(values)] == []
    other = Paired(1500, None, None, -0.00001, -0.0021, 0.0190, None).text(0.02)
    assert other.startswith("drop 0.0000 (90 % interval -0.0021 to 0.0190): within")
    assert "1,500 rows" in other
    assert Paired(1, 0, 0, 0.0, -0.7, 0.7, 1.0).text(None).endswith(" 1 row")
