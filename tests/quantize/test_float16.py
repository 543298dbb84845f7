"""Float16 and bfloat16: types that never mix, what stays in float32 and why, and answers like torch's."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.reference.op_run
import onnx_ir as ir
import pytest
import tiny
import torch
from refusals import refused

from edgekit import backends
from edgekit.quantize import _embeddings
from edgekit.quantize._casts import cast_graphs
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, load, save
from edgekit.quantize.methods import bfloat16, float16
from edgekit.runtime.loops import single
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
both = pytest.mark.parametrize("method", [float16, bfloat16], ids=["float16", "bfloat16"])
LOW = {float16: ir.DataType.FLOAT16, bfloat16: ir.DataType.BFLOAT16}
# Of the spread of the logits. Half a unit in the last place is 2**-11 and 2**-8 of a value; a few layers add up some of them.
TOLERANCE = {float16: 2.0**-8, bfloat16: 2.0**-5}
RUNS = [
    (method, backend)
    for method in (float16, bfloat16)
    for backend in method.BACKENDS
    if not backends.get(backend).ENGINES
]


def batches_of(name, texts=tiny.TEXTS, size=4):
    (graph,) = tiny.exported(name).graphs
    rows = tiny.rows(tiny.source(name), texts)
    return [single.collate(graph.signature, rows[i : i + size]) for i in range(0, len(rows), size)]


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    @functools.cache
    def make(method, name):
        (graph,) = method.quantize(
            tiny.exported(name), Calibration(batches_of(name)), Quantization(), tmp_path_factory.mktemp(name), silent
        ).graphs
        return SimpleNamespace(file=graph, graph=ir.load(graph.path).graph)

    return make


def mixed_types(path):
    """Nodes whose inputs and outputs break the operator's own type constraints, by ONNX's operator schemas and type inference."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    types = {
        v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.input, *model.graph.output]
    }
    types |= {t.name: t.data_type for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        schema, bound = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, node.domain), {}
        for formal, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
            for index, name in enumerate(names):
                parameter = formal[min(index, len(formal) - 1)]
                if name and not parameter.type_str.startswith("tensor("):
                    bound.setdefault(parameter.type_str, set()).add(types[name])
        if any(len(kinds) > 1 for kinds in bound.values()):
            found.append(node.name)
    return found


def float_inputs(node):
    return {v.dtype for v in node.inputs if v is not None and v.dtype is not None and v.dtype.is_floating_point()}


@both
@each
def test_no_operator_mixes_types(name, method, typed):
    file = typed(method, name).file
    onnx.checker.check_model(str(file.path), full_check=True)
    assert mixed_types(file.path) == []
    assert file.method == method.__name__.rpartition(".")[2]
    for node in typed(method, name).graph:
        assert len(float_inputs(node)) <= 1, node.name


@both
@each
def test_each_operator_has_its_type(name, method, typed):
    graph, low = typed(method, name).graph, LOW[method]
    for value, spec in zip(graph.inputs, typed(method, name).file.signature.inputs, strict=True):
        assert (value.name, value.dtype) == (spec.name, ir.DataType.INT64)
    assert [(v.name, v.dtype) for v in graph.outputs] == [("logits", ir.DataType.FLOAT)]
    count = 0
    for node in graph:
        if node.op_type in ("MatMul", "Gemm", "Gelu", "Tanh"):
            assert float_inputs(node) == {low}, node.name
            count += 1
        elif node.op_type in ("LayerNormalization", "Softmax", "Log", "Cos", "Sin"):
            assert float_inputs(node) == {ir.DataType.FLOAT}, node.name
    assert count >= 2 * 6 + 2
    casts = [(n.inputs[0], n.attributes["to"].as_int()) for n in graph if n.op_type == "Cast"]
    assert len(set(casts)) == len(casts)  # one Cast for a value, however many read it


@both
@each
def test_weights_are_those_of_torch_rounded(name, method, typed):
    """Every linear's weight and every table is in the file in the low type and not in float32."""
    kind = LOW[method].numpy()
    columns, sizes = set(), {}
    for value in typed(method, name).graph.initializers.values():
        array = constant(value)
        sizes[value.dtype] = sizes.get(value.dtype, 0) + array.nbytes
        if array.ndim == 2 and array.dtype == kind:
            columns |= {c.tobytes() for c in array} | {c.tobytes() for c in np.ascontiguousarray(array.T)}
    seen = 0
    for path, module in tiny.source(name).module.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)) and "rel_embeddings" not in path:
            rows = module.weight.detach().numpy().astype(kind)
            assert {row.tobytes() for row in rows} <= columns, path
            seen += 1
    assert seen >= 2 * 6
    # DeBERTa's table of relative positions goes through LayerNorm before anything else.
    assert sizes[ir.DataType.FLOAT] < 0.25 * sizes[LOW[method]]


