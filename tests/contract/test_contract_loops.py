"""The contract of all loops: rows of any size go in, and each comes back as if it had been alone.

A loop enters with a row in ``CASES``: how its rows are drawn. The engine computes with numpy and refuses feeds that a
backend would read wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from edgekit.runtime import loops
from edgekit.runtime.loops import windows
from edgekit.spec.tensor import Signature, TensorSpec

pytestmark = pytest.mark.device

SIGNATURE = Signature(
    "forward",
    (
        TensorSpec("ids", "int64", ("batch", "sequence"), pad=7),
        TensorSpec("mask", "int64", ("batch", "sequence"), pad=0),
        TensorSpec("box", "float32", ("batch", "sequence", 2), pad=0),
    ),
    (TensorSpec("tokens", "float32", ("batch", "sequence", 2)), TensorSpec("whole", "float32", ("batch", 3))),
)
LENGTHS = (5, 1, 12, 5, 8)


def row(length: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng([seed, length])
    return {
        "ids": draw.integers(10, 99, length),
        "mask": np.ones(length, np.int64),
        "box": draw.random((length, 2), np.float32),
    }


def plain_rows() -> list[dict[str, np.ndarray]]:
    return [row(length, seed) for seed, length in enumerate(LENGTHS)]


def rows_of_windows() -> list[dict[str, np.ndarray]]:
    """Rows of one, two and three windows, and one that names none."""
    rows = []
    for seed, sizes in enumerate(((5,), (4, 6), (), (3, 3, 2), (12,))):
        length = sum(sizes) or 9
        rows.append({**row(length, seed), **({windows.WINDOWS: np.array(sizes)} if sizes else {})})
    return rows


@dataclass(frozen=True)
class Case:
    """A loop with rows of its own.

    Attributes:
        name: Name of the loop.
        rows: Function that draws rows.
    """

    name: str
    rows: Callable[[], list[dict[str, np.ndarray]]]


CASES = (Case("single", plain_rows), Case("windows", rows_of_windows))


class Engine:
    """Computes ``tokens`` from each position alone and ``whole`` from those that the mask keeps."""

    def __init__(self):
        self.calls = []

    def run(self, feeds, keep=()):
        sizes = {}
        for spec in SIGNATURE.inputs:
            array = feeds[spec.name]
            assert array.dtype == np.dtype(spec.dtype)
            for axis, size in zip(spec.shape, array.shape, strict=True):
                assert sizes.setdefault(axis, size) == size or axis == size, "axes of one name have one size"
        self.calls.append({name: array.copy() for name, array in feeds.items()})
        kept = feeds["mask"].astype(np.float32)
        tokens = (feeds["ids"][..., None] * feeds["box"]).astype(np.float32)
        whole = np.stack([(feeds["ids"] * kept).sum(1), kept.sum(1), (feeds["box"][..., 0] * kept).sum(1)], 1)
        return {"tokens": tokens, "whole": whole.astype(np.float32)}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def loop(case):
    return loops.get(case.name)


def run(loop, rows, shapes=()):
    engine = Engine()
    return engine, loop.run({"forward": engine}, {"forward": SIGNATURE}, rows, shapes, {})


def equal(outputs, expected):
    assert len(outputs) == len(expected)
    for output, other in zip(outputs, expected, strict=True):
        assert output.keys() == other.keys()
        for name, array in other.items():
            np.testing.assert_allclose(output[name], array, rtol=1e-6, err_msg=name)


def test_every_loop_has_a_case():
    names = {path.stem for path in Path(loops.__file__).parent.glob("[!_]*.py")}
    assert names == {case.name for case in CASES}


def test_a_row_comes_back_as_if_it_had_been_alone(case, loop):
    rows = case.rows()
    _, together = run(loop, rows)
    equal(together, [run(loop, [one])[1][0] for one in rows])


def test_the_order_of_rows_is_that_of_the_outputs(case, loop):
    rows = case.rows()
    equal(run(loop, rows[::-1])[1][::-1], run(loop, rows)[1])


def test_outputs_have_the_size_of_the_row(case, loop):
    rows = case.rows()
    for one, output in zip(rows, run(loop, rows)[1], strict=True):
        assert output["tokens"].shape == (*one["ids"].shape, 2)
        np.testing.assert_allclose(output["tokens"], one["ids"][:, None] * one["box"], rtol=1e-6)


def test_padding_is_that_of_the_signature(case, loop):
    engine, _ = run(loop, case.rows())
    for feeds in engine.calls:
        padded = feeds["mask"] == 0
        assert (feeds["ids"][padded] == 7).all()
        assert (feeds["box"][padded] == 0).all()


def test_record_has_the_feeds_of_run(case, loop):
    rows = case.rows()
    engine, _ = run(loop, rows)
    recorded = loop.record({"forward": Engine()}, {"forward": SIGNATURE}, rows)
    assert list(recorded) == list(loop.SIGNATURES)
    equal(recorded["forward"], engine.calls)


def test_calls_are_the_batches_of_record(case, loop):
    rows = case.rows()
    batches = loop.record({}, {"forward": SIGNATURE}, rows)["forward"]
    calls = loop.calls({"forward": SIGNATURE}, rows)
    assert [len(call) for call in calls] == [len(batch["ids"]) for batch in batches]
    for call, batch in zip(calls, batches, strict=True):
        for index, part in enumerate(call):
            np.testing.assert_array_equal(part["ids"], batch["ids"][index, : len(part["ids"])])


@pytest.mark.parametrize(("length", "padded"), [(3, 4), (4, 4), (5, 16), (16, 16), (17, 17)])
def test_a_single_row_is_padded_to_the_smallest_bucket(case, loop, length, padded):
    one = row(length, 0)
    engine, outputs = run(loop, [one], shapes=(4, 16))
    assert engine.calls[0]["ids"].shape == (1, padded)
    equal(outputs, run(loop, [one])[1])


def test_several_rows_are_left_to_any_shape(case, loop):
    engine, _ = run(loop, [row(3, 0), row(5, 1)], shapes=(4, 16))
    assert engine.calls[0]["ids"].shape == (2, 5)


def test_rows_are_not_changed(case, loop):
    rows = case.rows()
    copies = [{name: array.copy() for name, array in one.items()} for one in rows]
    run(loop, rows, shapes=(16,))
    equal(rows, copies)


def test_a_row_that_does_not_fit_is_refused(case, loop):
    wrong = {**row(5, 0), "box": np.zeros((5, 3), np.float32)}
    with refused("input-shape", "box"):
        run(loop, [row(5, 1), wrong])
