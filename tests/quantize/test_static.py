"""Static INT8: where Q/DQ pairs stand, what the weights lose, and that all architectures still answer like torch."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import (
    AUTO,
    COSINE,
    FIXED,
    activations,
    batches_of,
    calibration_of,
    cosine,
    expected_products,
    nodes,
    products,
    quantized,
    torch_linears,
    users,
    weights,
)
from refusals import refused

from edgekit import backends
from edgekit.quantize._ranges import LEVELS
from edgekit.quantize.graphs import constant, levels, load, per_channel, save
from edgekit.quantize.methods import static
from edgekit.quantize.tensorrt_rules import lint
from edgekit.runtime.loops import single
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
# ---- placement


@each
def test_all_that_should_be_int8_is(name):
    graph = quantized(name).graph
    count = expected_products(name)
    assert count >= 8
    assert len(products(graph)) == len(activations(graph)) == count
    # What is left in float multiplies two activations: scores, and their product with the values.
    for node in nodes(graph, "MatMul"):
        if node not in products(graph):
            assert all(constant(v) is None for v in node.inputs)
    assert quantized(name).file.method == "static"
    assert quantized(name).file.signature == tiny.exported(name).graphs[0].signature


@each
def test_pairs_are_symmetric_int8(name):
    graph = quantized(name).graph
    for node in activations(graph):
        x, scale, zero = node.inputs
        (back,) = users(node.outputs[0])
        assert back.op_type == "DequantizeLinear"
        assert list(back.inputs) == [node.outputs[0], scale, zero]
        scale, zero = constant(scale), constant(zero)
        assert (scale.dtype, scale.shape, zero.dtype, zero.shape) == (np.float32, (), np.int8, ())
        assert 0 < float(scale) < np.inf
        assert int(zero) == 0
        assert constant(x) is None
    assert len(nodes(graph, "DequantizeLinear")) == len(activations(graph)) + len(weights(graph))


@each
def test_weights_are_int8_per_output_channel(name):
    graph = quantized(name).graph
    float_weights = {
        n.inputs[1].name
        for n in nodes(ir.load(tiny.exported(name).graphs[0].path).graph, "MatMul")
        if constant(n.inputs[1]) is not None
    }
    # ALBERT's layers share weights, and where the graph does so their INT8 form is there once.
    assert len(weights(graph)) == len(float_weights)
    assert (
        len(float_weights) < expected_products(name)
        if name == "albert"
        else len(float_weights) == expected_products(name)
    )
    assert len({node.name for node in graph}) == len(graph)
    for node in weights(graph):
        values, scales, zeros = (constant(v) for v in node.inputs)
        assert node.attributes.get_int("axis", None) == 1
        assert (values.dtype, scales.dtype, zeros.dtype) == (np.int8, np.float32, np.int8)
        assert scales.shape == zeros.shape == (values.shape[1],)
        assert (scales > 0).all()
        assert not zeros.any()
        assert np.abs(values.astype(int)).max(axis=0).tolist() == [63] * values.shape[1]


@pytest.mark.slow
@each
def test_weights_are_those_of_torch(name):
    """Each INT8 weight, taken back to float, is a torch weight (or several side by side) within half a step."""
    columns = {}
    for _, _, module in torch_linears(name):
        matrix = module.weight.detach().numpy().T
        columns.update({column.tobytes(): column for column in np.ascontiguousarray(matrix.T)})
    for node in weights(quantized(name).graph):
        values, scales, _ = (constant(v) for v in node.inputs)
        for column, scale in zip((values * scales).T, scales, strict=True):
            same = [c for c in columns.values() if c.shape == column.shape]
            assert min(np.abs(c - column).max() for c in same) <= scale / 2 * (1 + 1e-5)


@each
def test_only_products_read_what_is_restored(name):
    """LayerNorm, Softmax, scores, residual additions, pooler and classifier are in float."""
    graph = quantized(name).graph
    for node in nodes(graph, "DequantizeLinear"):
        place = 1 if constant(node.inputs[0]) is not None else 0
        assert users(node.outputs[0])
        for use in node.outputs[0].uses():
            assert (use.node.op_type, use.idx) == ("MatMul", place)
    for node in products(graph):
        assert [v.producer().op_type for v in node.inputs] == ["DequantizeLinear", "DequantizeLinear"]
    for node in activations(graph):
        assert node.inputs[0].producer().op_type not in ("QuantizeLinear", "DequantizeLinear")
    found = Counter(node.op_type for node in graph)
    before = Counter(node.op_type for node in ir.load(tiny.exported(name).graphs[0].path).graph)
    assert {op: n for op, n in found.items() if "quantize" not in op.lower()} == dict(before)
    assert found["Gemm"] == 2
    for node in nodes(graph, "Gemm"):
        assert all(v.producer() is None or "Linear" not in v.producer().op_type for v in node.inputs)


@each
def test_nothing_stands_between_product_bias_and_gelu(name):
    graph = quantized(name).graph
    with_bias = {n: m.bias is not None for n, _, m in torch_linears(name)}
    assert set(with_bias.values()) == {name != "modernbert"}
    followed = Counter()
    for node in products(graph):
        (after,) = users(node.outputs[0])
        if name != "modernbert":
            assert after.op_type == "Add"
            assert [constant(v) is not None for v in after.inputs].count(True) == 1
            after = users(after.outputs[0])[0]
        followed[after.op_type] += 1
    layers = tiny.source(name).module.config.num_hidden_layers
    # ModernBERT's gated layer is split first, and one half goes through GELU; its attention is sliced out of one product,
    # but K and V of the last layer are split.
    if name == "modernbert":
        assert followed["Split"] == layers + 1
    else:
        assert followed["Gelu"] == layers


@each
def test_one_activation_has_one_pair(name):
    """Q, K and V read the same quantized tensor."""
    graph = quantized(name).graph
    read = [node.inputs[0] for node in activations(graph)]
    assert len(set(read)) == len(read)
    layers = tiny.source(name).module.config.num_hidden_layers
    projections = [
        n for n in products(graph) if len({use.node for use in n.outputs[0].uses()}) == 1 and feeds_softmax(n)
    ]
    # Q of the last layer is alone, and DeBERTa has one for the relative positions of all layers.
    assert len(projections) == layers + 1 + (name == "deberta-v2")


def feeds_softmax(node, depth=20):
    """Whether a product's output goes into attention scores without passing a LayerNorm or another INT8 product."""
    if node.op_type == "Softmax":
        return True
    if depth == 0 or node.op_type in ("LayerNormalization", "QuantizeLinear", "Gelu"):
        return False
    return any(feeds_softmax(n, depth - 1) for output in node.outputs for n in users(output))