@each
@pytest.mark.parametrize(
    ("method", "backend"), RUNS, ids=lambda v: v if isinstance(v, str) else v.__name__.rpartition(".")[2]
)
def test_it_answers_like_torch(name, method, backend, typed):
    source, file = tiny.source(name), typed(method, name).file
    feeds = [*batches_of(name)[:3], single.collate(file.signature, tiny.random_rows(source, [1, tiny.MAX_LENGTH]))]
    expected = np.concatenate([tiny.torch_logits(source, f) for f in feeds])
    engine = backends.get(backend).open_device("cpu", 1).load(file.path, file.signature)
    got = np.concatenate([engine.run(f)["logits"] for f in feeds])
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= TOLERANCE[method] * np.ptp(expected)
    exact = backends.get(backend).open_device("cpu", 1).load(tiny.exported(name).graphs[0].path, file.signature)
    assert (
        np.abs(got - np.concatenate([exact.run(f)["logits"] for f in feeds])).max() > 0
    )  # it is not the float32 graph


class GatherElements(onnx.reference.op_run.OpRun):
    """That of ONNX 1.23 takes the first index of each row for all of them."""

    op_domain = ""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


def in_its_types(path, feeds):
    """ONNX's reference implementation: numpy arithmetic in just the types of the graph, which no CPU runtime does here."""
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(path), new_ops=[GatherElements])
    fed = set(evaluator.input_names)
    return np.concatenate([evaluator.run(None, {n: a for n, a in f.items() if n in fed})[0] for f in feeds])


@each
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the logarithm of distance 0, which a Where leaves out
def test_it_answers_like_torch_when_float16_is_float16(name, typed):
    expected = np.concatenate([tiny.torch_logits(tiny.source(name), f) for f in batches_of(name)[:2]])
    got = in_its_types(typed(float16, name).file.path, batches_of(name)[:2])
    assert np.abs(got - expected).max() <= 2 * TOLERANCE[float16] * np.ptp(expected)


# ---- what float16 cannot hold


def changed_bert(folder, changes):
    """BERT with some parameters changed in torch and in the exported graph: names of modules -> function of their weight."""
    source = copy.copy(tiny.source("bert"))
    module = copy.deepcopy(source.module)
    model = load(tiny.exported("bert").graphs[0].path)
    for name, change in changes.items():
        parameter = module.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(change(parameter.numpy().copy())))
        value = (
            model.graph.initializers.get(f"{name}_transposed".removeprefix("model."))
            or model.graph.initializers[f"model.{name}"]
        )
        array = parameter.detach().numpy()
        value.const_value = ir.tensor(
            np.ascontiguousarray(array.T if value.name.endswith("_transposed") else array), name=value.name
        )
    folder.mkdir()
    save(model, folder / "model.onnx")
    graph = Graph(tiny.exported("bert").graphs[0].signature, folder / "model.onnx", "float32")
    return SimpleNamespace(module=module), GraphSet("text-classification", "single", (graph,), folder)


UP, DOWN = "bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"
LARGE = {f"{UP}.weight": lambda w: w * 3e4, f"{UP}.bias": lambda b: b * 3e4, f"{DOWN}.weight": lambda w: w / 3e4}


def logits_of(graphs, backend="onnxruntime"):
    (graph,) = graphs.graphs
    engine = backends.get(backend).open_device("cpu", 1).load(graph.path, graph.signature)
    return np.concatenate([engine.run(f)["logits"] for f in batches_of("bert")])


def test_large_activations_stay_in_float32(tmp_path):
    changed, graphs = changed_bert(tmp_path / "in", LARGE)
    expected = np.concatenate([tiny.torch_logits(changed, f) for f in batches_of("bert")])
    calibration = Calibration(batches_of("bert"))
    careless = cast_graphs(
        graphs, calibration, Quantization(), tmp_path / "careless", silent, low=ir.DataType.FLOAT16, limit=None
    )
    with np.errstate(all="ignore"):
        assert not np.isfinite(
            in_its_types(careless.graphs[0].path, batches_of("bert"))
        ).all()  # the case is one that float16 cannot do
    made = float16.quantize(graphs, calibration, Quantization(), tmp_path / "out", silent)
    for got in (in_its_types(made.graphs[0].path, batches_of("bert")), logits_of(made)):
        assert np.abs(got - expected).max() <= TOLERANCE[float16] * np.ptp(expected)
    types = {n.name: float_inputs(n) for n in ir.load(made.graphs[0].path).graph if n.op_type == "MatMul"}
    assert {n for n, kinds in types.items() if kinds == {ir.DataType.FLOAT}} == {f"{UP}/MatMul", f"{DOWN}/MatMul"}
    assert f"{UP}/MatMul" in made.graphs[0].recipe["large_values"]
    assert "layer.1" not in made.graphs[0].recipe["large_values"]


