"""The labels of samples, in the forms in which data sets write them, as arrays of a model's labels.

A form with one possible reading is read, with a note if that reading is not literal. A form with two possible readings
is refused. No sample text gets into a message: a value is quoted only if it is a number or resembles a label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Labelled, Truth
from edgekit.tasks._label_reader import (
    NUMBER,
    Column,
    column_reader,
    fold,
    match_columns,
    parse_flag,
    parse_index,
    parse_list_cell,
)

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

_SEPARATORS = ("|", ";", ",")


def parse(problem_type: str, names: Sequence[str], values: Sequence[object], where: str) -> Truth:
    """Read the label column of samples.

    Args:
        problem_type: Kind of the model's head.
        names: Label names of the model, in the order of its logits.
        values: Label of each row. Single label: a name, or in the whole column its index, or a 0 or 1 for each label.
            Multi label: names or indices in a list or joined by ``|``, ``;`` or ``,``, or a 0 or 1 for each label, in
            the model's order or by name. Regression: a number for each output.
        where: Name of the file, for messages.

    Raises:
        SamplesError: If a label is unknown, a value is not a number, or the column has two possible readings.
    """
    column = Column(tuple(names), where)
    rows = [parse_list_cell(value) for value in values]
    if problem_type == REGRESSION:
        numbers = [_numbers(value, column, row) for row, value in enumerate(rows)]
        return _truth(np.array(numbers, np.float64).reshape(len(rows), len(names)))
    if problem_type == SINGLE_LABEL:
        return _parse_single(rows, column)
    return _parse_multi(rows, column)


def _truth(values: np.ndarray, notes: tuple[str, ...] = ()) -> Truth:
    # An array is a sequence in all but its type.
    return Truth(cast("Sequence[Any]", values), notes)


# ---- which columns hold the labels


def of_rows(problem_type: str, names: Sequence[str], rows: Sequence[Labelled], where: str) -> list[object]:
    """Return the label of each row in a form that :func:`parse` reads.

    The labels come from the label column or, for a head with several labels, from one column per label.

    Args:
        problem_type: Kind of the model's head.
        names: Label names of the model.
        rows: Rows of a sample file, at least one.
        where: Name of the file, for messages.

    Raises:
        SamplesError: If a row has no label, a label has no column, or there are both a label column and a column for
            each label.
    """
    is_multi = problem_type == MULTI_LABEL
    has_label_column = any(row.label is not None for row in rows)
    columns = match_columns(names, rows[0].others) if len(names) > 1 else {}
    if columns and not has_label_column and not any(row.empty for row in rows):
        return _from_columns(names, columns, rows, where)
    if is_multi and len(columns) == len(names) and _hold_flags(columns, rows[0]):
        raise SamplesError(
            f"{where} has a label column and a column for each of the model's labels, expected one of the two. "
            f"Choose: --columns label=NAME, or --columns 'label={'|'.join(columns.values())}'.",
            code="samples-label-columns",
        )
    if is_multi and has_label_column and all(row.empty for row in rows if row.label is None):
        return [_label_or_none(row) for row in rows]
    for number, row in enumerate(rows, 1):
        if row.label is None:
            raise SamplesError(
                f"{where}, row {number} has no label, which scoring needs. Name the column: --columns label=NAME.",
                code="samples-no-label",
            )
    return [row.label for row in rows]


def _from_columns(
    names: Sequence[str], columns: Mapping[str, str], rows: Sequence[Labelled], where: str
) -> list[object]:
    missing = [name for name in names if name not in columns]
    if missing:
        plural = "s" if len(columns) > 1 else ""
        raise SamplesError(
            f"{where} has a column for the label{plural} {', '.join(columns)}, and none for {', '.join(missing[:20])}. "
            "Give a column for each label of the model, or one column with the labels of a row: --columns label=NAME.",
            code="samples-label-columns",
        )
    values: list[object] = []
    for row in rows:
        values.append({name: row.others.get(column) for name, column in columns.items()})
    return values


def _label_or_none(row: Labelled) -> object:
    """Return the label of a row; an empty cell means no label."""
    return [] if row.empty else row.label


def _hold_flags(columns: Mapping[str, str], row: Labelled) -> bool:
    return all(parse_flag(row.others.get(column)) is not None for column in columns.values())


def labelled(names: Sequence[str], rows: Sequence[Labelled]) -> list[bool]:
    """Return which rows have a label.

    These are the rows with a value in the label column, or all rows if every label has a column of its own instead.
    """
    if any(row.label is not None or row.empty for row in rows) or len(names) < 2 or not rows:
        return [row.label is not None for row in rows]
    return [len(match_columns(names, rows[0].others)) == len(names)] * len(rows)


# ---- heads


def _parse_single(rows: Sequence[object], column: Column) -> Truth:
    if rows and all(isinstance(value, (list, tuple)) and len(value) == 1 for value in rows):
        rows = [value[0] for value in rows if isinstance(value, (list, tuple))]
    elif rows and all(_may_be_flags(value, column) for value in rows):
        flags = np.array([_flags(value, column, row) for row, value in enumerate(rows)], np.bool_)
        wrong = np.flatnonzero(flags.sum(axis=1) != 1)
        if wrong.size:
            count = int(flags[wrong[0]].sum())
            raise column.error(
                int(wrong[0]),
                f" has {count} labels, expected one: the model predicts a single label per text. Correct the row, "
                "or build a model that was trained for several labels with "
                "--problem-type multi_label_classification (problem_type of its config).",
            )
        return _truth(flags.argmax(axis=1).astype(np.int64))
    read, notes = column_reader(rows, column)
    return _truth(np.array([read(value, row) for row, value in enumerate(rows)], np.int64), tuple(notes))


def _may_be_flags(value: object, column: Column) -> bool:
    if isinstance(value, dict):
        return True
    return isinstance(value, (list, tuple)) and len(value) == len(column.names)


def _parse_multi(rows: Sequence[object], column: Column) -> Truth:
    label_count = len(column.names)
    if any(isinstance(value, dict) for value in rows):
        flags = [_flags(value, column, row) for row, value in enumerate(rows)]
        return _truth(np.array(flags, np.bool_).reshape(len(rows), label_count))
    parts = _split_cells(rows, column)
    nonempty = [part for part in parts if part]
    if nonempty and all(len(part) == label_count and all(map(_is_flag, part)) for part in nonempty):
        # One flag per label is the form in which Transformers trains; with a single label it is that label's flag.
        matrix = np.zeros((len(rows), label_count), bool)
        for row, part in enumerate(parts):
            if part:
                matrix[row] = _flags(part, column, row)
        return _truth(matrix)
    if label_count == 1:
        _refuse_numbers(parts, column)
    if _is_ambiguous(rows, parts, column):
        columns = "|".join(column.names[:3]) + ("|..." if label_count > 3 else "")
        raise SamplesError(
            f"{column.where}: every row has one 0 or 1 as its label, which is either the index of one of the model's "
            f"{label_count} labels or a flag. Give a column of 0 and 1 for each label, named after it "
            f"(--columns 'label={columns}'), or the names of each row's labels.",
            code="samples-label-ambiguous",
        )
    read, notes = column_reader([value for part in nonempty for value in part], column)
    matrix = np.zeros((len(rows), label_count), bool)
    for row, values in enumerate(parts):
        indices = [read(value, row) for value in values]
        if len(set(indices)) != len(indices):
            raise column.error(
                row,
                f" names a label twice. Name each label once, or give {label_count} flags of 0 and 1 in every row.",
            )
        matrix[row, indices] = True
    return _truth(matrix, tuple(notes))


def _is_flag(value: object) -> bool:
    return parse_flag(value) is not None


def _refuse_numbers(parts: Sequence[Sequence[object]], column: Column) -> None:
    """Refuse numbers other than 0 and 1 for a head with one output."""
    for row, values in enumerate(parts):
        if any(not _is_flag(value) and NUMBER.fullmatch(str(value).strip()) for value in values):
            raise column.error(
                row,
                ": the label is a number other than 0 and 1, but the model has one output, whose sigmoid answers yes "
                "or no. Build a model that was trained on such numbers with --problem-type regression.",
            )


def _is_ambiguous(rows: Sequence[object], parts: Sequence[Sequence[object]], column: Column) -> bool:
    """Return whether every row has a single 0 or 1 outside a list: an index and a flag look the same."""
    nonempty = 0
    for value, part in zip(rows, parts, strict=True):
        if not part:
            continue
        nonempty += 1
        if isinstance(value, (list, tuple)) or len(part) != 1 or not _is_flag(part[0]) or str(part[0]) in column.names:
            return False
    return nonempty > 0


def _split_cells(rows: Sequence[object], column: Column) -> list[list[object]]:
    """Return the labels of each row.

    Cells are split at the first separator for which all parts are names, indices or flags.
    """
    known = {fold(name) for name in column.names}

    def is_label(part: object) -> bool:
        return isinstance(part, bool) or fold(str(part)) in known or parse_index(part) is not None or _is_flag(part)

    def split(separator: str) -> list[list[object]]:
        result: list[list[object]] = []
        for value in rows:
            if isinstance(value, (list, tuple)):
                result.append(list(value))
            elif isinstance(value, str) and fold(value) not in known:
                result.append([part.strip() for part in value.split(separator) if part.strip()])
            else:
                result.append([value])
        return result

    for separator in _SEPARATORS:
        parts = split(separator)
        if all(is_label(part) for row in parts for part in row):
            return parts
    return split(_SEPARATORS[0])


def _flags(value: object, column: Column, row: int) -> list[bool]:
    """Return the flag of each label, from a list in the model's order or from a mapping by label name."""
    values = list(value) if isinstance(value, (list, tuple)) else _in_order(value, column, row)
    if len(values) != len(column.names):
        raise column.error(
            row,
            f" has {len(values)} values as its labels, expected a 0 or 1 for each of the {len(column.names)} labels. "
            "Correct the row.",
        )
    flags = []
    for name, item in zip(column.names, values, strict=True):
        flag = parse_flag(item)
        if flag is None:
            text = str(item)
            shown_value = repr(text) if NUMBER.fullmatch(text) else f"a value of {len(text)} characters"
            raise column.error(row, f" has {shown_value} for the label '{name}', expected 0 or 1. Correct the row.")
        flags.append(flag)
    return flags


