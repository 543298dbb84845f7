"""Products of activations and constant weights in each library: graphs of a few equal layers, checked against numpy,
timed on request.

    python benchmarks/_product_sides.py KIND THREADS

A layer is one product ``[rows, inputs] x [inputs, outputs]``; the graph adds up LAYERS of them with weights of
their own, so that weights come from where they come from in a model of some layers. Requests and replies are JSON,
one a line: ``{"inputs": 384, "outputs": 1152, "rows": 26, "seconds": 0.1}``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LAYERS = 6
BLOCK = 32
WORST = 0.02
"""Largest root mean square of the error, as a share of that of the result."""

Run = Callable[[np.ndarray], np.ndarray]
"""Function from activations, float32 ``[rows, inputs]``, to the sum of the products, float32 ``[rows, outputs]``."""


def main() -> None:
    """Answers until standard input is closed."""
    kind, threads = sys.argv[1], int(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(
        1, signal.SIGKILL, 0, 0, 0
    )  # PR_SET_PDEATHSIG: a suspended process cannot see a closed pipe
    replies.write(json.dumps({"version": KINDS[kind][1]()}) + "\n")
    replies.flush()
    ready: dict[tuple[int, int, int], tuple[Run, np.ndarray]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = (request["inputs"], request["outputs"], request["rows"])
        if key not in ready:
            ready[key] = prepare(KINDS[kind][0], threads, *key)
        replies.write(json.dumps(timed(*ready[key], request["seconds"])) + "\n")
        replies.flush()


def prepare(make: Callable[..., Run], threads: int, inputs: int, outputs: int, rows: int) -> tuple[Run, np.ndarray]:
    """Returns a graph and its activations, once its result agrees with numpy.

    Raises:
        ArithmeticError: If it does not.
    """
    rng = np.random.default_rng(inputs * outputs)
    weights = [rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32) for _ in range(LAYERS)]
    x = rng.normal(size=(rows, inputs)).astype(np.float32)
    run = make(weights, rows, threads)
    expected = sum(x.astype(np.float64) @ w for w in weights)
    error = float(np.sqrt(np.mean((run(x) - expected) ** 2) / np.mean(expected**2)))
    if not error < WORST:
        raise ArithmeticError(f"the result of {inputs} x {outputs} at {rows} rows is off by {error:.3g} of its size")
    return run, x


def timed(run: Run, x: np.ndarray, seconds: float) -> dict[str, Any]:
    """Returns the calls in a time and their mean seconds, after two that are not counted."""
    run(x)
    run(x)
    calls, began = 0, time.perf_counter()
    while True:
        run(x)
        calls += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return {"calls": calls, "seconds": passed}


def quantize(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns symmetric INT8 weights and the scale of each output."""
    scale = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    return np.clip(np.round(weights / scale), -127, 127).astype(np.int8), scale


def onnx_model(weights: list[np.ndarray], layer: Callable[[int, np.ndarray], tuple[list[Any], list[Any]]]) -> bytes:
    """Returns a model whose output is the sum of layers. A layer's result is named ``yINDEX``."""
    from onnx import TensorProto, helper

    nodes, constants = [], []
    for index, one in enumerate(weights):
        more, values = layer(index, one)
        nodes += more
        constants += values
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(len(weights))], ["y"]))
    inputs, outputs = weights[0].shape
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def float_layer(index: int, weights: np.ndarray) -> tuple[list[Any], list[Any]]:
    """A product in float32."""
    from onnx import helper, numpy_helper

    return [helper.make_node("MatMul", ["x", f"w{index}"], [f"y{index}"])], [
        numpy_helper.from_array(weights, f"w{index}")
    ]


def dynamic_layer(index: int, weights: np.ndarray) -> tuple[list[Any], list[Any]]:
    """ONNX Runtime's product that quantizes its input, by tensor, as it runs."""
    from onnx import helper, numpy_helper

    values, scale = quantize(weights)
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["x", f"w{index}", f"s{index}"], [f"y{index}"], domain="com.microsoft"
    )
    return [node], [numpy_helper.from_array(values, f"w{index}"), numpy_helper.from_array(scale, f"s{index}")]


