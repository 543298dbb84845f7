"""What settings ask of static INT8: searches, layers in float, 7 bits, corrected biases, embeddings; against torch, numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from pairs import (
    AUTO,
    COSINE,
    batches_of,
    calibration_of,
    cosine,
    expected_products,
    nodes,
    products,
    quantized,
    users,
    weights,
)
from refusals import refused
from scipy import stats

from edgekit import backends
from edgekit.quantize import _embeddings
from edgekit.quantize._smooth import ALPHAS
from edgekit.quantize.calibration import runner
from edgekit.quantize.graphs import check_layers, constant, linears, load
from edgekit.quantize.methods import static
from edgekit.quantize.tensorrt_rules import lint
from edgekit.spec.progress import silent
from edgekit.spec.quantization import RANGES, Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)


# ---- what is searched


def damage(exact, path, batches):
    """Divergence of a graph's answers from the float graph's, by scipy."""
    first, second = runner(exact), runner(path)
    rows = [(p, q) for batch in batches for p, q in zip(first(batch)[0], second(batch)[0], strict=True)]

    def softmax(x):
        return np.exp(x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64)))

    return float(np.mean([stats.entropy(softmax(p), softmax(q)) for p, q in rows]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_search_is_no_worse_than_what_it_tried(name):
    exact, batches = tiny.exported(name).graphs[0].path, batches_of(name)
    found = quantized(name, AUTO).file
    chosen, least = found.recipe, damage(exact, found.path, batches)
    ranges = {
        r: damage(
            exact, quantized(name, Quantization(weight_bits=7, ranges=r, smooth=chosen["smooth"])).file.path, batches
        )
        for r in RANGES
    }
    assert ranges[chosen["ranges"]] == least == min(ranges.values()) < max(ranges.values())
    strengths = {
        a: damage(exact, quantized(name, Quantization(weight_bits=7, ranges="mse", smooth=a)).file.path, batches)
        for a in ("off", *ALPHAS)
    }
    best = min(strengths.values())
    # Smoothing costs nodes, so 'off' is left only for a tenth or more.
    assert chosen["smooth"] == (min(strengths, key=strengths.get) if best < 0.9 * strengths["off"] else "off")
    assert least <= strengths["off"]
    assert least <= best / 0.9


@pytest.mark.slow
def test_a_search_is_told_and_leaves_out_what_is_given(tmp_path):
    for given_settings, searched in (
        (Quantization(weight_bits=7, ranges="entropy"), {"search smoothing": 5}),
        (Quantization(weight_bits=7, smooth="0.5"), {"search ranges": 4}),
    ):
        told = []
        (graph,) = static.quantize(
            tiny.exported("bert"),
            calibration_of("bert"),
            given_settings,
            tmp_path,
            lambda *step, told=told: told.append(step),
        ).graphs
        found = {step: total for step, done, total in told if done == total and step != "calibrate"}
        assert found == searched
        assert graph.recipe["weights"] == "7 bit"
        assert given_settings.ranges in ("auto", graph.recipe["ranges"])
        assert given_settings.smooth in ("auto", graph.recipe["smooth"])


def test_what_was_measured_before_changes_nothing(tmp_path):
    """A calibration that has already served gives the graph that a new one gives, of all its layers."""
    used, how = calibration_of("modernbert"), Quantization(weight_bits=7, ranges="percentile", smooth="0.5")
    files = []
    for folder, calibration in (("first", used), ("again", used), ("new", calibration_of("modernbert"))):
        (tmp_path / folder).mkdir()
        files.append(
            static.quantize(tiny.exported("modernbert"), calibration, how, tmp_path / folder, silent).graphs[0].path
        )
    assert len({file.read_bytes() for file in files}) == 1
    assert len(products(load(files[1]).graph)) == expected_products("modernbert")


# ---- what settings ask for


KEPT = "bert.encoder.layer.1.output.dense"
SELF_ATTENTION = ("0.attention.self.query_key_value", "1.attention.self.query", "1.attention.self.key_value")


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ((KEPT,), {KEPT}),
        (
            ("*.output.dense",),
            {f"bert.encoder.layer.{i}.{part}" for i in (0, 1) for part in ("output.dense", "attention.output.dense")},
        ),
        (
            ("bert.encoder.layer.?.attention.self.*",),
            {f"bert.encoder.layer.{part}" for part in SELF_ATTENTION},
        ),
    ],
)
@pytest.mark.parametrize("smooth", ["off", "0.5"])
def test_layers_that_are_kept_stay_in_float(patterns, kept, smooth):
    found = quantized("bert", Quantization(weight_bits=7, ranges="mse", smooth=smooth, keep_float=patterns))
    assert {layer.name for layer in linears(found.graph)} == kept  # what is in INT8 has no constant weight any more
    assert len(products(found.graph)) == 9 - len(kept)
    assert found.file.recipe["keep_float"] == ", ".join(sorted(kept))
    exact = {
        node.name: constant(node.inputs[1])
        for node in load(tiny.exported("bert").graphs[0].path).graph
        if node.op_type == "MatMul"
    }
    for layer in linears(found.graph):
        np.testing.assert_array_equal(constant(layer.weight), exact[layer.node.name])
        assert layer.x.producer().op_type != "DequantizeLinear"
    feeds = batches_of("bert")
    expected = np.concatenate([tiny.torch_logits(tiny.source("bert"), f) for f in feeds])
    run = runner(found.file.path)
    assert cosine(np.concatenate([run(f)[0] for f in feeds]), expected) >= COSINE


def test_a_layer_that_does_not_exist_is_named_with_the_nearest():
    how = Quantization(keep_float=("bert.encoder.layer.1.output.dens",))
    with refused("layer-unknown", f"{KEPT}", "bert.encoder.layer.1.output.dens"):
        check_layers(tiny.exported("bert"), how)
    with refused("layer-unknown", "decoder.*", "0"):
        check_layers(tiny.exported("bert"), Quantization(keep_float=("decoder.*",)))
    check_layers(tiny.exported("bert"), Quantization(keep_float=(KEPT, "*.layer.0.*")))


def pair_sums(values):
    """Largest sum of two neighbouring products with UINT8 activations, of either sign: what x86 without VNNI adds in 16 bits."""
    weights = values.astype(np.int64)
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    return int((255 * np.maximum(pairs, 0)).sum(axis=1).max()), int((255 * np.minimum(pairs, 0)).sum(axis=1).min())


@pytest.mark.slow
@each
def test_weights_of_7_bits_never_saturate(name):
    """Whatever the activations are. With 8 bits they may: that is what the setting is for."""
    for bits, limit in ((7, 63), (8, 127)):
        graph = quantized(name, Quantization(weight_bits=bits, ranges="mse", smooth="off")).graph
        matrices = [constant(node.inputs[0]) for node in weights(graph)]
        assert {int(np.abs(m.astype(int)).max()) for m in matrices} == {limit}
        sums = [pair_sums(m) for m in matrices]
        fits = all(low >= -(2**15) and high < 2**15 for high, low in sums)
        assert fits == (bits == 7)
    assert pair_sums(np.full((2, 1), 63, np.int8)) == (2 * 255 * 63, 0)
    assert 2 * 255 * 63 < 2**15 <= 2 * 255 * 65


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_bias_correction_takes_the_mean_error_out_of_each_layer(name):
    """Each INT8 layer computed in numpy on what torch gives it, against what torch makes of it: the mean over all tokens of all samples."""
    source, read = tiny.source(name), []

    def note(module, inputs, output):
        if isinstance(module, torch.nn.Linear) and inputs[0].ndim == 3 and min(module.weight.shape) >= 16:
            read.append((inputs[0].numpy().astype(np.float64), output.numpy().astype(np.float64)))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        per_batch = []
        for batch in batches_of(name):
            read.clear()
            tiny.torch_logits(source, batch)
            per_batch.append(list(read))
    finally:
        handle.remove()
    calls = []
    for number, call in enumerate(zip(*per_batch, strict=True)):
        # Of the six of the last layer, all but K and V read the first token alone.
        part = np.s_[:, :1] if number - len(per_batch[0]) in (-6, -3, -2, -1) else np.s_[:]
        sides = zip(*call, strict=True)
        calls.append([np.concatenate([array[part].reshape(-1, array.shape[-1]) for array in side]) for side in sides])
    merged = []  # Q, K and V of one input are one layer of the graph
    for x, y in calls:
        if merged and merged[-1][0].shape == x.shape and np.array_equal(merged[-1][0], x):
            merged[-1] = (x, np.concatenate([merged[-1][1], y], axis=1))
        else:
            merged.append((x, y))
    errors = {}
    for corrected in (False, True):
        how = Quantization(weight_bits=7, ranges="percentile", smooth="off", bias_correction=corrected)
        layers = products(quantized(name, how).graph)
        assert len(layers) == len(merged)
        errors[corrected] = []
        for node, (x, y) in zip(layers, merged, strict=True):
            step = float(constant(node.inputs[0].producer().inputs[1]))
            values, scales, _ = (constant(v) for v in node.inputs[1].producer().inputs)
            (added,) = users(node.outputs[0])
            bias = next(constant(v) for v in added.inputs if constant(v) is not None)
            got = (np.clip(np.rint(x / step), -128, 127) * step) @ (values * scales.astype(np.float64)) + bias
            errors[corrected].append(float(np.abs((got - y).mean(axis=0)).max()))
    # torch and ONNX Runtime round an activation to another level here and there.
    for before, after in zip(errors[False], errors[True], strict=True):
        assert after < 0.1 * before
    assert "bias_correction" in quantized(name, how).file.recipe
    assert "bias_correction" not in quantized(name).file.recipe


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_embeddings_in_8_bits(backend, tmp_path, monkeypatch):
    """The tables of the tiny models are too small to be worth it, so here the threshold is."""
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 2**11)
    table = "model.bert.embeddings.word_embeddings.weight"
    results = {}
    for kind in ("int8", "float32"):
        (tmp_path / kind).mkdir()
        how = Quantization(weight_bits=7, ranges="mse", smooth="off", embeddings=kind)
        (results[kind],) = static.quantize(
            tiny.exported("bert"), calibration_of("bert"), how, tmp_path / kind, silent
        ).graphs
        assert results[kind].recipe["embeddings"] == kind
    stored = load(results["int8"].path).graph
    lint(stored, "embeddings")
    tables = [constant(node.inputs[0]) for node in nodes(stored, "Gather") if constant(node.inputs[0]) is not None]
    exact = tiny.source("bert").module.bert.embeddings.word_embeddings.weight.detach().numpy()
    (words,) = [t for t in tables if t.dtype == np.uint8 and t.shape == exact.shape]
    (scale,) = [t for t in tables if t.dtype == np.float32 and t.shape == (len(exact), 1)]
    largest = np.abs(exact).max(axis=1, keepdims=True)
    assert (np.abs((words.astype(np.float64) - 128) * scale - exact) <= largest / 254 * (1 + 1e-5)).all()
    assert table not in stored.initializers
    assert table in load(results["float32"].path).graph.initializers
    feeds = batches_of("bert")
    expected = np.concatenate([tiny.torch_logits(tiny.source("bert"), f) for f in feeds])
    engine = backends.get(backend).open_device("cpu", 1).load(results["int8"].path, results["int8"].signature)
    assert cosine(np.concatenate([engine.run(f)["logits"] for f in feeds]), expected) >= COSINE
    assert backends.summary(engine.precisions()) == "int8 9/11 linears"
