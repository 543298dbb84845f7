"""Verdicts of gates, from numbers whose verdict is plain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from refusals import refused
from scipy import stats

from edgekit.report import gating
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.report import (
    INCOMPARABLE,
    INCONCLUSIVE,
    OVER_BUDGET,
    PASS,
    REGRESSION,
    Accuracy,
    Change,
    Report,
    Slice,
    Speed,
)
from edgekit.spec.subject import Fingerprint, Start, Subject, Times
from edgekit.spec.target import Budget
from edgekit.stats.paired import tango_interval

ACCURACY = Accuracy(
    1000,
    "accuracy",
    0.90,
    0.89,
    0.010,
    0.002,
    0.018,
    20,
    10,
    0.1,
    flips=30,
    calibration_before=0.02,
    calibration_after=0.05,
)
SUBJECT = Subject(
    "tiny", "sha256:0", 1, "m", "text-classification", {"labels": ["a", "b"]}, ("a", "b"), score=0.89, size_mb=20.0, memory_mb=100.0,
    times=Times(300, 2.0, 2.0, 3.0, None, {"p99": 662}, ()), start=Start(1, 1, 1, 1, 300.0),
)  # fmt: skip


def only(**tables):
    off = {
        "latency": LatencyGates(None, None, None),
        "accuracy": AccuracyGates(None),
        "footprint": FootprintGates(None, None, None, None),
    }
    return Gates(**{**off, **tables})


def accuracy(limits, **changed):
    return gating.judge_comparison(only(accuracy=limits), replace(ACCURACY, **changed), None)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.011, 0.03, REGRESSION), (-0.004, 0.01, PASS), (0.002, 0.018, INCONCLUSIVE), (0.01, 0.02, INCONCLUSIVE)],
)
def test_the_interval_of_the_drop_decides(low, high, outcome):
    (gate,) = accuracy(AccuracyGates(0.01), low=low, high=high, rows_needed=4321)
    assert (
        gate.name == "accuracy.drop"
        and gate.verdict == outcome
        and (gate.low, gate.high, gate.limit) == (low, high, 0.01)
    )
    assert ("4,321 rows would decide" in gate.said) == (outcome == INCONCLUSIVE)


def test_other_samples_are_incomparable():
    found = accuracy(
        AccuracyGates(0.01, 0.1, 0.1, 0.1, 0.1, 0.1), comparable=False, why_not="the samples changed since"
    )
    assert (
        {g.verdict for g in found} == {INCOMPARABLE}
        and {g.said for g in found} == {"the samples changed since"}
        and len(found) == 6
    )


def test_a_score_that_is_not_defined_is_incomparable():
    (gate,) = accuracy(AccuracyGates(0.01), before=None, after=None, drop=None, low=None, high=None)
    assert gate.verdict == INCOMPARABLE


@pytest.mark.parametrize(("flips", "outcome"), [(10, PASS), (60, REGRESSION), (30, INCONCLUSIVE)])
def test_flips_are_judged_by_the_exact_interval(flips, outcome):
    (gate,) = accuracy(AccuracyGates(None, flips=0.03), flips=flips)
    assert gate.verdict == outcome
    truth = (stats.beta.ppf(0.05, flips, 1000 - flips + 1), stats.beta.ppf(0.95, flips + 1, 1000 - flips))
    assert (gate.low, gate.high) == pytest.approx(truth)


def test_calibration():
    assert accuracy(AccuracyGates(None, calibration_error=0.02))[0].verdict == REGRESSION
    assert accuracy(AccuracyGates(None, calibration_error=0.04))[0].verdict == PASS
    assert accuracy(AccuracyGates(None, calibration_error=0.04), calibration_after=None)[0].verdict == INCOMPARABLE


def test_a_slice_is_held_to_the_bound_of_all_slices():
    parts = (
        Slice("topic", "bad", 100, 0.9, 0.7, 0.2, 0.12, 0.28, 1e-4, 4e-4),
        Slice("topic", "chance", 100, 0.9, 0.8, 0.1, 0.06, 0.15, 0.03, 0.12),
        Slice("topic", "fine", 500, 0.9, 0.9, 0.0, -0.01, 0.01, 1.0, 1.0),
        Slice("topic", "one", 1, said="1 row"),
    )
    found = {g.name: g for g in accuracy(AccuracyGates(None, slice_drop=0.05), slices=parts)}
    assert [found[f"slice.topic={v}"].verdict for v in ("bad", "chance", "fine")] == [REGRESSION, INCONCLUSIVE, PASS]
    assert "slice.topic=one" not in found, "of one row nothing will ever be proved"


@pytest.mark.slow
def test_many_slices_at_the_margin_itself_are_hardly_ever_called_a_regression():
    """20 slices of 500 rows whose true drop is just what is allowed, 400 times: 64 % of the checks would be red without the adjustment."""
    draw, limit, red = np.random.default_rng(0), 0.05, 0
    for _ in range(400):
        counts = [draw.multinomial(500, (0.09, 0.04, 0.87))[:2].tolist() for _ in range(20)]
        parts = tuple(
            Slice("topic", str(i), 500, 0.9, 0.85, (b - c) / 500, *tango_interval(b, c, 500), 0.01, 0.01)
            for i, (b, c) in enumerate(counts)
        )
        red += any(g.verdict == REGRESSION for g in accuracy(AccuracyGates(None, slice_drop=limit), slices=parts))
    assert stats.binomtest(red, 400).proportion_ci(0.999).low <= 0.05, red


def judged(metric="p50", ratio=1.02, low=1.01, high=1.03, said="", **speed):
    change = Change(metric, 2.0, 2.04, "ms", ratio, low, high, 0.01, said)
    footprint = (
        FootprintGates(**{"first_answer": None, "memory": None, "size": None, metric: 0.05})
        if metric != "p50"
        else None
    )
    tables = {"latency": LatencyGates(0.05, None, None)} if footprint is None else {"footprint": footprint}
    *_, gate = gating.judge_comparison(only(**tables), ACCURACY, Speed(True, (change,), 8, 80, 1280, 1, 20.0, **speed))
    return gate


def test_latency():
    assert judged().verdict == PASS and judged().name == "latency.p50" and judged().value == pytest.approx(0.02)
    assert judged(ratio=1.1, low=1.06, high=1.14).verdict == REGRESSION
    assert judged(ratio=1.05, low=1.02, high=1.08).verdict == INCONCLUSIVE
    assert judged().said == "p50 latency x 1.020 (1.010 to 1.030, interleaved): within the allowed +5%", (
        "without medians, which may contradict it"
    )


def test_latency_on_another_machine_is_never_a_pass():
    gate = judged(ratio=0.5, low=0.4, high=0.6, comparable=False, why_not="cpu: a, then b")
    assert gate.verdict == INCOMPARABLE and gate.said == "cpu: a, then b" and gate.value is None


def test_size_is_judged_on_any_machine():
    assert judged("size", 1.2, 1.2, 1.2, comparable=False, why_not="cpu: a, then b").verdict == REGRESSION
    assert judged("memory", 1.2, 1.2, 1.2, comparable=False, why_not="cpu: a, then b").verdict == INCOMPARABLE


def test_what_cannot_be_estimated():
    gate = judged(ratio=None, low=None, high=None, said="not estimable from 300 samples (needs 662)")
    assert gate.verdict == INCONCLUSIVE and "not estimable from 300 samples (needs 662)" in gate.said
    assert judged("energy", None, None, None, "not reported by this machine").verdict == INCOMPARABLE


def test_gates_of_a_baseline_without_times_do_not_fall_away():
    found = gating.judge_comparison(Gates(), ACCURACY, None, "it was not timed")
    assert {g.name for g in found if g.verdict == INCOMPARABLE} == {
        "latency.p50", "latency.p90", "footprint.first_answer", "footprint.memory", "footprint.size",
    }  # fmt: skip
    assert [g.name for g in gating.judge_comparison(Gates(), ACCURACY, None)] == ["accuracy.drop"], (
        "whoever compares with a teacher does not ask for them"
    )


def from_a_file(ratio, low, high, sessions, spread):
    change = Change("p50", 2.0, 2.0 * ratio, "ms", ratio, low, high, sessions=sessions, spread=spread, probe="int8 4")
    return gating.judge_comparison(
        only(latency=LatencyGates(0.05, None, None)), ACCURACY, Speed(False, (change,), 8, 80, 1280, 1, 20.0)
    )[0]


def test_a_drift_that_cannot_be_told_from_a_change_is_inconclusive_with_its_remedy():
    gate = from_a_file(1.2, 1.0, 1.44, 1, 0.05)
    assert gate.verdict == INCONCLUSIVE
    assert (
        "x 1.200 (1.000 to 1.440, against 1 session of a file, over the probe int8): not known whether it exceeds +5%"
        in gate.said
    )
    assert (
        "the machine itself may vary as much between two sessions" in gate.said
        and "Give the older bundle itself (--baseline BUNDLE), or " in gate.said
    )
    assert "more sessions of it at other times (edgekit baseline BUNDLE --append)" in gate.said
    assert "No number of sessions would decide" in from_a_file(1.07, 0.9, 1.3, 3, 0.05).said, (
        "2 % from the margin, with 5 % from session to session"
    )
    assert "Give the older" not in from_a_file(1.6, 1.3, 2.0, 3, 0.05).said


def test_only_what_a_machine_decides_may_be_left_incomparable():
    latency = replace(judged(), verdict=INCOMPARABLE)
    for name, code in (
        ("latency.p50", 0),
        ("footprint.memory", 0),
        ("accuracy.drop", 4),
        ("budget.accuracy_drop", 4),
        ("slice.length=1-16", 4),
    ):
        found = replace(report(), gates=(replace(latency, name=name),))
        assert (found.exit_code(), found.exit_code(allow_incomparable=True)) == (4, code)


def test_a_budget_is_held_against_the_estimate():
    limits = Budget(accuracy_drop=0.01, p50_ms=1.5, memory_mb=100.0, first_answer_ms=299.0, size_mb=30.0)
    found = {g.name: g.verdict for g in gating.judge_budget(limits, SUBJECT, (0.005, ""))}
    assert found == {
        "budget.accuracy_drop": PASS,
        "budget.p50_ms": OVER_BUDGET,
        "budget.memory_mb": PASS,
        "budget.first_answer_ms": OVER_BUDGET,
        "budget.size_mb": PASS,
    }


def test_a_budget_that_was_not_measured_is_no_pass():
    found = gating.judge_budget(Budget(accuracy_drop=0.01, p50_ms=1.5), replace(SUBJECT, times=None), (None, "others"))
    assert [(g.verdict, "others" in g.said) for g in found] == [(INCOMPARABLE, True), (INCOMPARABLE, False)]


def test_margins_inside_the_noise_are_refused():
    gates = only(latency=LatencyGates(0.05, 0.10, None), footprint=FootprintGates(None, 0.01, None, None))
    gating.check_floor(gates, {"p50": 0.03, "p90": 0.10, "p99": 0.5})
    with refused("gates-below-noise", "10.0", "12.0", "1.0", "2.0"):
        gating.check_floor(gates, {"p50": 0.03, "p90": 0.12, "memory": 0.02})


def report(*outcomes):
    gates = tuple(replace(judged(), verdict=v) for v in outcomes)
    return Report(1, "check", "", 0, "", 1, Fingerprint("0", "3", "Linux", "cpu", 2), (SUBJECT,), gates=gates)


@pytest.mark.parametrize(
    ("outcomes", "worst", "plain", "strict", "allowed"),
    [
        ((), PASS, 0, 0, 0),
        ((PASS, PASS), PASS, 0, 0, 0),
        ((PASS, INCONCLUSIVE), INCONCLUSIVE, 0, 4, 0),
        ((INCOMPARABLE, INCONCLUSIVE), INCOMPARABLE, 4, 4, 0),
        ((INCOMPARABLE, OVER_BUDGET), OVER_BUDGET, 3, 3, 3),
        ((REGRESSION, INCOMPARABLE, OVER_BUDGET), REGRESSION, 3, 3, 3),
    ],
)
def test_exit_codes(outcomes, worst, plain, strict, allowed):
    found = report(*outcomes)
    assert found.verdict == worst
    assert (found.exit_code(), found.exit_code(strict=True), found.exit_code(allow_incomparable=True)) == (
        plain,
        strict,
        allowed,
    )
    assert found.exit_code(strict=True, allow_incomparable=True) == (
        4 if INCONCLUSIVE in outcomes and plain != 3 else allowed
    )
