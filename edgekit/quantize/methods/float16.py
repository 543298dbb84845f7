"""Float16: half the size, and half the memory traffic on devices that compute in float16. Most CPUs do not.

Token activations and weights are float16. LayerNormalization, Softmax and the mask stay in float32 (rules: ``_casts``).
The largest float16 number is 65504. A value above a quarter of that, on the calibration samples, the evaluation rows or
generated rows of full length, keeps the nodes around it in float32. The margin is needed because rows in production
differ from the samples, and a value that overflows becomes infinite and then NaN in every output.

Executed precision: TensorRT computes in the types of the graph. ONNX Runtime on x86 has almost no float16 kernels and
casts to float32 around each node. OpenVINO, configured to compute in float32, converts the constants at load time. In
both cases ``executed_precision()`` returns float32, and the method saves size only. Measured with MiniLM-L6, 24 tokens,
x86 with AVX2, 2 threads; p50 relative to float32:

    float32                      90.9 MB   ONNX Runtime 60 MB, p50 1      OpenVINO 181 MB, p50 1
    float16, INT8 tables         33.7 MB   ONNX Runtime 81 MB, p50 1.08   OpenVINO 153 MB, p50 0.96
    float16, float16 tables      45.5 MB   ONNX Runtime 93 MB, p50 1.03   OpenVINO 186 MB, p50 1.02
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from edgekit.quantize._casts import cast_graphs

__all__ = ["BACKENDS", "LIMIT", "NEEDS_SAMPLES", "PRECISIONS", "quantize"]

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
NEEDS_SAMPLES = 4
PRECISIONS = ("float16",)

LIMIT = 65504 / 4
"""Largest absolute value that a float16 node may read or produce on the samples."""

quantize = functools.partial(cast_graphs, low=ir.DataType.FLOAT16, limit=LIMIT)
