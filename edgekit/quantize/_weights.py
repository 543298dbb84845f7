"""Weights to INT8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import Linear, constant, initializer
from edgekit.spec.quantization import Quantization


def levels(settings: Quantization) -> int:
    """Steps of a weight to each side of zero.

    On x86 without VNNI the product of a UINT8 and an INT8 pair is summed in 16 bits, which saturate (onnxruntime issue
    5849). With weights of 7 bits the largest sum, 2 x 255 x 63, fits.
    """
    return 63 if settings.weight_bits == 7 else 127


def per_channel(weight: np.ndarray, steps: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric INT8, one scale per output channel, rounding half to even.

    Args:
        weight: float32 ``[in, out]``.
        steps: to each side of zero, see :func:`levels`.

    Returns:
        int8 ``[in, out]`` within -steps..steps, and float32 scales ``[out]``, positive also for a channel of zeros.
    """
    scale = (np.abs(weight).max(axis=0) / steps).astype(np.float32)
    scale[scale == 0] = np.float32(1.0)  # a dead channel: any positive scale gives its zeros back
    return np.clip(np.rint(weight / scale), -steps, steps).astype(np.int8), scale


def restored(graph: ir.Graph, layer: Linear, steps: int = 127) -> ir.Value:
    """INT8 weight, scales and zero points of a linear as constants, and the DequantizeLinear in front of it, whose output this is."""
    weight, label = constant(layer.weight), layer.weight.name or f"{layer.name}.weight"
    assert weight is not None
    values, scales = per_channel(weight, steps)
    parts = [
        initializer(graph, f"{label}_int8", values),
        initializer(graph, f"{label}_scale", scales),
        initializer(graph, f"{label}_zero_point", np.zeros(scales.shape, np.int8)),
    ]
    back = ir.node("DequantizeLinear", parts, attributes={"axis": 1}, name=f"{label}/DequantizeLinear")
    back.outputs[0].type, back.outputs[0].shape = layer.weight.type, layer.weight.shape
    graph.insert_before(layer.node, back)
    return back.outputs[0]
