"""Paired bootstrap and randomization test against scipy, loops over row numbers, and Tango's interval."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from paired_counts import compare_counts
from refusals import refused

from edgekit.spec.protocols import Metric, additive
from edgekit.stats.paired import bootstrap, compare
from edgekit.stats.tango import tango_interval

ACCURACY = Metric("accuracy", additive(lambda s: s[:, 0] / s[:, 1]), binary=True)
MEAN = Metric("mean", additive(lambda s: s[:, 0] / s[:, 1]))
WER = Metric("WER", additive(lambda s: s[:, 0] / s[:, 1]), higher_is_better=False)
MICRO_F1 = Metric("micro F1", additive(lambda s: 2 * s[:, 0] / (2 * s[:, 0] + s[:, 1] + s[:, 2])))


def correlation(evidence, weights):
    """Return Pearson's r of evidence (x, y), in two passes."""
    n = weights.sum(axis=1)
    x, y = (evidence[:, i] - (weights @ evidence[:, i] / n)[:, None] for i in (0, 1))
    with np.errstate(invalid="ignore"):
        return (weights * x * y).sum(axis=1) / np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))


PEARSON = Metric("Pearson r", correlation)


def drops_of_a_loop(score, rows, seed, resamples):
    """Return the 5 % and 95 % points of drops, with one draw of row numbers per resample."""
    draw = np.random.default_rng(seed)
    drops = []
    while len(drops) < resamples:
        drop = score(draw.integers(0, rows, rows))
        if not math.isnan(drop):
            drops.append(drop)
    return np.quantile(drops, (0.05, 0.95))


def pearson_data(rows=400):
    draw = np.random.default_rng(3)
    truth = draw.normal(size=rows)
    reference = truth + draw.normal(size=rows) * 0.5
    candidate = truth + draw.normal(size=rows) * 0.7
    return truth, np.stack([reference, truth], axis=1), np.stack([candidate, truth], axis=1)


def counts_of_labels(rows=150, seed=8):
    """Return true positives, false positives and false negatives of each row, for two models."""
    draw = np.random.default_rng(seed)
    truth = draw.random((rows, 5)) < 0.3
    answers = [truth ^ (draw.random((rows, 5)) < noise) for noise in (0.05, 0.12)]
    return [
        np.stack([(a & truth).sum(1), (a & ~truth).sum(1), (~a & truth).sum(1)], axis=1).astype(float) for a in answers
    ]


def edits_and_words(rows=80, seed=9):
    """Return edits and words of each row, for two models and the same sentences."""
    draw = np.random.default_rng(seed)
    words = draw.integers(3, 20, rows)
    return [np.stack([draw.binomial(words, share), words], axis=1).astype(float) for share in (0.10, 0.16)]


