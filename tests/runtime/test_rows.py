"""An answer depends on its input alone: rows that may not share a call do not, lists are cut by tokens, and NaN is no answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

import edgekit
from edgekit.runtime.loops.single import cut
from edgekit.spec.errors import IntegrityError
from edgekit.timing.worker import Worker

OLD = (
    Path(__file__).resolve().parents[1] / "data" / "format-1"
)  # dynamic INT8 of a model with a word whose activations are huge
OUTLIER = "brilliant"
TEXTS = [*small.texts(40, seed=9), f"the film is {OUTLIER}.", *small.texts(20, seed=11)]


@pytest.fixture
def old(tmp_path):
    return small.copy(OLD, tmp_path / "old")


def as_format_2(bundle, **changes):
    """The manifest of a bundle of format 1 as format 2 states it."""
    data = json.loads((bundle / "manifest.json").read_text("utf-8"))
    small.sign(bundle, format=2, variants=[{**v, **changes} for v in data["variants"]])
    return bundle


def raw(session, texts):
    """Token ids of texts as one padded batch."""
    rows = [t.arrays for t in session._task.preprocess(texts)]
    return session._loop.collate(session._runner.signatures["forward"], rows)


# ---- rows alone


def test_the_texts_provoke_the_fault_where_rows_share_a_scale(old):
    """As released before: without this the next tests prove nothing."""
    with edgekit.load(as_format_2(old, rows="together")) as session:
        alone, together = small.logits(session, TEXTS), small.logits(session, TEXTS, batched=True)
    assert np.abs(alone - together).max() > 1.0
    assert (alone.argmax(axis=1) != together.argmax(axis=1)).sum() >= 3


@pytest.mark.parametrize("streams", [1, 2])
def test_a_bundle_of_format_1_with_a_scale_per_tensor_answers_a_list_row_by_row(old, streams):
    data = json.loads((old / "manifest.json").read_text("utf-8"))
    small.sign(old, variants=[{**v, "streams": streams, "threads": 2} for v in data["variants"]])
    with edgekit.load(old) as session:
        assert session.info.rows == "alone"
        alone = small.logits(session, TEXTS)
        for order in (TEXTS, TEXTS[::-1]):
            np.testing.assert_array_equal(
                small.logits(session, order, batched=True), alone if order is TEXTS else alone[::-1]
            )
        single = [session(text) for text in TEXTS]
        assert session(TEXTS) == single
        assert session(TEXTS[:7]) == single[:7]


def test_raw_arrays_are_answered_row_by_row_too(old):
    with edgekit.load(old) as session:
        feeds = raw(session, TEXTS)
        together = session.run(feeds)["logits"]
        for index in range(len(TEXTS)):
            np.testing.assert_array_equal(
                session.run({n: a[index : index + 1] for n, a in feeds.items()})["logits"], together[index : index + 1]
            )


def test_a_variant_that_does_not_state_its_rows_runs_them_alone(old):
    with edgekit.load(as_format_2(old)) as session:
        assert session.info.rows == "alone"


@pytest.mark.parametrize("changes", [{"rows": "some"}, {"rows": ""}, {"max_tokens": -1}, {"rows": None}])
def test_other_rows_and_limits_are_refused(old, changes):
    with pytest.raises(IntegrityError, match=r"rows|max_tokens"):
        edgekit.load(as_format_2(old, **changes))


# ---- how a list is cut


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 40), st.integers(0, 3000))
def test_a_list_is_cut_into_calls_within_both_limits_and_no_more_than_needed(lengths, rows, tokens):
    parts = cut(lengths, rows, tokens)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    sizes = [(len(part), max(lengths[i] for i in part)) for part in parts]
    for count, longest in sizes:
        assert count <= rows
        assert count == 1 or not tokens or count * longest <= tokens
    for (count, _), following in zip(sizes, parts[1:], strict=False):  # the next row did not fit
        assert count == rows or (tokens and (count + 1) * min(lengths[i] for i in following) > tokens)


def test_a_session_keeps_the_limit_of_tokens(float32_bundle, tmp_path, monkeypatch):
    bundle = small.copy(float32_bundle, tmp_path / "copy")
    data = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert [(v["rows"], v["max_tokens"]) for v in data["variants"]] == [("together", 2048)]
    small.sign(bundle, variants=[{**v, "max_tokens": 100} for v in data["variants"]])
    with edgekit.load(bundle) as session:
        alone, shapes = small.logits(session, TEXTS), []
        run = session._engine.run
        monkeypatch.setattr(session._engine, "run", lambda feeds: shapes.append(feeds["input_ids"].shape) or run(feeds))
        several = small.logits(session, TEXTS, batched=True)
        assert len(shapes) > 1
        assert max(rows * length for rows, length in shapes if rows > 1) <= 100
        assert sum(rows for rows, _ in shapes) == len(TEXTS)
        shapes.clear()
        session.run(raw(session, TEXTS))
        assert max(rows * length for rows, length in shapes if rows > 1) <= 100
    np.testing.assert_allclose(several, alone, rtol=0, atol=1e-5 * np.ptp(alone))


# ---- what is no answer


def break_one_word(bundle, value):
    """Make the embedding of one word not finite."""
    file = next((bundle / "graphs").glob("*.onnx"))
    model = ir.load(file)
    size = (len(small.vocabulary()), 64)
    table = next(
        v for v in model.graph.initializers.values() if v.const_value is not None and tuple(v.const_value.shape) == size
    )
    array = table.const_value.numpy().copy()
    array[small.vocabulary().index(OUTLIER), 3] = value
    table.const_value = ir.tensor(array, name=table.name)
    ir.save(model, file)
    small.sign(bundle)
    return bundle


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_an_error_that_names_the_rows(float32_bundle, value, tmp_path):
    broken = break_one_word(small.copy(float32_bundle, tmp_path / "broken"), value)
    bad, fine = f"zyxcanary {OUTLIER} story", "the story was short"
    texts = [fine] * 70
    texts[3] = texts[41] = bad
    with edgekit.load(broken) as session:
        assert session(fine).label in small.LABELS
        assert len(session([fine] * 5)) == 5
        raw_arrays = raw(session, texts)
        lists = (lambda: session(texts), lambda: session.outputs(texts), lambda: session.outputs(texts, batched=True))
        for call in (*lists, lambda: session.run(raw_arrays)):
            with refused("output-not-finite", "2", "70", "index 3", "41") as caught:
                call()
            assert "zyx" not in str(caught.value)
            assert OUTLIER not in str(caught.value)
        with refused("output-not-finite", "1", "index 0"):
            session(bad)
        with refused("output-not-finite", "30", "index 0", "1", "2", "3", "4", "5", "6", "7", "22"):
            session([bad] * 30)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "value"), [("ort", np.nan), ("openvino", np.inf)])
def test_the_error_of_a_worker_and_of_the_command_line_is_the_same(backend, value, tmp_path, request):
    broken = break_one_word(small.copy(request.getfixturevalue(f"float32_{backend}"), tmp_path / "broken"), value)
    with Worker(broken) as worker:
        with refused("output-not-finite", "index 1"):
            small.logits(worker, ["the story was short", f"a {OUTLIER} story"])
        with refused("output-not-finite", "index 5", "50"):
            worker.predict([*["the story was short"] * 55, f"a {OUTLIER} story"])
    done = small.edgekit("run", broken, f"a {OUTLIER} story")
    assert done.returncode == 1
    assert b"NaN or infinity" in done.stderr
    assert b"nan" not in done.stdout.lower()
    texts = [f"{OUTLIER} plot", *small.texts(20, 3)]
    rows = small.write_jsonl(
        tmp_path / "rows.jsonl", [{"text": text, "label": small.LABELS[i % 3]} for i, text in enumerate(texts)]
    )
    done = small.edgekit("eval", broken, "--samples", rows)
    assert done.returncode == 1
    assert b"NaN or infinity" in done.stderr
