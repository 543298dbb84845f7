"""A bundle against sessions of a file: machines that drift, made up so that the truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from edgekit.report import sessions, speed
from edgekit.spec.report import INCONCLUSIVE, PASS, REGRESSION, Change
from edgekit.spec.subject import Process, Start, Subject, TimingSession
from edgekit.stats.interval import ALPHA, Estimate

MARGIN = math.log1p(0.05)


def test_one_session_is_judged_by_the_prior():
    """Student's t of the prior's 3 degrees of freedom, for the difference of two draws."""
    found, spread = sessions.predict([Estimate(0.1, 0.001, 8)], Estimate(0.4, 0.001, 8), 0.1)
    assert (found.value, spread) == (pytest.approx(0.3), 0.1)
    assert found.bounds(0.05) == pytest.approx(stats.t.interval(0.90, 3, 0.3, 0.1 * math.sqrt(2)))


@pytest.mark.parametrize("count", [2, 5, 30])
def test_sessions_that_vary_less_than_expected_are_joined_with_the_prior(count):
    values = np.random.default_rng(count).normal(0.7, 0.05, count)
    found, spread = sessions.predict([Estimate(v, 0.001, 8) for v in values], Estimate(0.9, 0.001, 8), 0.1)
    variance = (3 * 0.1**2 + count * np.var(values)) / (3 + count - 1)
    truth = stats.t.interval(0.90, 3 + count - 1, 0.9 - values.mean(), math.sqrt(variance * (1 + 1 / count)))
    assert found.bounds(0.05) == pytest.approx(truth) and spread == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize("count", [2, 5, 30])
def test_of_sessions_that_vary_more_the_interval_is_that_of_a_new_draw(count):
    """The prediction interval of textbooks, by the sample alone."""
    values = 0.7 + 0.3 * np.linspace(-1, 1, count)
    found, spread = sessions.predict([Estimate(v, 0.001, 8) for v in values], Estimate(0.9, 0.001, 8), 0.1)
    truth = stats.t.interval(0.90, count - 1, 0.9 - values.mean(), values.std(ddof=1) * math.sqrt(1 + 1 / count))
    assert found.bounds(0.05) == pytest.approx(truth) and spread == pytest.approx(values.std(ddof=1))


def test_a_session_that_was_measured_badly_is_no_better_than_it_says():
    sharp, _ = sessions.predict([Estimate(0.0, 0.01, 8)] * 3, Estimate(0.3, 0.01, 8), 0.1)
    blurred, _ = sessions.predict([Estimate(0.0, 0.01, 8)] * 3, Estimate(0.3, 0.5, 8), 0.1)
    assert blurred.error > 0.5 > sharp.error


@pytest.mark.parametrize(("count", "between"), [(1, 0.02), (1, 0.10), (3, 0.10), (6, 0.03), (6, 0.25), (12, 0.40)])
def test_a_bundle_as_fast_as_its_baseline_is_seldom_called_slower(count, between):
    """At the margin itself, the worst that is allowed: 4,000 machines whose sessions vary up to four times as much as the prior expects."""
    draw, runs = np.random.default_rng(count), 4000
    logs = draw.normal(0, between, (runs, count + 1))
    red = 0
    for row in logs:
        found, _ = sessions.predict(
            [Estimate(v, 0.005, 8) for v in row[:-1]], Estimate(row[-1] + MARGIN, 0.005, 8), 0.10
        )
        red += found.bounds(ALPHA)[0] > MARGIN
    assert stats.binomtest(red, runs).proportion_ci(0.999).low <= 0.05, f"{red / runs:.3f}"


def test_a_machine_in_two_states_is_no_regression():
    """Each session is in one of two states, 56 % apart, by a coin: no normal distribution, and still at most 5 % false alarms."""
    draw, runs = np.random.default_rng(3), 4000
    red = 0
    for _ in range(runs):
        row = math.log(1.56) * draw.integers(0, 2, 5) + draw.normal(0, 0.02, 5)
        found, _ = sessions.predict(
            [Estimate(v, 0.005, 8) for v in row[:-1]], Estimate(row[-1], 0.005, 8), sessions.PRIOR["p50"]
        )
        red += found.bounds(ALPHA)[0] > MARGIN
    assert stats.binomtest(red, runs).proportion_ci(0.999).low <= 0.05, f"{red / runs:.3f}"


@pytest.mark.parametrize(("count", "least"), [(1, 0.50), (4, 0.97)])
def test_a_large_change_is_found(count, least):
    """+60 % on a machine whose sessions, over a probe kernel, vary by 5 %."""
    draw, runs = np.random.default_rng(5), 2000
    found = 0
    for _ in range(runs):
        row = draw.normal(0, 0.05, count + 1)
        one, _ = sessions.predict(
            [Estimate(v, 0.005, 8) for v in row[:-1]],
            Estimate(row[-1] + math.log(1.6), 0.005, 8),
            sessions.PROBED_PRIOR["p50"],
        )
        found += one.bounds(ALPHA)[0] > MARGIN
    assert found / runs >= least


# ---- with probe kernels beside


def session(draw, bundle=1.0, probe=1.0, processes=6, memory=100.0):
    """Processes of a session in which the machine makes the bundle and the probe so many times slower."""

    def process():
        times = [tuple(2.0 * bundle * draw.lognormal(0, 0.03, 16)) for _ in range(12)]
        beside = {"int8 4": 1.8 * probe * draw.lognormal(0, 0.03, (13, 3)), "memory 1": draw.lognormal(0, 0.5, (13, 1))}
        told = {name: tuple(map(tuple, calls.tolist())) for name, calls in beside.items()}
        return Process(Start(100, 1, 100, 100, 301.0 * probe), tuple(times), memory, None, (), told, 250.0 * probe)

    return tuple(process() for _ in range(processes))


def subject(*every):
    earlier = tuple(TimingSession("2026-01-01T00:00:00Z", processes) for processes in every[:-1])
    one = Subject("b", "sha256:0", 1, "m", "text-classification", {"labels": ["a", "b"]}, ("a", "b"), size_mb=20.0)
    return replace(one, processes=every[-1], sessions=earlier)


def p50(before, after):
    return {c.metric: c for c in speed.compare_unpaired(before, after, 5.0, 0).changes}


def test_what_meets_the_probe_too_is_the_machine():
    draw = np.random.default_rng(7)
    before = subject(session(draw))
    slow = p50(before, subject(session(draw, 1.56, 1.56)))
    assert (
        slow["p50"].probe == "int8 4"
        and slow["p90"].probe == "int8 4"
        and slow["p50"].ratio == pytest.approx(1.0, abs=0.03)
    )
    assert slow["first_answer"].probe == sessions.START and slow["first_answer"].ratio == pytest.approx(1.0, abs=0.01)
    assert slow["memory"].probe == "" and slow["memory"].ratio == 1.0
    assert (slow["p50"].before, slow["p50"].after) == (pytest.approx(2.0, rel=0.05), pytest.approx(3.12, rel=0.05)), (
        "as it was on the clock"
    )
    worse = p50(before, subject(session(draw, 1.8, 1.0)))
    assert speed.verdict(worse["p50"], 0.05) == REGRESSION
    assert speed.verdict(p50(before, subject(session(draw, 1.1, 1.0)))["p50"], 0.05) == INCONCLUSIVE
    assert speed.verdict(p50(before, subject(session(draw, 0.6, 1.0)))["p50"], 0.05) == PASS


def test_a_probe_that_does_not_follow_the_bundle_is_not_used():
    """Five sessions in which the bundle is as fast as ever and the probe anything between 0.4 and 2.5 times as fast."""
    draw = np.random.default_rng(8)
    before = subject(*(session(draw, 1.0, probe) for probe in (0.4, 2.5, 1.0, 0.5, 2.0)))
    found = p50(before, subject(session(draw, 1.0, 2.5)))
    assert (found["p50"].probe, found["p50"].sessions) == ("", 5) and found["p50"].ratio == pytest.approx(1.0, abs=0.03)


def test_a_baseline_without_probes_is_judged_without():
    draw = np.random.default_rng(9)
    bare = tuple(replace(p, probes_ms={}, probe_start_ms=None) for p in session(draw))
    assert p50(subject(bare), subject(session(draw)))["p50"].probe == ""
    assert sessions.describe_drift(subject(bare), subject(session(draw))) == ""


def test_times_over_a_kernel_are_those_written_out():
    one = Process(
        Start(1, 1, 1, 1, 4),
        ((4.0, 9.0, 6.0, 8.0), (10.0, 2.0, 20.0, 4.0)),
        1.0,
        None,
        (),
        {"int8 2": ((1.0, 2.0), (4.0, 3.0), (5.0, 8.0))},
    )
    assert sessions.in_form(one, "int8 2") == pytest.approx(
        [v / 2.5 for v in (4, 9, 6, 8)] + [v / 4.5 for v in (10, 2, 20, 4)]
    )
    assert (sessions.describe_form("int8 2"), sessions.describe_form("")) == ("over the probe int8", "")


def test_kernels_that_drift_apart_say_that_the_bundle_may():
    """Over both, a bundle 65 % slower; the products moved by 0.4 against each other, which is 0.2 for each of two sessions."""
    before = [
        {
            "both": Estimate(0.0, 0.01, 8),
            "int8 2": Estimate(0.0, 0.01, 8),
            "float32 1": Estimate(0.0, 0.01, 8),
            "": Estimate(0.0, 0.01, 8),
        }
    ]
    calm = {
        "both": Estimate(0.5, 0.01, 8),
        "int8 2": Estimate(0.5, 0.01, 8),
        "float32 1": Estimate(0.5, 0.01, 8),
        "": Estimate(0.5, 0.01, 8),
    }
    apart = {**calm, "int8 2": Estimate(0.3, 0.01, 8), "float32 1": Estimate(0.7, 0.01, 8)}
    assert sessions.compare("p50", before, calm).spread == pytest.approx(sessions.PROBED_PRIOR["p50"])
    found = sessions.compare("p50", before, apart)
    assert (found.probe, found.spread) == ("both", pytest.approx(0.4 / 2))
    assert sessions.compare("p50", before, calm).estimate.bounds(ALPHA)[0] > MARGIN > found.estimate.bounds(ALPHA)[0]


def test_over_both_products():
    told = {"int8 2": ((2.0,), (2.0,)), "float32 1": ((8.0,), (8.0,)), "memory 1": ((9.0,), (9.0,))}
    one = Process(Start(1, 1, 1, 1, 4), ((4.0, 8.0),), 1.0, None, (), told)
    assert sessions.in_form(one, "both") == pytest.approx([1.0, 2.0])
    assert sessions.forms("p50", [[one]]) == ["both", "int8 2", "float32 1", ""] and sessions.forms(
        "memory", [[one]]
    ) == [""]


def test_what_the_machine_is_worth_is_told():
    draw = np.random.default_rng(10)
    said = sessions.describe_drift(subject(session(draw), session(draw)), subject(session(draw, 1.5, 1.5)))
    assert said.startswith("This machine's probe kernels now over the baseline's (above 1 is slower): int8 x 1.5")


def change(ratio, spread, count):
    return Change("p50", 2.0, 2.0, "ms", ratio, 0.5, 2.0, sessions=count, spread=spread)


def test_how_many_sessions_more():
    """As many as it takes until the interval of a new draw, at the spread seen, no longer holds the margin."""
    count = sessions.more_sessions(change(1.25, 0.07, 1), 0.05)
    total = 1 + count

    def arm(k):
        return stats.t.ppf(0.95, k - 1) * 0.07 * math.sqrt(1 + 1 / k)

    assert arm(total) < math.log(1.25 / 1.05) <= arm(total - 1)
    assert sessions.more_sessions(change(1.06, 0.07, 1), 0.05) is None, "1 % from the margin: no number of sessions"
    assert sessions.more_sessions(change(None, 0.07, 1), 0.05) is None
