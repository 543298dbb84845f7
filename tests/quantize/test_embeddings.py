"""Embedding tables in INT8: which tables, what a row loses, that only the rows in use are restored, and that torch agrees."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import backends
from edgekit.quantize import _embeddings
from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.graphs import constant, load, save, sweep
from edgekit.quantize.tensorrt_rules import lint
from edgekit.runtime.loops import single

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
# DeBERTa multiplies its table of relative positions as a whole.
NO_LOOKUP = ("rel_embeddings",)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Name of an architecture -> its graph with all tables in INT8, however small, and the file."""

    @functools.cache
    def make(name):
        model, path = load(tiny.exported(name).graphs[0].path), tmp_path_factory.mktemp(name) / "model.onnx"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_embeddings, "WORTH_BYTES", 0)
            count = quantize_embeddings(model.graph)
        sweep(model)
        save(model, path)
        return SimpleNamespace(
            count=count, path=path, graph=ir.load(path).graph, signature=tiny.exported(name).graphs[0].signature
        )

    return make


def torch_tables(name):
    """The tables that torch looks rows up in: parameter name -> float32 [rows, width]."""
    module = tiny.source(name).module
    found = {n: p.weight.detach().numpy() for n, p in module.named_modules() if isinstance(p, torch.nn.Embedding)}
    return {n: table for n, table in found.items() if not n.endswith(NO_LOOKUP)}


def rounded(table):
    """What a table should come back as, by the definition of symmetric INT8 with one scale a row."""
    scale = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    return (np.rint(table / scale) * scale).astype(np.float32), scale


def stored(graph):
    """The tables of a graph, restored: [(float32 [rows, width], scales [rows, 1])]."""
    tables = []
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.UINT8:
            scale = constant(graph.initializers[value.name.removesuffix("_uint8") + "_scale"])
            assert scale.shape == (value.shape[0], 1)
            assert scale.dtype == np.float32
            tables.append(((constant(value).astype(np.float32) - 128) * scale, scale))
    return tables


@each
def test_each_table_that_torch_looks_up_is_stored_within_half_a_step(name, quantized):
    found, expected = stored(quantized(name).graph), torch_tables(name)
    assert quantized(name).count == len(found) == len(expected)
    for table in expected.values():
        errors = [np.abs(values - table) / scale for values, scale in found if values.shape == table.shape]
        assert min(e.max() for e in errors) <= 0.5 * (1 + 1e-4)
    names = set(quantized(name).graph.initializers)
    assert not {n.removesuffix("_uint8") for n in names if n.endswith("_uint8")} & names  # the float table is gone


@each
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_answers_like_torch_with_rounded_tables(name, backend, quantized):
    source = copy.copy(tiny.source(name))
    module = copy.deepcopy(source.module)
    with torch.no_grad():
        for path in torch_tables(name):
            weight = module.get_submodule(path).weight
            weight.copy_(torch.from_numpy(rounded(weight.numpy())[0]))
    changed = SimpleNamespace(module=module)
    file = quantized(name)
    engine = backends.get(backend).open_device("cpu", 1).load(file.path, file.signature)
    rows = tiny.rows(source, tiny.TEXTS[:8]) + tiny.random_rows(source, [1, tiny.MAX_LENGTH])
    for feeds in (single.collate(file.signature, rows[i : i + 5]) for i in (0, 5)):
        expected = tiny.torch_logits(changed, feeds)
        np.testing.assert_allclose(engine.run(feeds)["logits"], expected, atol=1e-4 * tiny.SPREAD)
        assert np.abs(tiny.torch_logits(source, feeds) - expected).max() > 1e-3  # rounding does change the answer


