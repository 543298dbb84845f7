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
import raw
import tiny
import tiny_images
import torch
from refusals import refused

import edgekit
from edgekit import backends, quantize, source
from edgekit.export.graphs import export
from edgekit.quantize import _embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, linears, per_channel
from edgekit.quantize.methods import dynamic
from edgekit.runtime.loops import single
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
COSINE = 0.99
SEVEN = Quantization(weight_bits=7)  # products of 8 bits saturate on a machine without VNNI
NO_SAMPLES = Calibration([])
# ALBERT's two layers are one matrix of 32 x 32, whose 7 bits alone cost it 1 % in torch.
ENOUGH = {**dict.fromkeys(tiny.ARCHITECTURES, COSINE), "albert": 0.98}
# DeBERTa adds products with relative positions to the scores, MPNet a bias of its own, ModernBERT turns Q and K by position:
# QAttention knows none of it, so there the linears alone are in INT8.
FUSED = ("albert", "bert", "distilbert", "electra", "roberta")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    @functools.cache
    def make(name, how=SEVEN):
        (graph,) = dynamic.quantize(tiny.exported(name), NO_SAMPLES, how, tmp_path_factory.mktemp(name), silent).graphs
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
    """How many products there are: linears of one input are one, but for Q of the last layer, which reads one token."""
    seen = []

    def note(module, inputs, _):
        if isinstance(module, torch.nn.Linear) and inputs[0].ndim == 3 and min(module.weight.shape) >= 16:
            seen.append(inputs[0])

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        tiny.torch_logits(tiny.source(name), feeds_of(name)[0])
    finally:
        handle.remove()
    return len({(x.data_ptr(), tuple(x.shape)) for x in seen}) + 1


# ---- what is fused


