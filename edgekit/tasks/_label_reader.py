"""Readers of label names and indices: one column holds either names or indices, never both.

No sample text gets into a message: a value is quoted only if it is a number or resembles a label.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.spec import cells
from edgekit.spec.errors import SamplesError, near

NUMBER = re.compile(r"[+-]?[0-9][0-9.,]{0,14}(e[+-]?[0-9]{1,3})?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
"""Text that looks like a number, so that a message may quote it."""

_WHOLE = re.compile(r"([0-9]{1,9})(\.0*)?")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def parse_flag(value: object) -> bool | None:
    """Return the truth value of 0, 1, true or false, also as text; None for any other value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(_plain_number(value).lower()) if isinstance(value, str) else None


def parse_index(value: object) -> str | None:
    """Return the digits of a whole number, e.g. of ``2``, ``2.0`` or ``"2"``; None for any other value."""
    if isinstance(value, (bool, list, tuple, dict)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value >= 0 and value.is_integer() and value < 1e9 else None
    whole = _WHOLE.fullmatch(str(value).strip())
    return whole[1] if whole else None


def parse_list_cell(value: object) -> object:
    """Return the list in a cell that holds one as Python, JSON or numpy writes it; any other value unchanged."""
    if not isinstance(value, str) or len(value.strip()) > cells.LONGEST:
        return value
    text = value.strip()
    if not text.startswith("[") or not text.endswith("]"):
        return value
    text = cells.strip_numpy_types(text)
    numpy_list = cells.parse_numpy_list(text)
    if numpy_list is not None:
        return numpy_list
    if "," not in text:
        text = re.sub(r"(?<=[0-9.])\s+(?=[0-9])", ", ", text)
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return literal if isinstance(literal, list) else value


def match_columns(names: Sequence[str], columns: Mapping[str, object]) -> dict[str, str]:
    """Return the column named after each label, for the labels that have one.

    Args:
        names: Label names of the model.
        columns: Columns of a row. A name in another case matches if it matches one column only.
    """
    matches = {}
    for name in names:
        same = [name]
        if name not in columns:
            same = [column for column in columns if fold(column) == fold(name)]
        if len(same) == 1:
            matches[name] = same[0]
    return matches


def fold(text: str) -> str:
    """Return a text without outer white space and case, for comparison."""
    return text.strip().casefold()


def _plain_number(text: str) -> str:
    """Return ``1.0`` as ``1``, and any other text without outer white space."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole and whole[2] else text


_NAMELESS = re.compile(r"label_([0-9]{1,9})", re.IGNORECASE)

Reader = Callable[[object, int], int]
"""Function from a label and its row index to the label's index, which raises SamplesError for an unknown label."""


@dataclass(frozen=True)
class Column:
    """The label column of a sample file.

    Attributes:
        names: Label names of the model.
        where: Name of the file, for messages.
    """

    names: tuple[str, ...]
    where: str

    def error(self, row: int, problem: str) -> SamplesError:
        """Return the error for a row (index from 0)."""
        return SamplesError(f"{self.where}, row {row + 1}{problem}", code="samples-label", row=row + 1)

    @property
    def shown_names(self) -> str:
        """The first label names, for messages."""
        return ", ".join(self.names[:20]) + (" ..." if len(self.names) > 20 else "")


def make_reader(values: Sequence[object], names: Sequence[str], where: str) -> tuple[Reader, list[str]]:
    """Return a function that reads the labels of a column, by name or by index.

    Args:
        values: All labels of the column, one by one.
        names: Label names of the model.
        where: Name of the file, for messages.

    Returns:
        The function, and notes about labels that were not read literally, one sentence each.
    """
    return column_reader(values, Column(tuple(names), where))


def column_reader(values: Sequence[object], column: Column) -> tuple[Reader, list[str]]:
    """Do what :func:`make_reader` does, for a :class:`Column`."""
    names = column.names
    folded = {fold(name) for name in names}
    has_unique_folds = len(folded) == len(names)
    texts = [str(value) for value in values if not _is_container(value)]
    exact = [text for text in texts if text in names]
    similar: list[str] = []
    if has_unique_folds:
        similar = [text for text in texts if text not in names and fold(text) in folded]
    if exact or similar:
        notes = []
        if similar:
            notes.append(
                f"{len(similar)} labels of {column.where} differ from the model's label names in case or in outer "
                "white space, and were read as those names."
            )
        return _name_reader(column, has_unique_folds), notes
    if texts and all(_NAMELESS.fullmatch(text.strip()) for text in texts):
        note = (
            f"The labels of {column.where} are LABEL_0, LABEL_1 and so on, which are no names of the model's labels: "
            "they were read as indices."
        )
        return _index_reader(column, _nameless_index), [note]
    if len(names) == 2 and texts and len(texts) == len(values) and all(map(_is_boolean, values)):
        note = f"The labels of {column.where} are true and false: true was read as '{names[1]}', false as '{names[0]}'."
        return _index_reader(column, _boolean_index), [note]
    return _index_reader(column, parse_index), []


def _is_container(value: object) -> bool:
    return isinstance(value, (list, tuple, dict))


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool) or fold(str(value)) in ("true", "false")


def _boolean_index(value: object) -> str | None:
    return {"true": "1", "false": "0"}.get(fold(str(value)))


def _nameless_index(value: object) -> str | None:
    match = _NAMELESS.fullmatch(str(value).strip())
    return match[1] if match else None


def _name_reader(column: Column, has_unique_folds: bool) -> Reader:
    names = column.names
    folded = [fold(name) for name in names]

    def read(value: object, row: int) -> int:
        text = str(value)
        if not _is_container(value):
            if text in names:
                return names.index(text)
            if has_unique_folds and fold(text) in folded:
                return folded.index(fold(text))
        raise _unknown_label(value, column, row)

    return read


def _index_reader(column: Column, digits: Callable[[object], str | None]) -> Reader:
    def read(value: object, row: int) -> int:
        text = digits(value)
        if text is None or int(text) >= len(column.names):
            raise _unknown_label(value, column, row)
        return int(text)

    return read


def _unknown_label(value: object, column: Column, row: int) -> SamplesError:
    """Return the error for an unknown label.

    The column may be one of texts that was named by mistake, so the value is quoted only if it is a number or resembles
    a label.
    """
    text = str(value)
    similar = near(text, column.names)
    is_number = isinstance(value, (int, float, str)) and len(text) <= 20 and bool(NUMBER.fullmatch(text.strip()))
    is_plain = isinstance(value, bool) or is_number
    label = repr(text) if similar or is_plain else f"of {len(text)} characters"
    hint = ""
    if is_plain and text.strip() in ("-1", "-100", "-1.0"):
        hint = f" ({text.strip()} often marks a row without a label: remove such rows.)"
    elif is_plain and parse_index(value) == str(len(column.names)):
        hint = f" (The model's indices are 0 to {len(column.names) - 1}: renumber a column that counts from 1.)"
    return column.error(
        row,
        f": the model has no label {label}.{similar}{hint} Its labels: {column.shown_names} "
        "(or, in the whole column, their index from 0). Correct the column, or name another: --columns label=NAME.",
    )
