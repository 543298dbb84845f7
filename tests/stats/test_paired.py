"""The interval against published tables and a brute-force inversion of the test, the rest against scipy and arithmetic by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Metric, additive
from edgekit.stats.paired import Paired, bootstrap, compare, proportions, tango_interval

ACCURACY = Metric("accuracy", additive(lambda s: s[:, 0] / s[:, 1]), binary=True)
MEAN = Metric("mean", additive(lambda s: s[:, 0] / s[:, 1]))
WER = Metric("WER", additive(lambda s: s[:, 0] / s[:, 1]), higher_is_better=False)
MICRO_F1 = Metric("micro F1", additive(lambda s: 2 * s[:, 0] / (2 * s[:, 0] + s[:, 1] + s[:, 2])))


def of(losses, gains, rows):
    """The comparison with these counts; the concordant rows are half right, half wrong."""
    reference, candidate = np.arange(rows) % 2 == 0, np.arange(rows) % 2 == 0
    reference[: losses + gains], candidate[: losses + gains] = (
        [True] * losses + [False] * gains,
        [False] * losses + [True] * gains,
    )
    return proportions(reference, candidate)


def correlation(evidence, weights):
    """Pearson's r of evidence (x, y), two passes."""
    n = weights.sum(axis=1)
    x, y = (evidence[:, i] - (weights @ evidence[:, i] / n)[:, None] for i in (0, 1))
    with np.errstate(invalid="ignore"):
        return (weights * x * y).sum(axis=1) / np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))


PEARSON = Metric("Pearson r", correlation)


def drops_of_a_loop(score, rows, seed, resamples):
    """Drops of resamples, one draw of row numbers after the other: the form that this code had before scores were functions of evidence and weights."""
    draw, drops = np.random.default_rng(seed), []
    while len(drops) < resamples:
        drop = score(draw.integers(0, rows, rows))
        if not math.isnan(drop):
            drops.append(drop)
    return np.quantile(drops, (0.05, 0.95))


@st.composite
def counts(draw, most=300):
    rows = draw(st.integers(1, most))
    losses = draw(st.integers(0, rows))
    return losses, draw(st.integers(0, rows - losses)), rows


# ---- Tango's interval


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
    """Ends of the differences that the score test accepts; the nuisance parameter maximises the trinomial likelihood numerically."""

    def statistic(delta):
        def minus_log_likelihood(q):
            cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
            return -sum(k * math.log(p) for k, p in cells if k)

        lowest, highest = max(0.0, -delta), (1 - delta) / 2
        q = scipy.optimize.minimize_scalar(
            minus_log_likelihood,
            bounds=(lowest + 1e-13, highest - 1e-13),
            method="bounded",
            options={"xatol": 1e-13, "maxiter": 2000},
        ).x
        gain, loss = q, q + delta
        return ((b - c) / n - delta) / math.sqrt((gain + loss - (loss - gain) ** 2) / n)

    grid = np.linspace(-1, 1, 2001)[1:-1] + 1e-7  # off 0, where no discordant row leaves 0 / 0
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
    found = of(losses, gains, rows)
    assert (found.low, found.high) == tango_interval(losses, gains, rows), (
        "the interval of a comparison is the 90 % one"
    )


def test_no_discordant_row_by_hand():
    """Without a gain or a loss the likelihood puts all of delta into one cell: n delta^2 = z^2 delta (1 - delta)."""
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
    """All outcomes weighted by their probability: the interval holds the truth in about 90 %, its upper end bounds it in about 95 %."""
    within = bounded = mass = 0.0
    for losses in range(rows + 1):
        for gains in range(rows + 1 - losses):
            weight = (
                scipy.stats.binom.pmf(losses, rows, lost)
                * scipy.stats.binom.pmf(gains, rows - losses, won / (1 - lost))
                if losses + gains < 45
                else 0
            )
            if weight > 1e-9:
                low, high = tango_interval(losses, gains, rows)
                mass += weight
                within += weight * (low <= lost - won <= high)
                bounded += weight * (lost - won <= high)
    assert mass > 0.9999
    assert within == pytest.approx(0.90, abs=0.02)  # the outcomes are a lattice: 0.90 exactly is not to be had
    assert bounded == pytest.approx(0.95, abs=0.015)