def blocks_layer(index: int, weights: np.ndarray) -> tuple[list[Any], list[Any]]:
    """ONNX Runtime's product with INT8 weights in blocks, input quantized by row and block (level 4)."""
    from onnx import helper, numpy_helper

    inputs, outputs = weights.shape
    blocks = weights.T.reshape(outputs, inputs // BLOCK, BLOCK)
    scale = np.abs(blocks).max(axis=2) / 127
    values = (np.clip(np.round(blocks / scale[..., None]), -127, 127) + 128).astype(np.uint8)
    numbers = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    names = ["x", f"w{index}", f"s{index}"]
    node = helper.make_node("MatMulNBits", names, [f"y{index}"], domain="com.microsoft", **numbers)
    constants = {f"w{index}": values, f"s{index}": scale.astype(np.float32).ravel()}
    return [node], [numpy_helper.from_array(value, name) for name, value in constants.items()]


def weights_layer(index: int, weights: np.ndarray, x: str = "x") -> tuple[list[Any], list[Any]]:
    """A product of float32 activations with weights that are stored as INT8."""
    from onnx import helper, numpy_helper

    values, scale = quantize(weights)
    nodes = [
        helper.make_node("DequantizeLinear", [f"w{index}", f"s{index}"], [f"f{index}"], axis=1),
        helper.make_node("MatMul", [x, f"f{index}"], [f"y{index}"]),
    ]
    return nodes, [numpy_helper.from_array(values, f"w{index}"), numpy_helper.from_array(scale, f"s{index}")]


def static_layer(index: int, weights: np.ndarray) -> tuple[list[Any], list[Any]]:
    """A product whose input has a range that is known beforehand: here that of a normal distribution."""
    from onnx import helper, numpy_helper

    numbers = [f"a{index}", f"z{index}"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *numbers], [f"q{index}"]),
        helper.make_node("DequantizeLinear", [f"q{index}", *numbers], [f"d{index}"]),
    ]
    more, constants = weights_layer(index, weights, f"d{index}")
    constants += [
        numpy_helper.from_array(np.float32(9 / 255), numbers[0]),
        numpy_helper.from_array(np.uint8(128), numbers[1]),
    ]
    return [*nodes, *more], constants


def onnxruntime_kind(layer: Callable[..., Any]) -> Callable[..., Run]:
    """Returns what makes a session of ONNX Runtime."""

    def make(weights: list[np.ndarray], rows: int, threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        model = onnx_model(weights, layer)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]

    return make


def openvino_kind(layer: Callable[..., Any], **settings: str) -> Callable[..., Run]:
    """Returns what makes a model of OpenVINO with static shapes."""

    def make(weights: list[np.ndarray], rows: int, threads: int) -> Run:
        import openvino

        core = openvino.Core()
        model = core.read_model(onnx_model(weights, layer))
        model.reshape({"x": [rows, weights[0].shape[0]]})
        base = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        request = core.compile_model(model, "CPU", base | settings).create_infer_request()
        return lambda x: request.infer([x], share_inputs=True)[0]

    return make


