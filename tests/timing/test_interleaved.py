"""Order and duration of interleaved timing, with fake processes that log every call, and once with real processes."""

from __future__ import annotations

import contextlib

import pytest
from refusals import refused

from edgekit.report import speed
from edgekit.report.side import open_for_test
from edgekit.spec.errors import BackendError
from edgekit.spec.subject import Start
from edgekit.timing import interleaved
from edgekit.timing.interleaved import FIRST_LOOK, MOST, Single, time_interleaved, time_single
from edgekit.timing.worker import Worker

TEXTS = [f"text {i}" for i in range(50)]


class Side:
    """A fake worker that logs every call."""

    def __init__(self, name, log, call_ms=1.0, fail_at=None):
        self.name = name
        self.log = log
        self.call_ms = call_ms
        self.fail_at = fail_at
        self.opened = 0
        self.running = []

    def __call__(self):
        self.opened += 1
        self.log.append((self.name, "open"))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.append((self.name, "close"))

    @contextlib.contextmanager
    def turn(self):
        assert not self.running, "no two at a time"
        self.running.append(self.name)
        yield
        self.running.remove(self.name)

    def start(self, text):
        assert self.running == [self.name]
        if self.fail_at == self.opened:
            raise BackendError(f"{self.name} does not load")
        return Start(1.0, 1.0, 1.0, 1.0, 4.0)

    def time(self, texts):
        assert self.running == [self.name]
        self.log.append((self.name, tuple(texts)))
        return [self.call_ms] * len(texts)

    def memory_mb(self):
        return 50.0


def run_timing(before=None, after=None, decided=lambda pairs, looks: False, max_time=1e6, **options):
    log = []
    before = before or Side("A", log)
    after = after or Side("B", log)
    before.log = after.log = log
    after.running = before.running
    return time_interleaved((before, after), TEXTS, decided, max_time=max_time, **options), log


def test_blocks_go_a_b_b_a_with_the_same_texts():
    _, log = run_timing(decided=lambda *_: True)
    first = [entry for entry in log[: log.index(("A", "close"))] if entry[1] != "open"]
    # The first two calls of a block are warm-up. Requests of two texts are the warm-up of a process.
    turns = [(who, what[2:]) for who, what in first if len(what) > 2]
    for start in range(0, 32, 4):
        four = turns[start : start + 4]
        assert [who for who, _ in four] == ["A", "B", "B", "A"]
        assert len({texts for _, texts in four}) == 1


