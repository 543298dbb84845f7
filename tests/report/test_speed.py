"""From processes to ratios and verdicts, on made-up times whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from refusals import refused

from edgekit.report import speed
from edgekit.spec.gates import FootprintGates, Gates, LatencyGates
from edgekit.spec.report import INCONCLUSIVE, PASS, REGRESSION, Change
from edgekit.spec.subject import Process, Start, Subject
from edgekit.stats.interval import Look
from edgekit.timing.interleaved import InterleavedTiming

MARGINS = {"p50": 0.05, "p90": 0.10, "p99": 0.10}


def process(draw, factor=1.0, *, blocks=10, texts=None, memory=100.0, start=300.0, tail=1.0, energy=None):
    """Times that depend on the text, with noise; ``tail`` makes every twentieth call slower."""
    texts = np.linspace(1.0, 3.0, 8) if texts is None else texts
    made = []
    for _ in range(blocks):
        times = np.concatenate([texts, texts]) * factor * draw.lognormal(0, 0.02, 2 * len(texts))
        times[draw.random(len(times)) < 0.05] *= tail
        made.append(tuple(float(t) for t in times))
    return Process(Start(start / 3, 1.0, start / 3, start / 3, start), tuple(made), memory, energy)


def pairs(seed, factor, count=8, **after):
    draw = np.random.default_rng(seed)
    return tuple((process(draw), process(draw, factor, **after)) for _ in range(count))


def paired(made, gated=MARGINS, looks=None, sizes=(20.0, 20.0)):
    return {
        c.metric: c
        for c in speed.compare_paired(
            InterleavedTiming(made, 10.0, looks or (Look(len(made), 1.0),)), sizes, gated, 0
        ).changes
    }


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, PASS), (0.8, PASS), (1.10, REGRESSION), (1.05, INCONCLUSIVE)])
def test_a_slowdown_is_judged_by_its_interval(factor, outcome):
    found = paired(pairs(1, factor))
    assert found["p50"].ratio == pytest.approx(factor, rel=0.01)
    assert found["p50"].low < factor < found["p50"].high
    assert speed.verdict(found["p50"], 0.05) == outcome


def test_a_longer_tail_shows_in_the_percentiles_of_the_tail_alone():
    found = paired(pairs(2, 1.0, tail=3.0))
    assert speed.verdict(found["p50"], 0.05) == PASS
    assert speed.verdict(found["p99"], 0.10) == REGRESSION


def test_blocks_are_compared_text_by_text():
    """Twice the same texts: the ratio of a text is that of the geometric means, the block's is the median over texts."""
    start = Start(1, 1, 1, 1, 4)
    before, after = (
        Process(start, ((1.0, 10.0, 5.0, 4.0, 10.0, 5.0),), 1.0),
        Process(start, ((2.0, 10.0, 5.0, 2.0, 10.0, 10.0),), 1.0),
    )
    # text 1: sqrt(2*2)/sqrt(1*4) = 1; text 2: 1; text 3: sqrt(5*10)/5 = sqrt(2)
    assert speed.log_ratios(before, after) == pytest.approx([0.0])
    longer = Process(start, ((2.0, 20.0, 5.0, 4.0, 20.0, 5.0),), 1.0)
    assert speed.log_ratios(before, longer) == pytest.approx([math.log(math.sqrt(8) / 2)])


def test_a_percentile_without_enough_calls_is_not_estimated():
    draw = np.random.default_rng(3)
    made = tuple((process(draw, blocks=2), process(draw, 1.2, blocks=2)) for _ in range(4))
    found = paired(made)
    assert found["p50"].ratio is not None
    assert found["p99"].ratio is None and found["p99"].after is None
    assert found["p99"].said == "not estimable from 128 samples (needs 662)", "4 pairs x 2 blocks x 16 calls"
    assert speed.verdict(found["p99"], 0.10) == INCONCLUSIVE


def test_fewer_than_four_pairs_decide_nothing():
    found = paired(pairs(4, 2.0, count=3))
    assert found["p50"].ratio == pytest.approx(2.0, rel=0.02) and found["p50"].low is None
    assert "3 processes" in found["p50"].said and speed.verdict(found["p50"], 0.05) == INCONCLUSIVE


def test_memory_start_and_energy_are_ratios_of_processes_and_size_is_exact():
    found = paired(pairs(5, 1.0, memory=125.0, start=600.0), sizes=(20.0, 25.0))
    assert found["memory"].ratio == pytest.approx(1.25) and found["first_answer"].ratio == pytest.approx(2.0)
    assert (found["size"].ratio, found["size"].low, found["size"].high) == (1.25, 1.25, 1.25)
    assert found["energy"].ratio is None and found["energy"].said == "not reported by this machine"
    draw = np.random.default_rng(6)
    told = tuple((process(draw, energy=2.0), process(draw, energy=3.0)) for _ in range(5))
    assert paired(told)["energy"].ratio == pytest.approx(1.5)


