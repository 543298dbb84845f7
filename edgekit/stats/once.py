"""Rows with equal inputs are one piece of evidence: a model answers them alike, so that copies of a row prove no more than the row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

__all__ = ["groups"]


def groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Rows with equal keys, by their places: each list ascending, the lists in the order in which keys appear first."""
    found: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return list(found.values())