def test_every_other_pair_begins_with_the_other_side():
    timing, log = run_timing(decided=lambda *_: True)
    order = [who for who, what in log if what == "open"]
    assert order == ["A", "B", "B", "A"] * (len(timing.pairs) // 2)


def test_sides_keep_their_place_when_the_order_turns():
    timing, _ = run_timing(Side("A", [], 1.0), Side("B", [], 2.0), decided=lambda *_: True)
    assert all(set(a.blocks_ms[0]) == {1.0} and set(b.blocks_ms[0]) == {2.0} for a, b in timing.pairs)


def test_looks_come_at_six_pairs_half_way_and_at_the_end():
    timing, _ = run_timing()
    assert [look.pairs for look in timing.looks] == [FIRST_LOOK, (FIRST_LOOK + MOST) // 2, MOST]
    assert timing.looks[-1].share == 1.0 and timing.looks[0].share == pytest.approx(FIRST_LOOK / MOST)


def test_it_ends_at_the_look_that_decides():
    timing, _ = run_timing(decided=lambda pairs, looks: len(looks) == 2)
    assert len(timing.pairs) == timing.looks[-1].pairs == (FIRST_LOOK + MOST) // 2 and timing.looks[-1].share < 1.0


def test_four_pairs_are_measured_whatever_they_take():
    timing, _ = run_timing(max_time=0.0)
    assert len(timing.pairs) == 4 and [look.share for look in timing.looks] == [1.0]


def test_texts_are_taken_from_all_of_them_before_one_comes_again():
    _, log = run_timing(decided=lambda *_: True)
    seen = [text for who, what in log if who == "A" and isinstance(what, tuple) and len(what) > 2 for text in what[2:]]
    assert set(seen) == set(TEXTS)


def test_the_order_is_the_seeds():
    one, other, again = (run_timing(decided=lambda *_: True, seed=s)[1] for s in (1, 2, 1))
    assert one == again != other


def test_slow_models_answer_fewer_texts_a_block():
    timing, _ = run_timing(Side("A", [], 30.0), Side("B", [], 40.0), decided=lambda *_: True)
    assert len(timing.pairs[0][0].blocks_ms[0]) == 4, "two texts of 40 ms fill a turn, both answered twice"
    slowest, _ = run_timing(Side("A", [], 500.0), Side("B", [], 500.0), decided=lambda *_: True)
    assert len(slowest.pairs[0][0].blocks_ms[0]) == 2


def test_a_side_that_fails_later_ends_the_duel_and_closes_both():
    log = []
    with refused("error"):
        time_interleaved((Side("A", log), Side("B", log, fail_at=3)), TEXTS, lambda *_: False, max_time=1e6)
    assert log.count(("A", "open")) == log.count(("A", "close")) and log.count(("B", "open")) == log.count(
        ("B", "close")
    )


def test_without_an_input_there_is_nothing_to_time():
    with refused("samples-empty"):
        time_interleaved((Side("A", []), Side("B", [])), [], lambda *_: False, max_time=1.0)


class Slow(Worker):
    """Each call takes twice as long as it would."""

    CHILD = """
import sys, time
sys.path[:] = [p for p in sys.path if p]
from edgekit.runtime import session
from edgekit.timing import child
answer = session.Session.__call__
def slower(self, inputs):
    begin = time.perf_counter()
    result = answer(self, inputs)
    end = time.perf_counter() * 2 - begin
    while time.perf_counter() < end:
        pass
    return result
session.Session.__call__ = slower
child.main(*sys.argv[1:])
"""


@pytest.mark.slow
def test_real_processes(float32_ort, tiny_samples):
    side = open_for_test(float32_ort)
    texts = [row["text"] for row in tiny_samples.rows]
    timing = time_interleaved((side.worker, lambda: Slow(side.bundle.path)), texts, lambda *_: False, max_time=0.0)
    changes = {c.metric: c for c in speed.compare_paired(timing, (side.size_mb, side.size_mb), {}, 0).changes}
    assert 1.5 < changes["p50"].ratio < 6, "it really works twice as long, and more where others disturb it meanwhile"
    assert changes["p50"].low > 1.05
    assert changes["memory"].before > 20 and changes["first_answer"].before > 20


@pytest.mark.slow
def test_alone(float32_ort, tiny_samples, monkeypatch):
    monkeypatch.setattr(interleaved, "_MEASURE_S", 0.1)
    side = open_for_test(float32_ort)
    timing = time_single(side.worker, [row["text"] for row in tiny_samples.rows], Single(2))
    assert len(timing) == 2 and all(t > 0 for p in timing for block in p.blocks_ms for t in block)
    for process in timing:
        start = process.start
        assert start.total_ms >= start.import_ms + start.verify_ms + start.load_ms + start.answer_ms - 1


def test_rows_say_which_texts_a_block_holds():
    timing, log = run_timing(decided=lambda *_: True)
    blocks = [what[2:] for who, what in log if who == "A" and isinstance(what, tuple) and len(what) > 2]
    rows = [block for a, _ in timing.pairs for block in a.rows for _ in (0, 1)]
    texts = [tuple(map(TEXTS.__getitem__, block)) for block in rows]
    assert texts == blocks
    assert all(a.rows == b.rows and len(a.rows) == len(a.blocks_ms) for a, b in timing.pairs)
