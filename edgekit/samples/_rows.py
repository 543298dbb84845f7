"""Rows of one source of samples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from edgekit.samples._packed import PackedList, pack
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Input, Modality, Task

__all__ = ["Sample", "Samples", "pack_rows"]

_MOST_SHARED = 1000
"""Largest number of different labels that rows share as objects."""


@dataclass(frozen=True)
class Sample:
    """One row.

    Attributes:
        input: Input as a session takes it.
        label: Label as in the file, or None.
        slices: Value by slice column. Reports contain these values.
        empty: Whether the row has a label cell and the cell is empty. For a multi-label task the row then has no label
            of the set.
        others: Cell value by column, for the columns without a role. Each may be a label column of 0 and 1. Empty if
            the caller named the label column.
        content: Canonical bytes of the input, see ``Modality.content``, if they were read from a file; None otherwise.
    """

    input: Input
    label: object = None
    slices: Mapping[str, str] = field(default_factory=dict)
    empty: bool = field(default=False, compare=False)
    others: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Samples:
    """Rows of one source.

    Attributes:
        rows: Rows in the order of the file, or of the names in a folder. From 4,096 rows on they are held compressed,
            and made while they are read.
        where: Path of the file or folder, or name of the table in memory, for messages.
        digest: SHA-256 of the content and of the choice of columns and rows, in hex.
    """

    rows: Sequence[Sample] = field(repr=False)
    where: str
    digest: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def inputs(self) -> Sequence[Input]:
        """Inputs of all rows: a list, or where rows are held compressed, a sequence that makes them."""
        if isinstance(self.rows, PackedList):
            return self.rows.parts(itemgetter(0))
        return [row.input for row in self.rows]

    def contents(self, modality: Modality) -> Iterator[bytes]:
        """Yield the canonical bytes of each input, see ``Modality.content``. Files are not read again."""
        for row in self.rows:
            yield modality.content(row.input) if row.content is None else row.content

    def evaluation(self, task: Task) -> Evaluation:
        """Return the labelled rows as the task scores them.

        Raises:
            SamplesError: If a row has no label or one that the model does not know, or if a session would not read an
                input unchanged.
        """
        truth = task.parse_truth(self.rows, self.where)
        task.modality.check(self.inputs, self.where)
        keys: list[bytes] = []
        if task.modality.reads_files:
            keys = [row.content for row in self.rows if row.content is not None]
        return Evaluation(task, self.inputs, truth.values, keys, truth.notes)

    def take(self, count: int, seed: int) -> Samples:
        """Return ``count`` random rows in the order of the file, or all rows if there are no more.

        Args:
            count: Number of rows, at least 1.
            seed: Random seed of the choice.

        Raises:
            UsageError: If ``count`` is below 1.
        """
        if count < 1:
            raise UsageError(
                f"{count} rows of {self.where} were requested, expected at least 1. Correct the number of rows.",
                code="rows-out-of-range",
            )
        if count >= len(self.rows):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.rows)), count))
        digest = hashlib.sha256(f"{self.digest} {count} {seed}".encode()).hexdigest()
        return Samples(tuple(self.rows[i] for i in chosen), self.where, digest)


def pack_rows(rows: Iterable[Sample]) -> Sequence[Sample]:
    """Return rows as a tuple, or compressed if there are many."""
    labels: dict[object, object] = {}

    def load(data: tuple[Any, ...]) -> Sample:
        value, label, slices, empty, others, content = data
        if isinstance(label, str) and (label in labels or len(labels) < _MOST_SHARED):
            label = labels.setdefault(label, label)  # Equal labels are one object: rows with it refer to it.
        return Sample(value, label, slices, empty, others, content)

    return pack(rows, _dump, load)


def _dump(row: Sample) -> tuple[object, ...]:
    return row.input, row.label, row.slices, row.empty, row.others, row.content
