"""A session of tasks that are no texts: ragged outputs, several of them, and inputs of a fixed shape."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import ragged
from refusals import refused

import edgekit
from edgekit import InputError, tasks
from edgekit.bundle.assemble import write
from edgekit.bundle.trust import open_bundle
from edgekit.runtime import golden
from edgekit.runtime.verify import verify
from edgekit.spec.manifest import FORMAT, Manifest, Variant
from edgekit.spec.protocols import Encoded

LENGTHS = (5, 1, 12, 3, 8)


class Rows:
    """A modality whose inputs are the graph's own rows."""

    def __init__(self, make):
        self.make = make

    def generate(self, count, longest, seed):
        return self.make(count, longest, seed)


class Task:
    """Answers are the outputs themselves, with the place of each token's largest value."""

    def __init__(self, modality, max_size):
        self.modality, self.max_size, self.identity = modality, max_size, {"kind": "rows"}

    def check_signature(self, signature, shapes=()):
        pass

    def check_arrays(self, feeds):
        if "ids" in feeds and feeds["ids"].max() >= ragged.WORDS:
            raise InputError("no such word")

    def preprocess(self, inputs):
        return [Encoded(row) for row in inputs]

    def postprocess(self, outputs, encoded):
        assert len(outputs) == len(encoded)
        return [{name: array.argmax(axis=-1).tolist() for name, array in row.items()} for row in outputs]

    def same_answer(self, outputs, reference):
        return np.array(
            [a == b for a, b in zip(*(self.postprocess(rows, rows) for rows in (outputs, reference)), strict=True)]
        )


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Makes a bundle of a graph and binds its task."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))

    def call(signature, graph, rows, answers, task, backend="onnxruntime", loop="single"):
        monkeypatch.setattr(tasks, "get", lambda name: SimpleNamespace(load=lambda assets: task))
        variant = Variant(
            backend, "float32", {"forward": "graphs/model.onnx"}, "cpu", 2, "float32", rows="together", streams=2
        )
        manifest = Manifest(FORMAT, "rows", loop, 3, (signature,), (variant,), {}, "t", "", "share", 1.0, ())
        files = {
            "graphs/model.onnx": graph(tmp_path / "model.onnx"),
            golden.FILE: golden.pack(signature, rows, [answers], answers),
        }
        return write(tmp_path / "bundle", manifest, files).path

    return call


@pytest.fixture(params=["onnxruntime", "openvino"])
def tokens(bundle, request):
    task = Task(Rows(lambda count, longest, seed: ragged.token_rows([2] * (count - 1) + [longest], seed)), 32)
    rows = ragged.token_rows(LENGTHS, seed=9)
    return bundle(
        ragged.TOKENS, ragged.token_graph, rows, [ragged.token_answers(row) for row in rows], task, request.param
    )


@pytest.fixture
def images(bundle):
    task = Task(Rows(lambda count, longest, seed: ragged.image_rows(count, seed)), 1)
    rows = ragged.image_rows(4, seed=9)
    answers = [{"scores": row["image"].sum(axis=0) + row["offset"].astype(np.float32)} for row in rows]
    return bundle(ragged.IMAGE, ragged.image_graph, rows, answers, task)


def test_answers_of_every_token(tokens):
    rows = ragged.token_rows(LENGTHS)
    expected = [
        {name: array.argmax(axis=-1).tolist() for name, array in ragged.token_answers(row).items()} for row in rows
    ]
    with edgekit.load(tokens) as session:
        assert [session(row) for row in rows] == expected
        assert session(rows) == expected
        assert session([]) == []
        for batched in (False, True):
            for found, row in zip(session.outputs(rows, batched=batched), rows, strict=True):
                for name, array in ragged.token_answers(row).items():
                    np.testing.assert_allclose(found[name], array, atol=1e-5)
        assert [found["tokens"].shape for found in session.run_rows(rows)] == [(n, 3) for n in LENGTHS]


def test_golden_inputs_of_ragged_outputs_are_compared(tokens):
    with edgekit.load(tokens) as session:
        result = golden.check(session)
    assert (result.rows, result.flips, result.passed) == (len(LENGTHS), 0, True)
    assert result.difference < 1e-5
    assert verify(open_bundle(tokens)).compared


def test_raw_arrays_and_examples_of_any_size(tokens):
    with edgekit.load(tokens) as session:
        feeds = session.example_feeds(2, 7)
        assert {name: array.shape for name, array in feeds.items()} == {"ids": (2, 7), "mask": (2, 7)}
        assert {name: array.shape for name, array in session.run(feeds).items()} == {
            "tokens": (2, 7, 3),
            "whole": (2, 3),
        }
        session.fill(4, 30)
        with refused("input-too-long", "33", "sequence", "32"):
            session.run({name: np.ones((1, 33), np.int64) for name in feeds})
        with refused("error"):
            session.run({**feeds, "ids": np.full((2, 7), ragged.WORDS)})


def test_what_a_session_tells_of_a_task_without_labels(tokens):
    with edgekit.load(tokens) as session:
        info = session.info
        assert (info.labels, info.max_length, info.max_characters, info.truncate) == ((), 32, None, False)
    for options in ({"max_characters": 10}, {"truncate": True}):
        with refused("limit-not-text"):
            edgekit.load(tokens, **options)


def test_rows_of_a_fixed_shape(images):
    rows = ragged.image_rows(7)
    with edgekit.load(images) as session:
        assert session.info.max_length is None
        expected = [int(row["image"].sum(axis=0).argmax()) for row in rows]
        assert [session(row)["scores"] for row in rows] == expected
        assert [answer["scores"] for answer in session(rows)] == expected
        assert golden.check(session).passed
        assert {name: array.shape for name, array in session.example_feeds(3, 64).items()} == {
            "image": (3, 2, 4),
            "offset": (3, 1),
        }
        assert session.run(session.example_feeds(3, 64))["scores"].shape == (3, 4)
        with refused("input-shape", "image", "2", "5", "4"):
            session({**rows[0], "image": np.zeros((2, 5), np.float32)})


def test_rows_in_windows_with_what_explains_them(bundle):
    """A row longer than the model, and golden inputs with arrays that no graph takes."""
    sizes = ((3, 2), (1,), (7,))
    rows = [
        {**row, "windows": np.array(parts), "words": np.arange(2)}
        for parts, row in zip(sizes, ragged.token_rows([sum(parts) for parts in sizes]), strict=True)
    ]
    answers = []
    for parts, row in zip(sizes, rows, strict=True):
        ends = np.cumsum(parts)[:-1]
        windows = [
            {"ids": ids, "mask": mask}
            for ids, mask in zip(np.split(row["ids"], ends), np.split(row["mask"], ends), strict=True)
        ]
        made = [ragged.token_answers(window) for window in windows]
        whole = made[0]["whole"] if len(made) == 1 else np.concatenate([one["whole"] for one in made])
        answers.append(
            {
                "tokens": np.concatenate([one["tokens"] for one in made]),
                "whole": whole,
                "windows": row["windows"],
                "words": row["words"],
            }
        )
    task = Task(Rows(lambda count, longest, seed: rows), 8)
    with edgekit.load(
        bundle(ragged.TOKENS, ragged.token_graph, rows[1:], answers[1:], task, loop="windows")
    ) as session:
        result = golden.check(session)
        assert (result.rows, result.flips, result.passed) == (2, 0, True)
        for batched in (False, True):
            for found, right in zip(session.outputs(rows, batched=batched), answers, strict=True):
                assert found.keys() == right.keys()
                for name, array in found.items():
                    np.testing.assert_allclose(array, right[name], atol=1e-5)