def test_coverage_by_simulation():
    """872 rows, as SST-2 has, right and wrong drawn per row."""
    draw = np.random.default_rng(0)
    trials, within, above = 1500, 0, 0
    for _ in range(trials):
        kind = draw.choice(4, 872, p=[0.88, 0.02, 0.012, 0.088])  # both right, lost, won, both wrong
        found = proportions((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        within += found.low <= 0.008 <= found.high
        above += found.high < 0.008
    assert within / trials == pytest.approx(0.90, abs=4 * math.sqrt(0.09 / trials))
    assert above / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.0475 / trials))


@settings(deadline=None)
@given(counts())
def test_interval_holds_the_drop_and_stays_within_bounds(numbers):
    found = of(*numbers)
    assert -1 <= found.low <= found.drop <= found.high <= 1
    assert found.high - found.low > 0


@settings(deadline=None)
@given(counts())
def test_swapping_the_models_mirrors_everything(numbers):
    losses, gains, rows = numbers
    one, other = of(losses, gains, rows), of(gains, losses, rows)
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
    one, more = of(*numbers), of(*(copies * number for number in numbers))
    assert more.drop == pytest.approx(one.drop, abs=1e-15)
    assert more.high - more.low < one.high - one.low


@settings(deadline=None)
@given(counts(), st.floats(0.5, 0.98))
def test_more_confidence_is_wider(numbers, confidence):
    narrow, wide = tango_interval(*numbers, confidence), tango_interval(*numbers, confidence + 0.01)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide != narrow


@pytest.mark.parametrize("numbers", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5), (1, 1, 5, 0.0), (1, 1, 5, 1.0)])
def test_counts_that_cannot_be(numbers):
    with refused("statistics-argument", "0"):
        tango_interval(*numbers)


# ---- McNemar and the counts


def test_mcnemar_by_hand():
    """One loss of six: 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64."""
    assert of(1, 5, 40).p_value == pytest.approx(14 / 64, rel=1e-12)
    assert of(8, 0, 40).p_value == pytest.approx(2 / 2**8, rel=1e-12)
    assert of(4, 4, 40).p_value == of(0, 0, 40).p_value == 1.0


@settings(deadline=None)
@given(counts())
def test_mcnemar_against_scipy(numbers):
    losses, gains, _ = numbers
    found = of(*numbers)
    assert (found.losses, found.gains, found.rows) == numbers
    if losses + gains:
        assert found.p_value == scipy.stats.binomtest(losses, losses + gains).pvalue


def test_the_drop_is_the_difference_of_the_accuracies():
    draw = np.random.default_rng(1)
    reference, candidate = draw.random(500) < 0.9, draw.random(500) < 0.8
    assert proportions(reference, candidate).drop == pytest.approx(reference.mean() - candidate.mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("reference", "candidate", "error", "says"),
    [
        (np.ones(3, bool), np.ones(4, bool), UsageError, "3 rows of the reference and 4 of the candidate"),
        (np.ones(3), np.ones(3, bool), UsageError, "reference_right is float64"),
        (np.ones(3, bool), np.ones((3, 1), bool), UsageError, r"candidate_right is bool of shape \[3, 1\]"),
        (np.ones(0, bool), np.ones(0, bool), SamplesError, "no row"),
    ],
)
def test_bad_input_of_proportions(reference, candidate, error, says):
    with pytest.raises(error, match=says):
        proportions(reference, candidate)


# ---- verdicts, sample sizes, sentences


