"""Rows of one source of samples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Input, Modality, Task

__all__ = ["Sample", "Samples"]


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
        rows: Rows in the order of the file, or of the names in a folder.
        where: Path of the file or folder, or name of the table in memory, for messages.
        digest: SHA-256 of the content and of the choice of columns and rows, in hex.
    """

    rows: tuple[Sample, ...] = field(repr=False)
    where: str
    digest: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def inputs(self) -> list[Input]:
        """Inputs of all rows."""
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
