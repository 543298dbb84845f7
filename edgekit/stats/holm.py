"""Holm's correction of p-values for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the family-wise error rate.

    Rejecting all adjusted values of at most alpha rejects a true hypothesis with a probability of at most alpha. The
    i-th smallest of m values is multiplied by ``m - i + 1``, and is at least as large as the one before it.

    Source: Holm S., Scandinavian Journal of Statistics 6 (1979) 65-70.

    Args:
        p_values: P-values, 0 to 1, in any order.

    Returns:
        Adjusted p-values in the same order, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
