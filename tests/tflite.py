"""Small ``.tflite`` files, written by hand with LiteRT's own schema: what EdgeKit's writer does not know of.

python tests/tflite.py    # write the graph of the backend's self-test anew
"""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.backends import _litert_selftest as selftest

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int4": schema.TensorType.INT4,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int8": schema.TensorType.INT8,
}


class Graph:
    """A graph of one subgraph and one signature; ``None`` in a shape is an axis of any size."""

    def __init__(self):
        self.tensors = []
        self.buffers = [schema.BufferT()]
        self.operators = []
        self.codes = []

    def tensor(self, name, shape, dtype="float32", data=None, scales=None, axis=0):
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = [1 if size is None else size for size in shape]
        if None in shape:
            tensor.shapeSignature = [-1 if size is None else size for size in shape]
        tensor.type = TYPES[dtype]
        tensor.buffer = 0
        if data is not None:
            content = schema.BufferT()
            content.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(content)
            tensor.buffer = len(self.buffers) - 1
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
            tensor.quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name, array, **rest):
        return self.tensor(name, array.shape, array.dtype.name, array, **rest)

    def operator(self, code, inputs, outputs, version=1, kind=0, options=None, custom=None):
        opcode = schema.OperatorCodeT()
        opcode.builtinCode = code
        opcode.deprecatedBuiltinCode = min(code, 127)
        opcode.version = version
        if custom:
            opcode.customCode = custom.encode()
        self.codes.append(opcode)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        operator.inputs = list(inputs)
        operator.outputs = list(outputs)
        operator.builtinOptionsType = kind
        operator.builtinOptions = options
        self.operators.append(operator)

    def linear(self, source, weights, target, bias=None, scales=None, version=None):
        """FULLY_CONNECTED of weights ``[outputs, inputs]``; INT8 with one scale per output channel if there are scales."""
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.asymmetricQuantizeInputs = scales is not None
        inputs = [source, self.constant("weights", weights, scales=scales), -1]
        if bias is not None:
            inputs[2] = self.constant("bias", bias)
        code = schema.BuiltinOperator.FULLY_CONNECTED
        kind = schema.BuiltinOptions.FullyConnectedOptions
        self.operator(code, inputs, [target], version or (1 if scales is None else 9), kind, options)

    def linear_blocks(self, source, values, scales, target):
        """FULLY_CONNECTED of INT4 weights ``[outputs, inputs]`` with scales ``[outputs, blocks]``, without a bias."""
        nibbles = values.astype(np.uint8).reshape(-1, 2) & 15
        weights = self.tensor("weights", values.shape, "int4", nibbles[:, 0] + 16 * nibbles[:, 1])
        details = schema.BlockwiseQuantizationT()
        details.scales = self.constant("scales", scales.astype(np.float16))
        details.zeroPoints = -1
        details.blockSize = values.shape[1] // scales.shape[1]
        quantization = schema.QuantizationParametersT()
        quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        quantization.details = details
        self.tensors[weights].quantization = quantization
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.asymmetricQuantizeInputs = True
        kind = schema.BuiltinOptions.FullyConnectedOptions
        self.operator(schema.BuiltinOperator.FULLY_CONNECTED, [source, weights, -1], [target], 13, kind, options)

    def add(self, first, second, target):
        kind = schema.BuiltinOptions.AddOptions
        self.operator(schema.BuiltinOperator.ADD, [first, second], [target], 1, kind, schema.AddOptionsT())

    def content(self, inputs, outputs, key="forward", version=3, identifier=b"TFL3", subgraphs=1):
        """Bytes of the file. Inputs and outputs are indices of tensors; the signature has their names."""
        graph = schema.SubGraphT()
        graph.tensors = self.tensors
        graph.operators = self.operators
        graph.inputs = list(inputs)
        graph.outputs = list(outputs)
        graph.name = b"main"
        model = schema.ModelT()
        model.version = version
        model.operatorCodes = self.codes
        model.subgraphs = [graph] * subgraphs
        model.buffers = self.buffers
        model.description = b""
        if key:
            entry = schema.SignatureDefT()
            entry.signatureKey = key.encode()
            entry.subgraphIndex = 0
            entry.inputs = self._names(inputs)
            entry.outputs = self._names(outputs)
            model.signatureDefs = [entry]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), identifier)
        return bytes(builder.Output())

    def _names(self, indices):
        pairs = []
        for index in indices:
            pair = schema.TensorMapT()
            pair.name = self.tensors[index].name
            pair.tensorIndex = index
            pairs.append(pair)
        return pairs


def layer(operator=9, key="forward", **rest) -> bytes:
    """Graph of the backend's self-test: one INT8 layer."""
    graph = Graph()
    rows = graph.tensor("rows", (None, selftest.INPUTS))
    products = graph.tensor("products", (None, selftest.OUTPUTS))
    weights, scales = selftest.layer()
    graph.linear(rows, weights, products, scales=scales, version=operator)
    return graph.content([rows], [products], key, **rest)


def blocks(outputs=8, inputs=64, size=32) -> bytes:
    """A graph of one layer with INT4 weights in blocks."""
    random = np.random.default_rng(5)
    graph = Graph()
    rows = graph.tensor("rows", (None, inputs))
    values = random.integers(-8, 8, (outputs, inputs)).astype(np.int8)
    scales = random.uniform(0.5, 2.0, (outputs, inputs // size))
    products = graph.tensor("products", (None, outputs))
    graph.linear_blocks(rows, values, scales, products)
    return graph.content([rows], [products])


if __name__ == "__main__":
    Path(selftest.GRAPH).write_bytes(layer())
