"""Graphs written for LiteRT, as Google's interpreter runs them: with XNNPACK, without it, and who takes which operator."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit import backends
from edgekit.quantize import litert
from edgekit.spec.graph import Graph
from edgekit.spec.tensor import Signature, TensorSpec

EQUAL = 2e-5  # of the spread: float32 in another order; measured 3e-6
# Operators that cost time. XNNPACK leaves one out without a word if its version or form is not the one it expects.
COSTLY = {
    *("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D", "SOFTMAX", "GELU", "MEAN", "RSQRT", "TANH"),
    *("TRANSPOSE", "SPLIT", "STRIDED_SLICE", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "PAD"),
}


@functools.cache
def engine_of(graph_path: Path, signature: Signature, backend: str):
    return backends.get(backend).open_device("cpu", 1).load(graph_path, signature)


def operators(path: Path) -> tuple[Counter, Counter, int]:
    """The operators that XNNPACK took and those that it left out, by name; and into how many parts it cut the graph."""
    alone = Interpreter(model_path=str(path), experimental_disable_delegate_node_fusion=True)
    alone.allocate_tensors()
    details = alone._get_ops_details()
    outputs = {tuple(step["outputs"]) for step in details if step["op_name"] == "DELEGATE"}
    taken, left = Counter(), Counter()
    for step in details:
        if step["op_name"] != "DELEGATE":
            (taken if tuple(step["outputs"]) in outputs else left)[step["op_name"]] += 1
    whole = Interpreter(model_path=str(path))
    whole.allocate_tensors()
    return taken, left, sum(step["op_name"] == "DELEGATE" for step in whole._get_ops_details())


def run_without_xnnpack(path: Path, feeds) -> dict[str, np.ndarray]:
    """What TensorFlow Lite's own kernels compute, to which an operator means what the format says."""
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=kernels)
    runner = interpreter.get_signature_runner("forward")
    types = {name: entry["dtype"] for name, entry in runner.get_input_details().items()}
    return runner(**{name: feeds[name].astype(dtype) for name, dtype in types.items()})


def own(folder: Path, text: str, inputs: dict[str, tuple], outputs: dict[str, tuple], **constants) -> Graph:
    """A graph in ONNX's text form, with float32 inputs and outputs, and constants by name."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = folder / "own.onnx"
    onnx.save(model, path)
    specs = [tuple(TensorSpec(name, "float32", shape) for name, shape in part.items()) for part in (inputs, outputs)]
    return Graph(Signature("forward", *specs), path, "float32")


def check_own(graph: Graph, *shapes: tuple[int, ...], batch: int | None = None) -> Path:
    """The file of a graph of one's own, compared with ONNX Runtime for inputs of some shapes."""
    path = graph.path.with_suffix(".tflite")
    litert.write(graph.path, graph.signature, path, batch)
    session = onnxruntime.InferenceSession(str(graph.path))
    engine = backends.get("litert").open_device("cpu", 1).load(path, graph.signature)
    for shape in shapes:
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        (expected,) = session.run(None, {"x": x})
        (answer,) = engine.run({"x": x}).values()
        np.testing.assert_allclose(answer, expected, atol=1e-5)
        (answer,) = run_without_xnnpack(path, {"x": x}).values()
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    return path
