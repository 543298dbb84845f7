"""Rows with equal inputs are one piece of evidence: a model answers them alike, so that copies of a row prove no more than the row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distinct:
    """A set of rows in which every input counts once.

    Attributes:
        rows: the first row of each input, int64 ``[inputs]``, ascending.
        truth: of each input: of classes the label that most of its rows have (of equally many the first one), of numbers their mean.
        of: rows of the whole set.
        contradicting: inputs whose rows have different labels.
    """

    rows: np.ndarray
    truth: np.ndarray
    of: int
    contradicting: int

    @property
    def note(self) -> str:
        """What to say of it; empty where no input is there twice."""
        if len(self.rows) == self.of:
            return ""
        differ = (
            f"; {self.contradicting:,} of these have rows with different labels, of which the most frequent counts, or the mean" if self.contradicting else ""
        )
        return f"{self.of:,} rows have {len(self.rows):,} different inputs: rows with equal inputs count once in what is compared and tested{differ}."


def distinct(inputs: Sequence[Hashable], truth: np.ndarray) -> Distinct:
    """Finds the rows with equal inputs.

    Args:
        inputs: what tells inputs apart, one a row: the texts, or their ids.
        truth: of each row, ``[rows]`` or ``[rows, labels]``.
    """
    places: dict[Hashable, list[int]] = {}
    for row, value in enumerate(inputs):
        places.setdefault(value, []).append(row)
    firsts = np.array([rows[0] for rows in places.values()], np.int64)
    merged, contradicting = truth[firsts].copy(), 0
    for place, rows in enumerate(places.values()):
        if len(rows) == 1 or (truth[rows] == truth[rows[0]]).all():
            continue
        contradicting += 1
        if truth.dtype.kind == "f":
            merged[place] = truth[rows].mean(axis=0)
        else:  # Counter keeps the order in which labels are first seen
            most = Counter(tuple(np.atleast_1d(truth[row]).tolist()) for row in rows).most_common(1)[0][0]
            merged[place] = np.reshape(most, merged[place].shape)
    return Distinct(firsts, merged, len(truth), contradicting)


def groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Rows with equal keys, by their places: each list ascending, the lists in the order in which keys appear first."""
    found: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return list(found.values())
