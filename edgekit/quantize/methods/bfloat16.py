"""Bfloat16: half the size, the range of float32 and 8 bits of precision. Nothing overflows and no samples are needed.

Token activations and weights are bfloat16. LayerNormalization, Softmax and the mask stay in float32 (rules:
``_casts``).

Executed precision:

- TensorRT computes in the types of the graph, on GPUs from Ampere on.
- ONNX Runtime 1.32 has no bfloat16 kernels for CPUs, not even Add and MatMul, and refuses the graph. It is no
  candidate.
- OpenVINO, configured to compute in float32, converts the constants at load time. ``executed_precision()`` returns
  float32 (not tested on a CPU with AMX).

On a CPU the method therefore saves size only, and float16 saves the same with three more bits of precision. Measured
with MiniLM-L6, INT8 embedding tables, 24 tokens, OpenVINO, x86 with AVX2: 33.7 MB of files and 153 MB of memory, where
float32 has 90.9 MB and 181 MB; p50 1.02 times that of float32.
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from edgekit.quantize._casts import cast_graphs

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "quantize"]

BACKENDS = ("openvino",)
NEEDS_SAMPLES = 0
PRECISIONS = ("bfloat16",)

quantize = functools.partial(cast_graphs, low=ir.DataType.BFLOAT16, limit=None)
