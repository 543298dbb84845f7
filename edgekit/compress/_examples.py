"""What a student is trained on: rows of arrays in batches of similar length.

An epoch goes through every row once. A row has one or more versions (as it is; altered a little), and each
epoch takes the next one: variety without a longer epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.source.batches import tensors
from edgekit.spec.protocols import Arrays

_POOL = 50  # batches that are sorted by length together: long enough to be alike, short enough to be shuffled


@dataclass(frozen=True)
class Examples:
    """Rows in one or more versions.

    Attributes:
        versions: ``[version][row]``: input name to array, e.g. ``input_ids: int64 [sequence]``; the first version is the row as it is.
        pads: value that fills short rows, by input; inputs without one must be of one shape.
        truth: one a row, as the task parses it; None for a row without a label.
    """

    versions: Sequence[Sequence[Arrays]]
    pads: Mapping[str, float]
    truth: Sequence[Any]

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.versions[0])

    def flat(self) -> list[Arrays]:
        """All versions of all rows, version by version."""
        return [row for version in self.versions for row in version]

    def epoch(self, number: int) -> np.ndarray:
        """Which of :meth:`flat` an epoch takes: every row once, neighbours in different versions."""
        rows = np.arange(len(self))
        return rows + (number + rows) % len(self.versions) * len(self)

    def feeds(self, indices: Sequence[int]) -> dict[str, Any]:
        """Tensors of some of :meth:`flat`, padded at the end to the longest."""
        return tensors([self.versions[i // len(self)][i % len(self)] for i in indices], self.pads)


def batches(chosen: np.ndarray, sizes: np.ndarray, batch: int, seed: int) -> list[list[int]]:
    """Batches of similar length in random order, each index once; as many as ``ceil(len(chosen) / batch)``.

    Args:
        chosen: indices.
        sizes: length of each row that an index may name.
        batch: rows of a batch; the last one that is cut may have fewer.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(chosen)
    made: list[list[int]] = []
    for start in range(0, len(order), _POOL * batch):
        pool = order[start : start + _POOL * batch]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        made += [pool[i : i + batch].tolist() for i in range(0, len(pool), batch)]
    return [made[i] for i in random.permutation(len(made))]
