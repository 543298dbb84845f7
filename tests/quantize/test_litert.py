"""Graphs written for LiteRT: every architecture computes what ONNX Runtime computes, and XNNPACK takes what costs time."""

from __future__ import annotations

import functools
import re
import sys

import numpy as np
import onnx
import pytest
import small
import tiny
from ai_edge_litert.interpreter import Interpreter
from litert_files import COSTLY, EQUAL, check_own, engine_of, operators, own, run_without_xnnpack
from refusals import refused

from edgekit.quantize import _embeddings, litert
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.litert import _file
from edgekit.quantize.litert._lowering import table
from edgekit.quantize.methods import dynamic_rows
from edgekit.runtime.loops import single
from edgekit.spec.graph import Graph
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)
forms = pytest.mark.parametrize("batch", [1, None], ids=["one row", "any batch"])
LENGTHS = (1, 2, 9, 64, 33)
# Tables look-ups, ids, positions and sizes, once a call: XNNPACK has no kernels for these.
ONCE = {
    "CAST",
    "GATHER",
    "EMBEDDING_LOOKUP",
    "SHAPE",
    "CONCATENATION",
    "SLICE",
    "RANGE",
    "EQUAL",
    "LOGICAL_NOT",
    "CUMSUM",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    @functools.cache
    def write(name, batch, method="float32"):
        folder = tmp_path_factory.mktemp(name)
        graphs = tiny.exported(name)
        if method != "float32":
            settings = Quantization(embeddings="int8")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_embeddings, "WORTH_BYTES", 0)
                graphs = dynamic_rows.quantize(graphs, Calibration([]), settings, folder, silent)
        return litert.convert(graphs, folder, batch).graphs[0]

    return write


def run(graph: Graph, rows, backend: str = "litert"):
    """The logits of rows that share a call."""
    feeds = single.collate(graph.signature, rows)
    return engine_of(graph.path, graph.signature, backend).run(feeds)["logits"]


def onnx_logits(name, rows):
    return run(tiny.exported(name).graphs[0], rows, "onnxruntime")


@functools.cache
def spread(name) -> float:
    return float(np.ptp([onnx_logits(name, [row]) for row in tiny.rows(tiny.source(name))]))


@each
@forms
def test_the_file_means_the_same_without_xnnpack(name, batch, written):
    graph = written(name, batch)
    rows = tiny.random_rows(tiny.source(name), [13])
    answer = run_without_xnnpack(graph.path, single.collate(graph.signature, rows))["logits"]
    assert np.abs(answer - onnx_logits(name, rows)).max() <= EQUAL * spread(name)


@each
@forms
def test_float32_equals_onnxruntime_at_every_length(name, batch, written):
    graph = written(name, batch)
    for length in LENGTHS:
        rows = tiny.random_rows(tiny.source(name), [length], seed=length)
        difference = np.abs(run(graph, rows) - onnx_logits(name, rows)).max()
        assert difference <= EQUAL * spread(name), length


@each
def test_float32_equals_onnxruntime_in_padded_batches(name, written):
    graph = written(name, None)
    for lengths in ((5, 9, 2), (64, 1), (17, 17, 17, 17, 3)):
        rows = tiny.random_rows(tiny.source(name), lengths, seed=1)
        assert np.abs(run(graph, rows) - onnx_logits(name, rows)).max() <= EQUAL * spread(name)


@each
def test_masked_positions_inside_a_row_are_not_read(name, written):
    (row,) = tiny.random_rows(tiny.source(name), [15], seed=4)
    row["attention_mask"][[3, 4, 9]] = 0
    expected = onnx_logits(name, [row])
    unmasked = {**row, "attention_mask": np.ones_like(row["attention_mask"])}
    assert np.abs(onnx_logits(name, [unmasked]) - expected).max() > 100 * EQUAL * spread(name), "the mask matters"
    assert np.abs(run(written(name, 1), [row]) - expected).max() <= EQUAL * spread(name)


@each
@forms
@pytest.mark.parametrize("method", ["float32", "dynamic_rows"])
def test_xnnpack_takes_what_costs_time(name, batch, method, written):
    taken, left, parts = operators(written(name, batch, method).path)
    assert taken["FULLY_CONNECTED"] >= 10
    assert taken["BATCH_MATMUL"] >= 4
    assert {"SOFTMAX", "GELU", "MEAN"} <= set(taken)
    if name == "bert":
        # Of two layers: heads of packed projections are separated at once, then those of the context joined.
        assert taken["SPLIT"] == 2
        assert taken["TRANSPOSE"] <= 5
    # A slice of a tensor of sizes is one of a few numbers, evaluated when tensors are allocated.
    assert set(left) & COSTLY <= {"STRIDED_SLICE"}
    if batch == 1 and name not in ("deberta-v2", "mpnet"):  # Their relative positions are arithmetic on integers.
        assert parts == 1
        assert left["RESHAPE"] <= 4
        assert set(left) - ONCE <= {"STRIDED_SLICE", "RESHAPE", "MUL", "ADD", "SUB", "ABS", "LESS_EQUAL", "SELECT_V2"}


