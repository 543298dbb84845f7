"""Self-test of OpenVINO: one INT8 layer is computed once per process before any graph is loaded.

OpenVINO 2026.3.0 to 2026.4.1 on aarch64 multiplies every output channel of an INT8 FullyConnected by the scale of the
first channel (ACL kernel ``gemm_acl_i8``; 2025.4.1 and 2026.2.0 are correct). No error is raised and the predicted
labels change, so only a computation can detect it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_INPUTS = 64
_OUTPUTS = 8
_ROWS = 2
_STEP = 1 / 64  # Quantization step of the input.
_TOLERANCE = 1e-3  # Share of the largest output. A correct kernel has float32's rounding error, 1e-6.


def find_fault(library: Any, core: Any, device: str, settings: Mapping[str, object]) -> str:
    """Return a description of what this installation computes wrongly; an empty text if it is correct.

    The layer is a linear layer after static quantization: a quantized input ``[2, 64]`` and signed INT8 weights
    ``[8, 64]`` with one scale per output channel, each twice the previous one. All values are small multiples of powers
    of two, so the expected output is exact in float64.

    Args:
        library: Module ``openvino``.
        core: OpenVINO core.
        device: Name of the device in OpenVINO.
        settings: Settings for the compilation.

    Raises:
        RuntimeError: The layer cannot be compiled or run.
    """
    op = library.opset13
    weights = ((np.arange(_OUTPUTS * _INPUTS).reshape(_OUTPUTS, _INPUTS) * 37) % 201 - 100).astype(np.int8)
    scales = (2.0 ** np.arange(_OUTPUTS) / 4096).astype(np.float32)[:, None]
    rows = (((np.arange(_ROWS * _INPUTS).reshape(_ROWS, _INPUTS) * 29) % 121 - 60) * _STEP).astype(np.float32)

    parameter = op.parameter([-1, _INPUTS], np.float32, name="rows")
    low = op.constant(np.float32(-128 * _STEP))
    high = op.constant(np.float32(127 * _STEP))
    quantized = op.fake_quantize(parameter, low, high, low, high, 256)
    dequantized = op.multiply(op.convert(op.constant(weights), "f32"), op.constant(scales))
    model = library.Model([op.result(op.matmul(quantized, dequantized, False, True))], [parameter], "self-test")
    outputs = core.compile_model(model, device, dict(settings)).create_infer_request().infer({0: rows})[0]

    expected = rows.astype(np.float64) @ (weights * scales.astype(np.float64)).T
    errors = np.abs(outputs - expected) / np.abs(expected).max(axis=0)
    if np.isfinite(errors).all() and errors.max() <= _TOLERANCE:
        return ""
    wrong_channels = int((~(errors.max(axis=0) <= _TOLERANCE)).sum())
    return (
        f"an INT8 layer with one scale per output channel is wrong in {wrong_channels} of {_OUTPUTS} channels, "
        f"by up to {errors.max():.3g} of the largest value"
    )
