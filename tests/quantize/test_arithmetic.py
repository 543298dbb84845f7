"""16-bit arithmetic emulated in float32: bit for bit numpy's float16 where an operator is one operation, torch's own half precision for a whole model."""

from __future__ import annotations

import copy
import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny
import torch
from onnx import TensorProto, helper
from refusals import refused

from edgekit import backends
from edgekit.quantize.arithmetic import check_rounding, emulate
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import constant, load
from edgekit.quantize.methods import bfloat16, float16
from edgekit.runtime.loops import single as loop
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT
LARGE = np.float16(60000)


def run(path, feeds):
    """On ONNX Runtime with nothing optimized, as the stand-in does."""
    signature = Signature(
        "forward",
        (),
        tuple(TensorSpec(o.name, "float32", ()) for o in onnx.load(path, load_external_data=False).graph.output),
    )
    engine = backends.get("onnxruntime").open_device("reference", 1).load(path, signature)
    return engine.run(feeds)


def half_graph(folder, *nodes, outputs, constants=None):
    """A float16 graph of x and y, float32 outside."""
    casts = [helper.make_node("Cast", [f"{n}32"], [n], name=f"in/{n}", to=HALF) for n in "xy"]
    back = [helper.make_node("Cast", [o], [f"{o}32"], name=f"out/{o}", to=FULL) for o in outputs]
    given = [helper.make_tensor_value_info(f"{n}32", FULL, ["n"]) for n in "xy"]
    wanted = [helper.make_tensor_value_info(f"{o}32", FULL, None) for o in outputs]
    known = [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    model = helper.make_model(
        helper.make_graph([*casts, *nodes, *back], "g", given, wanted, known),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), folder / "half.onnx")
    return emulate(folder / "half.onnx", folder / "emulated")


def numbers(seed, count=4000):
    random = np.random.default_rng(seed)
    made = random.standard_normal(count) * 10.0 ** random.uniform(-8, 5.5, count)
    return np.concatenate(
        [made, [65504, 65520, -65520, 0, -0.0, np.inf, -np.inf, np.nan, 2.0**-24, 2.0**-25, 6e-8, 1e-7]]
    ).astype(np.float32)


BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@pytest.mark.parametrize("op", BINARY)
def test_one_operation_is_bit_for_bit_that_of_float16(tmp_path, op):
    """Subnormal numbers, signs of zero, overflow and NaN included."""
    path = half_graph(tmp_path, helper.make_node(op, ["x", "y"], ["z"], name=op), outputs=["z"])
    x, y = numbers(1), np.random.default_rng(5).permutation(numbers(2))
    (got,) = run(path, {"x32": x, "y32": y}).values()
    with np.errstate(all="ignore"):
        expected = BINARY[op](x.astype(np.float16), y.astype(np.float16)).astype(np.float32)
    np.testing.assert_array_equal(got, expected)
    assert np.isinf(got).sum() > np.isinf(x).sum()
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(expected[got == 0]))


def test_a_chain_is_rounded_behind_every_operator(tmp_path):
    """(x + y) - y loses in float16 what float32 keeps; the root of what has overflowed is infinite."""
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"], name="add"),
        helper.make_node("Sub", ["sum", "y"], ["rest"], name="sub"),
        helper.make_node("Mul", ["y", "y"], ["square"], name="square"),
        helper.make_node("Sqrt", ["square"], ["root"], name="root"),
    ]
    path = half_graph(tmp_path, *nodes, outputs=["rest", "root"])
    x, y = np.array([0.3, 1.7, 100.1], np.float32), np.array([300.0, 40.0, 7.0], np.float32)
    got = run(path, {"x32": x, "y32": y})
    a, b = x.astype(np.float16), y.astype(np.float16)
    with np.errstate(all="ignore"):
        assert got["rest32"].tolist() == ((a + b) - b).astype(np.float32).tolist()
        assert got["root32"].tolist() == np.sqrt(b * b).astype(np.float32).tolist()
    assert got["root32"][0] == np.inf


