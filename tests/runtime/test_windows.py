"""The loop that reads a long row in windows: calls, outputs, feeds."""

from __future__ import annotations

import io

import numpy as np
import pytest

from edgekit.runtime import golden, loops
from edgekit.runtime.loops import windows
from edgekit.spec.tensor import Signature, TensorSpec

pytestmark = pytest.mark.device

SIGNATURE = Signature(
    "forward",
    (TensorSpec("ids", "int64", ("batch", "sequence"), 0),),
    (TensorSpec("out", "float32", ("batch", "sequence", 2)),),
)
SIGNATURES = {"forward": SIGNATURE}


class Engine:
    """Gives each id and its place in its window, and keeps the feeds."""

    def __init__(self):
        self.feeds = []

    def run(self, feeds, keep=()):
        self.feeds.append(feeds["ids"])
        places = np.broadcast_to(np.arange(feeds["ids"].shape[1]), feeds["ids"].shape)
        return {"out": np.stack([feeds["ids"], places], axis=2).astype(np.float32)}


def row(*sizes, first=1):
    ids = np.arange(first, first + sum(sizes))
    return {"ids": ids, "words": np.arange(len(ids)) - 1, "windows": np.array(sizes)}


def test_outputs_of_windows_are_one_row_with_the_arrays_of_its_input():
    engine, rows = Engine(), [row(3), row(4, 2, first=10), row(2, 2, 1, first=20)]
    found = windows.run({"forward": engine}, SIGNATURES, rows)
    for given, output in zip(rows, found, strict=True):
        assert output["out"][:, 0].tolist() == given["ids"].tolist()
        assert output["out"][:, 1].tolist() == [place for size in given["windows"] for place in range(size)]
        assert output["words"] is given["words"]
        assert output["windows"] is given["windows"]
        assert "ids" not in output
    assert [len(feeds) for feeds in engine.feeds] == [3, 3], "no call has more windows than there are rows"


def test_a_single_row_is_run_window_by_window_in_its_bucket():
    engine = Engine()
    windows.run({"forward": engine}, SIGNATURES, [row(4, 2)], (2, 8))
    assert [feeds.shape for feeds in engine.feeds] == [(1, 8), (1, 2)]


def test_a_row_that_says_nothing_of_windows_is_one():
    engine = Engine()
    (found,) = windows.run({"forward": engine}, SIGNATURES, [{"ids": np.arange(1, 4)}])
    assert list(found) == ["out"]
    assert found["out"][:, 0].tolist() == [1, 2, 3]


def test_recorded_feeds_are_those_of_the_calls():
    engine, rows = Engine(), [row(3), row(4, 2, first=10)]
    windows.run({"forward": engine}, SIGNATURES, rows)
    recorded = windows.record({}, SIGNATURES, rows)["forward"]
    assert [feeds["ids"].tolist() for feeds in recorded] == [feeds.tolist() for feeds in engine.feeds]
    calls = windows.calls(SIGNATURES, rows)
    assert [[part["ids"].tolist() for part in call] for call in calls] == [[[1, 2, 3], [10, 11, 12, 13]], [[14, 15]]]


def test_a_loop_of_one_forward_pass_has_one_call():
    rows = [row(3), row(2)]
    assert loops.get("single").calls(SIGNATURES, rows) == [rows]


def test_golden_inputs_hold_what_graphs_take_and_give_and_what_tells_the_task_of_them():
    rows = [row(3), row(4, 1)]
    outputs = windows.run({"forward": Engine()}, SIGNATURES, rows)
    with np.load(io.BytesIO(golden.pack(SIGNATURE, rows, [outputs], outputs)), allow_pickle=False) as stored:
        assert {"kept.words", "kept.windows"} <= set(stored.files)
        assert stored["kept.windows"].tolist() == [3, 4, 1]
