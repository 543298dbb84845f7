"""The label column of samples, in the ways in which data sets write it, as an array of a model's labels.

What can be read in one way only is read, and said where it is not as it stands; what can be read in two is refused. No text of a sample gets
into a message: a value is shown only where it is a number or like a label.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from edgekit.spec import cells
from edgekit.spec.errors import SamplesError, near
from edgekit.spec.protocols import Labelled, Truth

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

_SEPARATORS = ("|", ";", ",")
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]{0,14}(e[+-]?[0-9]{1,3})?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"([0-9]{1,9})(\.0*)?")
_NAMELESS = re.compile(r"label_([0-9]{1,9})", re.IGNORECASE)
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class _Column:
    """What is read: the names of a model's labels, and where the values are from."""

    names: tuple[str, ...]
    where: str

    def refuse(self, row: int, why: str) -> SamplesError:
        return SamplesError(f"{self.where}, row {row + 1}{why}", code="samples-label")


def parse(problem_type: str, names: Sequence[str], values: Sequence[object], where: str) -> Truth:
    """Reads the label column of samples.

    Args:
        problem_type: of the model's head.
        names: of the model's labels, in the order of its logits.
        values: one a row. Single label: a name, or in the whole column its index, or a 0 or 1 for each label. Multi label: names or indices in a
            list or joined by ``|``, ``;`` or ``,``, or a 0 or 1 for each label, in the model's order or by name. Regression: a number for each output.
        where: the file, for messages.

    Raises:
        SamplesError: for a label that the model does not know, a value that is not a number, or a column that can be read in two ways.
    """
    column = _Column(tuple(names), where)
    rows = [unwritten(v) for v in values]
    if problem_type == REGRESSION:
        return _truth(
            np.array([_numbers(v, column, i) for i, v in enumerate(rows)], np.float64).reshape(len(rows), len(names))
        )
    if problem_type == SINGLE_LABEL:
        return _single(rows, column)
    return _several(rows, column)


def _truth(values: np.ndarray, notes: tuple[str, ...] = ()) -> Truth:
    """An array is a sequence in all but its type."""
    return Truth(cast("Sequence[Any]", values), notes)


def of_rows(problem_type: str, names: Sequence[str], rows: Sequence[Labelled], where: str) -> list[object]:
    """The values that :func:`parse` reads: those of the label column or, of a head with several labels, of a column for each that bears its name.

    Args:
        problem_type: of the model's head.
        names: of the model's labels.
        rows: of a sample file, at least one.
        where: the file, for messages.

    Raises:
        SamplesError: when a row has no label, a label no column, or there are both a label column and a column for each label.
    """
    several, labelled = problem_type == MULTI_LABEL, any(row.label is not None for row in rows)
    columns = match_columns(names, rows[0].others) if len(names) > 1 else {}
    if columns and not labelled and not any(row.empty for row in rows):
        if lacking := [name for name in names if name not in columns]:
            raise SamplesError(
                f"{where} has a column for the label{'s' if len(columns) > 1 else ''} {', '.join(columns)}, and none for {', '.join(lacking[:20])}. "
                "Give a column for each label of the model, or one column with the labels of a row: --columns label=NAME.",
                code="samples-label-columns",
            )
        return [{name: row.others.get(column) for name, column in columns.items()} for row in rows]
    if (
        several
        and len(columns) == len(names)
        and all(flag(rows[0].others.get(c)) is not None for c in columns.values())
    ):
        raise SamplesError(
            f"{where} has a label column and a column for each of the model's labels, expected one of both. Say which counts: "
            f"--columns label=NAME, or --columns 'label={'|'.join(columns.values())}'.",
            code="samples-label-columns",
        )
    if several and labelled and all(row.empty for row in rows if row.label is None):
        return [[] if row.empty else row.label for row in rows]
    if lacking_rows := [place for place, row in enumerate(rows, 1) if row.label is None]:
        raise SamplesError(
            f"{where}, row {lacking_rows[0]} has no label, which scoring needs. Name the column: --columns label=NAME.",
            code="samples-no-label",
        )
    return [row.label for row in rows]


