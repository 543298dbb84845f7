"""Lists in table cells, printed by numpy: ``['John' 'lives']`` without commas, or ``[np.str_('John'), ...]``.

Python concatenates adjacent string literals, so ``ast.literal_eval`` would read such a list as one word.
"""

from __future__ import annotations

import ast
import itertools
import re

__all__ = ["LONGEST", "lacks_comma", "parse_numpy_list", "strip_numpy_types"]

LONGEST = 1_000_000
"""Longest cell that is read as a list, in characters."""

_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[\s*{_STRING}(?:\s+(?:{_STRING}|\.\.\.))+\s*\]", re.DOTALL)
_ELLIPSIS = "..."
# An unterminated string matches to the end of the cell. If each later quote started a new search, the time would grow
# with the square of the length.
_TYPED = re.compile(rf"""({_STRING}|['"].*)|np\.(?:(True|False)_|\w+\(({_STRING}|[^()'"]*)\))""", re.DOTALL)


def strip_numpy_types(cell: str) -> str:
    """Replace numpy scalars by Python literals: ``np.str_('a')`` becomes ``'a'``. Strings are not changed."""
    if "np." not in cell:
        return cell
    return _TYPED.sub(lambda match: match[1] or match[2] or match[3], cell)


def parse_numpy_list(cell: str) -> list[str] | None:
    """Return the strings of a list of two or more that numpy printed.

    Returns:
        The strings; None for any other cell, or a list that numpy shortened with ``...``.
    """
    if not _LIST.fullmatch(cell):
        return None
    parts = _list_parts(cell)
    if _ELLIPSIS in parts:
        return None
    try:
        return [ast.literal_eval(part) for part in parts]
    except (ValueError, SyntaxError):
        return None


def lacks_comma(cell: str) -> bool:
    """Return whether a list lacks a comma between two strings, or numpy shortened it.

    Args:
        cell: A list literal, or any text. In text that Python cannot parse, only a shortened list is detected.
    """
    if _LIST.fullmatch(cell) and _ELLIPSIS in _list_parts(cell):
        return True
    try:
        ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    is_string = [part[0] in "'\"" for part in re.findall(rf"{_STRING}|\S", cell, re.DOTALL)]
    return any(first and second for first, second in itertools.pairwise(is_string))


def _list_parts(cell: str) -> list[str]:
    """Return the string literals and ellipses of a cell."""
    return re.findall(rf"{_STRING}|\.\.\.", cell, re.DOTALL)