def test_a_metric_is_judged_at_the_first_look_that_decides_it():
    """What a look has decided stays, whatever comes behind it: else the levels of the looks would not add up."""
    slow, level = pairs(7, 1.3, count=6), pairs(8, 0.9, count=14)
    looks = (Look(6, 0.3), Look(20, 1.0))
    assert speed.verdict(paired(slow + level, looks=looks)["p50"], 0.05) == REGRESSION
    late = paired(slow + level, gated={}, looks=looks)["p50"]
    assert speed.verdict(late, 0.05) != REGRESSION, "not gated: all pairs"


def test_a_duel_ends_when_all_gated_metrics_are_decided():
    decided = speed.make_stop_rule(MARGINS, (1.0, 1.0), 0)
    assert decided(pairs(9, 1.0), (Look(8, 0.5),))
    assert not decided(pairs(9, 1.05), (Look(8, 0.5),))
    assert decided(pairs(10, 1.3, tail=1.0), (Look(8, 0.5),))
    assert not speed.make_stop_rule({}, (1.0, 1.0), 0)(pairs(9, 1.0), (Look(8, 0.5),)), (
        "without a gate it goes on for all of the time"
    )


def test_what_no_time_can_decide_does_not_keep_a_duel_going():
    decided = speed.make_stop_rule({"p50": 0.05, "energy": 0.1}, (1.0, 1.0), 0)
    assert decided(pairs(11, 1.0), (Look(8, 0.5),)), "this machine does not tell energy"


def test_a_percentile_that_needs_more_calls_keeps_a_duel_going():
    draw = np.random.default_rng(14)
    few = tuple((process(draw, blocks=2), process(draw, 0.8, blocks=2)) for _ in range(6))
    assert speed.make_stop_rule({"p50": 0.05}, (1.0, 1.0), 0)(few, (Look(6, 0.5),))
    assert not speed.make_stop_rule({"p50": 0.05, "p99": 0.10}, (1.0, 1.0), 0)(few, (Look(6, 0.5),)), (
        "192 calls of a side, 662 are needed"
    )


def test_gates_that_are_off_are_no_margins():
    assert speed.margins(
        Gates(LatencyGates(p50=0.02, p90=None, p99=None), footprint=FootprintGates(None, None, None, None))
    ) == {"p50": 0.02}


def subject(processes, size=20.0):
    return Subject(
        "name",
        "digest",
        1,
        "model",
        "text-classification",
        {"labels": ["a", "b"]},
        ("a", "b"),
        size_mb=size,
        processes=tuple(processes),
    )


def test_runs_at_different_times_are_compared_process_by_process():
    draw = np.random.default_rng(12)
    before, after = [process(draw) for _ in range(8)], [process(draw, 1.2, memory=150.0) for _ in range(8)]
    found = speed.compare_unpaired(subject(before), subject(after, 30.0), 5.0, 0)
    changes = {c.metric: c for c in found.changes}
    assert not found.paired and found.pairs == 8
    assert changes["p50"].ratio == pytest.approx(1.2, rel=0.03) and changes["p50"].low < 1.0, (
        "of one session, and without a probe, that is within a drift"
    )
    assert (changes["p50"].sessions, changes["p50"].probe) == (1, "") and changes["p50"].spread == pytest.approx(0.30)
    assert changes["memory"].ratio == pytest.approx(1.5) and changes["memory"].low > 1.4, "memory does not drift"
    assert changes["size"].ratio == pytest.approx(1.5)
    few = speed.compare_unpaired(subject(before[:2]), subject(after), 5.0, 0)
    assert {c.metric: c for c in few.changes}["p50"].low is None, "two processes say nothing of how processes differ"


def test_a_clock_that_goes_backwards_is_an_error():
    broken = pairs(13, 1.0)
    bad = Process(broken[0][0].start, ((0.0,) * 16, *broken[0][0].blocks_ms), 100.0)
    with refused("clock-backwards"):
        paired(((bad, broken[0][1]), *broken[1:]))


def test_verdicts_of_an_interval():
    def change(low, high):
        return Change("p50", 1.0, 1.0, "ms", 1.0, low, high)

    assert speed.verdict(change(1.051, 1.2), 0.05) == REGRESSION
    assert speed.verdict(change(1.05, 1.2), 0.05) == INCONCLUSIVE, "the margin itself is allowed"
    assert speed.verdict(change(0.9, 1.05), 0.05) == PASS
    assert speed.verdict(change(0.9, 1.0501), 0.05) == INCONCLUSIVE
    assert speed.verdict(change(None, None), 0.05) == INCONCLUSIVE