def litert_kind(make_file: Callable[[list[np.ndarray]], bytes]) -> Callable[..., Run]:
    """Returns what makes an interpreter of LiteRT."""

    def make(weights: list[np.ndarray], rows: int, threads: int) -> Run:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=make_file(weights), num_threads=threads)
        source = interpreter.get_input_details()[0]["index"]
        result = interpreter.get_output_details()[0]["index"]
        interpreter.resize_tensor_input(source, [rows, weights[0].shape[0]])
        interpreter.allocate_tensors()

        def run(x: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(source, x)
            interpreter.invoke()
            return interpreter.get_tensor(result)

        return run

    return make


def litert_file(weights: list[np.ndarray], int8: bool) -> bytes:
    """Returns a .tflite file: fully connected layers, and additions of their results."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    inputs, outputs = weights[0].shape
    kinds = schema.TensorType
    buffers, tensors, operators = [schema.BufferT()], [], []

    def tensor(
        shape: tuple[int, ...], kind: int, data: np.ndarray | None = None, scale: np.ndarray | None = None
    ) -> int:
        one = schema.TensorT()
        one.shape, one.type, one.buffer = list(shape), kind, 0
        if data is not None:
            stored = schema.BufferT()
            stored.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            buffers.append(stored)
            one.buffer = len(buffers) - 1
        if scale is not None:
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale = scale
            one.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            one.quantization.quantizedDimension = 0
        tensors.append(one)
        return len(tensors) - 1

    def operator(code: int, sources: list[int], kind: int, options: Any) -> int:
        result = tensor((1, outputs), kinds.FLOAT32)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = code, sources, [result]
        one.builtinOptionsType, one.builtinOptions = kind, options
        operators.append(one)
        return result

    source = tensor((1, inputs), kinds.FLOAT32)
    products: list[int] = []
    for one in weights:
        values, scale = quantize(one)
        constant = tensor((outputs, inputs), kinds.INT8, values.T, scale) if int8 else -1
        if not int8:
            constant = tensor((outputs, inputs), kinds.FLOAT32, one.T)
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.asymmetricQuantizeInputs = int8
        product = operator(0, [source, constant, -1], schema.BuiltinOptions.FullyConnectedOptions, options)
        products.append(product)
    total = products[0]
    for product in products[1:]:
        total = operator(1, [total, product], schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    codes = []
    # Version 9 is the first with dynamic ranges by output; XNNPACK leaves version 8 to slower kernels.
    for code, version in ((schema.BuiltinOperator.FULLY_CONNECTED, 9 if int8 else 1), (schema.BuiltinOperator.ADD, 1)):
        one = schema.OperatorCodeT()
        one.builtinCode, one.deprecatedBuiltinCode, one.version = code, code, version
        codes.append(one)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [source], [total]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, codes, [graph], buffers
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def version(package: str) -> Callable[[], str]:
    """Returns what tells the version of a package, or fails where it is not installed."""
    from importlib import metadata

    return lambda: f"{package} {metadata.version(package)}"


_ORT, _OV, _LITERT = version("onnxruntime"), version("openvino"), version("ai-edge-litert")
_F32 = {"INFERENCE_PRECISION_HINT": "f32"}
KINDS: dict[str, tuple[Callable[..., Run], Callable[[], str]]] = {
    "ONNX Runtime DynamicQuantizeMatMul": (onnxruntime_kind(dynamic_layer), _ORT),
    "ONNX Runtime MatMulNBits 8": (onnxruntime_kind(blocks_layer), _ORT),
    "ONNX Runtime float32": (onnxruntime_kind(float_layer), _ORT),
    "OpenVINO static INT8": (openvino_kind(static_layer, **_F32), _OV),
    "OpenVINO INT8 weights, dynamic": (openvino_kind(weights_layer, DYNAMIC_QUANTIZATION_GROUP_SIZE="32", **_F32), _OV),
    "OpenVINO INT8 weights, float32": (openvino_kind(weights_layer, DYNAMIC_QUANTIZATION_GROUP_SIZE="0", **_F32), _OV),
    "OpenVINO float32": (openvino_kind(float_layer, **_F32), _OV),
    "OpenVINO bfloat16": (openvino_kind(float_layer, INFERENCE_PRECISION_HINT="bf16"), _OV),
    "LiteRT INT8, dynamic by row": (litert_kind(lambda weights: litert_file(weights, True)), _LITERT),
    "LiteRT float32": (litert_kind(lambda weights: litert_file(weights, False)), _LITERT),
}


if __name__ == "__main__":
    main()
