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


# ---- weights of 4 bits

INT4 = ("dynamic_rows", "dynamic_rows_int4")


def test_int4_races_inside_the_budget(tmp_path, tiny_model, tiny_samples):
    bundle = build_for(tmp_path, tiny_model, tiny_samples, ("litert",), "[budget]\naccuracy_drop = 0.9", INT4)
    raced = {trial.method: trial for trial in bundle.manifest.trials}
    assert set(raced) == set(INT4)
    assert raced["dynamic_rows_int4"].executed == "int4 9/11 linears"
    assert not raced["dynamic_rows_int4"].verdict.startswith(("over budget", "refused"))
    assert raced["dynamic_rows_int4"].changed >= raced["dynamic_rows"].changed
    # Half a byte less for each weight, less two bytes for each 32 of them; other tables and assets are the same.
    (graph,) = [name for name in bundle.manifest.files if name.endswith(".tflite")]
    assert raced["dynamic_rows_int4"].size_mb < raced["dynamic_rows"].size_mb - 0.02, graph
    assert not [note for note in bundle.manifest.notes if "int4" in note]


def test_int4_over_the_budget_costs_no_ranking(tmp_path, tiny_model, tiny_samples):
    """Without a limit on the size there is nothing to win by a mixture with INT8. Random weights bear 16 levels badly."""
    steps = []
    target = small.target(tmp_path / "own.toml", INT4, ("litert",), "threads = 1\n[budget]\naccuracy_drop = 0.02")
    out = tmp_path / "out"
    result = small.build(
        tiny_model,
        samples=tiny_samples.train,
        eval=tiny_samples.dev,
        out=out,
        target=target,
        progress=lambda *step: steps.append(step[0]),
    )
    manifest = open_bundle(out).manifest
    assert [variant.method for variant in manifest.variants] == ["dynamic_rows"]
    raced = {trial.method: trial for trial in result.bundle.manifest.trials}
    assert raced["dynamic_rows_int4"].verdict.startswith("over budget: accuracy_drop")
    assert "rank layers" not in steps


def test_the_most_sensitive_layers_of_int4_stay_int8_where_the_size_counts(tmp_path, tiny_model, tiny_samples):
    limits = "[budget]\naccuracy_drop = 0.02\nsize_mb = 100"
    bundle = build_for(tmp_path, tiny_model, tiny_samples, ("litert",), limits, INT4)
    in_blocks = [trial for trial in bundle.manifest.trials if trial.method == "dynamic_rows_int4"]
    whole, mixed = sorted(in_blocks, key=lambda trial: trial.size_mb)
    (int8,) = (trial for trial in bundle.manifest.trials if trial.method == "dynamic_rows")
    assert whole.executed == "int4 9/11 linears"
    assert whole.verdict.startswith("over budget")
    counts = [int(share.partition("/")[0]) for share in mixed.executed.split()[1::2]]
    assert mixed.executed == f"int4 {counts[0]}/11 int8 {counts[1]}/11 linears"
    assert sum(counts) == 9
    assert mixed.drop <= 0.02
    assert mixed.in_float == 0
    assert whole.size_mb < mixed.size_mb < int8.size_mb


def test_formats_of_graphs():
    assert {name for name in backends.names() if backends.get(name).GRAPH == ".tflite"} == {"litert"}
