"""The contract of all quantization methods: what the search and the runtime rely on, whatever a method changes.

A method enters by its module alone. It gets the committed float32 graph; the truth is torch's answers to texts that it
did not see.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import small

from edgekit import backends, quantize, tasks
from edgekit.bundle.trust import open_bundle
from edgekit.quantize import litert
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import linears, load
from edgekit.runtime.loops import single
from edgekit.runtime.runner import GraphRunner
from edgekit.spec.engine import PRECISIONS
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

BUNDLE = small.ROOT / "tests" / "data" / "bundles" / "onnxruntime"
SETTINGS = Quantization(weight_bits=7, ranges="mse", smooth="off")
AGREEMENT = 0.9  # share of texts whose label stays, of a model whose logits spread over all labels
ROUGH = {"dynamic_rows_int4"}
"""Methods whose weights have 16 levels. On random weights, two blocks wide, they move logits by two thirds of their spread: the truth
is what ONNX defines for the graph that they wrote."""
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-methods-")  # goes with the process


@functools.cache
def float_graphs() -> GraphSet:
    manifest = open_bundle(BUNDLE).manifest
    (signature,) = manifest.signatures
    graph = Graph(signature, BUNDLE / "graphs" / "model.onnx", "float32")
    return GraphSet(manifest.task, manifest.loop, (graph,), BUNDLE / "assets", {"model": "tiny"})


@functools.cache
def encoded(kind: str):
    """Rows of the committed texts: those for calibration, or those that torch answered."""
    task = tasks.get("text-classification").load(BUNDLE / "assets")
    texts = small.texts(48, seed=5)
    if kind == "answered":
        texts = json.loads((small.ROOT / "tests" / "data" / "answers.json").read_text("utf-8"))["texts"]
    return [row.arrays for row in task.preprocess(texts)]


@functools.cache
def calibration() -> Calibration:
    (graph,) = float_graphs().graphs
    rows = encoded("calibration")
    return Calibration([single.collate(graph.signature, rows[i : i + 4]) for i in range(0, len(rows), 4)])


@functools.cache
def quantized(name: str, attempt: int = 0) -> GraphSet:
    folder = Path(_WORK.name) / f"{name}-{attempt}"
    folder.mkdir()
    return quantize.get(name).quantize(float_graphs(), calibration(), SETTINGS, folder, silent)


def digest(graphs: GraphSet) -> list[str]:
    files = sorted(path for graph in graphs.graphs for path in graph.path.parent.rglob("*") if path.is_file())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


every = pytest.mark.parametrize("name", quantize.names())


@every
def test_module(name):
    method = quantize.get(name)
    assert method.BACKENDS
    assert set(method.BACKENDS) <= set(backends.names())
    assert method.NEEDS_SAMPLES >= 0
    assert method.PRECISIONS
    assert set(method.PRECISIONS) <= set(PRECISIONS)


@every
def test_graph_set(name):
    before, after = float_graphs(), quantized(name)
    assert (after.task, after.loop, after.assets) == (before.task, before.loop, before.assets)
    assert [graph.signature for graph in after.graphs] == [graph.signature for graph in before.graphs]
    assert {graph.method for graph in after.graphs} == {name}
    assert after.provenance == before.provenance
    for graph in after.graphs:
        onnx.checker.check_model(str(graph.path), full_check=False)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in graph.recipe.items())
        if name != "float32":
            assert graph.path.is_relative_to(Path(_WORK.name)), "only files of its own folder are its result"


@every
def test_the_float_graph_is_not_changed(name):
    before = digest(float_graphs())
    quantized(name, attempt=2)
    assert digest(float_graphs()) == before


@every
def test_the_same_bytes_each_time(name):
    assert digest(quantized(name)) == digest(quantized(name, attempt=1))


def as_written(graph: Graph) -> np.ndarray:
    """The logits of the answered texts as ONNX defines them: no product is fused, no activation quantized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(graph.path), options)
    names = [value.name for value in session.get_inputs()]
    logits = []
    for row in encoded("answered"):
        feeds = single.collate(graph.signature, [row])
        logits += list(session.run(["logits"], {name: feeds[name] for name in names})[0])
    return np.array(logits)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        (name, backend)
        for name in quantize.names()
        for backend in quantize.get(name).BACKENDS
        if not backends.get(backend).ENGINES
    ],
)
def test_answers(name, backend):
    answers = np.array(json.loads((small.ROOT / "tests" / "data" / "answers.json").read_text("utf-8"))["logits"])
    (graph,) = quantized(name).graphs
    path = graph.path
    if name in ROUGH:
        logits = as_written(graph)
        assert np.corrcoef(logits.ravel(), answers.ravel())[0, 1] > 0.7
        answers = logits
    if backends.get(backend).GRAPH == litert.SUFFIX:
        path = Path(_WORK.name) / f"{name}.tflite"
        litert.write(graph.path, graph.signature, path)
    device = backends.get(backend).open_device("cpu", 1)
    engine = device.load(path, graph.signature)
    try:
        is_alone = quantize.rows_of(quantized(name)) == "alone"
        outputs = GraphRunner.of(engine, graph.signature).run(encoded("answered"), alone=is_alone)
    finally:
        engine.close()
        device.close()
    logits = np.stack([row["logits"] for row in outputs])
    assert (logits.argmax(axis=1) == answers.argmax(axis=1)).mean() >= AGREEMENT
    if name == "float32":
        np.testing.assert_allclose(logits, answers, atol=2e-4)
    else:
        assert np.abs(logits - answers).max() > 0, "it computes as float32 does"


@every
def test_a_stop_leaves_through(name, tmp_path):
    """Progress is where a build is stopped: what it raises comes out, whatever the method was at."""

    class Stop(Exception):
        pass

    calls = []

    def stop(*step):
        calls.append(step)
        raise Stop

    folder = tmp_path / "out"
    folder.mkdir()
    try:
        quantize.get(name).quantize(float_graphs(), calibration(), SETTINGS, folder, stop)
    except Stop:
        assert len(calls) == 1
    else:
        assert not calls, "the method swallowed a stop"


@pytest.mark.parametrize("name", [name for name in quantize.names() if "int8" in quantize.get(name).PRECISIONS])
def test_a_layer_that_is_to_stay_in_float_is_in_the_recipe(name, tmp_path):
    layer = linears(load(float_graphs().graphs[0].path).graph)[0].name
    folder = tmp_path / "out"
    folder.mkdir()
    settings = replace(SETTINGS, keep_float=(layer,))
    (graph,) = quantize.get(name).quantize(float_graphs(), calibration(), settings, folder, silent).graphs
    (without,) = quantized(name).graphs
    assert layer in graph.recipe["keep_float"].split(", ")
    assert layer not in without.recipe.get("keep_float", "").split(", ")
