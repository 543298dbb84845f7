"""LiteRT in the search: graphs are written for it beside those of the other backends, and an operator it cannot hold costs it its place."""

from __future__ import annotations

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import backends
from edgekit.bundle.trust import open_bundle
from edgekit.quantize.litert._lowering import table

pytestmark = pytest.mark.slow


def build_for(folder, tiny_model, tiny_samples, backends=("onnxruntime", "litert"), extra="", methods=None):
    methods = methods or ("float32", "dynamic_rows")
    target = small.target(folder / "own.toml", methods, backends, extra=f"threads = 1\n{extra}")
    return edgekit.build(
        tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=folder / "out", target=target
    ).bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_samples):
    folder = tmp_path_factory.mktemp("litert")
    return build_for(folder, tiny_model, tiny_samples, backends=("litert",), methods=("dynamic_rows",))


def test_every_method_of_litert_races(tmp_path, tiny_model, tiny_samples):
    trials = build_for(tmp_path, tiny_model, tiny_samples).manifest.trials
    raced = {(trial.method, trial.backend): trial for trial in trials}
    assert set(raced) == {("float32", "onnxruntime"), ("float32", "litert"), ("dynamic_rows", "litert")}
    assert raced["dynamic_rows", "litert"].executed.startswith("int8")
    assert raced["float32", "litert"].executed == "float32"
    # Weights are a quarter of the size.
    assert raced["dynamic_rows", "litert"].size_mb < raced["float32", "litert"].size_mb


def test_the_bundle_holds_the_graph_that_was_written(made):
    manifest = made.manifest
    (variant,) = manifest.variants
    assert variant.graphs == {"forward": "graphs/model.tflite"}
    assert variant.rows == "alone"
    assert not [name for name in manifest.files if name.endswith(".onnx") or "weights" in name]


def test_answers(made, tiny_module):
    texts = small.texts(30, seed=3)
    expected = small.torch_logits(tiny_module, texts)
    with edgekit.load(made.path) as session:
        answers = small.logits(session, texts)
        np.testing.assert_array_equal(small.logits(session, texts, batched=True), answers)
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    assert 0 < np.abs(answers - expected).max() < 0.2 * np.ptp(expected)


def test_throughput_runs_rows_together(tmp_path, tiny_model, tiny_samples, tiny_module):
    bundle = build_for(
        tmp_path, tiny_model, tiny_samples, ("litert",), 'use = "throughput"\nmax_batch = 6', ("dynamic_rows",)
    )
    (variant,) = open_bundle(bundle.path).manifest.variants
    assert variant.rows == "together"
    assert {trial.batch for trial in bundle.manifest.trials} <= {1, 4, 6}
    texts = small.texts(20, seed=4)
    expected = small.torch_logits(tiny_module, texts)
    with edgekit.load(bundle.path) as session:
        batched = small.logits(session, texts, batched=True)
    assert (batched.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_an_operator_that_the_writer_does_not_know(tmp_path, tiny_model, tiny_samples, monkeypatch, own_cache):
    monkeypatch.delitem(table.functions, "Gelu")
    manifest = build_for(tmp_path, tiny_model, tiny_samples).manifest
    assert {trial.backend for trial in manifest.trials} == {"onnxruntime"}
    notes = [note for note in manifest.notes if "litert" in note]
    assert len(notes) == 2
    assert all("Gelu" in note for note in notes)
    assert "dynamic_rows" in " ".join(notes)
    (tmp_path / "alone").mkdir()
    with refused("litert-operator", operator="Gelu"):
        build_for(tmp_path / "alone", tiny_model, tiny_samples, ("litert",))


def test_formats_of_graphs():
    assert {name for name in backends.names() if backends.get(name).GRAPH == ".tflite"} == {"litert"}
