"""Weights to INT8."""

from __future__ import annotations

import numpy as np


def per_channel(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric INT8, one scale per output channel, rounding half to even.

    Args:
        weight: float32 ``[in, out]``.

    Returns:
        int8 ``[in, out]`` within -127..127, and float32 scales ``[out]``, positive also for a channel of zeros.
    """
    scale = (np.abs(weight).max(axis=0) / 127.0).astype(np.float32)
    scale[scale == 0] = np.float32(1.0)  # a dead channel: any positive scale gives its zeros back
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale
