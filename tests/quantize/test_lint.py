"""What TensorRT refuses in a quantized graph: each rule on a graph of its own, and TensorRT's own parser where it is installed.

``tensorrt`` in a case is what TensorRT-RTX 1.7.1 says (parser, then builder; neither needs a GPU). ``pip install --no-deps
tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings`` makes the last test ask it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from onnx import helper, numpy_helper
from refusals import refused

from edgekit.quantize.methods import dynamic
from edgekit.quantize.tensorrt_rules import lint

node = helper.make_node
WEIGHT = np.random.default_rng(0).integers(-127, 128, (32, 32)).astype(np.int8)
STEP = np.array(0.02, np.float32)


def with_one(value):
    """Scales of 32 channels, one of them ``value``."""
    scales = np.full(32, 0.01, np.float32)
    scales[3] = value
    return scales


def pair(**other):
    """x -> Q -> DQ -> MatMul(DQ(weight)) -> Add(bias), with parts replaced."""
    x = {"axis": other["x_axis"]} if "x_axis" in other else {}
    constants = {
        "x_scale": STEP,
        "x_zero": np.array(0, np.int8),
        "weight": WEIGHT,
        "scales": np.full(32, 0.01, np.float32),
        "zeros": np.zeros(32, np.int8),
        "bias": np.ones(32, np.float32),
    }
    constants |= {k: v for k, v in other.items() if k != "x_axis"}
    given = [n for n in ("x_scale", "x_zero") if constants[n] is not None]
    nodes = [
        node("QuantizeLinear", ["x", *given], ["q"], name="quantize", **x),
        node("DequantizeLinear", ["q", *given], ["restored"], name="restore", **x),
        node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], name="restore_weight", axis=1),
        node("MatMul", ["restored", "w"], ["product"], name="product"),
        node("Add", ["product", "bias"], ["y"], name="add"),
    ]
    return nodes, {k: v for k, v in constants.items() if v is not None}


def quantized_bias():
    nodes, constants = pair()
    constants |= {"bias": np.ones(32, np.int32), "bias_scales": np.full(32, 1e-4, np.float32)}
    nodes.insert(0, node("DequantizeLinear", ["bias", "bias_scales"], ["b"], name="restore_bias", axis=0))
    nodes[-1].input[1] = "b"
    return nodes, constants


def pairs_of_weight():
    """The weight in float, behind a QuantizeLinear of its own: the form for TensorRT 8."""
    nodes, constants = pair()
    constants["weight"] = WEIGHT.astype(np.float32)
    nodes.insert(0, node("QuantizeLinear", ["weight", "scales", "zeros"], ["wq"], name="quantize_weight", axis=1))
    nodes[3].input[0] = "wq"
    return nodes, constants


def run_time_scale():
    nodes, constants = pair()
    del constants["x_scale"]
    return [node("Abs", ["x"], ["a"]), node("ReduceMax", ["a"], ["x_scale"], keepdims=0), *nodes], constants


def of_other_domain():
    nodes, constants = pair()
    nodes[-1].output[0] = "z"
    return [*nodes, node("Gelu", ["z"], ["y"], name="gelu", domain="com.microsoft")], constants


def measured_at_run_time():
    return [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="measure"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], name="restore"),
    ], {}


def integer_product():
    nodes = [
        node("Cast", ["x"], ["q"], to=ir.DataType.INT8),
        node("MatMulInteger", ["q", "weight"], ["i"], name="integers"),
        node("Cast", ["i"], ["y"], to=ir.DataType.FLOAT),
    ]
    return nodes, {"weight": WEIGHT}


def quantized_operator():
    parts = ["s", "z"]
    nodes = [
        node("QuantizeLinear", ["x", *parts], ["q"], name="quantize"),
        node("QLinearMatMul", ["q", *parts, "weight", *parts, *parts], ["r"], name="integers"),
        node("DequantizeLinear", ["r", *parts], ["y"], name="restore"),
    ]
    return nodes, {"s": STEP, "z": np.array(0, np.int8), "weight": WEIGHT}


def integers_in_use():
    return [node("Cast", ["weight"], ["w"], name="cast", to=ir.DataType.FLOAT), node("MatMul", ["x", "w"], ["y"])], {
        "weight": WEIGHT
    }


def added(value):
    return [node("Add", ["x", "c"], ["y"], name="add")], {"c": np.array(value, np.float32)}


@dataclass
class Case:
    """A graph, the node and the words of the refusal (None: taken), and whether TensorRT-RTX takes it."""

    graph: tuple[Any, Any]
    node: str | None
    words: tuple[str, ...] = ()
    tensorrt: bool = False
    opset: int = field(default=20)


CASES = {
    "plain": Case(pair(), None, tensorrt=True),
    "weight in float": Case(pairs_of_weight(), None, tensorrt=True),
    "scale in a list of one": Case(pair(x_scale=STEP[None], x_zero=np.zeros(1, np.int8)), None, tensorrt=True),
    "one scale for a weight": Case(pair(scales=STEP, zeros=np.array(0, np.int8)), None, tensorrt=True),
    "largest float16": Case(added(-65504), None, tensorrt=True),
    "zero point of activation": Case(pair(x_zero=np.array(3, np.int8)), "quantize", ("zero point", "ymmetric")),
    "zero point of weight": Case(
        pair(zeros=np.eye(32, dtype=np.int8)[0]), "restore_weight", ("zero point", "ymmetric")
    ),
    "scale 0": Case(pair(x_scale=np.array(0, np.float32)), "quantize", ("positive",)),
    "scale negative": Case(pair(x_scale=-STEP), "quantize", ("positive",)),
    "scale NaN": Case(pair(x_scale=np.array(np.nan, np.float32)), "quantize", ("finite",)),
    "scale infinite": Case(pair(x_scale=np.array(np.inf, np.float32)), "quantize", ("finite",), tensorrt=True),
    "channel of scale 0": Case(pair(scales=with_one(0)), "restore_weight", ("positive", "small")),
    "channel of scale NaN": Case(pair(scales=with_one(np.nan)), "restore_weight", ("finite",)),
    "scale made at run time": Case(run_time_scale(), "quantize", ("run time", "calibration"), tensorrt=True),
    "UINT8 activation": Case(pair(x_zero=np.array(0, np.uint8)), "quantize", ("UINT8", "INT8"), tensorrt=True),
    "UINT8 with an offset": Case(pair(x_zero=np.array(128, np.uint8)), "quantize", ("UINT8",)),
    "UINT8 for want of a zero point": Case(pair(x_zero=None), "quantize", ("UINT8",), tensorrt=True),
    "UINT8 weight": Case(
        pair(weight=WEIGHT.astype(np.uint8), zeros=np.zeros(32, np.uint8)), "restore_weight", ("UINT8",)
    ),
    "INT16 activation": Case(pair(x_zero=np.array(0, np.int16)), "quantize", ("INT16",), opset=21),
    "too few scales": Case(
        pair(scales=np.full(16, 0.01, np.float32), zeros=np.zeros(16, np.int8)),
        "restore_weight",
        ("16 scales", "[32, 32]"),
    ),
    "per-axis activation": Case(
        pair(x_scale=np.full(32, 0.02, np.float32), x_zero=np.zeros(32, np.int8), x_axis=2),
        "quantize",
        ("one scale",),
        tensorrt=True,
    ),
    "quantized bias": Case(quantized_bias(), "restore_bias", ("bias", "float")),
    "operator of another domain": Case(of_other_domain(), "gelu", ("com.microsoft", "standard"), tensorrt=True),
    "DynamicQuantizeLinear": Case(measured_at_run_time(), "measure", ("QuantizeLinear",)),
    "MatMulInteger": Case(integer_product(), "integers", ("QuantizeLinear",)),
    "QLinearMatMul": Case(quantized_operator(), "integers", ("QuantizeLinear",)),
    "INT8 constant in use": Case(integers_in_use(), "cast", ("INT8", "DequantizeLinear")),
    "lowest float32": Case(added(-3.4028235e38), "add", ("65504", "-10000"), tensorrt=True),
    "minus infinity": Case(added(-np.inf), "add", ("65504", "-10000"), tensorrt=True),
    "NaN": Case(added(np.nan), "add", ("nan",), tensorrt=True),
}
each = pytest.mark.parametrize("name", CASES)


def model_of(case):
    nodes, constants = case.graph
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", "sequence", 32]) for n in "xy")
    graph = helper.make_graph(nodes, "case", [x], [y], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    domains = {n.domain for n in nodes} | {""}
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(d, case.opset if d == "" else 1) for d in sorted(domains)],
        ir_version=10,
    )


@each
def test_each_rule(name):
    case = CASES[name]
    graph = ir.from_proto(model_of(case)).graph
    if case.node is None:
        lint(graph, "model.onnx")
        return
    with refused("tensorrt-operator") as caught:
        lint(graph, "model.onnx")
    message = str(caught.value)
    assert message.startswith(f"model.onnx: node '{case.node}' (")
    for word in case.words:
        assert word in message


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_exported_graphs_pass(name):
    lint(ir.load(tiny.exported(name).graphs[0].path).graph, "model.onnx")


def test_what_only_onnx_runtime_runs_is_refused():
    model = ir.load(tiny.exported("bert").graphs[0].path)
    model.opset_imports["com.microsoft"] = 1
    dynamic.fuse_linears(model.graph)
    with refused("tensorrt-operator", "bert.encoder.layer.0.attention.self.query_key_value/MatMul"):
        lint(model.graph, "model.onnx")


@each
def test_tensorrt_says_so_too(name):
    """Nothing that lint passes may be refused, and what it refuses on top of TensorRT-RTX is known."""
    tensorrt = pytest.importorskip("tensorrt_rtx_bindings")

    class Quiet(tensorrt.ILogger):
        def __init__(self):
            super().__init__()

        def log(self, severity, message):
            pass

    case, logger = CASES[name], Quiet()
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    taken = tensorrt.OnnxParser(network, logger).parse(model_of(case).SerializeToString())
    if taken:
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("x", (1, 1, 32), (1, 8, 32), (2, 16, 32))
        config.add_optimization_profile(profile)
        taken = builder.build_serialized_network(network, config) is not None
    assert taken is case.tensorrt