def test_nothing_is_clamped(tmp_path):
    """65504 would be a number in all of these; infinity is not."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], name="twice"),
        helper.make_node("Mul", ["twice", "zero"], ["none"], name="none"),
        helper.make_node("Sub", ["twice", "twice"], ["difference"], name="difference"),
    ]
    path = half_graph(
        tmp_path, *nodes, outputs=["twice", "none", "difference"], constants={"zero": np.zeros(1, np.float16)}
    )
    got = run(path, {"x32": np.array([LARGE, 1.0], np.float32), "y32": np.zeros(1, np.float32)})
    assert got["twice32"].tolist() == [np.inf, 2.0]
    assert np.isnan(got["none32"][0])
    assert np.isnan(got["difference32"][0])
    assert (got["none32"][1], got["difference32"][1]) == (0.0, 0.0)


def test_sums_inside_a_product_stay_in_float32(tmp_path):
    """4,096 times 16 x 1 is beyond float16 only at its end; partial sums of 2,048 and 1 would not move in float16."""
    weight = np.ones((4096, 1), np.float16)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["row"], name="row"),
        helper.make_node("MatMul", ["row", "w"], ["z"], name="product"),
    ]
    path = half_graph(tmp_path, *nodes, outputs=["z"], constants={"w": weight, "axis": np.array([0])})
    y = np.zeros(1, np.float32)
    (ones,) = run(path, {"x32": np.ones(4096, np.float32), "y32": y}).values()
    (many,) = run(path, {"x32": np.full(4096, 16, np.float32), "y32": y}).values()
    assert (ones.item(), many.item()) == (4096.0, np.inf)


def test_integers_do_not_hide_nan(tmp_path):
    """What has overflowed saturates as integers do; what is NaN is NaN again behind them."""
    nodes = [
        helper.make_node("Mul", ["x", "y"], ["z"], name="mul"),
        helper.make_node("QuantizeLinear", ["z", "s", "o"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["d"], name="d"),
    ]
    path = half_graph(
        tmp_path, *nodes, outputs=["d"], constants={"s": np.array(0.5, np.float16), "o": np.array(0, np.int8)}
    )
    (got,) = run(
        path, {"x32": np.array([3.3, 60000, 60000, np.inf], np.float32), "y32": np.array([1, 1, 2, 0], np.float32)}
    ).values()
    assert got[:3].tolist() == [3.5, 63.5, 63.5]
    assert np.isnan(got[3])


def test_weights_in_integers_are_restored_once(tmp_path):
    weight, scale = np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.array([0.1, 3e-5, 900, 0.333], np.float16)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], name="d", axis=1),
        helper.make_node("Unsqueeze", ["x", "axis"], ["row"], name="row"),
        helper.make_node("MatMul", ["row", "d"], ["z"], name="product"),
    ]
    path = half_graph(tmp_path, *nodes, outputs=["z"], constants={"w": weight, "s": scale, "axis": np.array([0])})
    assert "DequantizeLinear" not in {n.op_type for n in onnx.load(path).graph.node}
    (got,) = run(path, {"x32": np.array([1, 0, 0], np.float32), "y32": np.zeros(1, np.float32)}).values()
    assert got[0].tolist() == (weight[0].astype(np.float16) * scale).astype(np.float32).tolist()


def test_a_graph_whose_types_are_not_known_is_refused(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "y"], ["z"], name="add"),
        helper.make_node("Mul", ["z", "y"], ["u"], name="mul"),
    ]
    half_graph(tmp_path, *nodes, outputs=["u"])
    model = onnx.load(tmp_path / "half.onnx")
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "untyped.onnx")
    with refused("graph-type-missing", "untyped.onnx"):
        emulate(tmp_path / "untyped.onnx", tmp_path / "out")


def test_a_float32_graph_answers_as_it_did(tmp_path):
    (graph,) = tiny.exported("bert").graphs
    feeds = loop.collate(graph.signature, tiny.rows(tiny.source("bert"), tiny.TEXTS)[:4])
    (got,) = run(emulate(graph.path, tmp_path), feeds).values()
    (expected,) = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"]).run(
        None, {i: feeds[i] for i in feeds}
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_casts_of_this_onnx_runtime_round():
    check_rounding()


@functools.cache
def half_of(name):
    """The model in torch's half precision, on the CPU: LayerNorm and softmax in float16 outside, their sums in float32."""
    return copy.deepcopy(tiny.source(name).module).half()


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_model_is_as_far_from_float32_as_torchs_half_is(tmp_path, name):
    """Torch rounds in other places (inside LayerNorm and softmax), so both are compared with float32, and must not be far from each other."""
    source = tiny.source(name)
    (exported,) = tiny.exported(name).graphs
    rows = tiny.rows(source, tiny.TEXTS)
    feeds = [loop.collate(exported.signature, [row]) for row in rows]
    (graph,) = float16.quantize(
        tiny.exported(name), Calibration(feeds), Quantization(embeddings="float32"), tmp_path / "half", silent
    ).graphs
    path = emulate(graph.path, tmp_path / "emulated")
    engine = backends.get("onnxruntime").open_device("reference", 1).load(path, graph.signature)
    got = np.concatenate([engine.run(f)["logits"] for f in feeds])
    exact = np.concatenate([tiny.torch_logits(source, f) for f in feeds])
    with torch.inference_mode():
        halves = np.concatenate(
            [half_of(name)(**{n: torch.from_numpy(a) for n, a in f.items()}).logits.float().numpy() for f in feeds]
        )
    spread = np.ptp(exact)
    assert 0 < np.abs(got - exact).max() <= 2.0**-7 * spread
    assert np.abs(got - halves).max() <= 2.0**-6 * spread
    assert np.array_equal(got, got.astype(np.float16).astype(np.float32)), "the last result is a float16 too"


