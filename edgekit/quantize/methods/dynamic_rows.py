"""INT8 weights and activations quantized at run time, row by row: the form for LiteRT.

Each weight is an INT8 constant behind a ``DequantizeLinear`` with one scale per output channel, as ``weight_only``
writes it. XNNPACK, the CPU kernels of LiteRT, then multiplies in INT8: a range is taken at run time for each row (each
token) of an activation, so that no samples are needed and an outlier coarsens its own row alone. ONNX Runtime and
OpenVINO have no such kernel, and ``dynamic`` takes one range for a whole tensor.

Quantization error of the outputs against torch, MiniLM-L6 on the SST-2 dev set: rms 0.06 and 3 changed answers of 872,
compared with 0.19 and 7 of ``dynamic``.

The graph stays ONNX; :mod:`edgekit.quantize.litert` writes it as a TensorFlow Lite file.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._embeddings import quantize_embeddings
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import rewrite
from edgekit.quantize.methods.weight_only import quantize_weights
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "quantize"]

BACKENDS = ("litert",)
NEEDS_SAMPLES = 0
PRECISIONS = ("int8",)


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write each graph with INT8 weights for products whose activations the backend quantizes row by row.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Unused; ranges are taken at run time.
        settings: ``keep_float`` and ``embeddings``. ``weight_bits`` has no effect: the kernels do not saturate.
        out: Folder for the new graphs.
        progress: Progress callback, called after each graph.
    """

    def change(_: Graph, model: ir.Model, float_layers: set[str]) -> dict[str, str]:
        quantize_weights(model.graph, float_layers)
        quantize_embeddings(model.graph, settings.embeddings)
        return {"activations": "int8 by row", "embeddings": settings.embeddings}

    return rewrite(graphs, settings, out, "dynamic_rows", change, progress)
