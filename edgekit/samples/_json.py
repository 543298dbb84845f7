"""Records of JSON files: one object per line, an array of objects, or one object of columns."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.samples._decode import split_lines
from edgekit.spec.errors import SamplesError

_SHAPES = "an object a line, an array of objects, or one object of columns (lists of one length)"
_SPLIT = {"columns", "data"}
"""Keys of a table that pandas writes with ``orient="split"``."""

_LISTED = 20
"""Maximum number of columns that a message lists."""

_LONGEST_KEY = 40
"""Maximum length of a key that a message quotes, in characters; a longer key may be text of a sample."""


class _RepeatedKeyError(ValueError):
    """An object has a key twice."""


def has_row_per_line(lines: Iterator[str]) -> bool:
    """Return whether the lines of a file hold one object each, as far as the first two lines show.

    A file whose first line is a whole object has further lines only if each of them is a row.
    """
    first = list(itertools.islice((line for line in lines if line.strip()), 2))
    return len(first) == 2 and _parse_type(first[0]) is dict


def read_records(
    text: str, file: Path, by_line: bool, is_row: Callable[[Mapping[str, object]], bool]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of a JSON file.

    Args:
        text: Text of the file.
        file: Path of the file, for messages.
        by_line: Whether the file name indicates JSON Lines.
        is_row: Function that returns whether an object of lists can be one row. If inputs are lists of words, such an
            object may be a row or a table of columns.

    Yields:
        Position of the row (``line 3`` or ``row 3``), and values by column.

    Raises:
        SamplesError: If a row is malformed, is not an object or has a key twice; the message names its position. If
            the file is one object that may be a row or a table.
    """
    document = _parse_document(text, file, by_line, is_row)
    if document is None:
        yield from read_lines(split_lines(text), file)
    elif isinstance(document, list):
        for row, record in enumerate(document, 1):
            if not isinstance(record, dict):
                raise _not_object_error(f"{file}, row {row}", record)
            yield f"row {row}", record
    else:
        yield from _read_columns(document, file)


def _parse_document(text: str, file: Path, by_line: bool, is_row: Callable[[Mapping[str, object]], bool]) -> Any:
    """Return the array of rows or the object of columns if the file is one document; None if each line is a row."""
    lines = list(itertools.islice((line for line in split_lines(text) if line.strip()), 2))
    first_type = _parse_type(lines[0]) if lines else None
    if not lines or lines[0].lstrip()[0] not in "[{" or (first_type is not None and len(lines) > 1):
        return None
    try:
        document = json.loads(text, object_pairs_hook=_check_pairs)
    except _RepeatedKeyError as problem:
        raise _repeated_key_error(str(file), problem) from problem
    except (ValueError, RecursionError) as problem:
        if lines[0].lstrip().startswith("{"):
            return None  # The file has one object per line, and one of the lines is malformed.
        line = problem.lineno if isinstance(problem, json.JSONDecodeError) else 1
        raise SamplesError(
            f"{file}, line {line} is not valid JSON ({_describe_problem(problem)}), expected {_SHAPES}. "
            "Correct the line.",
            code="samples-json",
        ) from problem
    if not isinstance(document, dict):
        return document
    is_table = bool(document) and all(isinstance(column, (list, dict)) for column in document.values())
    may_be_row = not is_table or is_row(document)
    if is_table and may_be_row and not by_line:
        raise SamplesError(
            f"{file} is one object of lists, which can be one row or a table of columns. For one row, name the file "
            ".jsonl or write an array of one object, [{...}]. For a table, write each row as an object.",
            code="samples-json-ambiguous",
        )
    if may_be_row:
        return None if first_type is not None else [document]  # One row, on one line or over several lines.
    return document


def _parse_type(line: str) -> type | None:
    """Return the Python type of the JSON value in a line, or None if the line is not one value."""
    try:
        return type(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _describe_problem(problem: ValueError | RecursionError) -> str:
    """Return why a text could not be parsed."""
    return problem.msg if isinstance(problem, json.JSONDecodeError) else "nested too deeply"


def _repeated_key_error(where: str, problem: _RepeatedKeyError) -> SamplesError:
    """Return the error of an object that has a key twice."""
    return SamplesError(f"{where} has {problem}, expected each once. Rename or remove one.", code="samples-key-twice")


def _not_object_error(where: str, value: object) -> SamplesError:
    """Return the error of a row that is not an object."""
    return SamplesError(
        f'{where} is a {type(value).__name__}, expected an object such as {{"text": ..., "label": ...}}. '
        "Correct the row.",
        code="samples-json-row",
    )


def read_lines(lines: Iterator[str], file: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of a file with one object per line.

    Args:
        lines: Lines of the file.
        file: Path of the file, for messages.

    Yields:
        Position of the row, and values by column.

    Raises:
        SamplesError: If a line is not one object, or has a key twice; the message has its number.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_check_pairs)
        except _RepeatedKeyError as problem:
            raise _repeated_key_error(f"{file}, line {number}", problem) from problem
        except (ValueError, RecursionError) as problem:
            raise SamplesError(
                f"{file}, line {number} is not valid JSON ({_describe_problem(problem)}), expected one object a line. "
                "Correct the line.",
                code="samples-json",
            ) from problem
        if not isinstance(record, dict):
            raise _not_object_error(f"{file}, line {number}", record)
        yield f"line {number}", record


def _read_columns(table: Mapping[str, Any], file: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of an object of columns: lists, or objects from row name to value as pandas writes them."""
    if set(table) >= _SPLIT and isinstance(table["data"], list) and isinstance(table["columns"], list):
        raise SamplesError(
            f'{file} is a table that pandas wrote with orient="split", expected {_SHAPES}. '
            'Write it with orient="records".',
            code="samples-json-split",
        )
    types = {type(column) for column in table.values()}
    keys = [_row_keys(column) for column in table.values()]
    if len(types) > 1 or any(column_keys != keys[0] for column_keys in keys):
        sizes = ", ".join(f"'{name}' {len(column)}" for name, column in list(table.items())[:_LISTED])
        raise SamplesError(
            f"{file} is one object of columns with different rows ({sizes}), expected {_SHAPES}. "
            "Give every column all rows.",
            code="samples-json-columns",
        )
    for row, key in enumerate(keys[0], 1):
        yield f"row {row}", {name: column[key] for name, column in table.items()}


def _row_keys(column: Any) -> list[Any]:
    """Return the keys of the values of a column: row names, or indices of a list."""
    return list(column) if isinstance(column, dict) else list(range(len(column)))


def _check_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the key-value pairs of an object as a dict.

    Raises:
        _RepeatedKeyError: If a key occurs twice.
    """
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        if len(repeated) <= _LONGEST_KEY:
            raise _RepeatedKeyError(f"the key '{repeated}' twice in one object")
        raise _RepeatedKeyError("a key twice in one object")
    return data
