"""Writers of prediction files, row by row: CSV, TSV, JSON Lines, and Parquet if pyarrow is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from edgekit.report.prediction_rows import LABELS, NUMBERS, Layout
from edgekit.spec.errors import BackendError, UsageError
from edgekit.spec.parsing import to_json

__all__ = ["SUFFIXES", "Writer", "check", "open_writer"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_PARQUET_ROWS = 1024  # Least rows of a Parquet row group, except the last one.


def check(out: Path, force: bool) -> None:
    """Check that an output file can be written, before any prediction is made.

    Args:
        out: File to write.
        force: True to replace an existing file.

    Raises:
        UsageError: If the suffix is not one of ``SUFFIXES``, the file exists and ``force`` is False, or the folder does
            not exist or is not writable.
        BackendError: If the file is a Parquet file and pyarrow is not installed.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"Output {out} ends in '{out.suffix}', expected one of: {', '.join(SUFFIXES)}. Give another -o.",
            code="output-suffix",
        )
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise UsageError(f"Output {out} exists and is not a regular file. Give another -o.", code="output-other-kind")
    if out.exists() and not force:
        raise UsageError(
            f"Output {out} exists. Give another -o, or replace the file with --force.",
            code="output-exists",
            path=str(out),
        )
    if not os.access(out.parent, os.W_OK) or not out.parent.is_dir():
        raise UsageError(
            f"Output {out} cannot be written: {out.parent} is not a writable folder. Give another -o.",
            code="output-not-writable-folder",
        )
    if out.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BackendError(
            f"Output {out} is a Parquet file, which needs the package 'pyarrow'. It is not installed. "
            "Run: pip install pyarrow, or give a .csv or .jsonl file.",
            code="package-missing",
        )


class Writer(Protocol):
    """Output file to which rows are appended."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows.

        Args:
            rows: Fields of each row, from :meth:`Layout.fields`.
        """

    def close(self) -> None:
        """Write the buffered rows. The stream stays open."""


def open_writer(out: Path, stream: BinaryIO, layout: Layout) -> Writer:
    """Return a writer for a file type.

    Args:
        out: File whose suffix selects the type, one of ``SUFFIXES``.
        stream: Binary stream to write to. The caller closes it.
        layout: Fields and columns of the rows.
    """
    suffix = out.suffix.lower()
    if suffix == ".parquet":
        return _Parquet(stream, layout)
    if suffix in (".csv", ".tsv"):
        return _Table(stream, layout, "\t" if suffix == ".tsv" else ",")
    return _JsonLines(stream)


class _JsonLines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._stream.write(to_json(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        self._stream.flush()


class _Table:
    def __init__(self, stream: BinaryIO, layout: Layout, delimiter: str) -> None:
        self._stream = stream
        self._layout = layout
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text, delimiter=delimiter, lineterminator="\n")
        self._csv.writerow(layout.columns)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._csv.writerow([_cell(value) for value in self._layout.cells(row).values()])
        self._flush()

    def close(self) -> None:
        self._flush()
        self._stream.flush()

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()


def _cell(value: Any) -> Any:
    """Return a cell of a text table: ``true`` or ``false`` for a flag, an empty text for None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


class _Parquet:
    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        import pyarrow
        from pyarrow import parquet

        self._arrow = pyarrow
        self._layout = layout
        self._rows: list[dict[str, Any]] = []
        copied: list[Any] = [(name, pyarrow.string()) for name in layout.keep]
        predicted = [(name, self._column_type(name)) for name in layout.columns[len(layout.keep) :]]
        self._schema = pyarrow.schema([*copied, *predicted])
        self._parquet = parquet.ParquetWriter(stream, self._schema)

    def _column_type(self, name: str) -> Any:
        """Return the Arrow type of a column of predictions."""
        if name == "truncated":
            return self._arrow.bool_()
        is_score = name == "score" or name.startswith("score_")
        if is_score and self._layout.kind in (LABELS, NUMBERS):
            return self._arrow.float64()
        return self._arrow.string()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            cells = self._layout.cells(row)
            cells |= {name: _text(cells[name]) for name in self._layout.keep}
            self._rows.append(cells)
        if len(self._rows) >= _PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def _text(value: Any) -> str | None:
    """Return the text of a cell that is copied from the input.

    Such columns can mix types, but a Parquet column has one type.
    """
    if value is None or isinstance(value, str):
        return value
    return to_json(value, ensure_ascii=False)