def test_resolved():
    found = Paired(100, 3, 2, 0.01, -0.02, 0.04, 1.0)
    assert [found.resolved(limit) for limit in (-0.03, -0.02, 0.0, 0.039, 0.04, 0.05)] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_rows_needed_by_hand():
    """(1.6449 + 0.8416)^2 = 6.1826; a row more in each cell: variance of 41 and 25 in 1004; the limit is 0.016 away."""
    lost, won = 41 / 1004, 25 / 1004
    expected = (1.6448536 + 0.8416212) ** 2 * (lost + won - (lost - won) ** 2) / 0.016**2
    assert of(40, 24, 1000).rows_needed(0.0) == of(40, 24, 1000).rows_needed(0.032) == math.ceil(expected)
    # quality.md A4: with a discordance of 5 % and 2,000 rows the smallest drop that shows is 2.49 sqrt(0.05 / 2000), 1.24 points
    assert of(100, 100, 4000).rows_needed(2.487 * math.sqrt(0.05 / 2000)) == pytest.approx(2000, rel=0.02)


def test_that_many_rows_have_the_power():
    """At the rows said, data with the drop and discordance that were seen are settled in about 80 % of draws."""
    needed = of(24, 20, 800).rows_needed(0.02)
    draw = np.random.default_rng(2)
    outcomes = draw.multinomial(needed, [0.03, 0.025, 0.945], size=800)
    power = np.mean([tango_interval(b, c, needed)[1] <= 0.02 for b, c, _ in outcomes.tolist()])
    assert power == pytest.approx(0.8, abs=0.06)


def test_no_flip_is_no_certainty():
    few = of(0, 0, 20)
    assert not few.resolved(0.01)
    assert few.rows_needed(0.01) > 250, "no flip at all would settle it at 268 rows"
    assert of(0, 0, 268).resolved(0.01)
    assert not of(0, 0, 267).resolved(0.01)


@settings(deadline=None)
@given(counts(), st.floats(-0.3, 0.3))
def test_what_is_not_settled_needs_more_rows_than_there_are(numbers, limit):
    found = of(*numbers)
    needed = found.rows_needed(limit)
    if needed is not None and not found.resolved(limit):
        assert needed > found.rows


def test_a_drop_that_is_the_limit_needs_no_number():
    assert of(3, 2, 100).rows_needed(0.01) is None
    assert of(11, 0, 1100).rows_needed(0.01) is None
    assert of(0, 0, 100).rows_needed(0.0) is None


def test_text():
    found = Paired(872, 12, 9, 3 / 872, -0.0021, 0.0190, 0.6636)
    start = "drop 0.0034 (90 % interval -0.0021 to 0.0190, 12 lost, 9 won, McNemar p 0.66)"
    assert found.rows_needed(0.01) == 3771  # 6.1826 (23 / 876 - (3 / 876)^2) / (0.01 - 3 / 872)^2
    assert found.text(0.01) == f"{start}: not resolved against 0.01 by 872 rows, about 3,800 would"
    assert found.text(0.02) == f"{start}: within 0.02 by 872 rows"
    assert found.text(-0.05) == f"{start}: above -0.05 by 872 rows"
    assert found.text(None) == f"{start} by 872 rows"
    assert found.text(3 / 872).endswith("by 872 rows, and no number would at a drop of just that")
    other = Paired(1500, None, None, -0.00001, -0.0021, 0.0190, None)
    assert other.text(0.02) == "drop 0.0000 (90 % interval -0.0021 to 0.0190): within 0.02 by 1,500 rows"
    assert Paired(1, 0, 0, 0.0, -0.7, 0.7, 1.0).text(None).endswith("McNemar p 1) by 1 row")


# ---- bootstrap


def pearson_data(rows=400):
    draw = np.random.default_rng(3)
    truth = draw.normal(size=rows)
    reference, candidate = truth + draw.normal(size=rows) * 0.5, truth + draw.normal(size=rows) * 0.7
    return truth, np.stack([reference, truth], axis=1), np.stack([candidate, truth], axis=1)


def counts_of_labels(rows=150, seed=8):
    """True positives, false positives and false negatives of each row, of two models."""
    draw = np.random.default_rng(seed)
    truth = draw.random((rows, 5)) < 0.3
    answers = [truth ^ (draw.random((rows, 5)) < noise) for noise in (0.05, 0.12)]
    return [
        np.stack([(a & truth).sum(1), (a & ~truth).sum(1), (~a & truth).sum(1)], axis=1).astype(float) for a in answers
    ]


