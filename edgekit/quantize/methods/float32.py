"""No quantization: the exported float32 graph. It is the reference that all other methods are compared with."""

from __future__ import annotations

from pathlib import Path

from edgekit.quantize.calibration import Calibration
from edgekit.spec.graph import GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "quantize"]

BACKENDS = ("onnxruntime", "openvino", "litert", "tensorrt", "tensorrt_rtx")
NEEDS_SAMPLES = 0
PRECISIONS = ("float32",)


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Return ``graphs`` unchanged."""
    return graphs
