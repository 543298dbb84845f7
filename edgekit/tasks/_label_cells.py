"""Values of single label cells: flags, indices, numbers, written lists, and columns that are named after labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from edgekit.spec import cells

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
