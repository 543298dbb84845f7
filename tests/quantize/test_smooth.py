"""SmoothQuant's folding: the float function stays, factors are the paper's, and an outlier channel costs nothing any more."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
import tiny
import torch
from pairs import batches_of, calibration_of, expected_products, nodes

from edgekit.quantize._smooth import ALPHAS, factors, fold
from edgekit.quantize.calibration import Calibration, runner
from edgekit.quantize.graphs import constant, find_producer, linears, load, save, sweep
from edgekit.quantize.methods import static
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)


def folded(name, alpha=0.5, skip=frozenset()):
    """The smoothed float model of an architecture, and how many activations were smoothed."""
    model = load(tiny.exported(name).graphs[0].path)
    count = fold(model.graph, calibration_of(name).measure(model), alpha, set(skip))
    sweep(model)
    return model, count


def smoothings(graph):
    return [node for node in nodes(graph, "Mul") if (node.name or "").endswith("/Smooth")]


# ---- the function


@each
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_float_function_stays(name, alpha, tmp_path):
    exact = tiny.exported(name).graphs[0].path
    model, count = folded(name, alpha)
    assert count >= 1
    save(model, tmp_path / "model.onnx")
    before, after = runner(exact), runner(tmp_path / "model.onnx")
    feeds = [*batches_of(name), *batches_of(name, tiny.TEXTS[::-1], 7)]
    expected, got = (np.concatenate([run(f)[0] for f in feeds]) for run in (before, after))
    assert np.abs(got - expected).max() <= 1e-4 * np.ptp(expected)
    changed = [
        a
        for a, b in zip(linears(load(exact).graph), linears(model.graph), strict=True)
        if not np.array_equal(constant(a.weight), constant(b.weight))
    ]
    assert len(changed) >= 1


@each
def test_every_activation_is_smoothed_once(name):
    """Unless its weight is shared, as one of ALBERT's is in the graph: it would need a copy for each reader."""
    shared = {"albert": 2}
    assert folded(name)[1] == expected_products(name) - shared.get(name, 0)


def test_shared_weights_are_left_alone():
    exact, (model, count) = load(tiny.exported("albert").graphs[0].path), folded("albert")
    before, after = linears(exact.graph), linears(model.graph)
    own = [len(layer.weight.uses()) == 1 for layer in before]
    assert (own.count(True), own.count(False)) == (count, 2)
    for single_use, a, b in zip(own, before, after, strict=True):
        assert np.array_equal(constant(a.weight), constant(b.weight)) != single_use
        assert single_use or b.x.name == a.x.name


def test_layers_that_are_kept_are_not_smoothed():
    kept = {"bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.attention.self.key_value"}
    exact, (model, count) = load(tiny.exported("bert").graphs[0].path), folded("bert", skip=kept)
    assert count == 7
    weights = {layer.name: constant(layer.weight) for layer in linears(exact.graph)}
    same = {layer.name for layer in linears(model.graph) if np.array_equal(weights[layer.name], constant(layer.weight))}
    assert same == kept


# ---- where the division goes


# Layers whose input is a LayerNormalization that nothing else reads: in pre-norm ModernBERT those of attention (in all but the
# first layer, which has none, and the last one, whose Q reads a selection of the norm) and of the MLP; elsewhere a
# projection behind the embeddings, or of DeBERTa's relative positions.
FREE = {
    "albert": {"albert.encoder.embedding_hidden_mapping_in"},
    "electra": {"electra.embeddings_project"},
    "modernbert": {
        "model.layers.1.attn.Wqkv",
        *(f"model.layers.{i}.mlp.Wi" for i in range(3)),
    },
}


@each
def test_a_norm_that_only_linears_read_takes_the_division(name):
    """Pre-norm encoders need no node in front of those linears; of a post-norm encoder's LayerNorms the residual reads each."""
    exact, (model, count) = load(tiny.exported(name).graphs[0].path), folded(name)
    before = {layer.name: layer for layer in linears(exact.graph)}
    free = FREE.get(name, set())
    without = [
        layer
        for layer in linears(model.graph)
        if len(before[layer.name].weight.uses()) == 1 and find_producer(layer.x, "Mul") not in smoothings(model.graph)
    ]
    assert {layer.name for layer in without} == free
    assert len(smoothings(model.graph)) == count - len(free)
    for layer in without:
        norm, original = (
            find_producer(layer.x, "LayerNormalization"),
            find_producer(before[layer.name].x, "LayerNormalization"),
        )
        grown = constant(layer.weight)[:, 0] / constant(before[layer.name].weight)[:, 0]
        assert np.ptp(grown) > 0.1
        for now, then in zip(norm.inputs[1:], original.inputs[1:], strict=True):
            np.testing.assert_allclose(constant(now) * grown, constant(then), rtol=1e-4, atol=1e-6)


# ---- factors