@pytest.mark.parametrize(
    ("method", "low"), [(float16, ir.DataType.FLOAT16), (bfloat16, ir.DataType.BFLOAT16)], ids=["float16", "bfloat16"]
)
def test_every_result_of_a_lowered_node_is_rounded_and_no_other(tmp_path, method, low):
    """LayerNormalization and Softmax stay in float32, where the graph says so."""
    (exported,) = tiny.exported("bert").graphs
    feeds = [loop.collate(exported.signature, tiny.rows(tiny.source("bert"), tiny.TEXTS)[:4])]
    (graph,) = method.quantize(
        tiny.exported("bert"), Calibration(feeds), Quantization(), tmp_path / "typed", silent
    ).graphs
    path = emulate(graph.path, tmp_path / "emulated")
    made = load(path).graph
    assert not [v.name for v in made.initializers.values() if v.dtype == low], "no kernel of a CPU takes them"
    rounds = [n for n in made if n.op_type == "Cast" and n.attributes["to"].as_int() == low]
    assert all([u.node.op_type for u in n.outputs[0].uses()] == ["Cast"] for n in rounds)
    rounded = {n.inputs[0].producer().op_type for n in rounds if n.inputs[0].producer() is not None}
    assert {"MatMul", "Add", "Gelu", "Cast"} <= rounded
    assert not {"LayerNormalization", "Softmax"} & rounded
    answers = run(path, feeds[0])["logits"]
    expected = tiny.torch_logits(tiny.source("bert"), feeds[0])
    assert 0 < np.abs(answers - expected).max() <= {float16: 2.0**-7, bfloat16: 2.0**-4}[method] * np.ptp(expected)
    # What is written is what is run: an optimizer that took a pair of casts away would give the answers of the float32 graph.
    for value in made.initializers.values():
        assert constant(value) is not None
