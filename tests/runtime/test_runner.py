"""The one runner of graphs: outputs by name and row, each of its row's own size, whatever rows share a call."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import ragged
from refusals import refused

from edgekit.runtime import loops
from edgekit.runtime.loops import single
from edgekit.runtime.runner import GraphRunner, open_runner
from edgekit.spec.tensor import Signature, TensorSpec

LENGTHS = (5, 1, 12, 3, 3, 8, 1, 7)
BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    return {
        ragged.TOKENS: ragged.token_graph(folder / "tokens.onnx"),
        ragged.IMAGE: ragged.image_graph(folder / "image.onnx"),
    }


@pytest.fixture(params=BACKENDS)
def run(request, graphs):
    """Opens a graph on a backend and runs rows."""

    def call(signature, rows, *, alone=False, **settings):
        with open_runner(
            {"forward": graphs[signature]},
            {"forward": signature},
            request.param,
            threads=settings.get("streams", 1),
            **settings,
        ) as runner:
            return runner.run(rows, alone=alone)

    return call


def close(found, expected):
    assert len(found) == len(expected)
    for row, right in zip(found, expected, strict=True):
        assert {n: (a.shape, a.dtype) for n, a in row.items()} == {n: (a.shape, a.dtype) for n, a in right.items()}
        for name, array in row.items():
            np.testing.assert_allclose(array, right[name], atol=1e-5)


class Echo:
    """An engine that notes its feeds and gives functions of them."""

    def __init__(self, **outputs):
        self.outputs, self.feeds = outputs, []

    def run(self, feeds, keep=()):
        self.feeds.append(feeds)
        return {name: function(feeds) for name, function in self.outputs.items()}


# ---- outputs of a row


@pytest.mark.parametrize(
    "settings", [{}, {"batch": 3}, {"batch": 8, "max_tokens": 20}, {"batch": 2, "streams": 2}], ids=str
)
def test_ragged_outputs_come_back_in_order_and_without_padding(run, settings):
    rows = ragged.token_rows(LENGTHS)
    close(run(ragged.TOKENS, rows, **settings), [ragged.token_answers(row) for row in rows])


@pytest.mark.parametrize("run", ["openvino"], indirect=True)  # ONNX Runtime makes no use of static shapes
def test_rows_alone_are_padded_to_their_bucket_and_cut_again(run):
    rows = ragged.token_rows(LENGTHS)
    close(run(ragged.TOKENS, rows, alone=True, shapes=(4, 10)), [ragged.token_answers(row) for row in rows])


def test_an_answer_does_not_depend_on_its_neighbours(run):
    row = ragged.token_rows([6], seed=1)[0]
    (alone,) = run(ragged.TOKENS, [row])
    for seed, lengths in enumerate(((1, 2), (30, 4, 9), (6, 6, 6, 6), (64,))):
        others = ragged.token_rows(lengths, seed)
        for place in (0, len(others)):
            listed = run(ragged.TOKENS, [*others[:place], row, *others[place:]], batch=8)
            for name, array in listed[place].items():
                assert array.shape == alone[name].shape
                np.testing.assert_allclose(array, alone[name], atol=1e-6)


def test_two_inputs_of_a_fixed_shape(run):
    rows = ragged.image_rows(7)
    expected = [{"scores": row["image"].sum(axis=0) + row["offset"].astype(np.float32)} for row in rows]
    for settings in ({}, {"batch": 3}, {"batch": 7, "max_tokens": 2}, {"alone": True}):
        close(run(ragged.IMAGE, rows, **settings), expected)


def test_no_row_is_no_answer(run):
    assert run(ragged.TOKENS, []) == []


# ---- which rows share a call


def test_rows_of_similar_size_share_a_call_within_both_limits():
    engine = Echo(
        tokens=lambda f: np.zeros((*f["ids"].shape, 3), np.float32),
        whole=lambda f: np.zeros((len(f["ids"]), 3), np.float32),
    )
    runner = GraphRunner.of(engine, ragged.TOKENS, batch=3, max_tokens=16)
    found = runner.run(ragged.token_rows(LENGTHS))
    assert [feeds["ids"].shape for feeds in engine.feeds] == [(3, 3), (2, 5), (2, 8), (1, 12)]
    assert [row["tokens"].shape for row in found] == [(n, 3) for n in LENGTHS]


def test_rows_of_a_fixed_shape_count_as_one_each():
    engine = Echo(scores=lambda f: f["image"][:, 0])
    GraphRunner.of(engine, ragged.IMAGE, batch=4, max_tokens=3).run(ragged.image_rows(7))
    assert [len(feeds["image"]) for feeds in engine.feeds] == [3, 3, 1]


def test_as_many_calls_at_the_same_time_as_there_are_streams():
    meet = threading.Barrier(2, timeout=20)

    def scores(feeds):
        meet.wait()
        return feeds["image"][:, 0]

    rows = ragged.image_rows(4)
    found = GraphRunner.of(Echo(scores=scores), ragged.IMAGE, batch=1, streams=2).run(rows)
    assert all(np.array_equal(answer["scores"], row["image"][0]) for answer, row in zip(found, rows, strict=True))


def test_rows_of_several_graphs_share_a_call_by_the_size_of_what_they_hold(monkeypatch):
    """The first graph takes one shape alone; the second also takes what the first gives, which no row has."""
    encode = Signature(
        "encode",
        (TensorSpec("image", "float32", ("batch", 2)),),
        (TensorSpec("memory", "float32", ("batch", "frames", 2)),),
    )
    step = Signature(
        "step",
        (TensorSpec("memory", "float32", ("batch", "frames", 2)), TensorSpec("ids", "int64", ("batch", "words"), 0)),
        (),
    )
    together = []

    def run(engines, signatures, rows, shapes, options):
        together.append([len(row["ids"]) for row in rows])
        return [{} for _ in rows]

    loop = SimpleNamespace(SIGNATURES=("encode", "step"), run=run)
    monkeypatch.setattr(loops, "get", lambda name: loop)
    runner = GraphRunner({}, {"encode": encode, "step": step}, "two", batch=3, max_tokens=8)
    runner.run([{"image": np.zeros(2, np.float32), "ids": np.zeros(n, np.int64)} for n in (7, 2, 4, 1, 3, 2)])
    assert together == [[1, 2, 2], [3, 4], [7]]


# ---- the loop


def test_every_axis_that_varies_is_padded_and_cut():
    """An image of words: two axes that vary, and an output that has one of them."""
    signature = Signature(
        "forward",
        (
            TensorSpec("pixels", "float32", ("batch", "height", "width"), 0.5),
            TensorSpec("ids", "int64", ("batch", "words"), 7),
        ),
        (
            TensorSpec("columns", "float32", ("batch", "width")),
            TensorSpec("words", "int64", ("batch", 2, "words")),
            TensorSpec("all", "float32", ("batch", 1)),
        ),
    )
    assert signature.varying == ("height", "width", "words")
    engine = Echo(
        columns=lambda f: f["pixels"].sum(axis=1),
        words=lambda f: np.stack([f["ids"], -f["ids"]], axis=1),
        all=lambda f: f["pixels"].sum(axis=(1, 2))[:, None],
    )
    shapes = [((2, 3), 1), ((4, 1), 5)]
    rows = [{"pixels": np.ones(size, np.float32), "ids": np.arange(count)} for size, count in shapes]
    first, second = single.run({"forward": engine}, {"forward": signature}, rows)
    (feeds,) = engine.feeds
    assert (feeds["pixels"].shape, feeds["ids"].shape) == ((2, 4, 3), (2, 5))
    assert feeds["pixels"][0, 3, 0] == feeds["pixels"][1, 0, 2] == 0.5
    assert feeds["ids"][0].tolist() == [0, 7, 7, 7, 7]
    assert (first["columns"].tolist(), second["columns"].tolist()) == ([2 + 2 * 0.5] * 3, [4])
    assert (first["words"].tolist(), second["words"][1].tolist()) == ([[0], [0]], [0, -1, -2, -3, -4])
    assert first["all"].shape == (1,), "an axis of a number is never cut"


def test_a_bucket_is_of_the_first_axis_that_varies_and_of_single_rows():
    rows = ragged.token_rows((3, 5))
    for row, size in zip(rows, (4, 8), strict=True):
        assert single.collate(ragged.TOKENS, [row], (2, 4, 8))["ids"].shape == (1, size)
    assert single.collate(ragged.TOKENS, rows[1:], (2, 4))["ids"].shape == (1, 5), "longer than all"
    assert single.collate(ragged.TOKENS, rows, (2, 4, 8))["ids"].shape == (2, 5)
    assert single.collate(ragged.IMAGE, ragged.image_rows(1), (16,))["image"].shape == (1, 2, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 4), np.float32),
        np.zeros((2, 5), np.float32),
        np.zeros(4, np.float32),
        np.zeros((1, 2, 4), np.float32),
    ],
)
def test_a_fixed_axis_has_to_fit(wrong):
    fine = ragged.image_rows(1)[0]
    for rows in ([{**fine, "image": wrong}], [fine, {**fine, "image": wrong}]):
        with refused("input-shape", "image", "2", "4"):
            single.collate(ragged.IMAGE, rows)


def test_rows_take_the_type_of_the_signature():
    (row,) = ragged.image_rows(1)
    feeds = single.collate(ragged.IMAGE, [{name: array.astype(np.float64) for name, array in row.items()}])
    assert {name: array.dtype.name for name, array in feeds.items()} == {"image": "float32", "offset": "int64"}


PAIR = Signature(
    "forward",
    (TensorSpec("ids", "int64", ("batch", "sequence"), 9), TensorSpec("mask", "int64", ("batch", "sequence"), 0)),
    (),
)


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (np.arange(5), np.ones(5, np.int64)),
        (np.arange(5), np.ones(3, np.int64)),
        (np.arange(2), np.ones(3, np.int64)),
        (np.zeros(0, np.int64), np.zeros(0, np.int64)),
        (np.arange(5, dtype=np.int32), np.ones(5, np.int64)),
        (np.arange(5), np.ones(5, np.int16)),
    ],
)
def test_a_single_row_is_fed_as_it_is_among_others(ids, mask):
    row = {"ids": ids, "mask": mask, "beside": ids}
    alone, doubled = single.collate(PAIR, [row]), single.collate(PAIR, [row, row])
    size = max(1, len(ids), len(mask))
    for name in ("ids", "mask"):
        assert alone[name].shape == (1, size)
        assert alone[name].dtype == np.int64
        np.testing.assert_array_equal(alone[name], doubled[name][:1])
    assert list(alone) == ["ids", "mask"]


def test_a_single_row_of_another_rank_is_refused():
    row = {"ids": np.zeros((2, 5), np.int64), "mask": np.zeros((2, 5), np.int64)}
    with refused("input-shape", "ids"):
        single.collate(PAIR, [row])


def test_feeds_for_calibration_are_those_of_a_call():
    rows, engine = (
        ragged.token_rows((3, 5)),
        Echo(tokens=lambda f: np.zeros((2, 5, 3)), whole=lambda f: np.zeros((2, 3))),
    )
    recorded = GraphRunner.of(engine, ragged.TOKENS).record(rows)
    assert list(recorded) == ["forward"]
    single.run({"forward": engine}, {"forward": ragged.TOKENS}, rows)
    for name, array in recorded["forward"][0].items():
        np.testing.assert_array_equal(array, engine.feeds[0][name])


def test_every_loop_is_one():
    for name in ("single",):
        loop = loops.get(name)
        assert loop.SIGNATURES
        assert callable(loop.run) and callable(loop.record)
    with refused("loop-unknown", "twice"):
        loops.get("twice")


# ---- what is no answer


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_name_the_rows(bad):
    def scores(feeds):
        return np.where(feeds["offset"] == 77, bad, feeds["image"][:, 0]).astype(np.float32)

    rows = [{**row, "offset": np.array([77 if i in (2, 5) else 1])} for i, row in enumerate(ragged.image_rows(7))]
    runner = GraphRunner.of(Echo(scores=scores), ragged.IMAGE, batch=3, name="static on a backend")
    for alone in (True, False):
        with refused("output-not-finite", "2", "7", "index 2", "5"):
            runner.run(rows, alone=alone)
        assert len(runner.run(rows, alone=alone, finite=False)) == 7
    assert len(runner.run(rows[:2])) == 2


def test_a_graph_that_the_backend_refuses(tmp_path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with (
        refused("graph-refused"),
        open_runner({"forward": tmp_path / "graph.onnx"}, {"forward": ragged.IMAGE}, "onnxruntime"),
    ):
        pass
