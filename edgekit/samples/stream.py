"""Rows of a sample file one after the other, for predictions: labels are not needed, and a large file need not fit into memory.

JSON Lines and Parquet are read as far as rows are asked for. A table (CSV, TSV) and an array of JSON are read whole, since their dialect depends on
all of it.
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
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_ROWS_OF_PARQUET = 1024  # that are decoded at a time


@dataclass(frozen=True)
class Row:
    """One row of a sample file.

    Attributes:
        number: Number of the row in the file, from 1.
        place: Its place for messages, e.g. ``line 3``.
        record: Column to value, as in the file; empty where the row cannot be read.
        input: Input as a session takes it; None where ``problem`` is set.
        problem: Error of a row that cannot be read; None for a row that can.
    """

    number: int
    place: str
    record: Mapping[str, Any]
    input: Input = field(default=None, repr=False)
    problem: SamplesError | None = None


def read_rows(path: str | Path, columns: Mapping[str, str] | None, modality: Modality) -> Iterator[Row]:
    """Yield the rows of a file in its order; a row that cannot be read is yielded with its problem.

    Args:
        path: JSON, CSV, TSV or Parquet file (with pyarrow), or a folder of files where inputs are such.
        columns: Role to column name; None for the roles' own names.
        modality: Kind of input that the columns make.

    Yields:
        Each row, with its input or its problem.

    Raises:
        SamplesError: When the file is missing or empty, cannot be read as a whole, or lacks a column.
        UsageError: For an unknown role or type of file.
        BackendError: For a Parquet file without pyarrow.
    """
    file = Path(path)
    records = iter(_records(file, dict(columns or {}), modality))
    first = next(records, None)
    if first is None:
        raise SamplesError(f"Samples {file} have no rows, expected at least one.", code="samples-empty")
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
"""Place of a row, its columns, and why it cannot be read."""


def _records(file: Path, columns: Mapping[str, str], modality: Modality) -> Iterator[_Record]:
    """Yield the records of a file of any type."""
    if file.suffix.lower() == PARQUET and file.is_file():
        return _of_parquet(file)
    if _is_json_lines(file):
        return _of_json_lines(file)
    return ((place, record, None) for place, record in samples.read_records(file, columns, modality))


def _is_json_lines(file: Path) -> bool:
    """Return whether a file can be read line by line: its name says JSON Lines, and it begins with an object in UTF-8."""
    name = file.name.lower().removesuffix(GZIP)
    if not file.is_file() or not name.endswith((".jsonl", ".ndjson")):
        return False
    with _open(file) as stream:
        first = stream.readline()
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"{") or first.startswith(_UTF16_MARKS):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _open(file: Path) -> io.BufferedIOBase:
    """Return a stream of the bytes of a file, unpacked where its name ends in ``.gz``."""
    return gzip.open(file, "rb") if file.suffix.lower() == GZIP else file.open("rb")


def _of_json_lines(file: Path) -> Iterator[_Record]:
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not data.strip():
                continue
            place, problem, record = f"line {number}", None, {}
            try:
                value = json.loads(data.decode("utf-8"))
            except (ValueError, RecursionError):
                problem = f"{file}, {place} is not valid JSON in UTF-8, expected one object a line. Correct the line."
            else:
                if isinstance(value, dict):
                    record = value
                else:
                    problem = f"{file}, {place} is a {type(value).__name__}, expected an object. Correct the line."
            yield place, record, None if problem is None else SamplesError(problem, code="samples-json", row=number)


def _of_parquet(file: Path) -> Iterator[_Record]:
    try:
        from pyarrow import parquet
    except ImportError as problem:
        raise BackendError(
            f"{file} is a Parquet file, which the package 'pyarrow' reads, and it is not installed. Run: pip install pyarrow",
            code="package-missing",
        ) from problem
    try:
        table = parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS_OF_PARQUET):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record, None
    except (OSError, ValueError) as problem:  # pyarrow's own errors are subclasses of ValueError and OSError
        raise SamplesError(
            f"Samples {file} are not a whole Parquet file ({type(problem).__name__}). Write or copy it again.",
            code="samples-unreadable",
        ) from problem
