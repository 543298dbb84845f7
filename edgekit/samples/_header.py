"""Detection of a table's header line: only the cells of a header may appear in an error; a row may be private text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["is_header"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


def is_header(names: Iterable[str], rows: Iterable[Mapping[str, object]]) -> bool:
    """Return whether the cells of the first line are column names and not data.

    They are if every cell is an identifier that does not occur again in its column, and some cell of the other rows
    has several words.

    Args:
        names: Cells of the first line.
        rows: Rows below the first line, as cell values by these names.
    """
    columns = list(names)
    if not columns or not all(_NAME.fullmatch(name) for name in columns):
        return False
    has_words = False
    for row in rows:
        for name in columns:
            value = row.get(name)
            if not isinstance(value, str):
                continue
            if value.strip().lower() == name.lower():
                return False
            has_words = has_words or " " in value.strip()
    return has_words