@pytest.mark.parametrize("alpha", [float(a) for a in ALPHAS])
def test_factors_are_the_papers(alpha):
    """Equation 4 of arXiv 2211.10438 with torch's activations and weights, up to the one factor that all channels share."""
    source, largest = tiny.source("bert"), {}
    linear = re.compile(r"attention\.self\.query$|layer.*dense$")
    wanted = {n: m for n, m in source.module.named_modules() if isinstance(m, torch.nn.Linear) and linear.search(n)}
    handles = [
        m.register_forward_pre_hook(
            lambda _, inputs, n=n: largest.update(
                {
                    (n, some): np.maximum(largest.get((n, some), 0.0), x.abs().amax(dim=(0, 1)).numpy())
                    for some, x in (("all", inputs[0]), ("first", inputs[0][:, :1]))
                }
            )
        )
        for n, m in wanted.items()
    ]
    for batch in batches_of("bert"):
        tiny.torch_logits(source, batch)
    for handle in handles:
        handle.remove()
    model, _ = folded("bert", alpha)
    assert len(largest) == 2 * 8
    assert len(linears(model.graph)) == 9
    for layer in linears(model.graph):
        head, _, last = layer.name.rpartition(".")
        parts = [f"{head}.{part}" for part in last.split("_")]
        # The last layer reads the first token, but for its keys and values.
        tokens = "first" if ".1." in layer.name and "key" not in layer.name else "all"
        modules = dict(source.module.named_modules())
        rows = np.max([modules[p].weight.detach().abs().amax(dim=0).numpy() for p in parts], axis=0)
        name = parts[0].replace("self.key", "self.query")
        expected = largest[name, tokens] ** alpha / rows ** (1 - alpha)
        found = 1.0 / constant(find_producer(layer.x, "Mul").inputs[1])
        ratio = found / expected
        assert np.ptp(expected) > 0.1 * expected.mean()
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        whole = np.concatenate([modules[p].weight.detach().numpy().T for p in parts], axis=1)
        np.testing.assert_allclose(constant(layer.weight), whole * found[:, None], rtol=1e-4, atol=1e-6)


def test_dead_channels_have_the_factor_1():
    choose = np.random.default_rng(0)
    weight, channels = choose.standard_normal((32, 16)).astype(np.float32), choose.uniform(1, 50, 32).astype(np.float32)
    channels[3], weight[5] = 0.0, 0.0
    found = factors(channels, [weight], 0.5)
    assert found[3] == found[5] == 1.0
    assert (found.dtype, found.shape) == (np.float32, (32,))
    live = np.delete(np.arange(32), [3, 5])
    expected = np.sqrt(channels[live] / np.abs(weight[live]).max(axis=1))
    np.testing.assert_allclose(found[live] / expected, (found[live] / expected)[0], rtol=1e-5)
    assert factors(np.zeros(32, np.float32), [weight], 0.5).tolist() == [1.0] * 32


# ---- what it is for


def test_an_outlier_channel(tmp_path):
    """One linear, one channel of its input a hundred times as large as the others: per-tensor INT8 leaves them four levels."""
    choose = np.random.default_rng(0)
    weight, bias = (choose.standard_normal(s).astype(np.float32) / 6 for s in ((32, 48), (48,)))
    kind = ir.DataType.FLOAT
    x, result = ir.val("x", dtype=kind, shape=["b", "s", 32]), ir.val("y", dtype=kind, shape=["b", "s", 48])
    w, b = (ir.val(n, const_value=ir.tensor(a, name=n)) for n, a in (("w", weight), ("b", bias)))
    product = ir.node("MatMul", [x, w], name="only/MatMul")
    product.outputs[0].dtype, product.outputs[0].shape = kind, result.shape
    added = ir.node("Add", [product.outputs[0], b], outputs=[result])
    graph = ir.Graph([x], [result], nodes=[product, added], initializers=[w, b], opset_imports={"": 20}, name="g")
    save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    signature = Signature(
        "forward", (TensorSpec("x", "float32", ("b", "s", 32)),), (TensorSpec("y", "float32", ("b", "s", 48)),)
    )
    graphs = GraphSet("", "single", (Graph(signature, tmp_path / "model.onnx", "float32"),), tmp_path)
    feeds = [{"x": choose.standard_normal((4, 10, 32)).astype(np.float32)} for _ in range(8)]
    for feed in feeds:
        feed["x"][..., 7] *= 100
    errors, chosen = {}, {}
    for smooth in ("off", "0.5", "auto"):
        (tmp_path / smooth).mkdir()
        how = Quantization(weight_bits=7, ranges="min_max", smooth=smooth)
        (made,) = static.quantize(graphs, Calibration(feeds), how, tmp_path / smooth, silent).graphs
        run = runner(made.path)
        errors[smooth] = np.sqrt(
            np.mean([(run(f)[0] - (f["x"].astype(np.float64) @ weight + bias)) ** 2 for f in feeds])
        )
        chosen[smooth] = made.recipe["smooth"]
    assert errors["0.5"] < errors["off"] / 4
    assert errors["auto"] <= errors["off"] / 4
    assert chosen["auto"] in ALPHAS
