"""Training examples: rows of arrays, in batches of similar length.

An epoch uses every row once. A row has one or more versions: the original, and slightly altered copies. Each epoch uses
the next version of a row, which adds variety without making an epoch longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.source.batches import tensors
from edgekit.spec.protocols import Arrays

# Batches per sorted pool: enough rows for batches of similar length, and enough pools for a random order.
_POOL = 50


@dataclass(frozen=True)
class Examples:
    """Rows in one or more versions.

    A flat index numbers all versions of all rows, version by version: ``version * len(self) + row``.

    Attributes:
        versions: Rows by version, ``[version][row]``: input name to array, e.g. ``input_ids: int64 [sequence]``. The
            first version is the original.
        pads: Padding value of short rows, by input. The arrays of any other input must have equal shapes.
        truth: Labels, one per row, as the task parses them; None for a row without a label.
    """

    versions: Sequence[Sequence[Arrays]]
    pads: Mapping[str, float]
    truth: Sequence[Any]

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return len(self.versions[0])

    def flat(self) -> list[Arrays]:
        """Return all versions of all rows, by flat index."""
        return [row for version in self.versions for row in version]

    def epoch(self, number: int) -> np.ndarray:
        """Return the flat indices of an epoch: each row once, neighboring rows in different versions."""
        rows = np.arange(len(self))
        return rows + (number + rows) % len(self.versions) * len(self)

    def feeds(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the tensors of the rows at some flat indices, padded at the end to the longest row."""
        return tensors([self.versions[i // len(self)][i % len(self)] for i in indices], self.pads)


def batches(indices: np.ndarray, row_lengths: np.ndarray, batch: int, seed: int) -> list[list[int]]:
    """Return ``ceil(len(indices) / batch)`` batches of similar length in random order; each index occurs once.

    Args:
        indices: Indices to distribute: int64 ``[indices]``.
        row_lengths: Length of each row that an index can refer to: int64 ``[rows]``.
        batch: Rows per batch; one batch may have fewer.
        seed: Random seed for the order.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(indices)
    sorted_batches: list[list[int]] = []
    for start in range(0, len(order), _POOL * batch):
        pool = order[start : start + _POOL * batch]
        pool = pool[np.argsort(row_lengths[pool], kind="stable")]
        sorted_batches += [pool[i : i + batch].tolist() for i in range(0, len(pool), batch)]
    return [sorted_batches[i] for i in random.permutation(len(sorted_batches))]
