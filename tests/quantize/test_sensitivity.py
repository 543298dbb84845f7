"""Rank and revert: a layer that was made sensitive by hand comes first, and the fewest layers go back to float."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny
from pairs import FIXED, batches_of, calibration_of, products
from scipy import special, stats

from edgekit.quantize import sensitivity
from edgekit.quantize.calibration import runner
from edgekit.quantize.graphs import linears, load, save
from edgekit.quantize.methods import dynamic, dynamic_rows_int4, static
from edgekit.quantize.sensitivity import Sensitivity, rank, revert
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

HOW = Quantization(weight_bits=7, ranges="min_max", smooth="off")
FIRST, SECOND = "bert.encoder.layer.1.attention.output.dense", "bert.encoder.layer.0.attention.output.dense"
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-sensitive-")  # goes with the process


@functools.cache
def spoiled():
    """BERT with large channels in what two layers read: the values that attention sums up, and back in the weights behind them.

    In float it computes what it did; in INT8 the other channels have no levels left.
    """
    (exact,) = tiny.exported("bert").graphs
    model = load(exact.path)
    layers = {layer.name: layer for layer in linears(model.graph)}
    for name, factor in ((FIRST, 3000.0), (SECOND, 60.0)):
        attention = name.replace("output.dense", "self")
        packed = layers.get(f"{attention}.query_key_value") or layers[f"{attention}.key_value"]
        output = layers[name]
        channels = [0, 9]
        for value, index in ((packed.weight, np.s_[:, -32:]), (packed.bias, np.s_[-32:])):
            array = value.const_value.numpy().copy()
            array[index][..., channels] *= factor
            value.const_value = ir.tensor(array, name=value.name)
        array = output.weight.const_value.numpy().copy()
        array[channels] /= factor
        output.weight.const_value = ir.tensor(array, name=output.weight.name)
    path = Path(_WORK.name) / "model.onnx"
    save(model, path)
    return GraphSet("text-classification", "single", (Graph(exact.signature, path, "float32"),), path.parent)


def logits(path):
    run = runner(path)
    return np.concatenate([run(batch)[0] for batch in batches_of("bert")])


@functools.cache
def ranking():
    return rank(static, spoiled(), calibration_of("bert"), HOW, silent)


# ---- ranking


def test_sensitive_layers_come_first():
    expected = np.concatenate([tiny.torch_logits(tiny.source("bert"), f) for f in batches_of("bert")])
    assert np.abs(logits(spoiled().graphs[0].path) - expected).max() < 1e-3
    found = ranking()
    names = [layer.name for layer in linears(load(spoiled().graphs[0].path).graph)]
    assert sorted(s.layer for s in found) == sorted(names)
    assert [s.layer for s in found[:2]] == [FIRST, SECOND]
    assert found[0].damage > 2 * found[1].damage > 4 * found[2].damage
    assert [s.damage for s in found] == sorted((s.damage for s in found), reverse=True)


def test_the_damage_is_that_of_the_layer_alone(tmp_path):
    """By hand: all other layers in float, and scipy's divergence of the logits."""
    others = tuple(s.layer for s in ranking() if s.layer != FIRST)
    how = Quantization(weight_bits=7, ranges="min_max", smooth="off", keep_float=others)
    (made,) = static.quantize(spoiled(), calibration_of("bert"), how, tmp_path, silent).graphs
    assert len(products(load(made.path).graph)) == 1
    p, q = (special.softmax(logits(path).astype(np.float64), axis=-1) for path in (spoiled().graphs[0].path, made.path))
    assert ranking()[0].damage == pytest.approx(float(stats.entropy(p, q, axis=-1).mean()), rel=1e-4)


def test_it_is_deterministic_and_told():
    told = []
    assert rank(static, spoiled(), calibration_of("bert"), HOW, lambda *step: told.append(step)) == ranking()
    assert told == [("rank layers", i + 1, 9) for i in range(9)]


def test_layers_that_are_in_float_anyway_are_not_ranked():
    found = rank(
        static,
        spoiled(),
        calibration_of("bert"),
        Quantization(weight_bits=7, ranges="min_max", smooth="off", keep_float=("*.layer.1.*",)),
        silent,
    )
    assert found[0].layer == SECOND
    assert len(found) == 4
    assert not any(".1." in s.layer for s in found)


def test_dynamic_is_ranked_too():
    found = rank(dynamic, spoiled(), calibration_of("bert"), Quantization(weight_bits=7), silent)
    assert len(found) == 9
    assert found[0].layer == FIRST


# ---- reverting

UNREAD = GraphSet("t", "single", (Graph(None, Path("model.onnx"), "float32"),), Path("assets"))


