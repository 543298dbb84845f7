"""Running histograms and thresholds against numpy and scipy on the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from edgekit.quantize._ranges import BINS, LEVELS, Histogram, least_squares


def filled(pieces):
    histogram = Histogram()
    for piece in pieces:
        histogram.add(piece)
    return histogram


def error(values, threshold):
    """Mean squared error of symmetric INT8 of [-threshold, threshold], on the raw values."""
    step = threshold / LEVELS
    return float(np.mean((np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values) ** 2))


# ---- counting


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(-20, 20))
def test_counts_are_numpys(seed, doublings, exponent):
    """Values on a grid of powers of two, so that bins have exact edges: counts are numpy's over all values at once.

    A value on the end of the range is in the last bin, and stays with it when the range grows: one bin beside numpy's.
    """
    choose = np.random.default_rng(seed)
    pieces, top = [], 2.0**exponent
    for extra in doublings:
        top = max(top, 2.0 ** (exponent + extra))
        values = choose.integers(-(2**20) + 1, 2**20, (7, 31)) * (top / 2**20)
        values[0, 0] = top
        pieces.append(values.astype(np.float32))
    histogram = filled(pieces)
    sizes = np.abs(np.concatenate([p.ravel() for p in pieces]).astype(np.float64))
    expected, _ = np.histogram(sizes, bins=BINS, range=(0, histogram.limit))
    assert histogram.counts.sum() == expected.sum() == sizes.size
    ahead = np.cumsum(histogram.counts) - np.cumsum(expected)
    assert ahead.min() >= 0
    assert ahead.max() <= len(pieces)
    assert histogram.counts.shape == (BINS,)
    assert histogram.largest == sizes.max() <= histogram.limit


def test_counts_with_growing_maxima():
    """Many pieces, each larger than the last, of values that are nothing round: a value beside an edge may fall on its other side."""
    choose = np.random.default_rng(0)
    pieces = [choose.standard_normal((64, 33)).astype(np.float32) * 1.3**i for i in range(40)]
    histogram = filled(pieces)
    sizes = np.abs(np.concatenate([p.ravel() for p in pieces]).astype(np.float64))
    expected, _ = np.histogram(sizes, bins=BINS, range=(0, histogram.limit))
    assert histogram.counts.sum() == sizes.size
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 20 < sizes.size / 4000
    assert sizes.max() <= histogram.limit < 2 * sizes.max() * (1 + 1e-6)
    assert histogram.largest == sizes.max()


def test_memory_does_not_grow():
    histogram = filled([np.ones(3, np.float32)])
    before = (histogram.counts.nbytes, histogram.counts.shape)
    for i in range(200):
        histogram.add(np.full((10, 10), 1.5**i, np.float32))
    assert (histogram.counts.nbytes, histogram.counts.shape) == before
    assert set(vars(histogram)) == {"counts", "limit", "largest"}
    assert histogram.counts.sum() == 3 + 200 * 100


def test_order_of_pieces_does_not_matter_for_the_range():
    pieces = [np.full(10, v, np.float32) for v in (1, 2, 4, 8)]
    for order in (pieces, pieces[::-1]):
        found = filled(order)
        assert (found.limit, found.largest, found.counts.sum()) == (8.0, 8.0, 40)


@pytest.mark.parametrize("first", [True, False])
def test_zeros_are_counted_before_and_behind_a_range(first):
    zeros, values = np.zeros((4, 5), np.float32), np.array([1.0, -2.0], np.float32)
    found = filled([zeros, values] if first else [values, zeros])
    assert found.counts[0] == 20
    assert found.counts.sum() == 22
    assert found.largest == 2.0


def test_a_tensor_of_zeros():
    found = filled([np.zeros((3, 4), np.float32)] * 5)
    assert (found.largest, found.limit, found.counts.sum()) == (0.0, 0.0, 60)
    assert least_squares(found) == 0.0
    assert found.largest == 0.0


def test_nothing_at_all():
    assert least_squares(Histogram()) == 0.0
    assert filled([np.zeros((0, 4), np.float32)]).counts.sum() == 0


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e30, 3.4e38])
def test_the_smallest_and_largest_floats(size):
    values = np.float32(size) * np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    found = filled([values, -values])
    assert found.counts.sum() == 8
    assert found.counts[-1] == 2 * (values == values.max()).sum()
    assert found.largest == values.max()


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20), min_size=1, max_size=8))
def test_the_maximum_is_exact_and_every_value_is_counted(pieces):
    arrays = [np.array(p, np.float32) for p in pieces]
    found = filled(arrays)
    assert found.largest == max(float(np.abs(a).max()) for a in arrays)
    assert found.counts.sum() == sum(a.size for a in arrays)
    assert (found.counts >= 0).all()


# ---- thresholds


def clipped(name):
    choose = np.random.default_rng(7)
    return {
        "normal": choose.standard_normal(60000),
        "laplace": choose.laplace(size=60000),
        "uniform": choose.uniform(-3, 3, 60000),
        "gelu": np.maximum(choose.standard_normal(60000), 0) * 2,
        "student": choose.standard_t(3, 60000),
        "one outlier": np.append(choose.standard_normal(60000), 9.0),
        "far outliers": np.append(choose.standard_normal(60000), [25.0, -24.0]),
        "two values": np.repeat([1.0, -0.5], 1000),
    }[name].astype(np.float32)


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform", "gelu", "student", "one outlier", "far outliers", "two values"])
def test_least_squares_is_the_best_threshold_of_the_raw_values(name):
    values = clipped(name)
    top = float(np.abs(values).max())
    found = least_squares(filled(np.array_split(values, 17)))
    grid = np.linspace(top / 16, top, 1500)
    coarse = grid[np.argmin([error(values, t) for t in grid])]
    fine = optimize.minimize_scalar(lambda t: error(values, t), bounds=(max(coarse * 0.97, top / 16), min(coarse * 1.03, top)), method="bounded").x
    best = min(error(values, coarse), error(values, fine))
    assert top / 16 <= found <= top
    # A value is moved by half a bin at most when it is counted, and so is its distance to the nearest level.
    assert error(values, found) ** 0.5 <= best**0.5 + top / BINS
    if name != "two values":  # moved values even out where there are many
        assert error(values, found) <= 1.03 * best
        assert error(values, found) <= 1.001 * error(values, top)


def test_least_squares_clips_where_that_pays():
    """A rare outlier is clipped, as brute force does; evenly spread values are not."""
    far = least_squares(filled([clipped("far outliers")]))
    assert far < 0.9 * 25
    assert error(clipped("far outliers"), far) < 0.9 * error(clipped("far outliers"), 25.0)
    assert least_squares(filled([clipped("uniform")])) > 0.98 * 3


def test_least_squares_scales_with_its_values():
    values = clipped("laplace")
    one, thousand = least_squares(filled([values])), least_squares(filled([values * 1024]))
    assert thousand == pytest.approx(1024 * one, rel=1e-6)
