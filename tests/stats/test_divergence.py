"""Kullback-Leibler divergence against scipy's entropy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from edgekit.stats.divergence import kl_sigmoid, kl_softmax, log_softmax


@pytest.mark.parametrize("shape", [(5, 3), (4, 7, 2), (6, 1)])
def test_softmax(shape):
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal(shape) * 4, draw.standard_normal(shape) * 4
    np.testing.assert_allclose(log_softmax(x), scipy.special.log_softmax(x, axis=-1), atol=1e-12)
    expected = scipy.stats.entropy(scipy.special.softmax(y, axis=-1), scipy.special.softmax(x, axis=-1), axis=-1)
    np.testing.assert_allclose(kl_softmax(x, y), expected, atol=1e-12)
    assert (kl_softmax(x, x) == 0).all()


def test_sigmoid():
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((8, 3)) * 4, draw.standard_normal((8, 3)) * 4
    p, q = scipy.special.expit(y), scipy.special.expit(x)
    expected = scipy.stats.entropy(np.stack([p, 1 - p]), np.stack([q, 1 - q]), axis=0)
    np.testing.assert_allclose(kl_sigmoid(x, y), expected, atol=1e-12)


def test_float32_logits_far_apart_are_finite():
    far = np.array([[1e4, 0.0]], np.float32)
    assert kl_softmax(far[:, ::-1], far) == pytest.approx(1e4)
    assert kl_sigmoid(-far, far).sum() == pytest.approx(1e4)
