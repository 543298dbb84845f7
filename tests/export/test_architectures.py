"""Every supported architecture, exported: torch, ONNX Runtime and OpenVINO agree on whatever a session may feed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiny

from edgekit import backends
from edgekit.export.graphs import TOLERANCE
from edgekit.runtime.loops import single
from edgekit.source.processors.text import MODEL_TYPES

pytestmark = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
LENGTHS = (2, 3, 7, 11, 13, 17, 32, 33, 50, 63)  # none is the traced one


class Model:
    """One architecture: torch's answers, and the engines of its graph."""

    def __init__(self, source, graphs):
        (graph,) = graphs.graphs
        self.source, self.signature = source, graph.signature
        self.engines = {
            b: backends.get(b).open_device("cpu", 1).load(graph.path, graph.signature)
            for b in ("onnxruntime", "openvino")
        }
        logits = np.concatenate([self.torch([row]) for row in tiny.rows(source)])
        self.spread = float(np.ptp(logits))

    def torch(self, rows):
        """Torch on each row alone, so that no padding is involved."""
        return np.concatenate([tiny.torch_logits(self.source, {n: a[None] for n, a in row.items()}) for row in rows])

    def differences(self, feeds, expected):
        """The largest difference to torch on each backend, as a share of the spread."""
        found = {}
        for backend, engine in self.engines.items():
            got = engine.run(feeds)["logits"]
            assert got.dtype == np.float32
            assert got.shape == expected.shape
            found[backend] = np.abs(got - expected).max() / self.spread
        return found


@pytest.fixture(scope="module")
def model():
    return functools.cache(lambda name: Model(tiny.source(name), tiny.exported(name)))


def padded(model, rows):
    feeds = single.collate(model.signature, rows)
    assert (feeds["attention_mask"] == 0).any()
    return feeds


def unmasked(feeds):
    return {**feeds, "attention_mask": np.ones_like(feeds["attention_mask"])}


def one_segment(feeds):
    return {**feeds, "token_type_ids": np.zeros_like(feeds["token_type_ids"])}


def assert_inputs_matter(name, model, feeds, expected):
    """Without its mask, or its token types, torch itself answers something else: so agreement below means something."""
    assert model.spread >= 1.0
    wrong = [unmasked(feeds)]
    if name in tiny.TOKEN_TYPES:
        assert (feeds["token_type_ids"] == 1).any()
        wrong.append(one_segment(feeds))
    for changed in wrong:
        assert np.abs(tiny.torch_logits(model.source, changed) - expected).max() / model.spread > 10 * TOLERANCE


def assert_agreement(name, model, rows):
    """On the rows padded to one batch, and on each alone."""
    expected = model.torch(rows)
    feeds = padded(model, rows)
    assert_inputs_matter(name, model, feeds, expected)
    assert max(model.differences(feeds, expected).values()) <= TOLERANCE
    for row, answer in zip(rows, expected, strict=True):
        alone = single.collate(model.signature, [row])
        assert alone["attention_mask"].all()
        assert max(model.differences(alone, answer[None]).values()) <= TOLERANCE


def test_the_list_is_the_supported_one(name):
    assert name in MODEL_TYPES
    assert len(tiny.ARCHITECTURES) == len(MODEL_TYPES)


def test_ragged_batches(name, model):
    found = model(name)
    rows = tiny.rows(found.source)
    assert len({len(row["input_ids"]) for row in rows}) > 10
    for start in range(0, len(rows), 6):
        # Pairs stand at the end of the texts; one in each batch keeps token types in play.
        batch = [*rows[start : start + 6], rows[-2]]
        assert_agreement(name, found, batch)


def test_one_token(name, model):
    found = model(name)
    rows = tiny.random_rows(found.source, [1, 1, 1, 6])
    if name in tiny.TOKEN_TYPES:
        rows[0]["token_type_ids"][:] = 1
    assert_agreement(name, found, rows)
    alone = single.collate(found.signature, rows[:3])
    assert alone["input_ids"].shape == (3, 1)
    assert max(found.differences(alone, found.torch(rows[:3])).values()) <= TOLERANCE


def test_lengths_that_were_not_traced(name, model):
    found = model(name)
    assert tiny.TRACED_LENGTH not in LENGTHS
    assert_agreement(name, found, tiny.random_rows(found.source, LENGTHS, seed=1))


def test_maximum_length(name, model):
    found = model(name)
    assert found.source.settings.max_length == tiny.MAX_LENGTH
    longest = found.source.encode([" ".join(tiny.SENTENCES)])[0]
    assert len(longest["input_ids"]) == tiny.MAX_LENGTH
    rows = [
        {n: np.array(ids) for n, ids in longest.items()},
        *tiny.random_rows(found.source, [tiny.MAX_LENGTH, 20, tiny.MAX_LENGTH], seed=2),
    ]
    assert_agreement(name, found, rows)


def test_large_batch(name, model):
    found = model(name)
    rows = tiny.random_rows(found.source, [4 + i % 9 for i in range(40)], seed=3)
    expected, feeds = found.torch(rows), padded(found, rows)
    assert_inputs_matter(name, found, feeds, expected)
    assert max(found.differences(feeds, expected).values()) <= TOLERANCE


def test_masked_positions_inside_a_row_are_not_read(name, model):
    """Holes in the mask, not only padding: what stands there must not matter."""
    found = model(name)
    (row,) = tiny.random_rows(found.source, [15], seed=4)
    row["attention_mask"][[3, 4, 9]] = 0
    expected = found.torch([row])
    feeds = padded(found, [row])
    assert_inputs_matter(name, found, feeds, expected)
    assert max(found.differences(feeds, expected).values()) <= TOLERANCE