@pytest.mark.slow
def test_bootstrap_against_scipy():
    truth, reference, candidate = pearson_data()

    def r(x, y, axis=-1):
        x = x - x.mean(axis, keepdims=True)
        y = y - y.mean(axis, keepdims=True)
        return (x * y).sum(axis) / np.sqrt((x * x).sum(axis) * (y * y).sum(axis))

    expected = scipy.stats.bootstrap(
        (truth, reference[:, 0], candidate[:, 0]),
        lambda t, a, b, axis=-1: r(a, t, axis) - r(b, t, axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    result = bootstrap(PEARSON, candidate, reference, resamples=4000)
    width = expected.high - expected.low
    assert result.drop == pytest.approx(np.corrcoef(*reference.T)[0, 1] - np.corrcoef(*candidate.T)[0, 1], abs=1e-12)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.05 * width)
    assert (result.rows, result.losses, result.gains) == (400, None, None)
    assert result.p_value == 1 / 4001, "no exchange of rows gives as large a difference"


def test_bootstrap_of_f1_against_a_loop_over_row_numbers():
    reference, candidate = counts_of_labels()

    def f1(rows):
        tp, fp, fn = rows.sum(axis=0)
        return 2 * tp / (2 * tp + fp + fn)

    result = bootstrap(MICRO_F1, candidate, reference)
    assert result.drop == pytest.approx(f1(reference) - f1(candidate), abs=1e-12)
    assert (result.low, result.high) == pytest.approx(
        drops_of_a_loop(lambda i: f1(reference[i]) - f1(candidate[i]), 150, 0, 2000), abs=1e-12
    )
    assert 0 < result.low < result.drop < result.high


def test_bootstrap_of_a_correlation_against_a_loop_over_row_numbers():
    _, reference, candidate = pearson_data(60)
    reference[:55, 1] = candidate[:55, 1] = 0.0  # some resamples have equal labels and are drawn again

    def r(rows):
        return math.nan if rows[:, 1].std() == 0 else np.corrcoef(*rows.T)[0, 1]

    result = bootstrap(PEARSON, candidate, reference, seed=5, resamples=1000)
    assert (result.low, result.high) == pytest.approx(
        drops_of_a_loop(lambda i: r(reference[i]) - r(candidate[i]), 60, 5, 1000), abs=1e-12
    )


def test_an_error_rate_that_grows_is_a_drop():
    reference, candidate = edits_and_words()
    rates = [side[:, 0].sum() / side[:, 1].sum() for side in (reference, candidate)]
    result = compare(WER, candidate, reference)
    assert result.drop == pytest.approx(rates[1] - rates[0], abs=1e-12)
    assert 0 < result.low < result.drop < result.high
    assert result.p_value < 0.05
    assert not result.is_resolved(result.drop) and result.is_resolved(0.0)
    loop = drops_of_a_loop(
        lambda i: candidate[i, 0].sum() / candidate[i, 1].sum() - reference[i, 0].sum() / reference[i, 1].sum(),
        80,
        0,
        2000,
    )
    assert (result.low, result.high) == pytest.approx(loop, abs=1e-12)
    better = compare(WER, reference, candidate)
    assert (better.drop, better.low, better.high) == pytest.approx((-result.drop, -result.high, -result.low), abs=1e-12)
    upside_down = compare(Metric("words right", WER.score), candidate, reference)
    assert (upside_down.drop, upside_down.p_value) == (-result.drop, result.p_value)
    assert (WER.of(reference), WER.drop(0.1, 0.3), ACCURACY.drop(0.1, 0.3)) == (
        rates[0],
        pytest.approx(0.2),
        pytest.approx(-0.2),
    )


@pytest.mark.parametrize("metric", [MICRO_F1, WER, PEARSON], ids=lambda m: m.name)
def test_randomization_against_all_exchanges(metric):
    """Ten rows have 1,024 exchanges between the models. The test counts draws of these, and the observed one."""
    sides = {
        "micro F1": counts_of_labels(10, 3),
        "WER": edits_and_words(10, 2),
        "Pearson r": list(pearson_data(10)[1:]),
    }
    reference, candidate = sides[metric.name]
    observed = abs(metric.of(reference) - metric.of(candidate))
    larger = 0
    for swaps in itertools.product((False, True), repeat=10):
        swapped = np.array(swaps)[:, None]
        first = np.where(swapped, candidate, reference)
        second = np.where(swapped, reference, candidate)
        larger += abs(metric.of(first) - metric.of(second)) >= observed - 1e-12
    exact = larger / 1024
    result = bootstrap(metric, candidate, reference, resamples=20_000).p_value
    assert 0.01 < exact < 0.99
    assert result == pytest.approx((20_000 * exact + 1) / 20_001, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_bootstrap_of_a_mean_agrees_with_tango():
    """With many discordant rows, both give nearly the same interval and the same number of rows."""
    exact = compare_counts(60, 40, 2000)
    reference, candidate = (
        np.stack([np.repeat(right, [60, 40, 1900]), np.ones(2000)], axis=1)
        for right in ([1.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    )
    result = bootstrap(MEAN, candidate, reference)
    assert (result.drop, result.low, result.high) == pytest.approx((exact.drop, exact.low, exact.high), abs=0.001)
    assert result.rows_needed(0.015) == pytest.approx(exact.rows_needed(0.015), rel=0.15)
    assert result.p_value == pytest.approx(exact.p_value, abs=0.015)
    assert compare(ACCURACY, candidate, reference) == exact


def test_the_seed_makes_the_interval():
    _, reference, candidate = pearson_data(50)
    one = bootstrap(PEARSON, candidate, reference, resamples=200)
    assert one == bootstrap(PEARSON, candidate, reference, resamples=200)
    other = bootstrap(PEARSON, candidate, reference, seed=1, resamples=200)
    assert (one.low, one.high) != (other.low, other.high)


def test_undefined_resamples_are_drawn_again():
    """Half of the resamples of two rows contain one row twice."""
    distinct_rows = []

    def score(evidence, weights):
        distinct_rows.extend((weights > 0).sum(axis=1).tolist())
        return np.where((weights > 0).all(axis=1), evidence[:, 0].mean() + 0.01 * (weights @ evidence[:, 1]), math.nan)

    result = bootstrap(
        Metric("odd", score), np.array([[0.8, 0.0], [0.8, 1.0]]), np.array([[0.9, 0.0], [0.9, 1.0]]), resamples=100
    )
    assert result.drop == pytest.approx(0.1)
    assert distinct_rows.count(1) > 50
    assert distinct_rows.count(2) > 100


def test_samples_on_which_hardly_any_resample_is_defined():
    metric = Metric("rare", lambda evidence, weights: np.where((weights == 1).all(axis=1), evidence.mean(), math.nan))
    with refused("metric-undefined", "1000", "8", "100"):
        bootstrap(metric, np.ones((8, 1)), np.ones((8, 1)), resamples=100)


def test_bad_input_of_the_bootstrap():
    with refused("samples-empty"):
        bootstrap(MEAN, np.ones((0, 2)), np.ones((0, 2)))
    with refused("statistics-argument", "99", "100"):
        bootstrap(MEAN, np.ones((5, 2)), np.ones((5, 2)), resamples=99)
    undefined = Metric("none", lambda evidence, weights: np.full(len(weights), math.nan), undefined="Nothing to score.")
    with refused("metric-undefined", "Nothing to score"):
        bootstrap(undefined, np.ones((5, 2)), np.ones((5, 2)))


@pytest.mark.parametrize("metric", [ACCURACY, MEAN])
def test_bad_input_of_a_comparison(metric):
    whole = np.ones((4, 2))
    broken = np.ones((4, 2))
    broken[1, 0] = math.nan
    with refused("rows-differ", "[3, 2]", "[4, 2]"):
        compare(metric, whole[:3], whole)
    with refused("rows-differ"):
        compare(metric, whole[:, 0], whole[:, 0])
    with refused("samples-empty"):
        compare(metric, whole[:0], whole[:0])
    with refused("outputs-not-finite", "1 of 4", "candidate"):
        compare(metric, broken, whole)
    with refused("outputs-not-finite", "1 of 4", "reference"):
        compare(metric, whole, broken)


def test_equal_answers_are_no_certainty_in_a_bootstrap_either():
    same = np.full((20, 2), 1.0)
    result = bootstrap(MEAN, same, same, resamples=100)
    assert (result.drop, result.low, result.high, result.p_value) == (0.0, *tango_interval(0, 0, 20), 1.0)
    assert not result.is_resolved(0.01)
    assert result.rows_needed(0.01) > 250


def test_the_interval_of_a_biased_score_contains_the_drop():
    """The number of different rows falls in every resample, so all resampled drops lie on one side of the drop."""
    different = Metric(
        "different rows", lambda evidence, weights: evidence[0, 0] * (weights > 0).sum(axis=1) / weights.shape[1]
    )
    result = bootstrap(different, np.zeros((50, 1)), np.ones((50, 1)), resamples=200)
    assert result.low < result.drop == result.high == 1.0