@each
def test_attention_is_one_operator_where_it_is_plain(name, quantized):
    found = ops(quantized(name).graph)
    fused = layers(name) if name in FUSED else 0
    # The last layer's queries are those of the first token: Q is not packed with K and V there.
    assert (found["QAttention"], found["MultiHeadAttention"]) == ((fused - 1, 1) if fused else (0, 0))
    assert found["Softmax"] == layers(name) - fused
    for node in quantized(name).graph:
        if node.op_type in ("QAttention", "MultiHeadAttention"):
            config = tiny.source(name).module.config
            assert node.domain == "com.microsoft"
            assert node.attributes.get_int("num_heads", None) == config.num_attention_heads
            assert node.attributes.get_float("scale", None) == pytest.approx(
                (config.hidden_size // config.num_attention_heads) ** -0.5
            )
        if node.op_type == "QAttention":
            assert constant(node.inputs[1]).dtype == np.int8
            assert constant(node.inputs[1]).shape[1] == 3 * constant(node.inputs[1]).shape[0]


def assert_fused(path, engine, feeds, expected, packed, separate):
    found = ops(ir.load(path).graph)
    assert (found["QAttention"], found["MultiHeadAttention"]) == (packed, separate)
    assert (found["Softmax"], found["MatMul"]) == (0, 0)
    answers = next(iter(engine.run(feeds).values()))
    assert np.sum(answers * expected) > COSINE * np.linalg.norm(answers) * np.linalg.norm(expected)


def test_attention_without_a_mask_is_one_operator(tmp_path):
    (graph,) = dynamic.quantize(raw.exported("vit"), NO_SAMPLES, SEVEN, tmp_path, silent).graphs
    engine = backends.get("onnxruntime").open_device("cpu", 1).load(graph.path, graph.signature)
    pixels = raw.rows("vit", 6)
    assert_fused(graph.path, engine, {graph.signature.inputs[0].name: pixels}, raw.torch_hidden("vit", pixels), 2, 0)


@pytest.mark.slow
def test_attention_without_a_mask_is_one_operator_in_a_classifier(tmp_path):
    origin, pictures = source.read(tiny_images.folder("deit")), tiny_images.images()
    (tmp_path / "quantized").mkdir()
    exported = export(origin, tmp_path / "graphs", pictures)
    (graph,) = dynamic.quantize(exported, NO_SAMPLES, SEVEN, tmp_path / "quantized", silent).graphs
    rows = origin.encode(pictures)
    engine = backends.get("onnxruntime").open_device("cpu", 1).load(graph.path, graph.signature)
    expected = np.stack([row["logits"] for row in origin.outputs(rows)])
    assert_fused(graph.path, engine, single.collate(graph.signature, rows), expected, 1, 1)


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
    assert found["Softmax"] + found["QAttention"] + found["MultiHeadAttention"] == layers(name)
    assert quantized(name).file.method == "dynamic"


def test_weights_are_those_of_torch(quantized):
    layer = tiny.source("bert").module.bert.encoder.layer[1]
    expected, scales = per_channel(layer.output.dense.weight.detach().numpy().T, 63)
    (node,) = [n for n in quantized("bert").graph if n.name == "bert.encoder.layer.1.output.dense/MatMul"]
    np.testing.assert_array_equal(constant(node.inputs[1]), expected)
    np.testing.assert_array_equal(constant(node.inputs[2]), scales)
    np.testing.assert_array_equal(constant(node.inputs[4]), layer.output.dense.bias.detach().numpy())
    products = {node.name: constant(node.inputs[1]) for node in quantized("bert").graph if len(node.inputs) > 1}
    (packed,) = [matrix for name, matrix in products.items() if "QAttention" in name and ".0." in name]
    attention = tiny.source("bert").module.bert.encoder.layer[0].attention.self
    assert_side_by_side(packed, attention.query, attention.key, attention.value)
    attention = layer.attention.self
    assert_side_by_side(products["bert.encoder.layer.1.attention.self.query/MatMul"], attention.query)
    assert_side_by_side(
        products["bert.encoder.layer.1.attention.self.key_value/MatMul"], attention.key, attention.value
    )


def assert_side_by_side(matrix, *linears):
    expected = torch.cat([linear.weight for linear in linears]).detach().numpy().T
    np.testing.assert_array_equal(matrix, per_channel(expected, 63)[0])


@each
def test_layer_norms_are_kept(name, quantized):
    found, before = ops(quantized(name).graph), ops(ir.load(tiny.exported(name).graphs[0].path).graph)
    assert found["SkipLayerNormalization"] + found["LayerNormalization"] == before["LayerNormalization"]
    kept = {
        node.attributes.get_float("epsilon", None)
        for node in quantized(name).graph
        if "LayerNormalization" in node.op_type
    }
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
    unmasked = np.concatenate(
        [tiny.torch_logits(source, {**f, "attention_mask": np.ones_like(f["attention_mask"])}) for f in feeds]
    )
    assert cosine(unmasked, expected) < ENOUGH[name]  # a graph that lost its mask would not pass
    got = np.concatenate([engine.run(f)["logits"] for f in feeds])
    assert cosine(got, expected) >= ENOUGH[name]


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
    assert backends.summary(quantized(name).engine.precisions()) == f"int8 {low}/{low + 2} linears"


_AGAIN = """
import sys
from pathlib import Path
from edgekit.quantize.methods import dynamic
from edgekit.quantize.calibration import Calibration
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.quantization import Quantization
for path, out in zip(sys.argv[1::2], sys.argv[2::2]):
    graphs = GraphSet("", "", (Graph(None, Path(path), "float32"),), Path(out))
    dynamic.quantize(graphs, Calibration([]), Quantization(weight_bits=7), Path(out), lambda *step: None)
assert "torch" not in sys.modules
"""


def test_the_same_graph_gives_the_same_bytes(tmp_path, quantized):
    """In another process, where sets and dictionaries of strings have another order."""
    paths = [str(p) for n in tiny.ARCHITECTURES for p in (tiny.exported(n).graphs[0].path, tmp_path / n)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(edgekit.__file__).resolve().parents[1]),
        "PYTHONHASHSEED": "12345",
    }
    subprocess.run(
        [sys.executable, "-c", _AGAIN, *paths], env=environment, check=True, capture_output=True, timeout=120
    )
    for name in tiny.ARCHITECTURES:
        first, second = quantized(name).file.path, tmp_path / name / "model.onnx"
        assert hashlib.sha256(first.read_bytes()).hexdigest() == hashlib.sha256(second.read_bytes()).hexdigest()


# ---- what settings ask for


def answers(name, engine):
    """Logits of a graph over ``TEXTS``, and torch's."""
    feeds = feeds_of(name)
    return np.concatenate([engine.run(f)["logits"] for f in feeds]), np.concatenate(
        [tiny.torch_logits(tiny.source(name), f) for f in feeds]
    )


@pytest.mark.parametrize("name", FUSED)
def test_a_projection_that_is_kept_is_attention_in_float(name, quantized):
    """Q, K and V of a layer in float32 are still one operator with the scores, and nothing of them is lost."""
    found = quantized(name, Quantization(weight_bits=7, keep_float=("*q*_*k*_*v*",)))
    kept = [node for node in found.graph if node.op_type == "Attention"]
    assert len(kept) == layers(name) - 1
    assert ops(found.graph)["QAttention"] == ops(found.graph)["Softmax"] == 0
    source = tiny.source(name).module
    exact = [
        m
        for n, m in source.named_modules()
        if isinstance(m, torch.nn.Linear)
        and n.rpartition(".")[2] in ("query", "key", "value", "q_lin", "k_lin", "v_lin")
    ]
    for node in kept:
        config = source.config
        assert (node.domain, node.attributes.get_int("num_heads", None)) == (
            "com.microsoft",
            config.num_attention_heads,
        )
        assert node.attributes.get_float("scale", None) == pytest.approx(
            (config.hidden_size // config.num_attention_heads) ** -0.5
        )
        for part, matrix in enumerate(np.split(constant(node.inputs[1]), 3, axis=1)):
            assert any(np.array_equal(matrix, m.weight.detach().numpy().T) for m in exact[part::3])
    got, expected = answers(name, found.engine)
    assert cosine(got, expected) >= ENOUGH[name]
    plain, _ = answers(name, quantized(name).engine)
    assert np.abs(got - expected).max() != np.abs(plain - expected).max()
    low = torch_inputs(name) - len(kept)
    assert backends.summary(found.engine.precisions()) == f"int8 {low}/{low + 2 + len(kept)} linears"


@each
def test_with_all_layers_kept_it_is_the_float_graph(name, quantized):
    found = quantized(name, Quantization(weight_bits=7, keep_float=("*",)))
    assert not {"QAttention", "DynamicQuantizeMatMul"} & set(ops(found.graph))
    got, expected = answers(name, found.engine)
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.ptp(expected))
    assert backends.summary(found.engine.precisions()) == "float32"


