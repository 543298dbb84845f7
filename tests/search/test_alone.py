"""A build notices by itself that lists change answers, runs such rows one by one from then on, and says what that costs."""

from __future__ import annotations

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import quantize
from edgekit.search import race
from edgekit.spec.errors import OutputError

pytestmark = pytest.mark.slow

OUTLIER = "brilliant"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model with a word whose activations are huge, and texts of which some hold it."""
    folder = tmp_path_factory.mktemp("outlier")
    small.save(folder / "model", outlier=OUTLIER)
    texts = [*small.texts(60, seed=2), f"the film is {OUTLIER}.", f"his {OUTLIER} song was rather dull"]
    logits = small.torch_logits(small.module(outlier=OUTLIER), texts)
    small.write_jsonl(folder / "train.jsonl", [{"text": text} for text in small.texts(30, seed=1)])
    small.write_jsonl(
        folder / "dev.jsonl",
        [{"text": t, "label": small.LABELS[a]} for t, a in zip(texts, logits.argmax(axis=1), strict=True)],
    )
    return folder


def build(inputs, out, methods=("dynamic",), extra=""):
    target = small.target(
        inputs / f"{out.name}.toml", methods=methods, extra=f"threads = 1\n{extra}\n[budget]\naccuracy_drop = 0.5"
    )
    return edgekit.build(
        inputs / "model", samples=inputs / "train.jsonl", eval=inputs / "dev.jsonl", out=out, target=target
    )


def test_rows_that_lists_change_run_alone_and_are_priced_like_that(inputs, tmp_path, monkeypatch):
    """Even where no operator gives it away: the answers do."""
    monkeypatch.setattr(quantize, "rows_of", lambda graphs: "together")
    result = build(inputs, tmp_path / "noticed", ("dynamic", "float32"), 'use = "throughput"')
    manifest = result.bundle.manifest
    by_method = {t.method: t for t in manifest.trials}
    assert all(
        t.rows == "alone" and t.batch == 1 and t.lists.difference == 0 for t in manifest.trials if t.method == "dynamic"
    )
    assert by_method["float32"].rows == "together"
    assert by_method["float32"].lists.is_within_limit
    (note,) = [note for note in manifest.notes if "one by one" in note]
    assert note.startswith(
        "dynamic on onnxruntime: 124 answers in lists, in two orders, differ from those to the same rows alone by at most"
    )
    table = " ".join(result.table(wide=True).split())
    assert "1t alone" in table
    assert "alone: rows of a list are run one by one" in table
    best = manifest.variants[0]
    how = "run one by one" if best.rows == "alone" else "share calls of at most 2048 tokens"
    assert f"lists, {best.method} on onnxruntime: rows {how}; 124 answers" in table
    assert best.lists is not None
    assert best.lists.is_within_limit


def test_the_graph_gives_it_away(inputs, tmp_path):
    manifest = build(inputs, tmp_path / "known").bundle.manifest
    assert (manifest.format, manifest.variants[0].rows) == (2, "alone")
    assert not [note for note in manifest.notes if "one by one" in note]
    with edgekit.load(tmp_path / "known") as session:
        texts = [*small.texts(20, seed=4), f"a {OUTLIER} film"]
        np.testing.assert_array_equal(small.logits(session, texts, batched=True), small.logits(session, texts))


def test_the_peak_names_its_list_and_a_limit_of_memory_cuts_lists(inputs, tmp_path):
    free = build(inputs, tmp_path / "free", ("float32",)).bundle.manifest
    assert (free.trials[0].memory_rows, free.trials[0].memory_tokens, free.variants[0].max_tokens) == (
        32,
        small.MAX_LENGTH,
        2048,
    )
    limit = free.trials[0].memory_mb - 8
    target = small.target(
        inputs / "tight.toml", extra=f"threads = 1\n[budget]\naccuracy_drop = 0.5\nmemory_mb = {limit}"
    )
    result = edgekit.build(
        inputs / "model",
        samples=inputs / "train.jsonl",
        eval=inputs / "dev.jsonl",
        out=tmp_path / "tight",
        target=target,
    )
    tight = result.bundle.manifest
    assert tight.trials[0].memory_mb <= limit
    assert 1 <= tight.trials[0].memory_rows < 32
    assert tight.variants[0].max_tokens == tight.trials[0].memory_rows * small.MAX_LENGTH
    assert f"({tight.trials[0].memory_rows}x{small.MAX_LENGTH})" in result.table(wide=True)


@pytest.mark.usefixtures("own_cache")
def test_a_candidate_that_answers_nan_is_left_out_and_named(inputs, tmp_path, monkeypatch):
    real = race.measure_candidate

    def measure_candidate(candidate, *arguments):
        if candidate.variant.method == "dynamic":
            raise OutputError("dynamic on onnxruntime computed NaN or infinity for 2 of 62 row(s)")
        return real(candidate, *arguments)

    monkeypatch.setattr(race, "measure_candidate", measure_candidate)
    manifest = build(inputs, tmp_path / "one", ("dynamic", "float32")).bundle.manifest
    assert {t.method for t in manifest.trials} == {"float32"}
    assert any(
        note.startswith("dynamic on onnxruntime, 1 thread(s), rows alone was left out: dynamic on")
        for note in manifest.notes
    )
    with refused("error", "2", "62"):
        build(inputs, tmp_path / "none")
