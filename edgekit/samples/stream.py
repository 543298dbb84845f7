"""Stream the rows of a sample file for prediction. Labels are not needed, and the file may exceed memory.

JSON Lines and Parquet files are read only as far as the caller iterates. A table (CSV, TSV) or a JSON array is read
whole, because its dialect depends on all of its content.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import samples
from edgekit.samples._decode import GZIP
from edgekit.spec.errors import BackendError, SamplesError
from edgekit.spec.protocols import Input, Modality

__all__ = ["PARQUET", "Row", "read_rows"]

PARQUET = ".parquet"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_BATCH = 1024
"""Number of Parquet rows that are decoded at a time."""


@dataclass(frozen=True)
class Row:
    """One row of a sample file.

    Attributes:
        number: Number of the row in the file, from 1.
        place: Position of the row for messages, e.g. ``line 3``.
        record: Value by column, as in the file; empty if the row cannot be read.
        input: Input as a session takes it; None if ``problem`` is set.
        problem: Error of a row that cannot be read; None for a readable row.
    """

    number: int
    place: str
    record: Mapping[str, Any]
    input: Input = field(default=None, repr=False)
    problem: SamplesError | None = None


def read_rows(path: str | Path, columns: Mapping[str, str] | None, modality: Modality) -> Iterator[Row]:
    """Yield the rows of a file in its order. A row that cannot be read is yielded with its error.

    Args:
        path: Path of a JSON, CSV, TSV or Parquet file (the latter with pyarrow), or of a folder of files if inputs are
            files.
        columns: Column name by role; None for columns with the names of their roles.
        modality: Modality that creates inputs from the columns.

    Yields:
        Rows, each with its input or its error.

    Raises:
        SamplesError: If the file is missing or empty, cannot be read as a whole, or lacks a column.
        UsageError: If a role or the file type is unknown.
        BackendError: If the file is a Parquet file and pyarrow is not installed.
    """
    file = Path(path)
    records = iter(_read_records(file, dict(columns or {}), modality))
    first = next(records, None)
    if first is None:
        raise SamplesError(
            f"Samples {file} have no rows, expected at least one. Give a file with samples.", code="samples-empty"
        )
    roles = samples.choose_columns(first[1], columns or {}, file, modality)
    folder = file if file.is_dir() else file.parent
    for number, (place, record, problem) in enumerate(itertools.chain([first], records), 1):
        if problem is None:
            try:
                value = modality.read({role: record.get(name) for role, name in roles.items()}, folder)
                yield Row(number, place, record, value)
                continue
            except SamplesError as error:
                problem = SamplesError(f"{file}, {place} {error}", code="samples-row", row=number)
        yield Row(number, place, record, problem=problem)


_Record = tuple[str, Mapping[str, Any], SamplesError | None]
"""Position of a row, its values by column, and the error if it cannot be read."""


def _read_records(file: Path, columns: Mapping[str, str], modality: Modality) -> Iterator[_Record]:
    """Return an iterator over the records of a file of any type."""
    if file.suffix.lower() == PARQUET and file.is_file():
        return _read_parquet(file)
    if _is_json_lines(file):
        return _read_json_lines(file)
    return ((place, record, None) for place, record in samples.read_records(file, columns, modality))


def _is_json_lines(file: Path) -> bool:
    """Return whether a file can be read line by line: it has a JSON Lines name and begins with an object in UTF-8."""
    name = file.name.lower().removesuffix(GZIP)
    if not file.is_file() or not name.endswith((".jsonl", ".ndjson")):
        return False
    with _open_bytes(file) as stream:
        first = stream.readline()
    text = first.removeprefix(_UTF8_MARK).lstrip()
    if not text.startswith(b"{") or first.startswith(_UTF16_MARKS):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _open_bytes(file: Path) -> io.BufferedIOBase:
    """Return a stream of the bytes of a file, decompressed if its name ends in ``.gz``."""
    return gzip.open(file, "rb") if file.suffix.lower() == GZIP else file.open("rb")


def _read_json_lines(file: Path) -> Iterator[_Record]:
    """Yield the records of a JSON Lines file. A line that is not an object is yielded with its error."""
    with _open_bytes(file) as stream:
        for number, line in enumerate(stream, 1):
            data = line.removeprefix(_UTF8_MARK) if number == 1 else line
            if not data.strip():
                continue
            place = f"line {number}"
            record: dict[str, Any] = {}
            message = ""
            try:
                value = json.loads(data.decode("utf-8"))
            except (ValueError, RecursionError):
                message = f"{file}, {place} is not valid JSON in UTF-8, expected one object a line. Correct the line."
            else:
                if isinstance(value, dict):
                    record = value
                else:
                    message = f"{file}, {place} is a {type(value).__name__}, expected an object. Correct the line."
            problem = SamplesError(message, code="samples-json", row=number) if message else None
            yield place, record, problem


def _read_parquet(file: Path) -> Iterator[_Record]:
    """Yield the records of a Parquet file.

    Raises:
        SamplesError: If the file is damaged.
        BackendError: If pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as problem:
        raise BackendError(
            f"{file} is a Parquet file, and the package 'pyarrow' that reads it is not installed. "
            "Run: pip install pyarrow",
            code="package-missing",
        ) from problem
    try:
        table = parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record, None
    # The errors of pyarrow are subclasses of ValueError and OSError.
    except (OSError, ValueError) as problem:
        raise SamplesError(
            f"Samples {file} are not a complete Parquet file ({type(problem).__name__}). Write or copy it again.",
            code="samples-unreadable",
        ) from problem
