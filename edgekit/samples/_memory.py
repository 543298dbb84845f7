"""Rows that a program holds: a list of mappings, a ``datasets.Dataset``, a data frame, a generator. No library of theirs is imported.

They are copied once into a :class:`RowTable` of plain values, so that a generator can be read several times, and so that rows that come in another order
at every reading (a shuffled data set) stay in the order of the first one.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.parsing import to_json
from edgekit.spec.paths import check_path
from edgekit.spec.sources import SampleSource

__all__ = ["RowTable", "collect", "collect_all", "rows_digest"]

_MISSING = ("NAType", "NaTType")
"""Classes of pandas whose objects stand for a missing value."""

_ROWS = 'rows such as [{"text": ..., "label": ...}]'


@dataclass(frozen=True)
class RowTable:
    """Rows in memory, in a fixed order.

    Attributes:
        rows: Column name to plain value of each row.
        where: Name of the table for messages, e.g. ``<Dataset of 200 rows>``.
    """

    rows: tuple[Mapping[str, object], ...]
    where: str

    def records(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Yield the rows with their places.

        Yields:
            The place (``row 3``, counted from 1) and the row.
        """
        for number, row in enumerate(self.rows, 1):
            yield f"row {number}", row


def collect(source: SampleSource, name: str = "samples") -> str | os.PathLike[str] | RowTable:
    """Return a path as it is, and anything else as a table of rows.

    Args:
        source: Path, rows, or a table that this function returned.
        name: Parameter of the caller, for messages.

    Raises:
        UsageError: for what is neither a path nor rows.
        SamplesError: for a row that is no mapping, or whose column names are no texts.
    """
    if isinstance(source, RowTable):
        return source
    if isinstance(source, (str, os.PathLike)):
        check_path(source, name)
        return source
    kind = type(source).__name__
    expected = f"expected a path, {_ROWS}, or an object that has rows (a Dataset, a DataFrame)"
    if isinstance(source, Mapping):
        raise UsageError(
            f"{name} is a {kind}, {expected}. Give one of its splits or tables, or write each row as a mapping.",
            code="samples-type",
        )
    rows = None if isinstance(source, (bytes, bytearray)) else _rows_of(source)
    if rows is None:
        shown = "None" if source is None else f"a {kind}"
        raise UsageError(f"{name} is {shown}, {expected}. Correct the call.", code="path-type")
    from_frame = hasattr(source, "iloc")
    table = [_row(row, number, kind, from_frame) for number, row in enumerate(rows, 1)]
    return RowTable(tuple(table), f"<{kind} of {len(table)} rows>")


def collect_all(sources: object, name: str = "samples") -> list[str | os.PathLike[str] | RowTable]:
    """Return one or several sources as a list, each as :func:`collect` returns it.

    Args:
        sources: One path or table of rows, or a sequence of them. A list of mappings is one table.
        name: Parameter of the caller, for messages.

    Raises:
        UsageError: for what is neither a path nor rows.
        SamplesError: for a row that is no mapping, or whose column names are no texts.
    """
    several = isinstance(sources, (list, tuple)) and not any(isinstance(part, Mapping) for part in sources)
    parts: Sequence[Any] = cast("Sequence[Any]", sources) if several else [sources]
    return [collect(part, name) for part in parts]


def rows_digest(rows: Sequence[tuple[bytes, Mapping[str, object]]], columns: Mapping[str, str]) -> str:
    """Return the sha256 of rows, in hex: equal rows have equal digests, whatever object holds them.

    Args:
        rows: Canonical content of the input, and the other columns, of each row.
        columns: Role to column name.
    """
    total = hashlib.sha256(to_json(["rows", sorted(columns.items())]).encode())
    for content, others in rows:
        total.update(hashlib.sha256(content).digest())
        total.update(hashlib.sha256(to_json(_canonical(others), sort_keys=True).encode()).digest())
    return total.hexdigest()


def _rows_of(source: Any) -> Iterable[object] | None:
    """Return the rows of an object that has rows; None where it has none."""
    if hasattr(source, "iloc") and callable(
        getattr(source, "to_dict", None)
    ):  # a data frame, which iterates over its columns
        records: Iterable[object] = source.to_dict("records")
        return records
    if isinstance(source, Iterable):
        return source
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return (source[position] for position in range(len(source)))
    return None


def _row(row: object, number: int, kind: str, from_frame: bool) -> Mapping[str, object]:
    """Return a row of plain values."""
    if not isinstance(row, Mapping):
        raise SamplesError(
            f"Samples <{kind}>: row {number} is a {type(row).__name__}, expected a mapping of column to value, {_ROWS}. Correct the row.",
            code="samples-row-type",
            row=number,
        )
    for column in row:
        if not isinstance(column, str):
            raise SamplesError(
                f"Samples <{kind}>: row {number} has a column whose name is a {type(column).__name__}, expected text. Rename it.",
                code="samples-row-type",
                row=number,
            )
    return {column: _plain(value, from_frame) for column, value in row.items()}


def _plain(value: Any, from_frame: bool) -> object:
    """Return a value of a row as a file would give it: scalars of numpy, pandas and torch as those of Python, vectors as lists.

    Args:
        value: The value.
        from_frame: Whether NaN stands for a missing value, as it does in a data frame.
    """
    if value is None or isinstance(value, (bool, int)) or type(value) is str:
        return value
    if type(value).__name__ in _MISSING:
        return None
    dimensions = getattr(value, "ndim", None)
    if dimensions == 0 and hasattr(value, "item"):
        value = value.item()
    if dimensions == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return None if from_frame and math.isnan(value) else float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part, False) for part in value]
    return value


def _canonical(value: object) -> object:
    """Return a value as JSON can hold it; what no label can be (an image in a column without a role) counts by its class alone."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"number": repr(value)}
    if isinstance(value, Mapping):
        return {str(name): _canonical(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return {"class": type(value).__name__}