class Recorder:
    """A method that writes down what it was asked for; its 'graph' is that."""

    BACKENDS = ("onnxruntime",)
    NEEDS_SAMPLES = 0

    def __init__(self):
        self.asked = []

    def quantize(self, graphs, calibration, settings, out, progress):
        self.asked.append(settings)
        (out / "weights").mkdir()
        (out / "weights" / "x").write_text("x")
        (out / "model.onnx").write_text("\n".join(settings.keep_float))
        return GraphSet("t", "single", (Graph(None, out / "model.onnx", "recorded"),), out)


def test_layers_of_4_bits_go_back_to_int8(tmp_path, monkeypatch):
    """The setting that the method names gets the layers of the ranking, beside the user's; layers in float stay as they are."""
    monkeypatch.setattr(sensitivity, "rank", lambda *_: [Sensitivity(name, 1.0) for name in ("a", "b", "c", "d")])
    method = Recorder()
    method.REVERTS_TO = "keep_int8"
    settings = Quantization(keep_float=("f",), keep_int8=("i",))
    results = []

    def good(_):
        results.append(method.asked[-1])
        return len(method.asked[-1].keep_int8) >= 4

    assert revert(method, UNREAD, None, settings, good, tmp_path, silent)
    assert {asked.keep_float for asked in results} == {("f",)}
    accepted = min((asked.keep_int8 for asked in results if len(asked.keep_int8) >= 4), key=len)
    assert accepted == ("a", "b", "c", "i")


def test_layers_of_4_bits_are_ranked_against_float():
    found = rank(dynamic_rows_int4, spoiled(), calibration_of("bert"), Quantization(keep_int8=("*.layer.0.*",)), silent)
    names = [s.layer for s in found]
    assert len(names) == 5
    assert not any(".0." in name for name in names)
    assert found[0].layer == FIRST
    assert found[0].damage > 2 * found[1].damage > 0


@pytest.mark.parametrize("layers", range(1, 10))
def test_the_smallest_prefix_that_is_good(layers, tmp_path, monkeypatch):
    order = [Sensitivity(f"layer{9 - i}", 9.0 - i) for i in range(layers)]
    monkeypatch.setattr(sensitivity, "rank", lambda *_: order)
    for needed in range(1, layers + 1):
        method, out, told = Recorder(), tmp_path / str(needed), []
        kept = {"always", *(s.layer for s in order[:needed])}

        def good(graphs, kept=kept):
            return kept <= set(graphs.graphs[0].path.read_text().split("\n"))

        how = Quantization(ranges="mse", smooth="0.5", weight_bits=7, bias_correction=True, keep_float=("always",))
        found = revert(method, UNREAD, None, how, good, out, lambda *step, told=told: told.append(step))
        if needed == layers:  # all layers in float: nothing would be left in INT8
            assert found is None
            assert not out.exists()
            continue
        graphs, returned = found
        assert returned == order
        assert graphs.graphs[0].path == out / "model.onnx"
        assert set((out / "model.onnx").read_text().split("\n")) == kept
        assert (out / "weights" / "x").read_text() == "x"
        counts = [len(settings.keep_float) - 1 for settings in method.asked]
        for settings, count in zip(method.asked, counts, strict=True):
            assert set(settings.keep_float) == {"always", *(s.layer for s in order[:count])}  # a prefix of the ranking
            assert (settings.ranges, settings.smooth, settings.weight_bits, settings.bias_correction) == (
                "mse",
                "0.5",
                7,
                True,
            )
        assert len(set(counts)) == len(counts) <= 2 * np.log2(layers) + 2
        assert len(told) == len(counts)


def test_where_nothing_helps_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "rank", lambda *_: [Sensitivity(f"layer{i}", 1.0) for i in range(8)])
    method = Recorder()
    assert revert(method, UNREAD, None, FIXED, lambda _: False, tmp_path / "out", silent) is None
    assert max(len(settings.keep_float) for settings in method.asked) == 7
    assert not (tmp_path / "out").exists()


def test_the_layers_that_were_spoiled_go_back(tmp_path):
    """From end to end: good is a divergence of the logits by scipy, of a size that both spoiled layers exceed."""
    exact = special.softmax(logits(spoiled().graphs[0].path).astype(np.float64), axis=-1)
    worst = ranking()[1].damage / 2

    def good(graphs):
        return (
            stats.entropy(
                exact, special.softmax(logits(graphs.graphs[0].path).astype(np.float64), axis=-1), axis=-1
            ).mean()
            < worst
        )

    assert not good(static.quantize(spoiled(), calibration_of("bert"), HOW, tmp_path, silent))
    found, returned = revert(static, spoiled(), calibration_of("bert"), HOW, good, tmp_path / "out", silent)
    assert returned == ranking()
    assert good(found)
    graph = load(tmp_path / "out" / "model.onnx").graph
    assert {layer.name for layer in linears(graph)} == {FIRST, SECOND}
    assert len(products(graph)) == 7
    assert found.graphs[0].recipe["keep_float"] == f"{SECOND}, {FIRST}"
