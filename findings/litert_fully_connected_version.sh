#!/bin/sh
# ai-edge-litert 2.3.0, flatbuffers 25.12.19, numpy 2.4.6, x86-64, interpreter with its default delegate XNNPACK.
#
# A .tflite with one FULLY_CONNECTED: float32 activations, INT8 weights with a scale per output channel. The file states a version for the operator. All versions
# from 1 to 14 load without a message, and all results are right. XNNPACK takes the operator, and quantizes the activation row by row, in every version but 8: there,
# and only there, LiteRT's own kernel computes it. Nothing says so; the list of operators behind the delegate shows it.
# Expected: versions below and above that are taken mean that the one between them is taken, or a message says that the operator is left out.
#
# Prints for each version who computes it, and the largest difference from the product in numpy as a share of the largest output. Ends with 0 while that is so,
# else with 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" - <<'END'
import sys

import flatbuffers
import numpy as np
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

random = np.random.default_rng(0)
weights = random.integers(-127, 128, (24, 64)).astype(np.int8)
scales = (random.uniform(0.5, 2.0, 24) / 500).astype(np.float32)
rows = random.standard_normal((5, 64)).astype(np.float32)
right = rows.astype(np.float64) @ (weights * scales[:, None].astype(np.float64)).T


def tensor(name, shape, kind, buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    return made


def file(version):
    content = schema.BufferT()
    content.data = np.frombuffer(weights.tobytes(), np.uint8)
    weight = tensor(b"weights", [24, 64], schema.TensorType.INT8, 1)
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale = scales
    weight.quantization.zeroPoint = np.zeros(24, np.int64)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = version
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = options.asymmetricQuantizeInputs = True
    node = schema.OperatorT()
    node.inputs, node.outputs = [0, 1, -1], [2]
    node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    graph = schema.SubGraphT()
    floats = schema.TensorType.FLOAT32
    graph.tensors = [tensor(b"rows", [5, 64], floats), weight, tensor(b"products", [5, 24], floats)]
    graph.operators, graph.inputs, graph.outputs = [node], [0], [2]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), content]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


seen = {}
for version in range(1, 15):
    opened = interpreter.Interpreter(model_content=file(version))
    opened.allocate_tensors()
    opened.set_tensor(0, rows)
    opened.invoke()
    off = float(np.abs(opened.get_tensor(2) - right).max() / np.abs(right).max())
    taken = any(step["op_name"] == "DELEGATE" for step in opened._get_ops_details())
    seen[version] = (taken, off)
    print(f"version {version:2}: {'XNNPACK' if taken else 'own kernel'}, largest difference {off:.2g}")
fast = {version for version, (taken, _) in seen.items() if taken}
sys.exit(0 if fast == set(range(1, 15)) - {8} and max(off for _, off in seen.values()) < 0.02 else 1)
END
