"""Golden inputs of graphs with several outputs, ragged ones or inputs of a fixed shape: stored, read and compared by name."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ragged
from refusals import refused

from edgekit.runtime import golden
from edgekit.spec import rows as of_rows
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures
from edgekit.tasks.token_classification import Settings, TokenClassification

pytestmark = pytest.mark.device

ROWS = ragged.token_rows((5, 1, 7))
ANSWERS = [ragged.token_answers(row) for row in ROWS]


class Task:
    """An answer is the largest value's place, for each token."""

    def same_answer(self, outputs, reference):
        return np.array(
            [
                np.array_equal(a["tokens"].argmax(axis=1), b["tokens"].argmax(axis=1))
                for a, b in zip(outputs, reference, strict=True)
            ]
        )

    def decided(self, outputs, tolerance):
        return np.array([np.diff(np.sort(row["tokens"], axis=1)[:, -2:]).min() > 2 * tolerance for row in outputs])


def bundle(content, signature=ragged.TOKENS, variants=1):
    manifest = SimpleNamespace(files={}, signatures=[signature], variants=[None] * variants)
    return SimpleNamespace(path=Path("bundle"), manifest=manifest, read=lambda name: content)


def same(found, expected):
    assert len(found) == len(expected)
    for row, right in zip(found, expected, strict=True):
        assert row.keys() == right.keys()
        for name, array in row.items():
            assert array.dtype == right[name].dtype
            np.testing.assert_array_equal(array, right[name])


def shifted(by, rows=ANSWERS):
    return [{name: array + np.float32(by) for name, array in row.items()} for row in rows]


