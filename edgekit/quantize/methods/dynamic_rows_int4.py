"""INT4 weights in blocks of 32 inputs, and activations quantized to INT8 at run time, row by row: a form for LiteRT.

Each weight is an INT4 constant behind a ``DequantizeLinear`` with a block size (opset 21). The scales are searched on
the calibration rows (``_blocks``). XNNPACK, the CPU kernels of LiteRT, multiplies the levels with an INT8 activation
that has a range for each row, as with ``dynamic_rows``. Layers whose number of inputs is no multiple of 32 have INT8
weights, and so have those that ``keep_int8`` names; embedding tables are stored in 8 bits.

The weights of linear layers take half the space of ``dynamic_rows``. A product of one row took about the same time,
and products of more rows took longer, where unpacking the weights costs time. Speed relative to INT8 weights, XNNPACK
of LiteRT 2.3.0 on x86 with AVX-512 VNNI, one thread, weights in the cache, best of 25 turns on a busy machine by hand,
so indicative (``benchmarks/int4_blocks.py`` measures the same):

    layer          1 row    26 rows    128 rows
    384 x 1536     1.0      0.64       0.69
    768 x 3072     1.1      0.63       0.68
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize._blocks import BLOCK, is_blockable, quantize_blocks
from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import Linear, constant, initializer, insert_dequantize, layer_names, linears, rewrite
from edgekit.quantize.litert import fold_scales
from edgekit.quantize.methods.weight_only import quantize_weights
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "REVERTS_TO", "quantize"]

BACKENDS = ("litert",)
NEEDS_SAMPLES = 1
PRECISIONS = ("int8",)
REVERTS_TO = "keep_int8"

_OPSET = 21  # The first one with INT4 and with a block size.
_IR_VERSION = 10  # The first one with INT4.


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write each graph with INT4 weights for products whose activations the backend quantizes row by row.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Feeds, which show how large the inputs of each layer are.
        settings: ``keep_float``, ``keep_int8`` and ``embeddings``. ``weight_bits`` has no effect: the kernels do not
            saturate.
        out: Folder for the new graphs.
        progress: Progress callback, called after each calibration batch and after each graph.

    Raises:
        QuantizeError: An activation is NaN or infinite; the message names its node.
    """

    def change(graph: Graph, model: ir.Model, float_layers: set[str]) -> dict[str, str]:
        feeds = calibration.of(graph.signature.name)
        histograms = feeds.measure(model, progress, key=f"{graph.path} some off", searching=True)
        squares = {name: histogram.squares / histogram.seen for name, histogram in histograms.items()}
        # The writer would do so later. A scale that it multiplies would no longer be a number of bfloat16.
        fold_scales(model.graph)
        int8_layers = layer_names(model.graph, settings.keep_int8) - float_layers
        _store_blocks(model, squares, float_layers | int8_layers)
        quantize_weights(model.graph, float_layers)
        quantize_embeddings(model.graph, settings.embeddings)
        recipe = {
            "weights": f"4 bit in blocks of {BLOCK}",
            "activations": "int8 by row",
            "embeddings": settings.embeddings,
        }
        if int8_layers:
            recipe["keep_int8"] = ", ".join(sorted(int8_layers))
        return recipe

    return rewrite(graphs, settings, out, "dynamic_rows_int4", change, progress)


def _store_blocks(model: ir.Model, squares: dict[str, np.ndarray], others: set[str]) -> None:
    """Replace the weights that can be stored in blocks by INT4 constants and a DequantizeLinear, in place.

    Args:
        model: Float32 model.
        squares: Mean square of each channel of an activation, by its name.
        others: Names of the layers that have another form.
    """
    readers: dict[ir.Value, list[Linear]] = {}
    for layer in linears(model.graph):
        weight = constant(layer.weight)
        if layer.name not in others and weight is not None and is_blockable(weight):
            readers.setdefault(layer.weight, []).append(layer)
    for layers in readers.values():
        # Layers that share a weight (ALBERT) share its blocks.
        mean = np.mean([squares[layer.x.name or ""] for layer in layers], axis=0)
        blocks = _dequantize_blocks(model.graph, layers[0], mean)
        for layer in layers:
            layer.node.replace_input_with(1, blocks)
    if readers:
        model.opset_imports[""] = max(_OPSET, model.opset_imports.get("", 0))
        model.ir_version = max(_IR_VERSION, model.ir_version)


def _dequantize_blocks(graph: ir.Graph, layer: Linear, squares: np.ndarray) -> ir.Value:
    """Store a layer's weight in blocks and insert a DequantizeLinear before the layer.

    Args:
        graph: Graph to change in place.
        layer: Linear layer; its input is not reconnected.
        squares: Mean square of each input.

    Returns:
        Output of the DequantizeLinear.
    """
    weight = constant(layer.weight)
    assert weight is not None
    label = layer.weight.name or f"{layer.name}.weight"
    values, scales = quantize_blocks(weight, squares)
    inputs = [
        initializer(graph, f"{label}_int4", values.astype(ir.DataType.INT4.numpy())),
        initializer(graph, f"{label}_scale", scales),
    ]
    return insert_dequantize(graph, layer, inputs, label, axis=0, block_size=BLOCK)
