"""Holm's correction of p-values for many tests."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that rejecting those at or below alpha wrongly rejects any with a probability of at most alpha.

    Source: Holm S., Scandinavian Journal of Statistics 6 (1979) 65-70: the i-th smallest of m, from 1, times ``m - i + 1``, and no
    smaller than one before it.

    Args:
        p_values: 0 to 1, in any order.

    Returns:
        The adjusted ones in the same order, at most 1.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