def test_only_rows_in_use_are_restored(quantized, tmp_path):
    """After their optimizers ran, neither runtime holds a table in float."""
    import onnxruntime
    import openvino

    file = quantized("bert")
    shape = torch_tables("bert")["bert.embeddings.word_embeddings"].shape
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    kept = {tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "optimized.onnx").graph.initializer}
    assert kept[shape] == onnx.TensorProto.UINT8
    compiled = openvino.Core().compile_model(str(file.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ops = compiled.get_runtime_model().get_ops()
    kinds = {
        str(op.get_output_element_type(0))
        for op in ops
        if tuple(op.get_output_partial_shape(0).get_max_shape()) == shape
    }
    assert kinds == {"<Type: 'uint8_t'>"}


@each
def test_the_lint_takes_it(name, quantized):
    lint(quantized(name).graph, "model.onnx")


def test_values_have_types_and_shapes(quantized):
    """Methods that run afterwards read both."""
    model = load(quantized("bert").path)
    for node in model.graph:
        assert all(v.dtype is not None for v in node.outputs)
    restored = [
        n.outputs[0] for n in model.graph if n.op_type == "Mul" and (n.name or "").startswith("bert.embeddings.word")
    ]
    assert [str(v.shape) for v in restored] == ["[batch,sequence,32]"]


# ---- what is left alone


def lookup_graph(table, *others, op="Gather", axis=0):
    """A graph with one lookup in a table, and further nodes by a function of the table's value."""
    value = ir.val("table", const_value=ir.tensor(table, name="table"))
    ids = ir.val("ids", dtype=ir.DataType.INT64, shape=["n"])
    node = ir.node(op, [value, ids], attributes={"axis": axis}, name="m/Gather")
    made = [node, *(other(value) for other in others)]
    for n in made:
        n.outputs[0].dtype = ir.DataType.FLOAT
    return ir.Graph(
        [ids], [n.outputs[0] for n in made], nodes=made, initializers=[value], opset_imports={"": 20}, name="g"
    )


def table_of(rows, width=64):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_a_small_table_is_not_worth_it():
    assert quantize_embeddings(lookup_graph(table_of(1023))) == 0  # a row of 256 bytes short of 256 KiB
    assert quantize_embeddings(lookup_graph(table_of(1024))) == 1


@pytest.mark.parametrize(
    "graph",
    [
        lookup_graph(table_of(2048), lambda table: ir.node("MatMul", [ir.val("x"), table])),
        lookup_graph(table_of(2048), axis=1),
        lookup_graph(table_of(2048).astype(np.float64)),
        lookup_graph(np.where(np.arange(64) == 3, np.nan, table_of(2048)).astype(np.float32)),
        lookup_graph(table_of(2048), op="GatherElements"),
        lookup_graph(table_of(2048).ravel()),
    ],
    ids=["tied to a product", "columns", "float64", "NaN", "elements", "one axis"],
)
def test_what_is_no_plain_table_stays(graph):
    before = [n.op_type for n in graph]
    assert quantize_embeddings(graph) == 0
    assert [n.op_type for n in graph] == before
    assert "table" in graph.initializers


def test_two_lookups_share_a_table():
    graph = lookup_graph(
        table_of(2048),
        lambda table: ir.node("Gather", [table, ir.val("more", dtype=ir.DataType.INT64)], name="n/Gather"),
    )
    assert quantize_embeddings(graph) == 1
    assert [tuple(v.shape) for v in graph.initializers.values() if v.dtype == ir.DataType.UINT8] == [(2048, 64)]
    assert len([n for n in graph if n.op_type == "Gather"]) == 4


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(-30, 30))
@settings(max_examples=40, deadline=None)
def test_every_row_comes_back_within_half_a_step(seed, width, exponent):
    """Also rows of zeros, and rows a million times smaller than their neighbours."""
    choose = np.random.default_rng(seed)
    table = (choose.standard_t(2, (12, width)) * 2.0**exponent * 2.0 ** choose.integers(-20, 1, (12, 1))).astype(
        np.float32
    )
    table[choose.integers(12)] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_embeddings, "WORTH_BYTES", 0)
        graph = lookup_graph(table)
        assert quantize_embeddings(graph) == 1
    ((restored, _),) = stored(graph)
    step = np.abs(table.astype(np.float64)).max(axis=1, keepdims=True) / 127
    assert (np.abs(restored - table) <= step / 2 * (1 + 1e-4)).all()