def edits_and_words(rows=80, seed=9):
    """Edits and words of each row, of two models that hear the same sentences."""
    draw = np.random.default_rng(seed)
    words = draw.integers(3, 20, rows)
    return [np.stack([draw.binomial(words, share), words], axis=1).astype(float) for share in (0.10, 0.16)]


def test_bootstrap_against_scipy():
    truth, reference, candidate = pearson_data()

    def r(x, y, axis=-1):
        x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
        return (x * y).sum(axis) / np.sqrt((x * x).sum(axis) * (y * y).sum(axis))

    truth_said = scipy.stats.bootstrap(
        (truth, reference[:, 0], candidate[:, 0]),
        lambda t, a, b, axis=-1: r(a, t, axis) - r(b, t, axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = bootstrap(PEARSON, candidate, reference, resamples=4000)
    width = truth_said.high - truth_said.low
    assert found.drop == pytest.approx(np.corrcoef(*reference.T)[0, 1] - np.corrcoef(*candidate.T)[0, 1], abs=1e-12)
    assert (found.low, found.high) == pytest.approx((truth_said.low, truth_said.high), abs=0.05 * width)
    assert (found.rows, found.losses, found.gains) == (400, None, None)
    assert found.p_value == 1 / 4001, "no exchange of rows brings about as large a difference"


def test_bootstrap_of_f1_against_a_loop_over_row_numbers():
    reference, candidate = counts_of_labels()

    def f1(rows):
        tp, fp, fn = rows.sum(axis=0)
        return 2 * tp / (2 * tp + fp + fn)

    found = bootstrap(MICRO_F1, candidate, reference)
    assert found.drop == pytest.approx(f1(reference) - f1(candidate), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(
        drops_of_a_loop(lambda i: f1(reference[i]) - f1(candidate[i]), 150, 0, 2000), abs=1e-12
    )
    assert 0 < found.low < found.drop < found.high


def test_bootstrap_of_a_correlation_against_a_loop_over_row_numbers():
    _, reference, candidate = pearson_data(60)
    reference[:55, 1] = candidate[:55, 1] = 0.0  # some resamples have equal labels: they are drawn again

    def r(rows):
        return math.nan if rows[:, 1].std() == 0 else np.corrcoef(*rows.T)[0, 1]

    found = bootstrap(PEARSON, candidate, reference, seed=5, resamples=1000)
    assert (found.low, found.high) == pytest.approx(
        drops_of_a_loop(lambda i: r(reference[i]) - r(candidate[i]), 60, 5, 1000), abs=1e-12
    )


def test_an_error_rate_that_grows_is_a_drop():
    reference, candidate = edits_and_words()
    rates = [side[:, 0].sum() / side[:, 1].sum() for side in (reference, candidate)]
    found = compare(WER, candidate, reference)
    assert found.drop == pytest.approx(rates[1] - rates[0], abs=1e-12)
    assert 0 < found.low < found.drop < found.high
    assert found.p_value < 0.05
    assert not found.resolved(found.drop) and found.resolved(0.0), "it is worse for sure"
    loop = drops_of_a_loop(
        lambda i: candidate[i, 0].sum() / candidate[i, 1].sum() - reference[i, 0].sum() / reference[i, 1].sum(),
        80,
        0,
        2000,
    )
    assert (found.low, found.high) == pytest.approx(loop, abs=1e-12)
    better = compare(WER, reference, candidate)
    assert (better.drop, better.low, better.high) == pytest.approx((-found.drop, -found.high, -found.low), abs=1e-12)
    upside_down = compare(Metric("words right", WER.score), candidate, reference)
    assert (upside_down.drop, upside_down.p_value) == (-found.drop, found.p_value)
    assert (WER.of(reference), WER.drop(0.1, 0.3), ACCURACY.drop(0.1, 0.3)) == (
        rates[0],
        pytest.approx(0.2),
        pytest.approx(-0.2),
    )


@pytest.mark.parametrize("metric", [MICRO_F1, WER, PEARSON], ids=lambda m: m.name)
def test_randomization_against_all_exchanges(metric):
    """Of ten rows all 1,024 ways of exchanging them between the models; the test counts draws of these, and the observed one once more."""
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
        first, second = np.where(swapped, candidate, reference), np.where(swapped, reference, candidate)
        larger += abs(metric.of(first) - metric.of(second)) >= observed - 1e-12
    exact = larger / 1024
    found = bootstrap(metric, candidate, reference, resamples=20_000).p_value
    assert 0.01 < exact < 0.99
    assert found == pytest.approx((20_000 * exact + 1) / 20_001, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_bootstrap_of_a_mean_agrees_with_tango():
    """Where both apply and there are many discordant rows they say nearly the same, of the interval and of the rows needed."""
    exact = of(60, 40, 2000)
    reference, candidate = (
        np.stack([np.repeat(right, [60, 40, 1900]), np.ones(2000)], axis=1)
        for right in ([1.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    )
    found = bootstrap(MEAN, candidate, reference)
    assert (found.drop, found.low, found.high) == pytest.approx((exact.drop, exact.low, exact.high), abs=0.001)
    assert found.rows_needed(0.015) == pytest.approx(exact.rows_needed(0.015), rel=0.15)
    assert found.p_value == pytest.approx(exact.p_value, abs=0.015)
    assert compare(ACCURACY, candidate, reference) == exact


def test_the_seed_makes_the_interval():
    _, reference, candidate = pearson_data(50)
    one = bootstrap(PEARSON, candidate, reference, resamples=200)
    assert one == bootstrap(PEARSON, candidate, reference, resamples=200)
    other = bootstrap(PEARSON, candidate, reference, seed=1, resamples=200)
    assert (one.low, one.high) != (other.low, other.high)


def test_undefined_resamples_are_drawn_again():
    """Half of the resamples of two rows hold one row twice."""
    asked = []

    def score(evidence, weights):
        asked.extend((weights > 0).sum(axis=1).tolist())
        return np.where((weights > 0).all(axis=1), evidence[:, 0].mean() + 0.01 * (weights @ evidence[:, 1]), math.nan)

    found = bootstrap(
        Metric("odd", score), np.array([[0.8, 0.0], [0.8, 1.0]]), np.array([[0.9, 0.0], [0.9, 1.0]]), resamples=100
    )
    assert found.drop == pytest.approx(0.1)
    assert asked.count(1) > 50
    assert asked.count(2) > 100


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
    with refused("metric-undefined"):
        bootstrap(undefined, np.ones((5, 2)), np.ones((5, 2)))


@pytest.mark.parametrize("metric", [ACCURACY, MEAN])
def test_bad_input_of_a_comparison(metric):
    whole, broken = np.ones((4, 2)), np.ones((4, 2))
    broken[1, 0] = math.nan
    with refused("rows-differ", "s evidence has the shape [3, 2], the reference", "4", "2"):
        compare(metric, whole[:3], whole)
    with refused("rows-differ"):
        compare(metric, whole[:, 0], whole[:, 0])
    with refused("samples-empty"):
        compare(metric, whole[:0], whole[:0])
    with refused("outputs-not-finite", "1", "4"):
        compare(metric, broken, whole)
    with refused("outputs-not-finite", "1", "4"):
        compare(metric, whole, broken)


def test_equal_answers_are_no_certainty_in_a_bootstrap_either():
    same = np.full((20, 2), 1.0)
    found = bootstrap(MEAN, same, same, resamples=100)
    assert (found.drop, found.low, found.high, found.p_value) == (0.0, *tango_interval(0, 0, 20), 1.0)
    assert not found.resolved(0.01)
    assert found.rows_needed(0.01) > 250


def test_the_interval_of_a_biased_score_holds_the_drop():
    """The number of different rows falls in every resample, so all drops drawn lie on one side of the drop."""
    different = Metric(
        "different rows", lambda evidence, weights: evidence[0, 0] * (weights > 0).sum(axis=1) / weights.shape[1]
    )
    found = bootstrap(different, np.zeros((50, 1)), np.ones((50, 1)), resamples=200)
    assert found.low < found.drop == found.high == 1.0