@each
def test_rows_in_int8_answer_nearly_as_torch_does(name, written):
    graph = written(name, 1, "dynamic_rows")
    rows = tiny.rows(tiny.source(name))
    expected = tiny.logits(tiny.source(name), rows)
    answers = np.concatenate([run(graph, [row]) for row in rows])
    error = np.sqrt(np.mean((answers - expected) ** 2)) / spread(name)
    assert 1e-4 < error < 0.03  # measured 0.002 to 0.015


@each
def test_a_row_alone_and_in_a_batch_is_the_same_to_the_bit(name, written):
    """Activations are quantized row by row, so that nothing beside a row changes its answer."""
    graph = written(name, None, "dynamic_rows")
    rows = tiny.random_rows(tiny.source(name), [12, 12, 12, 12, 12], seed=6)
    together = run(graph, rows)
    for row, answer in zip(rows, together, strict=True):
        np.testing.assert_array_equal(run(graph, [row])[0], answer)


def test_the_form_of_one_row_computes_as_that_of_any_batch(written):
    rows = tiny.random_rows(tiny.source("bert"), [21], seed=8)
    one, many = (run(written("bert", batch, "dynamic_rows"), rows) for batch in (1, None))
    np.testing.assert_array_equal(one, many)


def test_names_and_types_of_the_file(written):
    """An interpreter of Google's own reads the file: names by signature, ids of 32 bits, no input that nothing reads."""
    graph = written("deberta-v2", None)
    assert [spec.name for spec in graph.signature.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    interpreter = Interpreter(model_path=str(graph.path))
    assert interpreter.get_signature_list() == {
        "forward": {"inputs": ["attention_mask", "input_ids"], "outputs": ["logits"]}
    }
    runner = interpreter.get_signature_runner("forward")
    details = runner.get_input_details()
    assert {name: (entry["dtype"], entry["shape_signature"].tolist()) for name, entry in details.items()} == {
        "input_ids": (np.int32, [-1, -1]),
        "attention_mask": (np.int32, [-1, -1]),
    }
    (row,) = tiny.random_rows(tiny.source("deberta-v2"), [8])
    answer = runner(**{name: row[name][None].astype(np.int32) for name in details})
    np.testing.assert_array_equal(answer["logits"], run(graph, [row]))


def test_the_same_bytes_each_time(written, tmp_path):
    path = written("bert", 1, "dynamic_rows").path
    source = path.with_suffix(".onnx")
    litert.write(source, tiny.exported("bert").graphs[0].signature, tmp_path / "again.tflite", 1)
    assert (tmp_path / "again.tflite").read_bytes() == path.read_bytes()


# ---- graphs of one's own


WIDE = {"x": ("batch", "sequence", 32)}


@pytest.mark.parametrize("index", [np.array(0), np.array([0])], ids=str)
@forms
def test_attention_of_one_position(tmp_path, index, batch):
    """The form of a last layer that is computed only for what the head reads: queries of one position, keys of all."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=(32, 32)).astype(np.float32) / 6 for name in ("q", "k", "v")}
    lift = "cut = Unsqueeze(first, one)" if index.ndim == 0 else "cut = Identity(first)"
    graph = own(
        tmp_path,
        f"""agraph (float[batch, sequence, 32] x) => (float[batch, 1, 32] y) {{
            first = Gather<axis=1>(x, index)
            {lift}
            query = MatMul(cut, q)
            key = MatMul(x, k)
            value = MatMul(x, v)
            query4 = Reshape(query, heads)
            key4 = Reshape(key, heads)
            value4 = Reshape(value, heads)
            queries = Transpose<perm=[0, 2, 1, 3]>(query4)
            keys = Transpose<perm=[0, 2, 3, 1]>(key4)
            values = Transpose<perm=[0, 2, 1, 3]>(value4)
            scores = MatMul(queries, keys)
            scaled = Mul(scores, factor)
            weights = Softmax<axis=-1>(scaled)
            context = MatMul(weights, values)
            back = Transpose<perm=[0, 2, 1, 3]>(context)
            y = Reshape(back, whole)
        }}""",
        WIDE,
        {"y": ("batch", 1, 32)},
        index=index.astype(np.int64),
        one=np.array([1]),
        heads=np.array([0, 0, 4, 8]),
        whole=np.array([0, 0, 32]),
        factor=np.array(8**-0.5, np.float32),
        **weights,
    )
    path = check_own(graph, *[(batch or 3, length, 32) for length in (3, 17, 5)], batch=batch)
    taken, left, _ = operators(path)
    assert "MUL" not in taken | left, "the factor on the scores is in the weight of the queries"
    assert not set(left) & COSTLY - {"STRIDED_SLICE"}


def test_a_factor_stays_where_a_weight_is_shared(tmp_path):
    """Were it multiplied into the weight, the other reader of it would see it too."""
    graph = own(
        tmp_path,
        """agraph (float[batch, sequence, 32] x) => (float[batch, sequence, 32] y) {
            query = MatMul(x, w)
            key = MatMul(x, w)
            keys = Transpose<perm=[0, 2, 1]>(key)
            scores = MatMul(query, keys)
            scaled = Mul(scores, factor)
            weights = Softmax<axis=-1>(scaled)
            y = MatMul(weights, key)
        }""",
        WIDE,
        {"y": ("batch", "sequence", 32)},
        w=np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32) / 6,
        factor=np.array(0.3, np.float32),
    )
    check_own(graph, (2, 7, 32), (1, 3, 32))


@pytest.mark.parametrize(
    ("step", "operator"),
    [
        ("Hardmax<axis=-1>(x)", "Hardmax"),
        ("Softmax<axis=1>(x)", "Softmax"),
        ("LayerNormalization<axis=1>(x, scale)", "LayerNormalization"),
        ("Gather<axis=1>(x, last)", "Gather"),
        ("Slice(x, last, none, one)", "Slice"),
        ("Slice(x, zero, none, one, two)", "Slice"),
        ("Max(x, x, x)", "Max"),
        ("ReduceSum<keepdims=1>(x)", "ReduceSum"),
    ],
)
def test_an_operator_that_is_unknown_is_named(tmp_path, step, operator):
    graph = own(
        tmp_path,
        f"agraph (float[batch, sequence, 32] x) => (float[batch, sequence, n] y) {{ y = {step} }}",
        WIDE,
        {"y": ("batch", "sequence", "n")},
        scale=np.ones(32, np.float32),
        last=np.array([-1]),
        none=np.array([2**62]),
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    onnx_model = onnx.load(graph.path)
    onnx_model.graph.node[0].name = "the one"
    onnx.save(onnx_model, graph.path)
    with refused("litert-operator", operator=operator, node="the one"):
        litert.write(graph.path, graph.signature, tmp_path / "own.tflite")


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        ("Slice(x, one, three, axis)", ("batch", "sequence", 2)),
        ("Slice(x, minus, none, axis)", ("batch", "sequence", 2)),
        ("Slice(x, one, none, place)", ("batch", "rest", 32)),
        ("CumSum(x, where)", ("batch", "sequence", 32)),
        ("ReduceMean<keepdims=0>(x, place)", ("batch", 32)),
        ("Gather<axis=2>(x, pair)", ("batch", "sequence", 2)),
        ("Where(more, x, half)", ("batch", "sequence", 32)),
        ("Transpose(x)", (32, "sequence", "batch")),
        ("MatMul(x, turned)", ("batch", "sequence", "sequence")),
    ],
)
def test_further_operators(tmp_path, step, shape):
    dims = ", ".join(map(str, shape))
    condition = "more = Greater(x, half)\n" if "more" in step else ""
    if "turned" in step:
        condition = "other = Transpose<perm=[2, 1, 0]>(x) turned = Transpose<perm=[2, 0, 1]>(other)"
    graph = own(
        tmp_path,
        f"agraph (float[batch, sequence, 32] x) => (float[{dims}] y) {{ {condition} y = {step} }}",
        WIDE,
        {"y": shape},
        one=np.array([1]),
        three=np.array([3]),
        minus=np.array([-2]),
        none=np.array([2**62]),
        axis=np.array([-1]),
        place=np.array([1]),
        where=np.array(1),
        pair=np.array([4, 9]),
        half=np.array(0.5, np.float32),
    )
    check_own(graph, (2, 7, 32), (1, 3, 32))


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ("a = Add(x, nine) y = Reciprocal(a)", ("batch", "sequence", 32)),
        ("y = Pow(x, two)", ("batch", "sequence", 32)),
        ("a = Abs(x) y = Pow(a, half)", ("batch", "sequence", 32)),
        # Sums and limits of integers are integers.
        ("m = Mul(x, nine) i = Cast<to=7>(m) r = ReduceSum<keepdims=0>(i, place) y = Cast<to=1>(r)", ("batch", 32)),
        ("m = Mul(x, nine) i = Cast<to=7>(m) r = Clip(i, low) y = Cast<to=1>(r)", ("batch", "sequence", 32)),
    ],
)
def test_numbers(tmp_path, steps, shape):
    dims = ", ".join(map(str, shape))
    constants = {
        "nine": np.array(9, np.float32),
        "two": np.array(2, np.float32),
        "half": np.array(0.5, np.float32),
        "place": np.array([1]),
        "low": np.array(-7),
    }
    constants = {name: array for name, array in constants.items() if re.search(rf"\b{name}\b", steps)}
    text = f"agraph (float[batch, sequence, 32] x) => (float[{dims}] y) {{ {steps} }}"
    check_own(own(tmp_path, text, WIDE, {"y": shape}, **constants), (2, 7, 32), (1, 3, 32))


def test_a_type_that_is_unknown(tmp_path):
    graph = own(
        tmp_path,
        """agraph (float[batch, sequence, 32] x) => (float[batch, sequence, 32] y) {
            wide = Cast<to=11>(x)
            more = Add(wide, wide)
            y = Cast<to=1>(more)
        }""",
        WIDE,
        {"y": ("batch", "sequence", 32)},
    )
    with refused("litert-type", "float64"):
        litert.write(graph.path, graph.signature, tmp_path / "own.tflite")


def test_a_graph_that_does_not_run_with_few_samples(tmp_path):
    """The convolutions of a speech encoder need 400 of them."""
    wave = TensorSpec("input_values", "float32", ("batch", "samples"))
    signature = Signature("forward", (wave,), (TensorSpec("hidden", "float32", ("batch", "frames", 32)),))
    with refused("litert-sizes", "samples 7"):
        litert.write(tiny.EXPORTS / "wav2vec2" / "model.onnx", signature, tmp_path / "own.tflite")


def test_a_file_that_would_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(_file, "_LARGEST", 10_000)
    graph = tiny.exported("bert").graphs[0]
    with refused("litert-size"):
        litert.write(graph.path, graph.signature, tmp_path / "own.tflite")
    assert not (tmp_path / "own.tflite").exists()


def test_layers_in_float_stay_in_float(tmp_path):
    settings = Quantization(embeddings="int4", keep_float=("*.layer.1.*",))
    graphs = dynamic_rows.quantize(tiny.exported("bert"), Calibration([]), settings, tmp_path, silent)
    (graph,) = litert.convert(graphs, tmp_path, 1).graphs
    layers = graph.recipe["keep_float"].split(", ")
    precisions = engine_of(graph.path, graph.signature, "litert").precisions()
    # The pooler and the classifier see one row, and stay in float too.
    assert precisions.count("float32") == len(layers) + 2
    assert precisions.count("int8") == len(precisions) - len(layers) - 2 >= 4


def test_tables_in_4_bits(tmp_path, monkeypatch):
    """They are looked up by the operators of the method, for which the format has no single one."""
    monkeypatch.setattr(_embeddings, "WORTH_BYTES", 0)
    monkeypatch.setattr(_embeddings, "_MANY_ROWS", 100)
    monkeypatch.setattr(_embeddings, "_GROUP", 8)
    settings = Quantization(embeddings="int4", keep_float=("*",))
    graphs = dynamic_rows.quantize(tiny.exported("bert"), Calibration([]), settings, tmp_path, silent)
    (source,) = graphs.graphs
    (graph,) = litert.convert(graphs, tmp_path, 1).graphs
    rows = tiny.random_rows(tiny.source("bert"), [11])
    answer, expected = run(graph, rows), run(source, rows, "onnxruntime")
    assert np.abs(answer - expected).max() <= EQUAL * spread("bert")
    assert np.abs(expected - onnx_logits("bert", rows)).max() > 100 * EQUAL * spread("bert"), "tables are rounded"


def test_a_model_without_the_package_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setattr(_file, "schema", _file.schema.__wrapped__)
    with refused("backend-not-installed"):
        _file.schema()


def test_the_page_lists_the_operators_of_the_writer():
    page = (small.ROOT / "docs" / "reference" / "litert.md").read_text("utf-8")
    section = page.split("## Operators")[1].split("## ")[0]
    listed = re.findall(r"`(\w+)`", section)
    own_domain = {"BatchMatMul", "EmbeddingLookup", "FullyConnected", "GroupNormalization"}
    assert sorted(listed) == sorted({*table.functions, "Gemm", "MatMul"} - own_domain)
