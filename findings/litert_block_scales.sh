#!/bin/sh
# ai-edge-litert 2.3.0, flatbuffers 25.12.19, numpy 2.4.6, x86-64, interpreter with its default delegate XNNPACK.
#
# A .tflite with one FULLY_CONNECTED: float32 activations, INT4 weights in blocks of 32 inputs (BlockwiseQuantization) with a scale each in a FLOAT16 tensor.
# XNNPACK takes the operator, and computes with scales that have 8 binary digits instead of the 11 of float16: it rounds them to bfloat16, to nearest. Nothing
# says so. With scales that are numbers of both types, the result is that of the file to 1e-7; with any others it is off by 1e-3 of the largest output.
# Without XNNPACK, LiteRT's own kernel takes scales as they are.
# Expected: the scales of the file are used as they are, or the documentation of the format names their precision.
#
# Prints the largest difference from numpy as a share of the largest output: for scales of bfloat16 and of float16, from the product with the scales of the file
# and with rounded ones, with and without XNNPACK. The product in numpy has the rows rounded as XNNPACK rounds them: to INT8, asymmetric, one range a row.
# Also prints the type by which the interpreter names the weights: int8. Ends with 0 while all that is so, else with 1.
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
levels = random.integers(-8, 8, (24, 2, 32)).astype(np.int8)
rows = random.standard_normal((5, 64)).astype(np.float32)


def bfloat16(scales):
    """Round to the upper 16 bits of float32, half to even."""
    bits = scales.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def tensor(name, shape, kind, buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    return made


def content(data):
    made = schema.BufferT()
    made.data = np.frombuffer(data.tobytes(), np.uint8)
    return made


def file(scales):
    types = schema.TensorType
    nibbles = levels.reshape(-1, 2).astype(np.uint8) & 15
    weight = tensor(b"weights", [24, 64], types.INT4, 1)
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    weight.quantization.details = schema.BlockwiseQuantizationT()
    weight.quantization.details.scales = 2
    weight.quantization.details.zeroPoints = -1
    weight.quantization.details.blockSize = 32
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 13
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = options.asymmetricQuantizeInputs = True
    node = schema.OperatorT()
    node.inputs, node.outputs = [0, 1, -1], [3]
    node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor(b"rows", [5, 64], types.FLOAT32),
        weight,
        tensor(b"scales", [24, 2], types.FLOAT16, 2),
        tensor(b"products", [5, 24], types.FLOAT32),
    ]
    graph.operators, graph.inputs, graph.outputs = [node], [0], [3]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), content(nibbles[:, 0] | nibbles[:, 1] << 4), content(scales.astype(np.float16))]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(scales, resolver):
    opened = interpreter.Interpreter(model_content=file(scales), experimental_op_resolver_type=resolver)
    opened.allocate_tensors()
    opened.set_tensor(0, rows)
    opened.invoke()
    taken = any(step["op_name"] == "DELEGATE" for step in opened._get_ops_details())
    return opened.get_tensor(3), taken, opened.get_tensor_details()[1]["dtype"]


def product(scales):
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    step = ((high - low) / 255).astype(np.float32)[:, None]
    zero = np.rint(-128 - low[:, None] / step)
    rounded = (np.clip(np.rint(rows / step) + zero, -128, 127) - zero) * step.astype(np.float64)
    return rounded @ (levels * scales.astype(np.float64)[..., None]).reshape(24, 64).T


kinds = interpreter.OpResolverType
of_float16 = (random.uniform(0.5, 2.0, (24, 2)) / 50).astype(np.float16).astype(np.float32)
of_both = bfloat16(of_float16)
found = {}
for name, scales in (("bfloat16", of_both), ("float16", of_float16)):
    for kernel, resolver in (("XNNPACK", kinds.AUTO), ("own kernel", kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES)):
        result, taken, dtype = run(scales, resolver)
        off = [float(np.abs(result - product(used)).max() / np.abs(result).max()) for used in (scales, bfloat16(scales))]
        found[name, kernel] = (taken, off[0] < 1e-6, off[1] < 1e-6, dtype is np.int8)
        print(f"scales of {name:8}, {kernel:10}: off by {off[0]:.1e} from the file, by {off[1]:.1e} from rounded scales; "
              f"weights are {dtype.__name__}, {'delegated' if taken else 'not delegated'}")
expected = {
    ("bfloat16", "XNNPACK"): (True, True, True, True),
    ("bfloat16", "own kernel"): (False, True, True, True),
    ("float16", "XNNPACK"): (True, False, True, True),
    ("float16", "own kernel"): (False, True, False, True),
}
sys.exit(0 if found == expected else 1)
END