def test_linears_that_read_one_tensor_share_its_pair():
    """Three separate linears, as a graph of one's own may have them."""
    x, result = ir.val("x", dtype=ir.DataType.FLOAT, shape=["b", "s", 16]), []
    constants, made = [], []
    for i in range(3):
        weight = np.random.default_rng(i).normal(size=(16, 16 + i)).astype(np.float32)
        constants.append(ir.val(f"w{i}", const_value=ir.tensor(weight, name=f"w{i}")))
        made.append(ir.node("MatMul", [x, constants[-1]]))
        result.append(made[-1].outputs[0])
        result[-1].name, result[-1].dtype, result[-1].shape = f"y{i}", ir.DataType.FLOAT, ir.Shape(["b", "s", 16 + i])
    graph = ir.Graph([x], result, nodes=made, initializers=constants, opset_imports={"": 20}, name="g")
    assert static.insert_pairs(graph, {"x": 2.54}) == 3
    assert len(nodes(graph, "QuantizeLinear")) == 1
    assert len(nodes(graph, "DequantizeLinear")) == 4
    assert len({node.inputs[0] for node in nodes(graph, "MatMul")}) == 1
    assert float(constant(nodes(graph, "QuantizeLinear")[0].inputs[1])) == pytest.approx(0.02)


