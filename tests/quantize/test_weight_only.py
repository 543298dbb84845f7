"""INT8 weights with float activations: where they stand, and that the graph computes what torch computes with those weights."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import tiny
import torch

from edgekit import backends
from edgekit.quantize import _embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, linears, load
from edgekit.quantize.methods import weight_only
from edgekit.quantize.tensorrt_rules import lint
from edgekit.runtime.loops import single
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
# The pooler and the classifier see one row a text and stay in float, as do ELECTRA's, which are called otherwise.
ONE_ROW = r"pooler|classifier|pre_classifier|head"


def quantize_graph(name, folder, settings=None):
    return weight_only.quantize(
        tiny.exported(name), Calibration([]), settings or Quantization(embeddings="float32"), folder, silent
    ).graphs[0]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    @functools.cache
    def make(name):
        graph = quantize_graph(name, tmp_path_factory.mktemp(name))
        return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph)

    return make


def token_linears(name):
    """Torch's linears that see tokens, by the shape of what they are called with; both sides of at least 16."""
    source, seen = tiny.source(name), {}
    names = {module: n for n, module in source.module.named_modules()}

    def note(module, inputs, _):
        if isinstance(module, torch.nn.Linear) and inputs[0].ndim == 3 and min(module.weight.shape) >= 16:
            seen[names[module]] = module

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        tiny.torch_logits(source, feeds_of(name)[0])
    finally:
        handle.remove()
    return seen


def feeds_of(name):
    (graph,) = tiny.exported(name).graphs
    rows = tiny.rows(tiny.source(name), tiny.TEXTS[:8]) + tiny.random_rows(tiny.source(name), [1, tiny.MAX_LENGTH])
    return [single.collate(graph.signature, rows[i : i + 5]) for i in (0, 5)]


def rounded(weight):
    """Symmetric INT8 with one scale per output channel, there and back: float32 [out, in], as torch has it."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return (np.rint(weight / scale) * scale).astype(np.float32)


def torch_with(name, change):
    """The torch module with the weights of its token linears changed."""
    module = copy.deepcopy(tiny.source(name).module)
    with torch.no_grad():
        for path in token_linears(name):
            weight = module.get_submodule(path).weight
            weight.copy_(torch.from_numpy(change(weight.numpy())))
    return SimpleNamespace(module=module)


@each
def test_every_weight_is_int8_and_every_activation_float(name, quantized):
    graph = quantized(name).graph
    assert quantized(name).file.method == "weight_only"
    before = linears(load(tiny.exported(name).graphs[0].path).graph)
    products = [
        n
        for n in graph
        if n.op_type == "MatMul"
        and n.inputs[1].producer() is not None
        and n.inputs[1].producer().op_type == "DequantizeLinear"
    ]
    assert {n.name for n in products} == {layer.node.name for layer in before}
    assert len(products) >= 2 * 4
    assert len({n.inputs[1] for n in products}) == len(
        {layer.weight for layer in before}
    )  # ALBERT's layers share theirs
    for node in products:
        values, scales, zeros = (constant(v) for v in node.inputs[1].producer().inputs)
        assert (values.dtype, scales.dtype, zeros.dtype) == (np.int8, np.float32, np.int8)
        assert scales.shape == zeros.shape == (values.shape[1],)
        assert node.inputs[0].dtype == ir.DataType.FLOAT
    assert not [n for n in graph if n.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")]
    lint(graph, "model.onnx")


@each
def test_openvino_computes_what_torch_does_with_these_weights(name, quantized):
    file = quantized(name).file
    engine = backends.get("openvino").open_device("cpu", 1).load(file.path, file.signature)
    changed = torch_with(name, rounded)
    for feeds in feeds_of(name):
        expected = tiny.torch_logits(changed, feeds)
        np.testing.assert_allclose(engine.run(feeds)["logits"], expected, atol=2e-4 * tiny.SPREAD)
        assert (
            np.abs(tiny.torch_logits(tiny.source(name), feeds) - expected).max() > 2e-3
        )  # rounding does change the answer


@each
def test_onnxruntime_answers_like_torch(name, quantized):
    """Its MatMulNBits rounds activations too, in blocks of 32: between the float graph and static INT8."""
    file = quantized(name).file
    engine = backends.get("onnxruntime").open_device("cpu", 1).load(file.path, file.signature)
    expected = np.concatenate([tiny.torch_logits(tiny.source(name), f) for f in feeds_of(name)])
    got = np.concatenate([engine.run(f)["logits"] for f in feeds_of(name)])
    assert np.abs(got - expected).max() <= 0.05 * np.ptp(expected)


def test_named_layers_stay_in_float(tmp_path):
    graph = quantize_graph("bert", tmp_path, Quantization(keep_float=("*.layer.0.output.dense",)))
    kept = [n.name for n in ir.load(graph.path).graph if n.op_type == "MatMul" and constant(n.inputs[1]) is not None]
    assert kept == ["bert.encoder.layer.0.output.dense/MatMul"]
    assert graph.recipe["keep_float"] == "bert.encoder.layer.0.output.dense"


@pytest.mark.parametrize("backend", weight_only.BACKENDS)
def test_tables_in_int8(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 0)
    graph = quantize_graph("bert", tmp_path, Quantization())
    sizes = {}
    for value in ir.load(graph.path).graph.initializers.values():
        sizes[value.dtype] = sizes.get(value.dtype, 0) + value.const_value.nbytes
    before = sum(v.const_value.nbytes for v in load(tiny.exported("bert").graphs[0].path).graph.initializers.values())
    assert sizes[ir.DataType.INT8] + sizes[ir.DataType.UINT8] > 0.15 * before
    assert sum(sizes.values()) < 0.45 * before  # pooler, biases and norms are a larger share here than in a real model
    engine = backends.get(backend).open_device("cpu", 1).load(graph.path, graph.signature)
    for feeds in feeds_of("bert"):
        expected = tiny.torch_logits(tiny.source("bert"), feeds)
        assert np.abs(engine.run(feeds)["logits"] - expected).max() <= 0.05 * 4