def test_bfloat16_has_room_for_them(tmp_path):
    changed, graphs = changed_bert(tmp_path / "in", LARGE)
    expected = np.concatenate([tiny.torch_logits(changed, f) for f in batches_of("bert")])
    assert bfloat16.NEEDS_SAMPLES == 0
    made = bfloat16.quantize(graphs, Calibration([]), Quantization(), tmp_path / "out", silent)
    assert np.abs(logits_of(made, "openvino") - expected).max() <= TOLERANCE[bfloat16] * np.ptp(expected)
    assert all(
        float_inputs(n) == {ir.DataType.BFLOAT16} for n in ir.load(made.graphs[0].path).graph if n.op_type == "MatMul"
    )


@pytest.mark.parametrize("factor", [1e6, 1e-7], ids=["beyond 65504", "below the smallest"])
def test_weights_that_float16_cannot_hold_stay_in_float32(tmp_path, factor):
    """Activations are of ordinary size here: LayerNorm's own weight takes the factor out of what the layer reads."""
    norm = "bert.encoder.layer.0.attention.output.LayerNorm"
    changes = {f"{norm}.{p}": lambda w: w / factor for p in ("weight", "bias")} | {f"{UP}.weight": lambda w: w * factor}
    changed, graphs = changed_bert(tmp_path / "in", changes)
    expected = np.concatenate([tiny.torch_logits(changed, f) for f in batches_of("bert")])
    made = float16.quantize(graphs, Calibration(batches_of("bert")), Quantization(), tmp_path / "out", silent)
    (product,) = [n for n in ir.load(made.graphs[0].path).graph if n.name == f"{UP}/MatMul"]
    assert float_inputs(product) == {ir.DataType.FLOAT}
    assert np.isfinite(logits_of(made)).all()
    assert np.abs(logits_of(made) - expected).max() <= 4 * TOLERANCE[float16] * np.ptp(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    def spoil(array):
        array[3] = value
        return array

    _, graphs = changed_bert(tmp_path / "in", {"bert.encoder.layer.0.attention.output.LayerNorm.bias": spoil})
    with refused("activations-not-finite", "batch 1"):
        float16.quantize(graphs, Calibration(batches_of("bert")), Quantization(), tmp_path / "out", silent)


@both
@each
def test_no_constant_became_infinite(name, method, typed):
    for value in typed(method, name).graph.initializers.values():
        if value.dtype == LOW[method]:
            assert np.isfinite(constant(value).astype(np.float32)).all()


# ---- settings


def test_named_layers_stay_in_float32(tmp_path):
    settings = Quantization(keep_float=("*.layer.1.output.dense", UP))
    (graph,) = float16.quantize(
        tiny.exported("bert"), Calibration(batches_of("bert")), settings, tmp_path, silent
    ).graphs
    kept = {
        n.name
        for n in ir.load(graph.path).graph
        if n.op_type in ("MatMul", "Add", "Gemm") and float_inputs(n) == {ir.DataType.FLOAT}
    }
    names = ("bert.encoder.layer.1.output.dense", UP)
    assert kept == {f"{n}/{op}" for n in names for op in ("MatMul", "Add")}
    assert graph.recipe["keep_float"] == f"{UP}, bert.encoder.layer.1.output.dense"
    assert mixed_types(graph.path) == []


@pytest.mark.parametrize(
    ("method", "backend"), RUNS, ids=lambda v: v if isinstance(v, str) else v.__name__.rpartition(".")[2]
)
def test_tables_in_int8(tmp_path, monkeypatch, method, backend):
    """Restored in float32, where their scales are exact, and cast after that."""
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 0)
    made = method.quantize(tiny.exported("bert"), Calibration(batches_of("bert")), Quantization(), tmp_path, silent)
    (graph,) = made.graphs
    assert mixed_types(graph.path) == []
    kinds = {
        v.dtype for n, v in ir.load(graph.path).graph.initializers.items() if "embeddings" in n and v.shape.rank() == 2
    }
    assert kinds == {ir.DataType.UINT8, ir.DataType.FLOAT}  # the tables and their scales
    assert graph.recipe["embeddings"] == "int8"
    expected = np.concatenate([tiny.torch_logits(tiny.source("bert"), f) for f in batches_of("bert")])
    assert np.abs(logits_of(made, backend) - expected).max() <= 0.05 * np.ptp(expected)
    plain = method.quantize(
        tiny.exported("bert"),
        Calibration(batches_of("bert")),
        Quantization(embeddings="float32"),
        tmp_path / "plain",
        silent,
    )
    assert not [v for v in ir.load(plain.graphs[0].path).graph.initializers.values() if v.dtype == ir.DataType.UINT8]


def test_progress_is_told_for_each_batch(tmp_path):
    told = []
    float16.quantize(
        tiny.exported("bert"),
        Calibration(batches_of("bert")),
        Quantization(),
        tmp_path,
        lambda *step: told.append(step),
    )
    assert told == [("calibrate", i + 1, 6) for i in range(6)]
