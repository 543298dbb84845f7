"""INT4 weights in blocks: levels and scales against a search over all scales, and the types that kernels hold scales in."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from edgekit.quantize._blocks import BLOCK, is_blockable, quantize_blocks

RANDOM = np.random.default_rng(3)
EVEN = np.ones(4 * BLOCK)


def weights(inputs=4 * BLOCK, outputs=24, spread=0.05):
    """Normal weights, whose channels differ in size as those of trained layers do."""
    sizes = np.exp(RANDOM.standard_normal(outputs)) * spread
    return (RANDOM.standard_normal((inputs, outputs)) * sizes).astype(np.float32)


def restore(values, scales):
    blocks = values.reshape(-1, BLOCK, values.shape[1]).astype(np.float64) * scales[:, None]
    return blocks.reshape(values.shape)


def errors(weight, squares, values, scales):
    """The squared error of each block, weighted by the squares: ``[blocks, outputs]``."""
    difference = (restore(values, scales) - weight) ** 2 * squares[:, None]
    return difference.reshape(-1, BLOCK, weight.shape[1]).sum(axis=1)


def plain(weight):
    """Symmetric INT4 without a search."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    scales = np.abs(blocks).max(axis=1) / 7
    return np.rint(blocks / scales[:, None]).reshape(weight.shape), scales


@pytest.mark.parametrize("spread", [1e-4, 0.05, 30.0, 3000.0])
def test_scales_are_numbers_of_both_types(spread):
    weight = weights(spread=spread)
    values, scales = quantize_blocks(weight, EVEN)
    assert (values.dtype, values.shape) == (np.int8, weight.shape)
    assert (scales.dtype, scales.shape) == (np.float32, (4, 24))
    assert (scales > 0).all()
    for kind in (np.float16, ml_dtypes.bfloat16):
        np.testing.assert_array_equal(scales.astype(kind).astype(np.float32), scales)
    assert values.min() >= -8
    assert values.max() <= 7
    assert values.min() == -8, "the lowest level is used too"


@pytest.mark.parametrize("is_weighted", [False, True])
def test_no_scale_is_much_better(is_weighted):
    """Against every scale of bfloat16 from a quarter of the plain one to the double, each with its nearest levels."""
    weight = weights()
    squares = np.exp(2 * RANDOM.standard_normal(len(weight))) if is_weighted else EVEN
    values, scales = quantize_blocks(weight, squares)
    error = errors(weight, squares, values, scales)
    least = np.full(error.shape, np.inf)
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    for share in np.linspace(0.25, 2.0, 400):
        scale = (plain(weight)[1] * share).astype(ml_dtypes.bfloat16).astype(np.float32)
        levels = np.clip(np.rint(blocks / scale[:, None]), -8, 7).reshape(weight.shape)
        least = np.minimum(least, errors(weight, squares, levels, scale))
    assert error.sum() < 1.06 * least.sum()
    assert error.sum() < 0.9 * errors(weight, squares, *plain(weight)).sum()


def test_inputs_that_are_large_count_more():
    weight = weights()
    squares = np.exp(2 * RANDOM.standard_normal(len(weight)))
    by_inputs = errors(weight, squares, *quantize_blocks(weight, squares)).sum()
    evenly = errors(weight, squares, *quantize_blocks(weight, EVEN)).sum()
    assert by_inputs < 0.95 * evenly


def test_inputs_that_are_always_zero():
    weight = weights()
    never = np.where(np.arange(len(weight)) < BLOCK, 0.0, 1.0)
    values, scales = quantize_blocks(weight, never)
    largest = np.abs(weight).max(axis=0)
    assert (np.abs(restore(values, scales) - weight) < 0.2 * largest).all(), "they are rounded like any other"
    same, as_even = quantize_blocks(weight, np.zeros(len(weight))), quantize_blocks(weight, EVEN)
    np.testing.assert_array_equal(same[0], as_even[0])


def test_a_block_of_zeros_stays_zero():
    weight = weights()
    weight[:BLOCK] = 0
    values, scales = quantize_blocks(weight, EVEN)
    assert not values[:BLOCK].any()
    assert (scales > 0).all()


def test_levels_times_a_scale_are_found():
    """Weights that have the form already come back as they are."""
    levels = RANDOM.integers(-7, 8, (2 * BLOCK, 16)).astype(np.int8)
    levels[::BLOCK] = 7
    scales = RANDOM.uniform(0.5, 2.0, (2, 16)).astype(ml_dtypes.bfloat16).astype(np.float32)
    weight = restore(levels, scales).astype(np.float32)
    values, again = quantize_blocks(weight, EVEN[: 2 * BLOCK])
    np.testing.assert_array_equal(values, levels)
    np.testing.assert_array_equal(again, scales)


@pytest.mark.parametrize(
    ("weight", "fits"),
    [
        (np.ones((32, 16), np.float32), True),
        (np.ones((96, 17), np.float32), True),
        (np.ones((48, 16), np.float32), False),
        (np.ones((16, 16), np.float32), False),
        (np.zeros((32, 16), np.float32), False),
        (np.full((32, 16), 1e-5, np.float32), False),
        (np.full((32, 16), 1e6, np.float32), False),
        (np.full((32, 16), np.nan, np.float32), False),
    ],
)
def test_what_fits(weight, fits):
    assert is_blockable(weight) == fits