def test_one_layer_that_is_kept(quantized):
    name = "bert.encoder.layer.1.output.dense"
    found = quantized("bert", Quantization(weight_bits=7, keep_float=(name,)))
    assert [layer.name for layer in linears(found.graph)] == [name]
    assert (ops(found.graph)["QAttention"], ops(found.graph)["DynamicQuantizeMatMul"]) == (1, 7)
    assert found.file.recipe == {"weights": "7 bit", "embeddings": "int8", "keep_float": name}
    got, expected = answers("bert", found.engine)
    assert cosine(got, expected) >= COSINE


@each
@pytest.mark.parametrize(("bits", "limit"), [(7, 63), (8, 127), (0, 127)])
def test_bits_of_weights(name, bits, limit, quantized):
    graph = quantized(name, Quantization(weight_bits=bits)).graph
    matrices = [constant(node.inputs[1]) for node in graph if node.op_type in ("QAttention", "DynamicQuantizeMatMul")]
    assert {int(np.abs(m.astype(int)).max()) for m in matrices} == {limit}
    # Two neighbouring products with UINT8 activations of 255, added in 16 bits.
    pairs = [np.pad(m.astype(int), ((0, len(m) % 2), (0, 0))).reshape(-1, 2, m.shape[1]) for m in matrices]
    largest = max(int((255 * np.maximum(sign * p, 0)).sum(axis=1).max()) for p in pairs for sign in (1, -1))
    assert (largest < 2**15) == (bits == 7)


def test_embeddings_in_8_bits(tmp_path, monkeypatch):
    """The tables of the tiny models are too small to be worth it, so here the threshold is."""
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 2**11)
    table, graphs = "model.bert.embeddings.word_embeddings.weight", {}
    for kind in ("int8", "float32"):
        (tmp_path / kind).mkdir()
        (graphs[kind],) = dynamic.quantize(
            tiny.exported("bert"), NO_SAMPLES, Quantization(weight_bits=7, embeddings=kind), tmp_path / kind, silent
        ).graphs
        assert graphs[kind].recipe["embeddings"] == kind
    stored, exact = (
        ir.load(graphs["int8"].path).graph,
        tiny.source("bert").module.bert.embeddings.word_embeddings.weight.detach().numpy(),
    )
    assert table not in stored.initializers
    assert table in ir.load(graphs["float32"].path).graph.initializers
    lookups = [
        constant(node.inputs[0]) for node in stored if node.op_type == "Gather" and constant(node.inputs[0]) is not None
    ]
    (words,) = [a for a in lookups if a.dtype == np.uint8 and a.shape == exact.shape]
    (scale,) = [a for a in lookups if a.dtype == np.float32 and a.shape == (len(exact), 1)]
    assert (
        np.abs((words.astype(np.float64) - 128) * scale - exact)
        <= np.abs(exact).max(axis=1, keepdims=True) / 254 * (1 + 1e-5)
    ).all()
    engine = backends.get("onnxruntime").open_device("cpu", 1).load(graphs["int8"].path, graphs["int8"].signature)
    got, expected = answers("bert", engine)
    assert cosine(got, expected) >= COSINE
    assert backends.summary(engine.precisions()) == "int8 9/11 linears"


# ---- methods as such


def test_methods_are_the_files_of_the_folder():
    files = (Path(quantize.__file__).parent / "methods").glob("[!_]*.py")
    assert quantize.names() == sorted(file.stem for file in files)
    assert {"dynamic", "float32", "static"} <= set(quantize.names())
    assert quantize.get("dynamic").BACKENDS == ("onnxruntime",)


def test_an_unknown_method_is_named_with_the_nearest():
    with refused("name-unknown", "statik", "static"):
        quantize.get("statik")


def test_float32_is_the_graph_itself(tmp_path):
    graphs = tiny.exported("bert")
    assert quantize.get("float32").quantize(graphs, NO_SAMPLES, SEVEN, tmp_path, silent) is graphs
    assert not any(tmp_path.iterdir())