# ---- 4 bits


def four_bits(packed, scales, width):
    """What a packed table holds, by its definition, number by number where the halves are."""
    halves = np.concatenate([packed % 16, packed // 16], axis=1).astype(np.float32) - 8
    return halves * np.repeat(scales.astype(np.float32), 32, axis=1)[:, :width]


def test_a_table_in_4_bits_is_within_a_step_and_better_than_no_search():
    table = (
        np.random.default_rng(0).standard_normal((500, 128))
        * np.exp(np.random.default_rng(1).standard_normal((500, 1)))
    ).astype(np.float32)
    packed, scales = _embeddings.pack(table)
    assert (packed.dtype, packed.shape, scales.dtype, scales.shape) == (np.uint8, (500, 64), np.float16, (500, 4))
    error = four_bits(packed, scales, 128) - table
    largest = np.abs(table.reshape(500, 4, 32)).max(axis=2)
    plain = np.repeat(largest / 7, 32, axis=1)
    without = np.clip(np.rint(table / plain), -7, 7) * plain - table
    assert (error**2).mean() < 0.97 * (without**2).mean()
    assert (np.abs(error) <= 0.41 * np.repeat(largest, 32, axis=1)).all(), (
        "what is clipped most loses two fifths of the largest"
    )


@pytest.mark.slow
def test_a_model_looks_rows_up_in_4_bits(tmp_path, monkeypatch):
    """The word table of a BERT, made large; positions stay in 8 bits. Against torch with the table that the file holds."""
    import small
    from transformers import BertConfig, BertForSequenceClassification

    from edgekit.export.graphs import export
    from edgekit.source import from_module

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4096,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    module = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Embedding):
                part.weight.normal_(std=0.5)
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 60 * 128 * 4)
    made = export(from_module(module, small.tokenizer()), tmp_path / "float", ["the film was dull.", "no"])
    model, path = load(made.graphs[0].path), tmp_path / "four.onnx"
    assert quantize_embeddings(model.graph, "int4") == 2
    sweep(model)
    save(model, path)
    values = {v.name: constant(v) for v in ir.load(path).graph.initializers.values()}
    (packed,) = [n for n in values if n.endswith("_uint4")]
    (eight,) = [n for n in values if n.endswith("_uint8")]
    scale = {n: values[n.rpartition("_")[0] + "_scale"] for n in (packed, eight)}
    with torch.no_grad():
        embeddings = module.bert.embeddings
        words = four_bits(values[packed], scale[packed], 128)
        assert (
            np.abs(words - embeddings.word_embeddings.weight.numpy()).max()
            < 0.41 * np.abs(embeddings.word_embeddings.weight.numpy()).max()
        )
        embeddings.word_embeddings.weight.copy_(torch.from_numpy(words))
        embeddings.position_embeddings.weight[: len(scale[eight])] = torch.from_numpy(
            (values[eight].astype(np.float32) - 128) * scale[eight]
        )
    ids = np.random.default_rng(0).integers(0, 4096, (2, 9))
    feeds = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}
    rows = [{n: a[i] for n, a in feeds.items()} for i in range(2)]
    with torch.inference_mode():
        expected = module(**{n: torch.from_numpy(a) for n, a in feeds.items()}).logits.numpy()
    for backend in ("onnxruntime", "openvino"):
        device = backends.get(backend).open_device("cpu", 1)
        engine = device.load(path, made.graphs[0].signature)
        got = np.concatenate([small.run_graph(engine, made.graphs[0].signature, [row]) for row in rows])
        engine.close()
        device.close()
        np.testing.assert_allclose(got, expected, atol=1e-3, err_msg=backend)
