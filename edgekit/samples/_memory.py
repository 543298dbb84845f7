"""Rows in memory: a list of mappings, a ``datasets.Dataset``, a data frame or a generator.

The rows are copied once into a :class:`RowTable` of plain values. So a generator can be read several times, and a
source whose order changes at every pass (a shuffled data set) keeps the order of the first pass. No library of such an
object is imported.
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

__all__ = ["RowTable", "collect", "collect_all", "hash_rows"]

_MISSING = ("NAType", "NaTType")
"""Classes of pandas whose objects stand for a missing value."""

_ROWS = 'rows such as [{"text": ..., "label": ...}]'


@dataclass(frozen=True)
class RowTable:
    """Rows in memory, in a fixed order.

    Attributes:
        rows: Plain values by column name, for each row.
        where: Name of the table for messages, e.g. ``<Dataset of 200 rows>``.
    """

    rows: tuple[Mapping[str, object], ...]
    where: str

    def records(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Yield the rows with their positions.

        Yields:
            Position of the row, from ``row 1``, and values by column.
        """
        for number, row in enumerate(self.rows, 1):
            yield f"row {number}", row


def collect(source: SampleSource, name: str = "samples") -> str | os.PathLike[str] | RowTable:
    """Return a path unchanged, and any other source as a table of rows.

    Args:
        source: Path, rows, or a table that this function returned.
        name: Parameter of the caller, for messages.

    Raises:
        UsageError: If the source is neither a path nor rows.
        SamplesError: If a row is not a mapping, or a column name is not text.
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
    rows = None if isinstance(source, (bytes, bytearray)) else _find_rows(source)
    if rows is None:
        description = "None" if source is None else f"a {kind}"
        raise UsageError(f"{name} is {description}, {expected}. Correct the call.", code="path-type")
    from_frame = hasattr(source, "iloc")
    table = [_convert_row(row, number, kind, from_frame) for number, row in enumerate(rows, 1)]
    return RowTable(tuple(table), f"<{kind} of {len(table)} rows>")


def collect_all(sources: object, name: str = "samples") -> list[str | os.PathLike[str] | RowTable]:
    """Return one or several sources as a list, each as :func:`collect` returns it.

    Args:
        sources: One path or table of rows, or a sequence of them. A list of mappings is one table.
        name: Parameter of the caller, for messages.

    Raises:
        UsageError: If a source is neither a path nor rows.
        SamplesError: If a row is not a mapping, or a column name is not text.
    """
    several = isinstance(sources, (list, tuple)) and not any(isinstance(part, Mapping) for part in sources)
    parts: Sequence[Any] = cast("Sequence[Any]", sources) if several else [sources]
    return [collect(part, name) for part in parts]


def hash_rows(rows: Sequence[tuple[bytes, Mapping[str, object]]], columns: Mapping[str, str]) -> str:
    """Return the sha256 of rows, in hex. Equal rows have equal digests, regardless of the type of their source.

    Args:
        rows: Canonical content of the input, and the other columns, of each row.
        columns: Column name by role.
    """
    total = hashlib.sha256(to_json(["rows", sorted(columns.items())]).encode())
    for content, others in rows:
        total.update(hashlib.sha256(content).digest())
        total.update(hashlib.sha256(to_json(_to_canonical(others), sort_keys=True).encode()).digest())
    return total.hexdigest()


def _find_rows(source: Any) -> Iterable[object] | None:
    """Return the rows of an object, or None if it has none."""
    if hasattr(source, "iloc") and callable(getattr(source, "to_dict", None)):
        # A data frame iterates over its columns, not its rows.
        records: Iterable[object] = source.to_dict("records")
        return records
    if isinstance(source, Iterable):
        return source
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return (source[position] for position in range(len(source)))
    return None


def _convert_row(row: object, number: int, kind: str, from_frame: bool) -> Mapping[str, object]:
    """Return a row with plain values.

    Args:
        row: Row of the source.
        number: Number of the row, from 1.
        kind: Class name of the source, for messages.
        from_frame: Whether the source is a data frame.

    Raises:
        SamplesError: If the row is not a mapping, or a column name is not text.
    """
    if not isinstance(row, Mapping):
        raise SamplesError(
            f"Samples <{kind}>: row {number} is a {type(row).__name__}, expected a mapping of column to value, "
            f"{_ROWS}. Correct the row.",
            code="samples-row-type",
            row=number,
        )
    for column in row:
        if not isinstance(column, str):
            raise SamplesError(
                f"Samples <{kind}>: row {number} has a column whose name is a {type(column).__name__}, expected text. "
                "Rename the column.",
                code="samples-row-type",
                row=number,
            )
    return {column: _to_plain(value, from_frame) for column, value in row.items()}


def _to_plain(value: Any, from_frame: bool) -> object:
    """Return a value in the form in which a file would contain it.

    Scalars of numpy, pandas and torch become Python scalars, and one-dimensional arrays become lists.

    Args:
        value: Value of a cell.
        from_frame: Whether NaN stands for a missing value, as in a data frame.
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
        return [_to_plain(part, False) for part in value]
    return value


def _to_canonical(value: object) -> object:
    """Return a value in a form that JSON can represent.

    A value that cannot be a label, e.g. an image in a column without a role, is represented by its class name alone.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"number": repr(value)}
    if isinstance(value, Mapping):
        return {str(name): _to_canonical(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_to_canonical(part) for part in value]
    return {"class": type(value).__name__}
