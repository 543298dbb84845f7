"""What ONNX Runtime tells of the layers of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import refused

from edgekit import backends
from edgekit.spec.tensor import Signature, TensorSpec


@pytest.fixture
def engine(tmp_path):
    """One step that adds a word to a memory: ``total`` is ``past`` and one more."""
    signature = Signature(
        "step",
        (
            TensorSpec("memory", "float32", ("past", 3)),
            TensorSpec("word", "float32", (1, 3)),
            TensorSpec("mask", "float32", ("total", 3)),
        ),
        (TensorSpec("after", "float32", ("total", 3)),),
    )
    nodes = [
        helper.make_node("Concat", ["memory", "word"], ["joined"], axis=0),
        helper.make_node("Add", ["joined", "mask"], ["seen"]),
        helper.make_node("MatMul", ["seen", "weight"], ["after"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    )
    graph = helper.make_graph(
        nodes, "step", inputs, outputs, [numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "step.onnx"
    )
    return backends.get("onnxruntime").open_device("cpu", 1).load(tmp_path / "step.onnx", signature)


def test_sizes_that_hang_together_are_those_of_a_call(engine):
    assert engine.precisions() == [], "nothing is known of them yet"
    feeds = {
        "memory": np.ones((2, 3), np.float32),
        "word": np.ones((1, 3), np.float32),
        "mask": np.zeros((3, 3), np.float32),
    }
    with refused("graph-run-failed", "step.onnx"):
        engine.run({**feeds, "mask": feeds["mask"][:2]})
    assert engine.precisions() == [], "a call that failed tells nothing"
    assert engine.run(feeds)["after"].tolist() == [[1] * 3] * 3
    assert engine.precisions() == ["float32"]