def _in_order(value: object, column: Column, row: int) -> list[object]:
    """Return the values of a mapping from label name to value, in the model's order."""
    mapping = value if isinstance(value, dict) else {}
    columns = match_columns(column.names, mapping)
    unknown = [str(key) for key in mapping if key not in columns.values()]
    missing = [name for name in column.names if name not in columns]
    if unknown or missing or not isinstance(value, dict):
        problem = f"no value for {', '.join(missing[:5])}"
        if unknown:
            problem = f"values for {', '.join(unknown[:5])}, which are no labels of the model"
        raise column.error(
            row,
            f" has {problem}. Expected one value for each of the model's labels, by name: {column.shown_names}. "
            "Rename the columns.",
        )
    return [value[columns[name]] for name in column.names]


def _numbers(value: object, column: Column, row: int) -> list[float]:
    count = len(column.names)
    parts: Any
    if isinstance(value, dict) and count > 1:
        parts = _in_order(value, column, row)
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        parts = str(value).split("|")
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) == count and all(map(math.isfinite, numbers)):
        return numbers
    text = str(value).strip()
    quoted = f": {text!r}" if len(text) <= 20 and NUMBER.fullmatch(text) else ""
    comma = " Write a decimal point, not a comma." if quoted and "," in text else ""
    raise column.error(
        row,
        f": the label is not {count} finite number(s), which a regression head needs{quoted}.{comma} "
        "Correct or remove the row.",
    )
