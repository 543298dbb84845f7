"""INT8 weights and embedding tables, float activations: a quarter of the size, and nothing depends on samples.

Each weight is an INT8 constant behind a ``DequantizeLinear`` with one scale per output channel; tables are restored row by
row (``_embeddings``). It is the standard form, and the one that OpenVINO (weight decompression inside its kernel) and
TensorRT (weight-only quantization; RTX 1.7 builds it) keep in INT8. ONNX Runtime 1.32 turns it into ``MatMulNBits``, which
rounds activations to INT8 in blocks of 32 at run time (accuracy level 4): there, activations are not float.

Measured, MiniLM-L6, 24 tokens, x86 with AVX2 and no VNNI, 2 threads, p50 as share of float32's, peak memory of the runtime:

    form of the weight                         files     ONNX Runtime     OpenVINO        TensorRT-RTX
    float32                                    90.9 MB   1      60 MB     1      181 MB   builds, 95 MB
    DequantizeLinear (this)                    23.6 MB   1.2    54 MB     0.93    90 MB   builds, 64 MB
    Cast(INT8) * scale, folded by ORT          23.5 MB   1.03  131 MB     0.93    92 MB   refuses
    Cast(UINT8) - 128, * scale                 23.5 MB   1.03  160 MB     0.93    92 MB   builds, 95 MB
    MatMul(x, Cast(INT8)) * scale              23.5 MB   0.99   82 MB     0.94   154 MB   not tried
    MatMulNBits, 8 bits, blocks of 32, float   24.8 MB   3.6    63 MB     0.95    92 MB   not an ONNX operator
    the same, INT8 activations                 24.8 MB   1.24   47 MB     0.95    94 MB   not an ONNX operator

Damage on 500 sentences of SST-2's dev set, ONNX Runtime, mean KL divergence of the answers from float32's: 6.5e-4 as run by
``MatMulNBits``, 3.9e-4 with activations truly in float, where static INT8 had 1.9e-2 and dynamic INT8 1.0e-2.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import linears, restored, rewrite
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
    """Writes each graph with INT8 weights.

    Args:
        graphs: cleaned float32 graphs.
        calibration: not used.
        settings: ``keep_float`` and ``embeddings``; ``weight_bits`` is for INT8 products, which there are none of here.
        out: folder for the new graphs.
        progress: told after each graph.

    Raises:
        QuantizeError: for a graph that TensorRT would refuse.
    """

    def change(_: Graph, model: ir.Model, kept: set[str]) -> dict[str, str]:
        quantize_weights(model.graph, kept)
        quantize_embeddings(model.graph, settings.embeddings)
        return {"embeddings": settings.embeddings}

    return rewrite(graphs, settings, out, "weight_only", change, progress, lint)


def quantize_weights(graph: ir.Graph, kept: set[str]) -> int:
    """Puts INT8 constants and a DequantizeLinear in the place of every linear's weight, in place; returns how many weights.

    Args:
        graph: float32.
        kept: names of the layers that stay in float.
    """
    stored: dict[ir.Value, ir.Value] = {}
    for layer in linears(graph):
        if layer.name in kept:
            continue
        if layer.weight not in stored:  # layers that share a weight (ALBERT) share its INT8 form
            stored[layer.weight] = restored(graph, layer)
        layer.node.replace_input_with(1, stored[layer.weight])
    return len(stored)
