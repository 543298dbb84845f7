"""Lowering of the operators that take the time: products, look-ups, attention's softmax."""

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


@table.add("Softmax")
def softmax(graph: Lowering, node: ir.Node) -> None:
    """Lower a softmax over the last axis, as which an image has its channels."""
    value = node.inputs[0]
    rank = graph.rank(value)
    axis = node.attributes.get_int("axis", -1) % rank
    is_image = axis == 1 != rank - 1 and graph.has_channels_last(value)
    if axis != rank - 1 and not is_image:
        raise graph.refuse(node, "an axis other than the last")
    graph.operator("SOFTMAX", [graph.arranged(value, is_image)], node, is_image=is_image, beta=1.0)