def labelled(names: Sequence[str], rows: Sequence[Labelled]) -> list[bool]:
    """Which rows have a label: those with a value in the label column, or all where there are columns of 0 and 1 in its place."""
    if any(row.label is not None or row.empty for row in rows) or len(names) < 2 or not rows:
        return [row.label is not None for row in rows]
    return [len(match_columns(names, rows[0].others)) == len(names)] * len(rows)


def flag(value: object) -> bool | None:
    """A value that is 0 or 1, true or false; None for any other."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(_plain_number(value).lower()) if isinstance(value, str) else None


def match_columns(names: Sequence[str], columns: Mapping[str, object]) -> dict[str, str]:
    """Which columns bear the names of labels: label to column; in another case only where that fits one column."""
    found = {}
    for name in names:
        same = [name] if name in columns else [c for c in columns if _folded(c) == _folded(name)]
        if len(same) == 1:
            found[name] = same[0]
    return found


def _folded(text: str) -> str:
    return text.strip().casefold()


def _plain_number(text: str) -> str:
    """``1.0`` as ``1``; anything else without white space around it."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole and whole[2] else text


def unwritten(value: object) -> object:
    """A list that was written into a cell as Python, JSON or numpy write it; any other value as it is."""
    if (
        not isinstance(value, str)
        or not (text := value.strip()).startswith("[")
        or not text.endswith("]")
        or len(text) > cells.LONGEST
    ):
        return value
    text = cells.strip_numpy_types(text)
    if (found := cells.parse_numpy_list(text)) is not None:
        return found
    try:
        read = ast.literal_eval(re.sub(r"(?<=[0-9.])\s+(?=[0-9])", ", ", text) if "," not in text else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return read if isinstance(read, list) else value


# ---- names and indices


def reader(
    values: Sequence[object], names: Sequence[str], where: str
) -> tuple[Callable[[object, int], int], list[str]]:
    """How the labels of a column are read, each as the place of one of ``names``: by name or by index; and what to say of it.

    Args:
        values: labels of the whole column, each by itself.
        names: of the model's labels.
        where: the file, for messages.

    Returns:
        From a label and its row to the place of its name, which raises SamplesError for one that the model does not know; and sentences.
    """
    return _reader(values, _Column(tuple(names), where))


def _reader(values: Sequence[object], column: _Column) -> tuple[Callable[[object, int], int], list[str]]:
    """How a label is read, by name or by index: one column holds either names or indices, never both; and what to say of it."""
    names, notes = column.names, list[str]()
    folded = [_folded(name) for name in names]
    alone = len(set(folded)) == len(folded)
    texts = [str(v) for v in values if not isinstance(v, (list, tuple, dict))]
    if any(t in names or (alone and _folded(t) in folded) for t in texts):
        otherwise = sum(t not in names and alone and _folded(t) in folded for t in texts)
        if otherwise:
            notes.append(
                f"{otherwise} labels of {column.where} are the model's names in another case, or with blanks around them, and were read as those."
            )

        def by_name(value: object, row: int) -> int:
            text = str(value)
            if not isinstance(value, (list, tuple, dict)):
                if text in names:
                    return names.index(text)
                if alone and _folded(text) in folded:
                    return folded.index(_folded(text))
            raise _unknown(value, column, row)

        return by_name, notes
    if texts and all(_NAMELESS.fullmatch(t.strip()) for t in texts):
        notes.append(
            f"The labels of {column.where} are LABEL_0, LABEL_1 and so on, which no label of the model is called: they were read as indices."
        )
        return _by_index(column, lambda v: (m := _NAMELESS.fullmatch(str(v).strip())) and m[1]), notes
    if (
        texts
        and len(names) == 2
        and len(texts) == len(values)
        and all(isinstance(v, bool) or _folded(str(v)) in ("true", "false") for v in values)
    ):
        notes.append(
            f"The labels of {column.where} are true and false: true was read as '{names[1]}', false as '{names[0]}'."
        )
        return _by_index(column, lambda v: {"true": "1", "false": "0"}.get(_folded(str(v)))), notes
    return _by_index(column, _index), notes


def _index(value: object) -> str | None:
    """Digits of a whole number, however it is written."""
    if isinstance(value, (bool, list, tuple, dict)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value >= 0 and value.is_integer() and value < 1e9 else None
    whole = _WHOLE.fullmatch(str(value).strip())
    return whole[1] if whole else None


def _by_index(column: _Column, digits: Callable[[object], str | None]) -> Callable[[object, int], int]:
    def read(value: object, row: int) -> int:
        text = digits(value)
        if text is None or int(text) >= len(column.names):
            raise _unknown(value, column, row)
        return int(text)

    return read


def _unknown(value: object, column: _Column, row: int) -> SamplesError:
    """A column of texts that was named by mistake must not be printed: a value is shown only if it is a number or like a label."""
    text, names = str(value), column.names
    similar = near(text, names)
    plain = isinstance(value, bool) or (
        isinstance(value, (int, float, str)) and len(text) <= 20 and bool(_NUMBER.fullmatch(text.strip()))
    )
    said = repr(text) if similar or plain else f"of {len(text)} characters"
    shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    hint = ""
    if plain and text.strip() in ("-1", "-100", "-1.0"):
        hint = f" ({text.strip()} often marks a row without a label: remove such rows.)"
    elif plain and _index(value) == str(len(names)):
        hint = f" (The model's indices are 0 to {len(names) - 1}: a column that counts from 1 has to be renumbered.)"
    return column.refuse(
        row,
        f": the label {said} is not one that the model knows.{similar}{hint} The model's labels: {shown} "
        "(or, in the whole column, their index from 0). Correct the column, or name another with --columns label=NAME.",
    )


# ---- heads


def _single(rows: Sequence[object], column: _Column) -> Truth:
    if rows and all(isinstance(v, (list, tuple)) and len(v) == 1 for v in rows):
        rows = [v[0] for v in rows if isinstance(v, (list, tuple))]
    elif rows and all(
        isinstance(v, dict) or (isinstance(v, (list, tuple)) and len(v) == len(column.names)) for v in rows
    ):
        flags = np.array([_flags(v, column, i) for i, v in enumerate(rows)], np.bool_)
        if (bad := np.flatnonzero(flags.sum(axis=1) != 1)).size:
            several = f"{int(flags[bad[0]].sum())} labels, expected one: the model gives each text a single label"
            raise column.refuse(
                int(bad[0]),
                f" has {several}. Correct the row; or, if the model was trained to give several, build it with "
                "--problem-type multi_label_classification (problem_type of its config).",
            )
        return _truth(flags.argmax(axis=1).astype(np.int64))
    read, notes = _reader(rows, column)
    return _truth(np.array([read(v, i) for i, v in enumerate(rows)], np.int64), tuple(notes))


def _several(rows: Sequence[object], column: _Column) -> Truth:
    labels = len(column.names)
    if any(isinstance(v, dict) for v in rows):
        return _truth(np.array([_flags(v, column, i) for i, v in enumerate(rows)], np.bool_).reshape(len(rows), labels))
    parts = _parts(rows, column)
    given = [p for p in parts if p]
    if given and all(len(p) == labels and all(flag(v) is not None for v in p) for p in given):
        # A 0 or 1 for each label, as Transformers trains on them; of a single label it is that label's.
        return _truth(np.array([_flags(p, column, i) if p else [False] * labels for i, p in enumerate(parts)], bool))
    if labels == 1:
        for row, values in enumerate(parts):
            if any(flag(v) is None and _NUMBER.fullmatch(str(v).strip()) for v in values):
                raise column.refuse(
                    row,
                    ": the label is a number other than 0 and 1, and the model has one output, whose sigmoid says yes or no. "
                    "If it was trained on such numbers, build it with --problem-type regression.",
                )
    written = [p for v, p in zip(rows, parts, strict=True) if not isinstance(v, (list, tuple)) and p]
    by_name = any(str(v) in column.names for p in given for v in p)
    if (
        written
        and len(written) == len(given)
        and not by_name
        and all(len(p) == 1 and flag(p[0]) is not None for p in given)
    ):
        columns = "|".join(column.names[:3]) + ("|..." if labels > 3 else "")
        raise SamplesError(
            f"{column.where}: every row has one 0 or 1 as its label, and the model may give a text several of {labels} labels. "
            "Is it the index of a label, or does it say whether the row has one of them? Give a column of 0 and 1 for each label, named after it "
            f"(--columns 'label={columns}'), or the names of each row's labels.",
            code="samples-label-ambiguous",
        )
    read, notes = _reader([v for p in given for v in p], column)
    result = np.zeros((len(rows), labels), bool)
    for row, values in enumerate(parts):
        indices = [read(v, row) for v in values]
        if len(set(indices)) != len(indices):
            raise column.refuse(
                row, f" names a label twice. Give each once, or flags of 0 and 1 for all {labels} in every row."
            )
        result[row, indices] = True
    return _truth(result, tuple(notes))


def _parts(rows: Sequence[object], column: _Column) -> list[list[object]]:
    """The labels of each row: of a cell those between the first separator by which all of them are names, indices or flags."""
    known = {_folded(name) for name in column.names}

    def split(separator: str) -> list[list[object]]:
        found: list[list[object]] = []
        for value in rows:
            if isinstance(value, (list, tuple)):
                found.append(list(value))
            elif isinstance(value, str) and _folded(value) not in known:
                found.append([part.strip() for part in value.split(separator) if part.strip()])
            else:
                found.append([value])
        return found

    for separator in _SEPARATORS:
        found = split(separator)
        if all(
            isinstance(p, bool) or _folded(str(p)) in known or _index(p) is not None or flag(p) is not None
            for row in found
            for p in row
        ):
            return found
    return split(_SEPARATORS[0])


def _flags(value: object, column: _Column, row: int) -> list[bool]:
    """Of a list in the order of the labels, or of an object or of columns from label to 0 or 1."""
    values = list(value) if isinstance(value, (list, tuple)) else _in_order(value, column, row)
    if len(values) != len(column.names):
        raise column.refuse(
            row,
            f" has {len(values)} values as its labels, expected a 0 or 1 for each of the {len(column.names)}. Correct the row.",
        )
    read = [flag(v) for v in values]
    if None in read:
        shown = str(values[read.index(None)])
        said = f"{shown!r}" if _NUMBER.fullmatch(shown) else f"a value of {len(shown)} characters"
        raise column.refuse(
            row, f" has {said} for the label '{column.names[read.index(None)]}', expected 0 or 1. Correct the row."
        )
    return [bool(v) for v in read]


def _in_order(value: object, column: _Column, row: int) -> list[object]:
    """Values by label in the order of the model's."""
    found = match_columns(column.names, value) if isinstance(value, dict) else {}
    if not isinstance(value, dict) or len(found) < len(column.names) or len(value) > len(found):
        unknown = [str(k) for k in value if k not in found.values()] if isinstance(value, dict) else []
        said = (
            f"values for {', '.join(unknown[:5])}, which the model has no labels for"
            if unknown
            else f"no value for {_lacking(column.names, found)}"
        )
        shown = ", ".join(column.names[:20]) + (" ..." if len(column.names) > 20 else "")
        raise column.refuse(
            row,
            f" has {said}. Expected one for each of the model's labels, by their names: {shown}. Rename the columns.",
        )
    return [value[found[name]] for name in column.names]


def _lacking(names: Sequence[str], found: Mapping[str, str]) -> str:
    return ", ".join([name for name in names if name not in found][:5])


def _numbers(value: object, column: _Column, row: int) -> list[float]:
    wanted = len(column.names)
    parts = (
        _in_order(value, column, row)
        if isinstance(value, dict) and wanted > 1
        else value
        if isinstance(value, (list, tuple))
        else str(value).split("|")
    )
    try:
        numbers = [float(p) for p in parts]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != wanted or not all(map(math.isfinite, numbers)):
        text = str(value).strip()
        said = f": {text!r}" if len(text) <= 20 and _NUMBER.fullmatch(text) else ""
        comma = " Write a decimal point, not a comma." if said and "," in text else ""
        raise column.refuse(
            row,
            f": the label is not {wanted} finite number(s), which a regression head needs{said}.{comma} Correct or remove the row.",
        )
    return numbers
