"""Intervals of ratios against scipy, numpy and simulations with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgekit.stats import interval
from edgekit.stats.interval import ALPHA, Estimate, Look, levels, spend_alpha


def groups(seed, count=8, size=20, spread=0.03, between=0.01, middle=0.0):
    draw = np.random.default_rng(seed)
    return [list(middle + draw.normal(0, between) + draw.normal(0, spread, size)) for _ in range(count)]


@pytest.mark.parametrize("sizes", [[5, 5, 5], [4, 4], [3, 7, 2, 9], [1, 1, 1, 1]])
def test_the_median_is_numpys(sizes):
    draw = np.random.default_rng(len(sizes))
    blocks = [list(draw.normal(size=n)) for n in sizes]
    assert interval.median(blocks, 0).value == pytest.approx(np.median(np.concatenate(blocks)))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_a_ratio_of_quantiles_is_that_of_numpys(q):
    draw = np.random.default_rng(3)
    before, after = ([list(draw.lognormal(size=50)) for _ in range(6)] for _ in range(2))
    truth = [np.quantile(np.concatenate(side), q, method="averaged_inverted_cdf") for side in (before, after)]
    assert interval.ratio_of_quantiles(before, after, q, 0).value == pytest.approx(math.log(truth[1] / truth[0]))
    assert interval.quantile(after, q, 0).value == pytest.approx(math.log(truth[1]))


def test_quantiles_of_resamples_are_those_of_the_groups_written_out():
    draw = np.random.default_rng(5)
    blocks = [list(draw.normal(size=n)) for n in (3, 8, 5, 6)]
    counts = draw.multinomial(4, [0.25] * 4, 50)
    values = np.concatenate(blocks)
    owners = np.repeat(range(4), list(map(len, blocks)))
    order = np.argsort(values)
    result = interval._weighted_quantiles(values[order], owners[order], counts, 0.9)
    for row, value in zip(counts, result, strict=True):
        written = np.concatenate([blocks[i] for i in range(4) for _ in range(row[i])])
        assert value == pytest.approx(np.quantile(written, 0.9, method="averaged_inverted_cdf"))


def test_the_standard_error_is_scipys_bootstrap_widened_for_few_groups():
    values = np.random.default_rng(1).normal(size=12)
    truth = stats.bootstrap((values,), np.median, n_resamples=20_000, rng=np.random.default_rng(2)).standard_error
    result = np.mean([interval.median([[v] for v in values], seed).error for seed in range(20)])
    assert result == pytest.approx(truth * math.sqrt(12 / 11), rel=0.03)


def test_of_one_number_a_process_it_is_close_to_students_interval_of_the_mean():
    """A bootstrap of few draws is too narrow by sqrt((n - 1) / n); the factor gives the textbook error of a mean."""
    draw = np.random.default_rng(4).multinomial(5, [0.2] * 5, 200_000)
    values = np.array([1.0, 2.0, 4.0, 4.5, 7.0])
    raw = (draw @ values / 5).std()
    assert interval._estimate(0.0, draw @ values / 5, 5).error == pytest.approx(stats.sem(values), rel=0.01)
    assert raw < 0.9 * stats.sem(values)


def test_bounds_are_students():
    low, high = Estimate(0.1, 0.02, 7).bounds(0.05)
    assert (low, high) == pytest.approx(stats.t.interval(0.90, 6, 0.1, 0.02))


def test_one_pair_has_no_interval():
    result = interval.median([[0.1, 0.2]], 0)
    assert result.bounds(0.05) == (-math.inf, math.inf) and result.resolvable(0.05) == math.inf


def test_processes_that_differ_widen_the_interval_as_calls_alone_do_not():
    alike = groups(1, between=0.0, size=200)
    different = groups(1, between=0.05, size=200)
    assert interval.median(different, 0).error > 5 * interval.median(alike, 0).error


def test_the_same_seed_gives_the_same_interval():
    assert interval.median(groups(1), 7) == interval.median(groups(1), 7)


@pytest.mark.parametrize(
    ("share", "truth"), [(0.2, 0.01477), (0.4, 0.02617), (0.6, 0.03546), (0.8, 0.04328), (1.0, 0.05)]
)
def test_spending_is_that_of_lan_and_demets(share, truth):
    """Cumulative two-sided 5 % of the Pocock-like function at five equal looks, as statistics packages print it."""
    assert spend_alpha(share) == pytest.approx(truth, abs=5e-5)


def test_levels_add_up_to_alpha():
    result = levels([Look(6, 0.4), Look(10, 0.66), Look(15, 1.0)])
    assert sum(result) == pytest.approx(ALPHA) and min(result) > 0
    assert levels([Look(4, 1.0)]) == pytest.approx([ALPHA])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "between"), [(4, 0.01), (6, 0.003), (10, 0.02)])
def test_a_bound_is_wrong_as_often_as_it_says(count, between):
    """Each case simulates 2,000 runs with heavy-tailed blocks: the 5 % bound of the median is wrong in about 5 %."""
    draw = np.random.default_rng(count)
    wrong = 0
    runs = 2000
    for run in range(runs):
        blocks = [list(draw.normal(0, between) + 0.02 * draw.standard_t(3, 12)) for _ in range(count)]
        wrong += interval.median(blocks, run).bounds(0.05)[0] > 0.0
    assert stats.binomtest(wrong, runs).proportion_ci(0.999).low <= 0.06, f"{wrong / runs:.3f}"
    assert wrong / runs > 0.015, "the interval is not so wide that it never decides"


@pytest.mark.slow
def test_the_stated_power_is_reached():
    draw = np.random.default_rng(9)
    runs = 1500
    detections = 0
    for run in range(runs):
        noise = [list(draw.normal(0, 0.01) + 0.02 * draw.normal(size=12)) for _ in range(10)]
        least = (
            math.hypot(0.01, 0.02 * 1.2533 / math.sqrt(12))
            / math.sqrt(10)
            * (stats.t.ppf(0.95, 9) + stats.t.ppf(0.8, 9))
        )
        detections += interval.median([[v + least for v in g] for g in noise], run).bounds(0.05)[0] > 0
    assert detections / runs == pytest.approx(0.8, abs=0.07)
    stated = [interval.median(groups(run, 10, 12, 0.02, 0.01), run).resolvable(0.05) for run in range(100)]
    assert np.median(stated) == pytest.approx(least, rel=0.2)
