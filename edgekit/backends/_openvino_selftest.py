"""Does this OpenVINO multiply right? One layer, computed once in a process before any graph is loaded.

OpenVINO 2026.3.0 to 2026.4.1 on aarch64 multiplies every output channel of an INT8 FullyConnected with the scale of the first one (the ACL kernel
``gemm_acl_i8``; 2025.4.1 and 2026.2.0 are right). No error is raised and the labels change, so the backend has to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_INPUTS, _OUTPUTS, _ROWS = 64, 8, 2
_STEP = 1 / 64  # of the input's quantization
_TOLERANCE = 1e-3  # share of the largest answer; a kernel that is right is at float32's rounding, 1e-6


def fault(library: Any, core: Any, device: str, settings: Mapping[str, object]) -> str:
    """What this installation computes wrongly, in words; empty where it computes right.

    The layer is what static quantization makes of a linear one: a quantized input ``[2, 64]``, signed INT8 weights ``[8, 64]`` with a scale for each output
    channel, each twice the one before. All values are small multiples of powers of two, so the right answer is exact in float64.

    Args:
        library: the module ``openvino``.
        core: its core.
        device: name of the device there.
        settings: that graphs are compiled with.

    Raises:
        RuntimeError: when the layer cannot be compiled or run at all.
    """
    op = library.opset13
    weights = ((np.arange(_OUTPUTS * _INPUTS).reshape(_OUTPUTS, _INPUTS) * 37) % 201 - 100).astype(np.int8)
    scales = (2.0 ** np.arange(_OUTPUTS) / 4096).astype(np.float32)[:, None]
    rows = (((np.arange(_ROWS * _INPUTS).reshape(_ROWS, _INPUTS) * 29) % 121 - 60) * _STEP).astype(np.float32)
    parameter = op.parameter([-1, _INPUTS], np.float32, name="rows")
    low, high = op.constant(np.float32(-128 * _STEP)), op.constant(np.float32(127 * _STEP))
    quantized = op.fake_quantize(parameter, low, high, low, high, 256)
    restored = op.multiply(op.convert(op.constant(weights), "f32"), op.constant(scales))
    model = library.Model([op.result(op.matmul(quantized, restored, False, True))], [parameter], "self-test")
    got = core.compile_model(model, device, dict(settings)).create_infer_request().infer({0: rows})[0]
    right = rows.astype(np.float64) @ (weights * scales.astype(np.float64)).T
    off = np.abs(got - right) / np.abs(right).max(axis=0)
    if np.isfinite(off).all() and off.max() <= _TOLERANCE:
        return ""
    wrong = int((~(off.max(axis=0) <= _TOLERANCE)).sum())
    return f"an INT8 layer with a scale for each output channel is wrong in {wrong} of {_OUTPUTS} channels, by up to {off.max():.3g} of the largest value"
