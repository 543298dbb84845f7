"""Who is timed when, and for how long: with sides that note every call, and once with real processes."""

from __future__ import annotations

import contextlib

import pytest
from refusals import refused

from edgekit.report import speed
from edgekit.report.side import opened
from edgekit.spec.errors import BackendError
from edgekit.spec.subject import Start
from edgekit.timing.duel import FIRST_LOOK, MOST, duel, solo
from edgekit.timing.worker import Worker

TEXTS = [f"text {i}" for i in range(50)]


class Side:
    """Stands for a bundle's process; notes who was asked what."""

    def __init__(self, name, log, call_ms=1.0, fail_at=None):
        self.name, self.log, self.call_ms, self.fail_at, self.opened = name, log, call_ms, fail_at, 0
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


def fought(before=None, after=None, decided=lambda pairs, looks: False, max_time=1e6, **options):
    log = []
    before, after = before or Side("A", log), after or Side("B", log)
    before.log = after.log = log
    after.running = before.running
    return duel(before, after, TEXTS, decided, max_time=max_time, **options), log


def test_blocks_go_a_b_b_a_with_the_same_texts():
    _, log = fought(decided=lambda *_: True)
    first = [entry for entry in log[: log.index(("A", "close"))] if entry[1] != "open"]
    turns = [
        (who, what[2:]) for who, what in first if len(what) > 2
    ]  # two calls wake a side up; warm-up takes two texts
    for start in range(0, 32, 4):
        four = turns[start : start + 4]
        assert [who for who, _ in four] == ["A", "B", "B", "A"]
        assert len({texts for _, texts in four}) == 1


def test_every_other_pair_begins_with_the_other_side():
    made, log = fought(decided=lambda *_: True)
    opened_ = [who for who, what in log if what == "open"]
    assert opened_ == ["A", "B", "B", "A"] * (len(made.pairs) // 2)


def test_sides_keep_their_place_when_the_order_turns():
    made, _ = fought(Side("A", [], 1.0), Side("B", [], 2.0), decided=lambda *_: True)
    assert all(set(a.blocks_ms[0]) == {1.0} and set(b.blocks_ms[0]) == {2.0} for a, b in made.pairs)


def test_looks_come_at_six_pairs_half_way_and_at_the_end():
    made, _ = fought()
    assert [look.pairs for look in made.looks] == [FIRST_LOOK, (FIRST_LOOK + MOST) // 2, MOST]
    assert made.looks[-1].share == 1.0 and made.looks[0].share == pytest.approx(FIRST_LOOK / MOST)


def test_it_ends_at_the_look_that_decides():
    made, _ = fought(decided=lambda pairs, looks: len(looks) == 2)
    assert len(made.pairs) == made.looks[-1].pairs == (FIRST_LOOK + MOST) // 2 and made.looks[-1].share < 1.0


def test_four_pairs_are_measured_whatever_they_take():
    made, _ = fought(max_time=0.0)
    assert len(made.pairs) == 4 and [look.share for look in made.looks] == [1.0]


def test_texts_are_taken_from_all_of_them_before_one_comes_again():
    _, log = fought(decided=lambda *_: True)
    seen = [text for who, what in log if who == "A" and isinstance(what, tuple) and len(what) > 2 for text in what[2:]]
    assert set(seen) == set(TEXTS)


def test_the_order_is_the_seeds():
    one, other, again = (fought(decided=lambda *_: True, seed=s)[1] for s in (1, 2, 1))
    assert one == again != other


def test_slow_models_answer_fewer_texts_a_block():
    made, _ = fought(Side("A", [], 30.0), Side("B", [], 40.0), decided=lambda *_: True)
    assert len(made.pairs[0][0].blocks_ms[0]) == 4, "two texts of 40 ms fill a turn, both answered twice"
    slowest, _ = fought(Side("A", [], 500.0), Side("B", [], 500.0), decided=lambda *_: True)
    assert len(slowest.pairs[0][0].blocks_ms[0]) == 2


def test_a_side_that_fails_later_ends_the_duel_and_closes_both():
    log = []
    with refused("error"):
        duel(Side("A", log), Side("B", log, fail_at=3), TEXTS, lambda *_: False, max_time=1e6)
    assert log.count(("A", "open")) == log.count(("A", "close")) and log.count(("B", "open")) == log.count(
        ("B", "close")
    )


def test_without_an_input_there_is_nothing_to_time():
    with refused("samples-empty"):
        duel(Side("A", []), Side("B", []), [], lambda *_: False, max_time=1.0)


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
    found = answer(self, inputs)
    end = time.perf_counter() * 2 - begin
    while time.perf_counter() < end:
        pass
    return found
session.Session.__call__ = slower
child.main(*sys.argv[1:])
"""


def test_real_processes(float32_ort, tiny_samples):
    side = opened(float32_ort)
    texts = [row["text"] for row in tiny_samples.rows]
    made = duel(side.worker, lambda: Slow(side.bundle.path), texts, lambda *_: False, max_time=0.0)
    found = {c.metric: c for c in speed.paired(made, (side.size_mb, side.size_mb), {}, 0).changes}
    assert 1.5 < found["p50"].ratio < 6, "it really works twice as long, and more where others disturb it meanwhile"
    assert found["p50"].low > 1.05
    assert found["memory"].before > 20 and found["first_answer"].before > 20


def test_alone(float32_ort, tiny_samples):
    side = opened(float32_ort)
    made = solo(side.worker, [row["text"] for row in tiny_samples.rows], 2)
    assert len(made) == 2 and all(t > 0 for p in made for block in p.blocks_ms for t in block)
    assert all(
        p.start.total_ms >= p.start.import_ms + p.start.verify_ms + p.start.load_ms + p.start.answer_ms - 1
        for p in made
    )


def test_rows_say_which_texts_a_block_holds():
    made, log = fought(decided=lambda *_: True)
    asked = [what[2:] for who, what in log if who == "A" and isinstance(what, tuple) and len(what) > 2]
    rows = [block for a, _ in made.pairs for block in a.rows for _ in (0, 1)]
    assert [tuple(TEXTS[row] for row in block) for block in rows] == asked
    assert all(a.rows == b.rows and len(a.rows) == len(a.blocks_ms) for a, b in made.pairs)
