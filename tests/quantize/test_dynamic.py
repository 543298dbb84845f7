"""Dynamic INT8 for ONNX Runtime: what is fused, that it still answers like torch, and that it really runs in INT8."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import tiny
import torch

import edgekit
from edgekit import backends, quantize
from edgekit.quantize import dynamic
from edgekit.quantize._graphs import constant
from edgekit.quantize._weights import per_channel
from edgekit.runtime.loops import single
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import silent

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
COSINE = 0.99
# DeBERTa adds products with relative positions to the scores, MPNet a bias of its own, ModernBERT turns Q and K by position:
# QAttention knows none of it, so there the linears alone are in INT8.
FUSED = ("albert", "bert", "distilbert", "electra", "roberta")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    @functools.cache
    def make(name):
        (graph,) = dynamic.quantize(tiny.exported(name), [], tmp_path_factory.mktemp(name), silent).graphs
        engine = backends.get("onnxruntime").open_device("cpu", 1).load(graph.path, graph.signature)
        return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph, engine=engine)

    return make


def ops(graph):
    return Counter(node.op_type for node in graph)


def layers(name):
    return tiny.source(name).module.config.num_hidden_layers


def feeds_of(name, texts=tiny.TEXTS, size=5):
    rows = tiny.rows(tiny.source(name), texts)
    signature = tiny.exported(name).graphs[0].signature
    return [single.collate(signature, rows[i : i + size]) for i in range(0, len(rows), size)]


def torch_inputs(name):
    """How many different tensors torch's linears on tokens read: linears of one input are one product."""
    seen = []

    def note(module, inputs, _):
        if isinstance(module, torch.nn.Linear) and inputs[0].ndim == 3 and min(module.weight.shape) >= 16:
            seen.append(inputs[0])

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        tiny.torch_logits(tiny.source(name), feeds_of(name)[0])
    finally:
        handle.remove()
    return len({(x.data_ptr(), tuple(x.shape)) for x in seen})


# ---- what is fused


