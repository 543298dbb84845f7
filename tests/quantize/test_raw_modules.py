"""Encoders of pixels and of sound: clean-up, calibration and static INT8 hold for more than token ids."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import raw
import torch

from edgekit import backends
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, linears, load
from edgekit.quantize.methods import static
from edgekit.quantize.tensorrt_rules import lint
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", raw.MODELS)
both = pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
COSINE = 0.99
AUTO, FIXED = (
    Quantization(weight_bits=7),
    Quantization(weight_bits=7, ranges="mse", smooth="off"),
)  # 7 bits: see pairs.py
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-raw-int8-")  # goes with the process
# Layers of the graph, by the name of the torch module; Q, K and V are one.
_BLOCKS = {
    "vit": (
        "layers.{}.attention.q_proj_k_proj_v_proj",
        "layers.{}.attention.o_proj",
        "layers.{}.mlp.fc1",
        "layers.{}.mlp.fc2",
    ),
    "wav2vec2": (
        "encoder.layers.{}.attention.q_proj_k_proj_v_proj",
        "encoder.layers.{}.attention.out_proj",
        "encoder.layers.{}.feed_forward.intermediate_dense",
        "encoder.layers.{}.feed_forward.output_dense",
    ),
}
LAYERS = {name: {part.format(i) for i in range(raw.LAYERS) for part in parts} for name, parts in _BLOCKS.items()}
LAYERS["wav2vec2"].add("feature_projection.projection")


def feed(name, array):
    return {raw.exported(name).graphs[0].signature.inputs[0].name: array}


def calibration_of(name):
    return Calibration([feed(name, raw.rows(name, 4, seed=seed)) for seed in range(100, 106)])


@functools.cache
def quantized(name, how=AUTO):
    folder = Path(tempfile.mkdtemp(dir=_WORK.name))
    (graph,) = static.quantize(raw.exported(name), calibration_of(name), how, folder, silent).graphs
    return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph)


def engine(backend, file):
    return backends.get(backend).open_device("cpu", 1).load(file.path, file.signature)


def cosine(got, expected):
    """About each place's mean over the rows: what all rows have in common (positions) says nothing of what was heard or seen."""
    a, b = (x.astype(np.float64) - expected.mean(axis=0) for x in (got, expected))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.slow
@each
def test_the_committed_graph_is_a_new_one(name):
    """Those of the tests below; answers of the new one are compared with torch's above."""
    committed, anew = (load(graphs.graphs[0].path).graph for graphs in (raw.exported(name), raw.exported_anew(name)))
    assert [(n.op_type, n.name) for n in committed] == [(n.op_type, n.name) for n in anew]
    for one, other in zip(committed.initializers.values(), anew.initializers.values(), strict=True):
        np.testing.assert_allclose(one.const_value.numpy(), other.const_value.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@each
@both
def test_the_float_graph_is_torch(name, backend):
    """Of other numbers of rows, and of sounds of another length, than were traced."""
    file = raw.exported_anew(name).graphs[0]
    loaded = engine(backend, file)
    for count, size in ((1, None), (5, None), *(((3, 1234),) if name == "wav2vec2" else ())):
        array = raw.rows(name, count, seed=count, size=size)
        expected = raw.torch_hidden(name, array)
        assert np.abs(loaded.run(feed(name, array))["hidden"] - expected).max() <= 1e-4 * np.ptp(expected)
    assert backends.summary(loaded.precisions()) == "float32"


@each
def test_the_answer_hangs_on_the_input(name):
    """Otherwise every graph would agree with the model."""
    expected = raw.torch_hidden(name, raw.rows(name, 8, seed=5))
    assert (expected - expected.mean(axis=0)).std() > 0.3 * expected.std()
    assert cosine(expected[::-1], expected) < 0.5


@each
def test_layers_are_found_and_named_after_their_modules(name):
    graph = load(raw.exported(name).graphs[0].path).graph
    assert {layer.name for layer in linears(graph)} == LAYERS[name]
    modules = {n: m for n, m in raw.module(name).named_modules() if isinstance(m, torch.nn.Linear)}
    for layer in linears(graph):
        stem, _, last = layer.name.rpartition(".")
        parts = ["q_proj", "k_proj", "v_proj"] if last.startswith("q_proj") else [last]
        expected = [modules[f"{stem}.{part}"] for part in parts]
        np.testing.assert_array_equal(
            constant(layer.weight), np.concatenate([m.weight.detach().numpy().T for m in expected], axis=1)
        )
        np.testing.assert_array_equal(constant(layer.bias), np.concatenate([m.bias.detach().numpy() for m in expected]))
    assert len(modules) == len(LAYERS[name]) + 2 * raw.LAYERS


@each
def test_static_int8_is_what_tensorrt_takes(name):
    found = quantized(name)
    lint(found.graph, name)
    assert not linears(found.graph)  # no weight of a layer is left in float
    assert sum(node.op_type == "QuantizeLinear" for node in found.graph) == len(LAYERS[name])
    assert set(found.file.recipe) == {"ranges", "smooth", "weights", "embeddings"}


@pytest.mark.slow
@each
@both
@pytest.mark.parametrize("how", [AUTO, FIXED], ids=["auto", "fixed"])
def test_static_int8_answers_like_torch_and_runs_in_int8(name, backend, how):
    file = quantized(name, how).file
    loaded = engine(backend, file)
    array = raw.rows(name, 8, seed=5)
    expected = raw.torch_hidden(name, array)
    assert COSINE <= cosine(loaded.run(feed(name, array))["hidden"], expected) < 1 - 1e-6
    assert backends.summary(loaded.precisions()) == "int8"  # all layers; there is no head
    if name == "wav2vec2":
        longer = raw.rows(name, 3, seed=6, size=1234)
        assert cosine(loaded.run(feed(name, longer))["hidden"], raw.torch_hidden(name, longer)) >= COSINE


@each
def test_what_is_measured_is_what_torch_computes(name):
    """Of the attention output's input in the last layer, and of the first linear behind the convolutions."""
    seen = {}
    chosen = {layer: raw.module(name).get_submodule(layer) for layer in LAYERS[name] if not layer.endswith("v_proj")}
    handles = [
        m.register_forward_pre_hook(
            lambda _, inputs, n=n: seen.setdefault(n, []).append(inputs[0].reshape(-1, inputs[0].shape[-1]).numpy())
        )
        for n, m in chosen.items()
    ]
    calibration = calibration_of(name)
    for batch in calibration.batches:
        raw.torch_hidden(name, next(iter(batch.values())))
    for handle in handles:
        handle.remove()
    model = load(raw.exported(name).graphs[0].path)
    names = {layer.name: layer.x.name for layer in linears(model.graph)}
    histograms = calibration.measure(model)
    for layer, pieces in seen.items():
        values, found = np.concatenate(pieces), histograms[names[layer]]
        np.testing.assert_allclose(found.channels, np.abs(values).max(axis=0), rtol=1e-3, atol=1e-5)
        assert (found.seen, found.counts.sum()) == (len(values), values.size)
