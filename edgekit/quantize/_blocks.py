"""INT4 weights in blocks: each block of 32 inputs of an output channel has a scale of its own.

A block has 16 levels, -8 to 7, so its scale decides much. Several are compared: the largest absolute value of the block
divided by numbers from 7 to 12, which clips more and more of it (the clipping search of Guan et al., "Post-Training
4-bit Quantization on Embedding Tables", arXiv 1911.02079). For the levels that a scale gives, the scale with the least
squared error is computed in closed form, and the levels are rounded anew: a step of the alternating minimization of
Zhang et al., "LQ-Nets", arXiv 1807.10029, section 3.2.

The error of a weight counts as much as its input is large: the mean square of the input over the calibration rows is
its factor. This is the diagonal of the Hessian of the layer's squared output error (Frantar et al., "GPTQ", arXiv
2210.17323, equation 1).

Quantization error of the outputs against torch, MiniLM-L6 on the SST-2 dev set, and changed answers of 872:

    the largest value / 7, then the closed form    rms 0.344    26
    eleven scales compared                         rms 0.311    24
    eleven scales, weighted by the inputs          rms 0.310    19
    the same in blocks of 128                      rms 0.489    38

XNNPACK reads a scale as float16 and rounds it to bfloat16 without a word (LiteRT 2.3.0). The scales of this module are
numbers of both types, so that a kernel computes with the weights that the graph states.
"""

from __future__ import annotations

import numpy as np

__all__ = ["BLOCK", "is_blockable", "quantize_blocks"]

BLOCK = 32
"""Number of inputs that share a scale; XNNPACK takes multiples of 32."""

_LOWEST = -8
_HIGHEST = 7
_DIVISORS = np.linspace(7.0, 12.0, 11)
_SMALLEST = 2.0**-24  # The smallest float16 above 0.
_LARGEST = 65280.0  # The largest float16 that is a bfloat16 too.
_SMALLEST_WEIGHT = 2.0**-14  # With smaller weights, scales would have fewer than the 8 digits of bfloat16.
_DAMPING = 0.01  # Share of the mean square that each input has at least, as GPTQ adds it to the diagonal.


def is_blockable(weight: np.ndarray) -> bool:
    """Return whether a weight ``[in, out]`` can be stored in blocks, with scales that float16 can hold."""
    largest = float(np.abs(weight).max(initial=0.0))
    return weight.shape[0] % BLOCK == 0 and _SMALLEST_WEIGHT <= largest <= _LARGEST * _HIGHEST


def quantize_blocks(weight: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a weight to symmetric INT4 in blocks.

    Args:
        weight: Weight, float32 ``[in, out]``, for which :func:`is_blockable` holds.
        squares: Mean square of each input, ``[in]``.

    Returns:
        The values, int8 ``[in, out]`` within -8 to 7, and the scales, float32 ``[in / 32, out]``: positive, and numbers
        of float16 and of bfloat16.
    """
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    factors = _damp(squares).reshape(-1, BLOCK, 1)
    largest = np.abs(blocks).max(axis=1)
    least_error = np.full(largest.shape, np.inf, np.float32)
    scales = np.full(largest.shape, _SMALLEST, np.float32)
    for divisor in _DIVISORS:
        levels = _round(blocks, _representable(largest / np.float32(divisor)))
        weighted = factors * levels
        length = (weighted * levels).sum(axis=1)
        best = (weighted * blocks).sum(axis=1) / np.where(length > 0, length, 1.0)
        candidate = _representable(best)
        difference = _round(blocks, candidate) * candidate[:, None] - blocks
        error = (factors * difference * difference).sum(axis=1)
        scales = np.where(error < least_error, candidate, scales)
        least_error = np.minimum(error, least_error)
    return _round(blocks, scales).astype(np.int8).reshape(weight.shape), scales


def _damp(squares: np.ndarray) -> np.ndarray:
    """Return the factor of each input, float32: 1 on average, and positive also for an input that is always 0."""
    mean = float(squares.mean())
    if mean <= 0:
        return np.ones(len(squares), np.float32)
    factors: np.ndarray = (squares / mean + _DAMPING) / (1 + _DAMPING)
    return factors.astype(np.float32)


def _round(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the nearest levels of blocks ``[blocks, 32, out]``, float32."""
    levels: np.ndarray = np.clip(np.rint(blocks / scales[:, None]), _LOWEST, _HIGHEST)
    return levels


def _representable(scales: np.ndarray) -> np.ndarray:
    """Return the nearest positive numbers that float16 and bfloat16 both have, float32."""
    bits = np.clip(scales, _SMALLEST, _LARGEST).astype(np.float32).view(np.uint32)
    # Rounding half to even of the upper 16 bits, which are those of bfloat16.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    result: np.ndarray = rounded.view(np.float32).astype(np.float16).astype(np.float32)
    return result
