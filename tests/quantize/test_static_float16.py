"""INT8 and float16 in one strongly typed graph: what TensorRT asks for, held against ONNX's own type rules, torch, and NVIDIA's parser and builder."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from refusals import refused
from test_float16 import batches_of, mixed_types

from edgekit import backends
from edgekit.backends import _trt_build
from edgekit.quantize import _embeddings, tensorrt_rules
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, linears
from edgekit.quantize.methods import float16, static, static_float16
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
FIXED = Quantization(weight_bits=8, ranges="mse", smooth="off", embeddings="float32")
RECIPE = EngineRecipe(({"batch": (1, 1, 4), "sequence": (1, 16, 32)}, {"batch": (1, 1, 4), "sequence": (1, 48, 64)}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    @functools.cache
    def make(name, method=static_float16, settings=FIXED):
        (graph,) = method.quantize(
            tiny.exported(name), Calibration(batches_of(name)), settings, tmp_path_factory.mktemp(name), silent
        ).graphs
        return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph)

    return make


@pytest.mark.slow
@each
def test_no_operator_mixes_types(name, made):
    path = made(name).file.path
    onnx.checker.check_model(str(path), full_check=True)
    assert mixed_types(path) == []


@each
def test_the_pairs_are_those_of_static_in_float16(name, made):
    mixed, plain = made(name), made(name, static)
    kinds = [[n.op_type for n in g.graph].count for g in (mixed, plain)]
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        assert kinds[0](kind) == kinds[1](kind) > 0
    for node in mixed.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # What DeBERTa's positions are made of is float32 until it is quantized: it comes from constants alone.
            assert node.inputs[1].dtype == (
                ir.DataType.FLOAT16 if node.op_type == "DequantizeLinear" else node.inputs[0].dtype
            ), node.name
            assert (constant(node.inputs[1]) > 0).all()
        if node.op_type == "DequantizeLinear":
            # A Cast behind it would part the pair from the product that it is for.
            assert {use.node.op_type for use in node.outputs[0].uses()} == {"MatMul"}, node.name
    by_name = {n.name: n for n in plain.graph}
    for node in mixed.graph:
        if node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None:
            assert np.array_equal(constant(node.inputs[0]), constant(by_name[node.name].inputs[0])), (
                "the same INT8 weights"
            )


@each
def test_answers_are_those_of_static(name, made):
    """Float16 adds a little to what INT8 does to the answers; both are compared with torch."""
    feeds = batches_of(name, size=1)
    expected = np.concatenate([tiny.torch_logits(tiny.source(name), f) for f in feeds])

    def answers(graph):
        device = backends.get("onnxruntime").open_device("cpu", 2)
        engine = device.load(graph.file.path, graph.file.signature)
        return np.concatenate([engine.run(f)["logits"] for f in feeds])

    spread = np.ptp(expected)
    mixed, plain = (np.abs(answers(made(name, method)) - expected) / spread for method in (static_float16, static))
    assert mixed.max() < 1.5 * plain.max() + 0.02
    assert mixed.mean() < 1.2 * plain.mean() + 0.002


def test_a_layer_that_is_kept_is_float16(made):
    kept = linears(ir.load(tiny.exported("bert").graphs[0].path).graph)[0].name
    graph = made("bert", settings=replace(FIXED, keep_float=(kept,)))
    node = next(n for n in graph.graph if n.name == f"{kept}/MatMul")
    assert [v.dtype for v in node.inputs] == [ir.DataType.FLOAT16] * 2
    assert constant(node.inputs[1]) is not None, "no pair in front of it"
    assert graph.file.recipe["keep_float"] == kept


def test_the_recipe_says_what_was_chosen(made):
    graph = made("bert").file
    assert graph.method == "static_float16"
    assert graph.recipe == {"embeddings": "float16", "ranges": "mse", "smooth": "off", "weights": "8 bit"}


def test_tables_in_integers_are_refused_by_the_rules_of_tensorrt(tmp_path, monkeypatch):
    """TensorRT 10's parser reads UINT8 as inputs and outputs of a graph alone."""
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 1024)
    (graph,) = static_float16.quantize(
        tiny.exported("bert"), Calibration(batches_of("bert")), replace(FIXED, embeddings="int8"), tmp_path, silent
    ).graphs
    with refused("tensorrt-operator", "UINT8", "10.3"):
        tensorrt_rules.check(graph.path, "10.3")


# ---- NVIDIA's own parser and builder, which need no GPU


@pytest.mark.slow
@each
@pytest.mark.parametrize("method", [float16, static_float16], ids=["float16", "static_float16"])
def test_nvidia_makes_engines_of_it(name, method, made):
    trt = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed (pip install 'edgekit-sdk[tensorrt-rtx]')"
    )
    graph = made(name, method).file
    assert tensorrt_rules.check(graph.path, "10.3") == ["10.3", "10.16", "11.4"]
    chips = ("7.5", "8.6", "8.9", "12.0")
    built = _trt_build.build(
        trt,
        graph.path,
        graph.signature,
        RECIPE,
        hardware=_trt_build.Hardware(0, chips),
        timing_cache=b"",
        progress=silent,
    )
    assert len(built.plan) > graph.path.stat().st_size
    assert built.timing_cache == b"", "TensorRT-RTX keeps none"