def test_ranges_are_those_that_torch_sees():
    """No activation's range is beyond the largest value that torch computes for the same texts, nor far below it."""
    source, largest = tiny.source("bert"), {}
    wanted = re.compile(r"attention\.self\.(query|key)$|dense$")
    handles = []
    for name, module in source.module.named_modules():
        if isinstance(module, torch.nn.Linear) and wanted.search(name) and "pooler" not in name:

            def note(_, inputs, name=name):
                # The last layer reads the first token, but for its keys and values.
                x = inputs[0][:, :1] if ".1." in name and "key" not in name else inputs[0]
                largest[name] = max(largest.get(name, 0.0), float(x.abs().max()))

            handles.append(module.register_forward_pre_hook(note))
    for batch in batches_of("bert"):
        tiny.torch_logits(source, batch)
    for handle in handles:
        handle.remove()
    found = {}
    for node in products(quantized("bert").graph):
        module = re.sub(r"(query|key)_.*value$", r"\1", node.name.removesuffix("/MatMul"))
        found[module] = float(constant(node.inputs[0].producer().inputs[1])) * LEVELS
    assert set(found) == set(largest) - {"bert.encoder.layer.0.attention.self.key"}
    for name, top in found.items():
        assert 0.3 * largest[name] < top <= largest[name] * (1 + 1e-4)


# ---- what it computes


@pytest.mark.slow
@each
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_answers_like_torch(name, backend):
    """With all that the search chooses."""
    source, file = tiny.source(name), quantized(name, AUTO).file
    feeds = [*batches_of(name), *batches_of(name, tiny.TEXTS[::-1], 7)]
    expected = np.concatenate([tiny.torch_logits(source, f) for f in feeds])
    assert min(np.ptp(expected, axis=0)) >= 1.0
    unmasked = np.concatenate(
        [tiny.torch_logits(source, {**f, "attention_mask": np.ones_like(f["attention_mask"])}) for f in feeds]
    )
    assert cosine(unmasked, expected) < COSINE  # a graph that lost its mask would not pass
    engine = backends.get(backend).open_device("cpu", 1).load(file.path, file.signature)
    got = np.concatenate([engine.run(f)["logits"] for f in feeds])
    assert cosine(got, expected) >= COSINE
    # One row alone, of one token and of the longest.
    for row in tiny.random_rows(source, [1, tiny.MAX_LENGTH]):
        logits = engine.run(single.collate(file.signature, [row]))["logits"]
        assert np.abs(logits - tiny.torch_logits(source, {n: a[None] for n, a in row.items()})).max() < 0.2 * np.ptp(
            expected
        )


