"""Who wins: the fastest inside the budget, and the smaller of those that are level."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import backends
from edgekit.spec.errors import BudgetError
from edgekit.spec.manifest import Trial
from edgekit.spec.target import Budget, Target
from edgekit.tune import choose, excess

BASE = Trial(
    method="float32",
    backend="onnxruntime",
    executed="float32",
    score=0.90,
    drop=0.0,
    changed=0,
    p50_ms=10.0,
    p90_ms=12.0,
    first_answer_ms=300.0,
    memory_mb=100.0,
    size_mb=80.0,
)
KEYS = {"accuracy_drop": "drop", "p50_ms": "p50_ms", "memory_mb": "memory_mb", "first_answer_ms": "first_answer_ms", "size_mb": "size_mb"}


def trial(method="static", **changes):
    return replace(BASE, method=method, executed="float32" if method == "float32" else "int8", **changes)


def target(**budget):
    return Target("t", "d", ("onnxruntime",), ("static",), budget=Budget(**budget))


def test_the_fastest_wins():
    trials = [trial("float32", p50_ms=9), trial("static", p50_ms=5), trial("dynamic", p50_ms=4, p90_ms=99)]
    winner, reason, judged = choose(trials, target(), "accuracy", 0.91)
    assert winner == 2
    assert [t.verdict for t in judged] == ["2.25 x the time of the chosen one", "1.25 x the time of the chosen one", "chosen"]
    assert [replace(t, verdict="") for t in judged] == trials
    said = "dynamic on onnxruntime is the fastest of the 3 candidate(s) inside the budget (none): p50 4.00 ms, 2.25 x as fast as float32 on onnxruntime"
    assert reason == said + "; accuracy 0.9000, torch 0.9100."


def test_alone_it_is_compared_with_nothing():
    winner, reason, judged = choose([trial("float32")], target(size_mb=90), "micro F1", 0.9)
    assert (winner, judged[0].verdict) == (0, "chosen")
    assert reason == "float32 on onnxruntime is the fastest of the 1 candidate(s) inside the budget (size_mb 90): p50 10.00 ms; micro F1 0.9000, torch 0.9000."


@pytest.mark.parametrize(("slower", "winner"), [(10.0, 1), (10.4, 1), (10.5, 1), (10.51, 0), (12.0, 0)])
def test_level_within_5_percent_takes_less_memory(slower, winner):
    trials = [trial("static", p50_ms=10.0, memory_mb=200.0), trial("dynamic", p50_ms=slower, memory_mb=150.0)]
    found, reason, _ = choose(trials, target(), "accuracy", 0.9)
    assert found == winner
    assert ("level with the fastest, and has the least memory" in reason) is (winner == 1 and slower > 10)


def test_level_is_counted_from_the_fastest_inside_the_budget():
    outside = trial("dynamic", p50_ms=9.6, drop=0.5, memory_mb=1)
    trials = [outside, trial("static", p50_ms=10.0, memory_mb=200.0), trial("float32", p50_ms=10.4, memory_mb=150.0)]
    assert choose(trials, target(accuracy_drop=0.01), "accuracy", 0.9)[0] == 2


def test_same_memory_and_level_takes_the_faster():
    assert choose([trial("static", p50_ms=10.2), trial("dynamic", p50_ms=10.0)], target(), "accuracy", 0.9)[0] == 1


def test_the_fastest_outside_the_budget_does_not_win():
    trials = [trial("static", p50_ms=1, drop=0.011), trial("float32", p50_ms=9)]
    winner, reason, judged = choose(trials, target(accuracy_drop=0.01), "accuracy", 0.9)
    assert winner == 1
    assert judged[0].verdict == "over budget: accuracy_drop 0.011 over 0.01"
    assert "the 1 candidate(s) inside the budget (accuracy_drop 0.01)" in reason


@pytest.mark.parametrize("executed", ["float32", "bfloat16", "unknown", "int8 4/10 linears", "int8 5/10 linears"])
def test_int8_that_ran_in_float_is_refused(executed):
    trials = [replace(trial("static", p50_ms=1), executed=executed), trial("float32", p50_ms=9)]
    winner, _, judged = choose(trials, target(), "accuracy", 0.9)
    assert winner == 1
    assert judged[0].verdict == f"refused: its linears were to run in int8, they ran in {executed}"
    with pytest.raises(BudgetError, match="refused: its linears were to run in int8"):
        choose(trials[:1], target(), "accuracy", 0.9)


@pytest.mark.parametrize("executed", ["int8", "int8 6/10 linears", "int8 36/38 linears"])
def test_int8_that_mostly_ran_in_int8_is_not(executed):
    assert choose([replace(trial("static", p50_ms=1), executed=executed), trial("float32", p50_ms=9)], target(), "accuracy", 0.9)[0] == 0


def test_words_for_what_was_executed():
    assert backends.summary(["int8"] * 3) == "int8"
    assert backends.summary(["int8"] * 3 + ["float32"]) == "int8 3/4 linears"
    assert backends.summary(["float32"] * 2) == "float32"
    assert backends.summary(["bfloat16"] * 2 + ["float32"]) == "bfloat16"
    assert backends.summary([]) == "unknown"


@pytest.mark.parametrize("key", KEYS)
def test_excess_of_each_key(key):
    measured = replace(BASE, **{KEYS[key]: 2.0})
    assert excess(measured, Budget(**{key: 2.0})) == ""
    assert excess(measured, Budget(**{key: 2.5})) == ""
    units = {"accuracy_drop": "", "memory_mb": " MB", "size_mb": " MB"}.get(key, " ms")
    assert excess(measured, Budget(**{key: 1.999})) == f"over budget: {key} 2{units} over 1.999{units}"
    others = {name: 0.0 for name in KEYS if name != key}
    assert key not in excess(replace(measured, drop=1.0 if key != "accuracy_drop" else 2.0), Budget(**others)).replace("over budget: ", "").split()


def test_a_drop_of_exactly_the_limit_is_inside():
    """0.88 - 0.87 is 0.010000000000000009 in floating point."""
    assert 0.88 - 0.87 > 0.01
    assert excess(replace(BASE, drop=0.88 - 0.87), Budget(accuracy_drop=0.01)) == ""
    assert excess(replace(BASE, drop=-0.2), Budget(accuracy_drop=0.0)) == ""
    assert excess(replace(BASE, drop=0.0101), Budget(accuracy_drop=0.01)) != ""


def test_a_budget_of_nothing_is_a_budget():
    assert "size_mb" in excess(BASE, Budget(size_mb=0.0))


def test_none_inside():
    trials = [trial("static", drop=0.05, size_mb=20), trial("float32", size_mb=80)]
    with pytest.raises(BudgetError) as caught:
        choose(trials, target(accuracy_drop=0.01, size_mb=10), "accuracy", 0.95)
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [
        "No candidate is inside the budget of target 't', so nothing was written:",
        "  static on onnxruntime: over budget: accuracy_drop 0.05 over 0.01, size_mb 20 MB over 10 MB",
        "  float32 on onnxruntime: over budget: size_mb 80 MB over 10 MB",
        "(torch float32: accuracy 0.9500). Loosen it with --budget KEY=VALUE, or give a model with more margin.",
    ]


_trials = st.builds(
    lambda method, p50, memory, drop, low: replace(trial(method, p50_ms=p50, memory_mb=memory, drop=drop), executed=low if method != "float32" else "float32"),
    st.sampled_from(["static", "dynamic", "float32"]),
    st.floats(0.1, 20),
    st.floats(50, 500),
    st.floats(-0.05, 0.1),
    st.sampled_from(["int8", "float32"]),
)


@given(st.lists(_trials, min_size=1, max_size=6))
def test_nobody_inside_is_clearly_faster_or_level_and_smaller(trials):
    aim = target(accuracy_drop=0.02)
    inside = [t for t in trials if t.drop <= 0.02 and (t.method == "float32" or t.executed == "int8")]
    if not inside:
        with pytest.raises(BudgetError):
            choose(trials, aim, "accuracy", 0.9)
        return
    won = trials[choose(trials, aim, "accuracy", 0.9)[0]]
    fastest = min(t.p50_ms for t in inside)
    assert won in inside
    assert won.p50_ms <= 1.05 * fastest
    assert won.memory_mb == min(t.memory_mb for t in inside if t.p50_ms <= 1.05 * fastest)
