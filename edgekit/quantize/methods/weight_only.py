"""INT8 weights and embedding tables with float activations: a quarter of the size, independent of any samples.

Each weight is an INT8 constant followed by a ``DequantizeLinear`` with one scale per output channel; embedding tables
are dequantized row by row (``_embeddings``). This is the standard form. OpenVINO (weight decompression inside its
kernel) and TensorRT (weight-only quantization; tested with TensorRT-RTX 1.7) keep it in INT8. ONNX Runtime 1.32 turns
it into ``MatMulNBits``, which quantizes activations to INT8 in blocks of 32 at run time (accuracy level 4): there,
activations are not float. OpenVINO could do so too, in groups of a row (``DYNAMIC_QUANTIZATION_GROUP_SIZE``): that is
slower than static INT8 at every length and batch, and its rows are not exact (``benchmarks/results/by_row.md``).

Measured with MiniLM-L6, 24 tokens, x86 with AVX2 and without VNNI, 2 threads. Each backend column has the p50 relative
to float32 and the peak memory:

    form of the weight                         files     ONNX Runtime     OpenVINO        TensorRT-RTX
    float32                                    90.9 MB   1      60 MB     1      181 MB   builds, 95 MB
    DequantizeLinear (this method)             23.6 MB   1.2    54 MB     0.93    90 MB   builds, 64 MB
    Cast(INT8) * scale, folded by ORT          23.5 MB   1.03  131 MB     0.93    92 MB   refuses
    Cast(UINT8) - 128, * scale                 23.5 MB   1.03  160 MB     0.93    92 MB   builds, 95 MB
    MatMul(x, Cast(INT8)) * scale              23.5 MB   0.99   82 MB     0.94   154 MB   not tested
    MatMulNBits, 8 bits, blocks of 32, float   24.8 MB   3.6    63 MB     0.95    92 MB   not an ONNX operator
    MatMulNBits, INT8 activations              24.8 MB   1.24   47 MB     0.95    94 MB   not an ONNX operator

Mean KL divergence of the outputs from float32 on 500 sentences of the SST-2 dev set, ONNX Runtime: 6.5e-4 as run by
``MatMulNBits`` and 3.9e-4 with float activations, compared with 1.9e-2 for static INT8 and 1.0e-2 for dynamic INT8.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import dequantize_weight, linears, rewrite
from edgekit.quantize.tensorrt_rules import lint
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "quantize", "quantize_weights"]

BACKENDS = ("onnxruntime", "openvino")
NEEDS_SAMPLES = 0
PRECISIONS = ("float32",)


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write each graph with INT8 weights.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Unused.
        settings: ``keep_float`` and ``embeddings``. ``weight_bits`` has no effect: it applies to INT8 products, and
            this method has none.
        out: Folder for the new graphs.
        progress: Progress callback, called after each graph.

    Raises:
        QuantizeError: TensorRT would refuse the graph.
    """

    def change(_: Graph, model: ir.Model, float_layers: set[str]) -> dict[str, str]:
        quantize_weights(model.graph, float_layers)
        quantize_embeddings(model.graph, settings.embeddings)
        return {"embeddings": settings.embeddings}

    return rewrite(graphs, settings, out, "weight_only", change, progress, lint)


def quantize_weights(graph: ir.Graph, float_layers: set[str]) -> int:
    """Replace the weight of every linear layer by an INT8 constant and a DequantizeLinear, in place.

    Args:
        graph: Float32 graph.
        float_layers: Names of the layers that stay in float.

    Returns:
        Number of weights that were replaced.
    """
    replacements: dict[ir.Value, ir.Value] = {}
    for layer in linears(graph):
        if layer.name in float_layers:
            continue
        # Layers that share a weight (ALBERT) share its INT8 form.
        if layer.weight not in replacements:
            replacements[layer.weight] = dequantize_weight(graph, layer)
        layer.node.replace_input_with(1, replacements[layer.weight])
    return len(replacements)