@each
@pytest.mark.parametrize(
    "how", [pytest.param(FIXED, id="fixed"), pytest.param(AUTO, id="auto", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_runs_in_int8(name, backend, how):
    """By the backend's own record; pooler and classifier stay in float.

    DeBERTa's relative positions are constant: OpenVINO folds their product when the graph loads, ONNX Runtime only the
    quantizer in front of it, and runs the weight's INT8 in its MatMulNBits.
    """
    file = quantized(name, how).file
    engine = backends.get(backend).open_device("cpu", 1).load(file.path, file.signature)
    low = expected_products(name) - (name == "deberta-v2" and backend == "openvino")
    assert backends.summary(engine.precisions()) == f"int8 {low}/{low + 2} linears"
    exact = tiny.exported(name).graphs[0]
    assert set(backends.get(backend).open_device("cpu", 1).load(exact.path, exact.signature).precisions()) == {
        "float32"
    }


@pytest.mark.slow
@each
def test_tensorrt_would_take_it(name):
    for how in (FIXED, AUTO):
        lint(quantized(name, how).graph, name)
    spoiled = ir.load(quantized(name).file.path).graph
    zero = activations(spoiled)[0].inputs[2]
    zero.const_value = ir.tensor(np.array(1, np.int8), name=zero.name)
    with refused("tensorrt-operator", "0"):
        lint(spoiled, name)


def test_progress_is_told_for_each_batch(tmp_path):
    told = []
    static.quantize(tiny.exported("bert"), calibration_of("bert"), FIXED, tmp_path, lambda *step: told.append(step))
    assert told == [("calibrate", i + 1, 6) for i in range(6)]


# ---- what cannot be quantized


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_named(tmp_path, value):
    (exact,) = tiny.exported("bert").graphs
    model = load(exact.path)
    spoiled = model.graph.initializers["model.bert.encoder.layer.0.attention.output.LayerNorm.bias"]
    array = constant(spoiled).copy()
    array[3] = value
    spoiled.const_value = ir.tensor(array, name=spoiled.name)
    (tmp_path / "in").mkdir()
    save(model, tmp_path / "in" / "model.onnx")
    graphs = GraphSet(
        "text-classification", "single", (Graph(exact.signature, tmp_path / "in" / "model.onnx", "float32"),), tmp_path
    )
    with refused("activations-not-finite") as caught:
        static.quantize(graphs, calibration_of("bert"), AUTO, tmp_path / "out", silent)
    message = str(caught.value)
    assert "'bert.encoder.layer.0.attention.output.LayerNorm/LayerNormalization'" in message
    assert "NaN or infinite" in message
    assert "batch 1" in message
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


# ---- weights


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.floats(-30, 30))
@settings(max_examples=80, deadline=None)
def test_a_weight_comes_back_within_half_a_step(seed, rows, columns, exponent):
    choose = np.random.default_rng(seed)
    weight = (choose.standard_t(2, (rows, columns)) * 2.0**exponent * 2.0 ** choose.integers(-8, 8, columns)).astype(
        np.float32
    )
    values, scales = per_channel(weight)
    assert (values.dtype, scales.dtype, values.shape, scales.shape) == (np.int8, np.float32, weight.shape, (columns,))
    assert (np.abs(values.astype(int)) <= 127).all()
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=0) / 127, rtol=1e-6)
    restored = values.astype(np.float64) * scales
    assert (np.abs(restored - weight) <= scales.astype(np.float64) / 2 * (1 + 1e-5)).all()


def test_steps_of_a_weight():
    assert [levels(Quantization(weight_bits=bits)) for bits in (0, 7, 8)] == [127, 63, 127]
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    values, scales = per_channel(weight, 63)
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=0) / 63, rtol=1e-6)
    assert (np.abs(values.astype(int)).max(axis=0) == 63).all()
    assert (np.abs(values * scales.astype(np.float64) - weight) <= scales / 2 * (1 + 1e-5)).all()


def test_a_channel_of_zeros():
    weight = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    weight[:, 2] = 0
    values, scales = per_channel(weight)
    assert not values[:, 2].any()
    assert (scales > 0).all()
    assert (np.abs(values[:, [0, 1, 3]].astype(int)).max(axis=0) == 127).all()


def test_channels_do_not_share_a_scale():
    """One large channel must not cost the others their resolution."""
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    weight[:, 0] *= 1000
    values, scales = per_channel(weight)
    lost = np.abs(values * scales - weight)[:, 1:].max()
    assert lost <= np.abs(weight[:, 1:]).max() / 127 / 2 * 1.0001


def test_rounding_is_half_to_even():
    values, scales = per_channel(np.array([[127.0], [0.5], [1.5], [2.5], [-0.5], [-1.5]], np.float32))
    assert scales.tolist() == [1.0]
    assert values[:, 0].tolist() == [127, 0, 2, 2, 0, -2]
