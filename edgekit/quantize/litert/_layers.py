"""Lowering of the operators that take the time: products, look-ups, normalization, attention's softmax, activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer
from edgekit.quantize.litert._lowering import Lowering, table
from edgekit.quantize.litert._sizes import Size

# The first version with INT8 weights per channel and a float32 activation. Version 8 loads and computes the same, but
# XNNPACK leaves the operator out without a word.
_INT8_FULLY_CONNECTED = 9
_BLOCKS_FULLY_CONNECTED = 13  # The first version with INT4 weights in blocks.
_INT8_ROWS_LOOKUP = 4  # The first version with a scale for each row.


@table.add("FullyConnected", data=(0,))
def fully_connected(graph: Lowering, node: ir.Node) -> None:
    """Lower a linear layer. An INT8 or INT4 weight makes XNNPACK quantize the activation at run time, row by row."""
    x, weight = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    dequantize = find_producer(weight, "DequantizeLinear")
    array = constant(weight if dequantize is None else dequantize.inputs[0])
    scales = None if dequantize is None else constant(dequantize.inputs[1])
    assert array is not None
    is_transposed = bool(node.attributes["transposed"].as_int())
    if not is_transposed:
        array = array.T
    version = 1 if scales is None else _INT8_FULLY_CONNECTED
    if scales is not None and scales.ndim == 2:
        if is_transposed:
            raise graph.refuse(node, "a weight in blocks along its outputs")
        version = _BLOCKS_FULLY_CONNECTED
        weights = graph.file.blocks(array, scales.T.astype(np.float16))
    else:
        weights = graph.file.constant(array, scales)
    inputs = [graph.tensor(x), weights]
    if bias is not None:
        inputs.append(graph.tensor(bias))
    graph.operator(
        "FULLY_CONNECTED", inputs, node, version, keepNumDims=True, asymmetricQuantizeInputs=scales is not None
    )


@table.add("BatchMatMul")
def batch_matmul(graph: Lowering, node: ir.Node) -> None:
    """Lower a product of two activations."""
    inputs = [graph.tensor(value) for value in node.inputs]
    graph.operator("BATCH_MATMUL", inputs, node, adjY=bool(node.attributes["adjoint"].as_int()))


@table.add("EmbeddingLookup", data=(2,))
def embedding_lookup(graph: Lowering, node: ir.Node) -> None:
    """Lower a look-up in a table of INT8 rows, each with a scale; the operator takes a vector of ids."""
    rows = constant(node.inputs[0])
    scales = constant(node.inputs[1])
    ids = node.inputs[2]
    assert rows is not None
    assert scales is not None
    shape = graph.shape(node.outputs[0])
    count = Size(0)
    if ids is None:
        sizes = graph.observed.sizes(node.inputs[3])
        count = shape[0]
        flat = graph.positions(sizes[0] if sizes else count)
    else:
        flat = graph.temporary([count], np.int32)
        graph.reshape(graph.tensor(ids), [count], node, flat)
    table_tensor = graph.file.constant(rows, scales)
    looked_up = graph.step("EMBEDDING_LOOKUP", [flat, table_tensor], [count, shape[-1]], _INT8_ROWS_LOOKUP)
    if len(shape) == 2:
        graph.alias(node, looked_up)
    else:
        graph.reshape(looked_up, shape, node, graph.output(node))


@table.add("LayerNormalization")
def layer_normalization(graph: Lowering, node: ir.Node) -> None:
    """Lower a normalization of the last axis to means, differences and a reciprocal root."""
    value = node.inputs[0]
    shape = graph.shape(value)
    if node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1) or len(node.outputs) > 1:
        raise graph.refuse(node, "an axis other than the last, or a second output")
    row = [*shape[:-1], Size(1)]
    last = graph.vector([len(shape) - 1])
    x = graph.tensor(value)
    mean = graph.step("MEAN", [x, last], row, keepDims=True)
    centred = graph.step("SUB", [x, mean], shape)
    squares = graph.step("MUL", [centred, centred], shape)
    variance = graph.step("MEAN", [squares, last], row, keepDims=True)
    epsilon = graph.array(np.array([node.attributes.get_float("epsilon", 1e-5)], np.float32))
    deviation = graph.step("RSQRT", [graph.step("ADD", [variance, epsilon], row)], row)
    normal = graph.step("MUL", [centred, deviation], shape)
    weight = graph.tensor(node.inputs[1])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        scaled = graph.step("MUL", [normal, weight], shape)
        graph.operator("ADD", [scaled, graph.tensor(node.inputs[2])], node)
    else:
        graph.operator("MUL", [normal, weight], node)


@table.add("Softmax")
def softmax(graph: Lowering, node: ir.Node) -> None:
    """Lower a softmax over the last axis."""
    if node.attributes.get_int("axis", -1) not in (-1, graph.rank(node.inputs[0]) - 1):
        raise graph.refuse(node, "an axis other than the last")
    graph.operator("SOFTMAX", [graph.tensor(node.inputs[0])], node, beta=1.0)


@table.add("Gelu")
def gelu(graph: Lowering, node: ir.Node) -> None:
    """Lower a GELU of either form."""
    approximate = node.attributes.get_string("approximate", "none") == "tanh"
    graph.operator("GELU", [graph.tensor(node.inputs[0])], node, approximate=approximate)
