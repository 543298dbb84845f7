"""Running histograms and the four range methods against numpy and scipy on the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from edgekit.quantize._ranges import BINS, LEVELS, METHODS, Histogram, entropy, min_max, mse, percentile
from edgekit.spec.quantization import RANGES


def filled(pieces):
    """Of pieces of any lengths, which are one channel."""
    histogram = Histogram()
    for piece in pieces:
        histogram.add(piece.reshape(-1, 1))
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

    def held():
        arrays = {
            name: (value.nbytes, value.shape)
            for name, value in vars(histogram).items()
            if isinstance(value, np.ndarray)
        }
        assert {name for name in vars(histogram) if name not in arrays} == {"limit", "largest", "seen"}
        assert all(isinstance(getattr(histogram, name), (int, float)) for name in ("limit", "largest", "seen"))
        return arrays

    before = held()
    for i in range(200):
        histogram.add(np.full((100, 1), 1.5**i, np.float32))
    assert held() == before
    assert histogram.counts.sum() == histogram.seen == 3 + 200 * 100


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
    assert [method(found) for method in METHODS.values()] == [0.0] * 4


def test_nothing_at_all():
    assert [method(Histogram()) for method in METHODS.values()] == [0.0] * 4
    assert filled([np.zeros((0, 4), np.float32)]).counts.sum() == 0


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e30, 3.4e38])
def test_the_smallest_and_largest_floats(size):
    values = np.float32(size) * np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    found = filled([values, -values])
    assert found.counts.sum() == 8
    assert found.counts[-1] == 2 * (values == values.max()).sum()
    assert found.largest == values.max()


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20),
        min_size=1,
        max_size=8,
    )
)
def test_the_maximum_is_exact_and_every_value_is_counted(pieces):
    arrays = [np.array(p, np.float32) for p in pieces]
    found = filled(arrays)
    assert found.largest == max(float(np.abs(a).max()) for a in arrays)
    assert found.counts.sum() == sum(a.size for a in arrays)
    assert (found.counts >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=6))
def test_channels_are_numpys(seed, shapes):
    """Maxima and sums of each channel, of tensors of three and four axes as the graph has them."""
    choose = np.random.default_rng(seed)
    histogram, rows = Histogram(), []
    for index, (batch, length) in enumerate(shapes):
        values = choose.standard_normal((batch, length, 7) if index % 2 else (batch, 2, length, 7)).astype(
            np.float32
        ) * 10.0 ** choose.integers(-3, 4, 7)
        values = values.astype(np.float32)
        histogram.add(values)
        rows.append(values.reshape(-1, 7))
    whole = np.concatenate(rows)
    np.testing.assert_array_equal(histogram.channels, np.abs(whole).max(axis=0, initial=0.0))
    np.testing.assert_allclose(histogram.total, whole.astype(np.float64).sum(axis=0), rtol=1e-9, atol=1e-9)
    assert histogram.seen == len(whole)
    assert histogram.counts.sum() == whole.size
    assert histogram.largest == np.abs(whole).max(initial=0.0)


# ---- thresholds


def test_methods_are_those_that_settings_know():
    assert tuple(METHODS) == RANGES


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


@pytest.mark.parametrize(
    "name", ["normal", "laplace", "uniform", "gelu", "student", "one outlier", "far outliers", "two values"]
)
def test_mse_is_the_best_threshold_of_the_raw_values(name):
    values = clipped(name)
    top = float(np.abs(values).max())
    found = mse(filled(np.array_split(values, 17)))
    grid = np.linspace(top / 16, top, 1500)
    coarse = grid[np.argmin([error(values, t) for t in grid])]
    fine = optimize.minimize_scalar(
        lambda t: error(values, t), bounds=(max(coarse * 0.97, top / 16), min(coarse * 1.03, top)), method="bounded"
    ).x
    best = min(error(values, coarse), error(values, fine))
    assert top / 16 <= found <= top
    # A value is moved by half a bin at most when it is counted, and so is its distance to the nearest level.
    assert error(values, found) ** 0.5 <= best**0.5 + top / BINS
    if name != "two values":  # moved values even out where there are many
        assert error(values, found) <= 1.03 * best
        assert error(values, found) <= 1.001 * error(values, top)


DISTRIBUTIONS = ["normal", "laplace", "uniform", "gelu", "student", "one outlier", "far outliers"]


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "two values"])
def test_min_max_is_exact(name):
    values = clipped(name)
    assert min_max(filled(np.array_split(values, 13))) == float(np.abs(values).max())


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "two values"])
def test_percentile_is_numpys(name):
    """The smallest value that 99.99 % do not exceed, as numpy picks it from the raw values; a bin beyond it at most."""
    values = np.abs(clipped(name))
    histogram = filled(np.array_split(values, 13))
    exact = float(np.percentile(values, 99.99, method="inverted_cdf"))
    found, width = percentile(histogram), histogram.limit / BINS
    assert exact <= found * (1 + 1e-6)
    assert found <= exact + width * (1 + 1e-6)
    assert found <= values.max()


def test_percentile_leaves_a_far_outlier_out():
    assert percentile(filled([clipped("far outliers")])) < 6 < 25 == min_max(filled([clipped("far outliers")]))


def slow_entropy(sizes, stride=8):
    """The recipe of "8-bit Inference with TensorRT" (GTC 2017), bin by bin: threshold, and divergence of each candidate."""
    counts, edges = np.histogram(sizes, bins=BINS, range=(0, sizes.max()))
    tried = {}
    for stop in [*range(128, BINS, stride), BINS]:
        p = [float(c) for c in counts[:stop]]
        p[-1] += float(counts[stop:].sum())  # outliers count at the end
        q = [0.0] * stop
        for level in range(128):
            bins = range(level * stop // 128, (level + 1) * stop // 128)
            held = [i for i in bins if counts[i]]
            for i in held:
                q[i] = float(sum(counts[j] for j in bins)) / len(held)
        tried[edges[stop]] = stats.entropy(p, q)
    return min(tried, key=tried.get), tried


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entropy_is_that_of_the_slow_recipe(name):
    values = clipped(name)[:20000] if "outlier" not in name else clipped(name)[-20000:]
    values = values.astype(np.float64)
    values = np.abs(
        np.round(values * 2**16) / 2**16
    )  # and a power of two at the top: edges that float32 and float64 agree on
    values[np.argmax(values)] = 2.0 ** np.ceil(np.log2(values.max()))
    expected, tried = slow_entropy(values)
    found = entropy(filled([values.astype(np.float32)]))
    assert found == pytest.approx(expected, rel=1e-6)
    assert sorted(d for d in tried.values() if np.isfinite(d))[0] < np.median(list(tried.values()))  # they differ


def test_entropy_leaves_far_outliers_out():
    """Of two values in 60,000 the distribution loses nothing, and they would cost all others their levels."""
    far = entropy(filled([clipped("far outliers")]))
    inside = clipped("far outliers")[:-2]
    assert 2 < far < 8
    assert error(inside, far) < error(inside, 25.0) / 5


def test_entropy_of_few_bins_is_the_maximum():
    assert entropy(filled([clipped("two values")])) <= 1.0
    assert entropy(filled([np.full(9, 3.0, np.float32)])) == 3.0


def test_mse_clips_where_that_pays():
    """A rare outlier is clipped, as brute force does; evenly spread values are not."""
    far = mse(filled([clipped("far outliers")]))
    assert far < 0.9 * 25
    assert error(clipped("far outliers"), far) < 0.9 * error(clipped("far outliers"), 25.0)
    assert mse(filled([clipped("uniform")])) > 0.98 * 3


def test_mse_scales_with_its_values():
    values = clipped("laplace")
    one, thousand = mse(filled([values])), mse(filled([values * 1024]))
    assert thousand == pytest.approx(1024 * one, rel=1e-6)
