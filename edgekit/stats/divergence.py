"""Kullback-Leibler divergence of a model's outputs from a reference's, in nats."""

from __future__ import annotations

import numpy as np

__all__ = ["kl_sigmoid", "kl_softmax", "log_softmax"]


def log_softmax(values: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax over the last axis: float64 ``[..., classes]``.

    Args:
        values: Unnormalized log-probabilities, any float type ``[..., classes]``.
    """
    x = values.astype(np.float64)
    return np.asarray(x - np.logaddexp.reduce(x, axis=-1, keepdims=True))


def kl_softmax(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the divergence of softmax(values) from softmax(reference): float64 ``[...]``, 0 where they are equal.

    Args:
        values: Unnormalized log-probabilities, any float type ``[..., classes]``.
        reference: Reference values of the same shape.
    """
    log_p = log_softmax(reference)
    log_q = log_softmax(values)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))


def kl_sigmoid(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the divergence of each Bernoulli distribution sigmoid(values) from its reference: float64, same shape.

    Args:
        values: Log-odds of yes-or-no questions, any float type.
        reference: Reference log-odds of the same shape.
    """
    x = values.astype(np.float64)
    y = reference.astype(np.float64)
    p = np.exp(-np.logaddexp(0.0, -y))
    # log(sigmoid(y) / sigmoid(x)), and the same for the complements.
    log_ratio_yes = np.logaddexp(0.0, -x) - np.logaddexp(0.0, -y)
    log_ratio_no = np.logaddexp(0.0, x) - np.logaddexp(0.0, y)
    return np.asarray(p * log_ratio_yes + (1.0 - p) * log_ratio_no)
