"""Float16: half the size, and half the memory traffic where a device computes in it. Most CPUs do not.

Token activations and weights are float16, LayerNormalization, Softmax and the mask float32 (``_casts`` has the rules).
Float16 ends at 65504. A value of more than a quarter of that on the calibration samples, on the evaluation rows or on generated rows of full
length keeps the nodes around it in float32: rows in use are not those of the samples, and a value that overflows is infinite, then NaN in every output.

What executes: TensorRT computes in the types of the graph. ONNX Runtime on x86 has hardly a float16 kernel and casts to
float32 around each node; OpenVINO, told to compute in float32, converts the constants when it loads. ``executed_precision()``
says float32 in both cases. So on a CPU this buys size alone. Measured, MiniLM-L6, 24 tokens, x86 with AVX2, 2 threads:

    float32                      90.9 MB   ONNX Runtime 60 MB, p50 1      OpenVINO 181 MB, p50 1
    float16, tables in INT8      33.7 MB   ONNX Runtime 81 MB, p50 1.08   OpenVINO 153 MB, p50 0.96
    float16, tables in float16   45.5 MB   ONNX Runtime 93 MB, p50 1.03   OpenVINO 186 MB, p50 1.02
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

quantize = functools.partial(cast_graphs, low=ir.DataType.FLOAT16, limit=LIMIT)