def changed(function):
    """The stored file with its arrays changed by ``function(arrays)``."""
    content = golden.pack(ragged.TOKENS, ROWS, [ANSWERS], ANSWERS)
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    function(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("reference", [None, shifted(1)], ids=["alone", "with float32"])
def test_ragged_outputs_are_stored_and_read(reference):
    content = golden.pack(ragged.TOKENS, ROWS, [ANSWERS, shifted(2)], reference)
    assert content == golden.pack(ragged.TOKENS, ROWS, [ANSWERS, shifted(2)], reference)
    stored = golden.read(bundle(content, variants=2))
    same(stored.rows, ROWS)
    same(stored.outputs[0], ANSWERS)
    same(stored.outputs[1], shifted(2))
    if reference is None:
        assert stored.reference is None
    else:
        same(stored.reference, reference)


def test_rows_of_one_length_and_of_a_fixed_shape():
    rows = ragged.token_rows((4, 4))
    stored = golden.read(bundle(golden.pack(ragged.TOKENS, rows, [list(map(ragged.token_answers, rows))], None)))
    same(stored.rows, rows)
    images = ragged.image_rows(3)
    answers = [{"scores": row["image"][0]} for row in images]
    stored = golden.read(bundle(golden.pack(ragged.IMAGE, images, [answers], answers), ragged.IMAGE))
    same(stored.rows, images)
    same(stored.outputs[0], answers)


def test_a_model_of_several_graphs():
    """A row has the inputs that no graph makes, and the outputs that the loop gives."""
    encode = Signature(
        "encode", (TensorSpec("image", "float32", ("batch", 2, 4)),), (TensorSpec("state", "float32", ("batch", 4)),)
    )
    step = Signature(
        "step", (TensorSpec("state", "float32", ("batch", 4)), *ragged.TOKENS.inputs), ragged.TOKENS.outputs
    )
    rows = [{**row, "image": image["image"]} for row, image in zip(ROWS, ragged.image_rows(3), strict=True)]
    content = golden.pack(merge_signatures((encode, step)), rows, [ANSWERS], ANSWERS)
    two = bundle(content)
    two.manifest.signatures = [encode, step]
    stored = golden.read(two)
    same(stored.rows, rows)
    same(stored.outputs[0], ANSWERS)
    same(stored.reference, ANSWERS)
    two.read = lambda name: golden.pack(
        merge_signatures((encode, step)), rows, [ANSWERS], [{"whole": row["whole"]} for row in ANSWERS]
    )
    with refused("bundle-assets"):
        golden.read(two)


def test_inputs_are_stored_in_as_few_bytes_as_they_need():
    with np.load(io.BytesIO(golden.pack(ragged.TOKENS, ROWS, [ANSWERS], None))) as stored:
        assert stored["input.ids"].dtype == np.uint8
        assert stored["outputs.0.tokens"].dtype == np.float32


def test_a_comparison_is_of_all_outputs():
    stored = golden.Golden(ROWS, [ANSWERS], None)
    spread = of_rows.spread(ANSWERS)
    same_result = golden.compare(stored, 0, ANSWERS, Task(), False)
    assert (same_result.rows, same_result.difference, same_result.flips, same_result.passed) == (3, 0, 0, True)
    for name in ("tokens", "whole"):
        found = [dict(row) for row in ANSWERS]
        found[1][name] = found[1][name] + np.float32(0.2 * spread)
        result = golden.compare(stored, 0, found, Task(), False)
        assert result.difference == pytest.approx(0.2, rel=1e-3)
        assert not result.passed
    turned = [dict(row) for row in ANSWERS]
    turned[2]["tokens"] = turned[2]["tokens"][:, ::-1]
    assert golden.compare(stored, 0, turned, Task(), False).flips == 1


WORDS = Signature(
    "forward",
    (TensorSpec("input_ids", "int64", ("batch", "sequence"), 0),),
    (TensorSpec("logits", "float32", ("batch", "sequence", 2)),),
)
TAGGER = TokenClassification(Settings(("O", "X"), 8, 1, ("input_ids",)), None)
SPLIT = [{"input_ids": np.arange(5), "words": np.array([-1, 0, -1, 1, -1]), "windows": np.array([5])}]
"""Two words in five tokens: the second word-piece of the first, and special tokens, have no answer of their own."""


def tagged(*tokens):
    """What a loop gives for the row: a lead of label ``X`` for each token, and what no graph takes."""
    return [
        {
            "logits": np.array([[0, lead] for lead in tokens], np.float32),
            "words": SPLIT[0]["words"],
            "windows": SPLIT[0]["windows"],
        }
    ]


def test_answers_are_compared_by_what_a_task_keeps_of_an_input():
    """Kernels that differ in a token without an answer of its own, with an unclear one there, give the same words: nothing is lost, and something is clear."""
    stored = golden.read(
        bundle(golden.pack(WORDS, SPLIT, [tagged(9, 9, 0.1, -9, 9)], tagged(9, 9, -0.1, -9, 9)), WORDS)
    )
    same(stored.rows, SPLIT)
    result = golden.compare(stored, 0, tagged(9, 9, -0.2, -9, 9), TAGGER, True)
    assert (result.flips, result.decisive, result.lost) == (0, 1, 0)
    lost = golden.compare(stored, 0, tagged(9, -9, -0.1, -9, 9), TAGGER, True)
    assert (lost.flips, lost.decisive, lost.lost) == (1, 1, 1)


def test_a_bundle_that_keeps_nothing_of_its_inputs_is_compared_by_all_tokens():
    arrays = np.load(io.BytesIO(golden.pack(WORDS, SPLIT, [tagged(9, 9, 0.1, -9, 9)], None)))
    stream = io.BytesIO()
    np.savez(stream, **{name: arrays[name] for name in arrays.files if not name.startswith("kept.")})
    stored = golden.read(bundle(stream.getvalue(), WORDS))
    same(stored.rows, [{"input_ids": SPLIT[0]["input_ids"]}])
    assert golden.compare(stored, 0, [{"logits": tagged(9, 9, -0.2, -9, 9)[0]["logits"]}], TAGGER, False).flips == 1


def test_what_a_loop_hands_on_does_not_widen_what_is_let_through():
    offsets = np.linspace(0, 1000, 5, dtype=np.float32)
    stored = golden.Golden([{"ids": np.arange(5)}], [[{"tokens": np.zeros((5, 2), np.float32)}]], None)
    found = [{"tokens": np.array([[5, 0]] * 5, np.float32), "offsets": offsets}]
    result = golden.compare(stored, 0, found, Task(), False)
    assert (result.difference, result.passed) == (5, False)


def test_a_table_keeps_what_no_graph_takes():
    """Integer inputs and one output of a fixed shape."""
    labels = Signature("forward", WORDS.inputs, (TensorSpec("logits", "float32", ("batch", 2)),))
    rows = [
        {"input_ids": np.arange(n), "words": np.arange(n) - 1, "scale": np.array([0.5], np.float32)} for n in (3, 5)
    ]
    answers = [{"logits": np.array([n, 1], np.float32), "words": row["words"]} for n, row in enumerate(rows)]
    content = golden.pack(labels, rows, [answers], None)
    with np.load(io.BytesIO(content)) as arrays:
        assert "lengths" in arrays.files
    same(golden.read(bundle(content, labels)).rows, rows)


def test_outputs_of_another_size_and_no_numbers_are_as_far_off_as_can_be():
    stored = golden.Golden(ROWS, [ANSWERS], None)
    shorter = [{**row, "tokens": row["tokens"][:-1]} for row in ANSWERS]
    assert golden.compare(stored, 0, shorter, Task(), False).difference == float("inf")
    no_numbers = [{name: np.full_like(array, np.nan) for name, array in row.items()} for row in ANSWERS]
    assert golden.compare(stored, 0, no_numbers, Task(), False).difference == float("inf")


def drop(name):
    return lambda arrays: arrays.pop(name)


def put(name, function):
    return lambda arrays: arrays.update({name: function(arrays[name])})


@pytest.mark.parametrize(
    "function",
    [
        drop("input.ids"),
        drop("outputs.0.whole"),
        drop("reference.whole"),
        drop("outputs.0.tokens.shapes"),
        put("input.ids", lambda a: a.astype(np.float32)),
        put("input.ids", lambda a: a[:-1]),
        put("input.ids.shapes", lambda a: a[:-1]),
        put("input.ids.shapes", lambda a: a - 1),
        put("input.ids.shapes", lambda a: a.astype(np.int64) * 2**40),
        put("input.ids.shapes", lambda a: a.astype(np.float64)),
        put("input.ids.shapes", lambda a: np.zeros((10**6, 1), np.uint8)),
        put("input.mask", lambda a: np.int64(3)),
        put("outputs.0.tokens", lambda a: a.astype(np.float64)),
        put("outputs.0.tokens.shapes", lambda a: a[:, ::-1]),
        put("outputs.0.whole", lambda a: a[:, :-1]),
        put("outputs.0.whole", lambda a: np.repeat(a, 2, axis=0)),
        put("reference.whole", lambda a: np.repeat(a, 200, axis=0)),
        lambda arrays: arrays.update(more=np.zeros(3)),
        lambda arrays: arrays.update({"kept.words": np.zeros((4, 2), np.uint8)}),
        lambda arrays: arrays.update({"kept.words": np.zeros((10**6, 0), np.uint8)}),
        lambda arrays: arrays.update({f"kept.{n}": np.zeros(3) for n in range(17)}),
    ],
)
def test_what_does_not_fit_the_signature_is_a_typed_error(function):
    golden.read(bundle(changed(lambda arrays: None)))
    with refused("bundle-assets", "golden.npz"):
        golden.read(bundle(changed(function)))