@each
def test_attention_is_one_operator_where_it_is_plain(name, quantized):
    found = ops(quantized(name).graph)
    fused = layers(name) if name in FUSED else 0
    assert found["QAttention"] == fused
    assert found["Softmax"] == layers(name) - fused
    for node in quantized(name).graph:
        if node.op_type == "QAttention":
            config = tiny.source(name).module.config
            assert node.domain == "com.microsoft"
            assert node.attributes.get_int("num_heads", None) == config.num_attention_heads
            assert node.attributes.get_float("scale", None) == pytest.approx((config.hidden_size // config.num_attention_heads) ** -0.5)
            assert constant(node.inputs[1]).dtype == np.int8
            assert constant(node.inputs[1]).shape[1] == 3 * constant(node.inputs[1]).shape[0]


@each
def test_every_linear_is_int8(name, quantized):
    graph = quantized(name).graph
    found = ops(graph)
    assert found["QAttention"] + found["DynamicQuantizeMatMul"] == torch_inputs(name) >= 8
    for node in graph:
        if node.op_type == "MatMul":
            assert all(constant(v) is None for v in node.inputs)
        if node.op_type == "DynamicQuantizeMatMul":
            weight, scales = constant(node.inputs[1]), constant(node.inputs[2])
            assert (weight.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (weight.shape[1],))
            assert (scales > 0).all()
            # The bias is inside, so that nothing is added behind it but the residual.
            assert (len(node.inputs) > 4 and node.inputs[4] is not None) == (name != "modernbert")
    assert found["Gemm"] == 2  # pooler or its like, and classifier: one row, in float
    assert found["Softmax"] + found["QAttention"] == layers(name)
    assert quantized(name).file.method == "dynamic"


def test_weights_are_those_of_torch(quantized):
    layer = tiny.source("bert").module.bert.encoder.layer[1]
    expected, scales = per_channel(layer.output.dense.weight.detach().numpy().T)
    (node,) = [n for n in quantized("bert").graph if n.name == "bert.encoder.layer.1.output.dense/MatMul"]
    np.testing.assert_array_equal(constant(node.inputs[1]), expected)
    np.testing.assert_array_equal(constant(node.inputs[2]), scales)
    np.testing.assert_array_equal(constant(node.inputs[4]), layer.output.dense.bias.detach().numpy())
    attention = layer.attention.self
    (node,) = [n for n in quantized("bert").graph if n.op_type == "QAttention" and ".1." in n.name]
    side_by_side = torch.cat([p.weight for p in (attention.query, attention.key, attention.value)]).detach().numpy().T
    np.testing.assert_array_equal(constant(node.inputs[1]), per_channel(side_by_side)[0])


@each
def test_layer_norms_are_kept(name, quantized):
    found, before = ops(quantized(name).graph), ops(ir.load(tiny.exported(name).graphs[0].path).graph)
    assert found["SkipLayerNormalization"] + found["LayerNormalization"] == before["LayerNormalization"]
    kept = {node.attributes.get_float("epsilon", None) for node in quantized(name).graph if "LayerNormalization" in node.op_type}
    epsilons = {m.eps for m in tiny.source(name).module.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert {round(k, 14) for k in kept} == {round(float(np.float32(e)), 14) for e in epsilons}


# ---- what it computes


def cosine(got, expected):
    """Of the logits about each label's mean: what all texts have in common says nothing of how well they are told apart."""
    a, b = (x.astype(np.float64) - expected.mean(axis=0) for x in (got, expected))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@each
def test_it_answers_like_torch(name, quantized):
    source, engine = tiny.source(name), quantized(name).engine
    feeds = [*feeds_of(name), *feeds_of(name, tiny.TEXTS[::-1], 7), *feeds_of(name, size=1)]
    expected = np.concatenate([tiny.torch_logits(source, f) for f in feeds])
    assert min(np.ptp(expected, axis=0)) >= 1.0
    unmasked = np.concatenate([tiny.torch_logits(source, {**f, "attention_mask": np.ones_like(f["attention_mask"])}) for f in feeds])
    assert cosine(unmasked, expected) < COSINE  # a graph that lost its mask would not pass
    got = np.concatenate([engine.run(f)["logits"] for f in feeds])
    assert cosine(got, expected) >= COSINE


@each
def test_lengths_that_no_sample_has(name, quantized):
    source, file, engine = tiny.source(name), quantized(name).file, quantized(name).engine
    rows = tiny.random_rows(source, [1, 2, 12, 13, 33, tiny.MAX_LENGTH])
    expected = np.concatenate([tiny.torch_logits(source, {n: a[None] for n, a in row.items()}) for row in rows])
    for got in (
        np.concatenate([engine.run(single.collate(file.signature, [row]))["logits"] for row in rows]),
        engine.run(single.collate(file.signature, rows))["logits"],
    ):
        assert np.abs(got - expected).max() < 0.1 * tiny.SPREAD


@each
def test_it_runs_in_int8(name, quantized):
    """By ONNX Runtime's own profile; pooler and classifier stay in float."""
    low = torch_inputs(name)
    assert quantized(name).engine.executed_precision() == f"int8 {low}/{low + 2} linears"


_AGAIN = """
import sys
from pathlib import Path
from edgekit.quantize import dynamic
from edgekit.spec.graph import Graph, GraphSet
for path, out in zip(sys.argv[1::2], sys.argv[2::2]):
    dynamic.quantize(GraphSet("", "", (Graph(None, Path(path), "float32"),), Path(out)), [], Path(out), lambda *step: None)
assert "torch" not in sys.modules
"""


def test_the_same_graph_gives_the_same_bytes(tmp_path, quantized):
    """In another process, where sets and dictionaries of strings have another order."""
    paths = [str(p) for n in tiny.ARCHITECTURES for p in (tiny.exported(n).graphs[0].path, tmp_path / n)]
    environment = {**os.environ, "PYTHONPATH": str(Path(edgekit.__file__).resolve().parents[1]), "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", _AGAIN, *paths], env=environment, check=True, capture_output=True, timeout=120)
    for name in tiny.ARCHITECTURES:
        first, second = quantized(name).file.path, tmp_path / name / "model.onnx"
        assert hashlib.sha256(first.read_bytes()).hexdigest() == hashlib.sha256(second.read_bytes()).hexdigest()


# ---- methods as such


def test_methods_are_the_files_of_the_folder():
    assert quantize.names() == ["dynamic", "float32", "static"]
    for name in quantize.names():
        method = quantize.get(name)
        assert set(method.BACKENDS) <= set(backends.names())
        assert method.NEEDS_SAMPLES >= 0
    assert quantize.get("dynamic").BACKENDS == ("onnxruntime",)


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown method 'statik'. Did you mean 'static'\? Known methods: dynamic, float32, static"):
        quantize.get("statik")


def test_float32_is_the_graph_itself(tmp_path):
    graphs = tiny.exported("bert")
    assert quantize.get("float32").quantize(graphs, [], tmp_path, silent) is graphs
    assert not any(tmp_path.iterdir())
