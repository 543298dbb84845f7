"""JSON to records: an object a line, an array of objects, or one object of columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.samples._decode import lines_of
from edgekit.spec.errors import SamplesError

_SHAPES = "an object a line, an array of objects, or one object of columns (lists of one length)"
_SPLIT = {"columns", "data"}
"""Keys of a table that pandas writes as ``orient="split"``."""


class _Twice(ValueError):
    """A key that an object has twice."""


def records(
    text: str, file: Path, by_line: bool, is_row: Callable[[Mapping[str, object]], bool]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Rows of a JSON file.

    Args:
        text: of the file.
        file: for messages.
        by_line: the name of the file says that a line is a row.
        is_row: whether an object is a row as it stands: where inputs are lists of words, one of lists may be a row, and a table of columns too, unless a
            part of a list can be no word.

    Yields:
        The place (``line 3`` or ``row 3``), and column to value.

    Raises:
        SamplesError: naming the place of what is malformed, no object, or has a key twice; for an object that may be a row or a table.
    """
    whole = _whole(text, file, by_line, is_row)
    if whole is None:
        yield from _by_line(text, file)
    elif isinstance(whole, list):
        for row, record in enumerate(whole, 1):
            if not isinstance(record, dict):
                raise SamplesError(
                    f'{file}, row {row} is a {type(record).__name__}, expected an object such as {{"text": ..., "label": ...}}.',
                    code="samples-json-row",
                )
            yield f"row {row}", record
    else:
        yield from _of_columns(whole, file)


def _whole(text: str, file: Path, by_line: bool, is_row: Callable[[Mapping[str, object]], bool]) -> Any:
    """The rows of an array, or an object of columns, where the file is one document; None where it is read line by line."""
    lines = [line for line in lines_of(text) if line.strip()]
    first = _kind(lines[0]) if lines else None
    if not lines or lines[0].lstrip()[0] not in "[{" or (first is not None and len(lines) > 1):
        return None
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _Twice as problem:
        raise SamplesError(
            f"{file} has {problem}, expected each once. Rename or remove one.", code="samples-key-twice"
        ) from problem
    except (ValueError, RecursionError) as problem:
        if lines[0].lstrip().startswith("{"):
            return None  # objects, of which a line is at fault
        line, reason = (
            (problem.lineno, problem.msg) if isinstance(problem, json.JSONDecodeError) else (1, "nested too deeply")
        )
        raise SamplesError(
            f"{file}, line {line} is not valid JSON ({reason}), expected {_SHAPES}. Correct the line.",
            code="samples-json",
        ) from problem
    if not isinstance(found, dict):
        return found
    is_table = bool(found) and all(isinstance(column, (list, dict)) for column in found.values())
    may_be_row = not is_table or is_row(found)
    if is_table and may_be_row and not by_line:
        raise SamplesError(
            f"{file} is one object of lists, which is one row or a table of columns: nothing tells which. For one row name the file .jsonl, or write an "
            "array of it, [{...}]; for a table write each row as an object.",
            code="samples-json-ambiguous",
        )
    if may_be_row:
        return None if first is not None else [found]  # a single row, on a line or over several
    return found


def _kind(line: str) -> type | None:
    """Of the value that is the whole line; None where there is none."""
    try:
        return type(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _by_line(text: str, file: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for line, part in enumerate(lines_of(text), 1):
        if not part.strip():
            continue
        try:
            record = json.loads(part, object_pairs_hook=_once)
        except _Twice as problem:
            raise SamplesError(
                f"{file}, line {line} has {problem}, expected each once. Rename or remove one.",
                code="samples-key-twice",
            ) from problem
        except (ValueError, RecursionError) as problem:
            reason = problem.msg if isinstance(problem, json.JSONDecodeError) else "nested too deeply"
            raise SamplesError(
                f"{file}, line {line} is not valid JSON ({reason}), expected one object a line. Correct the line.",
                code="samples-json",
            ) from problem
        if not isinstance(record, dict):
            raise SamplesError(
                f'{file}, line {line} is a {type(record).__name__}, expected an object such as {{"text": ..., "label": ...}}.',
                code="samples-json-row",
            )
        yield f"line {line}", record


def _of_columns(table: Mapping[str, Any], file: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Of columns as lists, or as objects from row name to value (as pandas writes them)."""
    if set(table) >= _SPLIT and isinstance(table["data"], list) and isinstance(table["columns"], list):
        raise SamplesError(
            f'{file} is a table as pandas writes it with orient="split", expected {_SHAPES}. Write it with orient="records".',
            code="samples-json-split",
        )
    kinds = {type(column) for column in table.values()}
    keys = [list(column) if isinstance(column, dict) else list(range(len(column))) for column in table.values()]
    if len(kinds) > 1 or any(k != keys[0] for k in keys):
        said = ", ".join(f"'{name}' {len(column)}" for name, column in list(table.items())[:20])
        raise SamplesError(
            f"{file} is one object of columns with different rows ({said}), expected {_SHAPES}. Give every column all rows.",
            code="samples-json-columns",
        )
    for row, key in enumerate(keys[0], 1):
        yield f"row {row}", {name: column[key] for name, column in table.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(f"the key '{twice}' twice in one object" if len(twice) <= 40 else "a key twice in one object")
    return data
