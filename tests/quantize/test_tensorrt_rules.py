"""Rules of TensorRT by version, each on a graph of its own; what newer parsers take as well is asked of TensorRT-RTX's."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper, numpy_helper
from refusals import refused

from edgekit.quantize import tensorrt_rules

node = helper.make_node
FLOAT, HALF, INT64, UINT8, BOOL = (getattr(onnx.TensorProto, n) for n in ("FLOAT", "FLOAT16", "INT64", "UINT8", "BOOL"))


def saved(path, nodes, constants=None, kind=FLOAT, gives=None, opset=20, rank=3):
    x = helper.make_tensor_value_info("x", kind, ["batch", "sequence", 32])
    y = helper.make_tensor_value_info("y", gives or kind, [f"axis_{i}" for i in range(rank)])
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "case", [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def test_the_releases_are_those_of_the_boards():
    assert tensorrt_rules.RELEASES == ("10.3", "10.16", "11.4")


@pytest.mark.parametrize(
    ("minimum", "expected"),
    [("10.3", ["10.3", "10.16", "11.4"]), ("10.13", ["10.16", "11.4"]), ("11.0", ["11.4"]), ("11.9", ["11.9"])],
)
def test_releases_from_a_minimum_on(minimum, expected, tmp_path):
    assert tensorrt_rules.check(saved(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])]), minimum) == expected


CASES = {
    "operator of no version": (
        [node("Unique", ["x"], ["y"], name="n")],
        {},
        {"rank": 1},
        ("tensorrt-operator", "n", "10.3"),
    ),
    "operator of a later version": (
        [node("Attention", ["x", "x", "x"], ["y"], name="n", q_num_heads=4, kv_num_heads=4)],
        {},
        {"opset": 23},
        ("graph-opset", "23", "10.3", "9", "20"),
    ),
    "opset": (
        [node("Relu", ["x"], ["y"])],
        {},
        {"opset": 21},
        ("graph-opset", "21", "10.3", "9", "20"),
    ),
    "sum of integers": (
        [node("CumSum", ["x", "axis"], ["y"], name="n")],
        {"axis": np.int64(1)},
        {"kind": INT64},
        ("tensorrt-operator", "n", "INT64", "FLOAT"),
    ),
    "clip of integers": (
        [node("Clip", ["x", "low"], ["y"], name="n")],
        {"low": np.int64(0)},
        {"kind": INT64},
        ("tensorrt-operator", "n", "INT64"),
    ),
    "UINT8 table": (
        [node("Gather", ["t", "x"], ["y"], name="n")],
        {"t": np.zeros((8, 4), np.uint8)},
        {"kind": INT64, "gives": UINT8, "rank": 4},
        ("tensorrt-operator", "n", "UINT8", "10.3", "BFLOAT16", "BOOL", "FLOAT", "FLOAT16", "INT32", "INT64"),
    ),
    "axes made at run time": (
        [
            node("Shape", ["x"], ["s"], start=2),
            node("Sub", ["s", "c"], ["axes"]),
            node("Unsqueeze", ["x", "axes"], ["y"], name="n"),
        ],
        {"c": np.array([32], np.int64)},
        {"rank": 4},
        ("tensorrt-operator", "n", "1"),
    ),
    "axes of a mean made at run time": (
        [
            node("Shape", ["x"], ["s"], start=2),
            node("Sub", ["s", "c"], ["axes"]),
            node("ReduceMean", ["x", "axes"], ["y"], name="n"),
        ],
        {"c": np.array([31], np.int64)},
        {},
        ("tensorrt-operator", "n", "1"),
    ),
    "deviation of a norm": (
        [node("LayerNormalization", ["x", "w"], ["z", "", "d"], name="n"), node("Add", ["z", "d"], ["y"])],
        {"w": np.ones(32, np.float32)},
        {},
        ("tensorrt-operator", "n"),
    ),
    "two types in a node": (
        [node("Add", ["x", "c"], ["y"], name="n")],
        {"c": np.ones(32, np.float16)},
        {},
        "graph-types",
    ),
    "large constant": (
        [node("Add", ["x", "c"], ["y"], name="n")],
        {"c": np.array(-3.4e38, np.float32)},
        {},
        ("tensorrt-operator", "n", "c"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule(name, tmp_path):
    nodes, constants, how, words = CASES[name]
    with refused(words):
        tensorrt_rules.check(saved(tmp_path / "model.onnx", nodes, constants, **how), "10.3")


def test_what_came_later_is_taken_where_the_target_says_so(tmp_path):
    path = saved(
        tmp_path / "m.onnx",
        [node("RMSNormalization", ["x", "w"], ["y"], name="n")],
        {"w": np.ones(32, np.float32)},
        opset=23,
    )
    assert tensorrt_rules.check(path, "11.0") == ["11.4"]


def test_the_condition_of_a_where_is_no_number(tmp_path):
    nodes = [node("Greater", ["x", "zero"], ["c"]), node("Where", ["c", "x", "zero"], ["y"])]
    tensorrt_rules.check(saved(tmp_path / "m.onnx", nodes, {"zero": np.float32(0)}), "10.3")


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_exported_graphs_keep_them_all(name):
    """No CumSum and no Clip of integers is left, which RoBERTa, MPNet and DeBERTa have in torch's own export."""
    assert tensorrt_rules.check(tiny.exported(name).graphs[0].path, "10.3") == ["10.3", "10.16", "11.4"]


def test_the_table_is_the_published_one():
    """The matrix of the parser of 10.1 has 150 operators. Left out are 19: control flow, random numbers, and names that are not ONNX's or no model here has."""
    assert len(tensorrt_rules._INPUT_TYPES) == 131
    for name in (
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearMatMul",
        "ConvInteger",
        "Unique",
        "STFT",
        "BitShift",
    ):
        assert name not in tensorrt_rules._INPUT_TYPES
    assert not {
        n for n in tensorrt_rules._INPUT_TYPES if not re.fullmatch("[A-Z][A-Za-z0-9]+", n) or not onnx.defs.has(n)
    }, "names of ONNX"
