"""Lists that were written into a cell of a table as numpy prints them: ``['John' 'lives']``, without commas, or ``[np.str_('John'), np.str_('lives')]``.

To Python, literals side by side are one text, so a reader of Python literals makes one word of such a list.
"""

from __future__ import annotations

import ast
import itertools
import re

__all__ = ["LONGEST", "lacks_comma", "parse_numpy_list", "strip_numpy_types"]

LONGEST = 1_000_000
"""Characters of the longest cell that is read as a list."""

_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[\s*{_TEXT}(?:\s+(?:{_TEXT}|\.\.\.))+\s*\]", re.DOTALL)
_LEFT_OUT = "..."
# A text that does not end takes all that follows: were it looked for again behind each quote in it, the time would grow with the square of the length.
_TYPED = re.compile(rf"""({_TEXT}|['"].*)|np\.(?:(True|False)_|\w+\(({_TEXT}|[^()'"]*)\))""", re.DOTALL)


def strip_numpy_types(cell: str) -> str:
    """A list with values as Python writes them in place of numpy's, which name their type: ``'a'`` for ``np.str_('a')``. Texts stay as they are."""
    return _TYPED.sub(lambda found: found[1] or found[2] or found[3], cell) if "np." in cell else cell


def parse_numpy_list(cell: str) -> list[str] | None:
    """The texts of a list of two or more that numpy printed; None for a cell that is none, or one that numpy shortened with ``...``."""
    if not _LIST.fullmatch(cell):
        return None
    parts = re.findall(rf"{_TEXT}|\.\.\.", cell, re.DOTALL)
    if _LEFT_OUT in parts:
        return None
    try:
        return [ast.literal_eval(part) for part in parts]
    except (ValueError, SyntaxError):
        return None


def lacks_comma(cell: str) -> bool:
    """Whether a list lacks a comma between two texts, or numpy left texts out of it.

    Args:
        cell: a list that Python reads, or any text: of the latter only a list that numpy shortened is told.
    """
    if _LIST.fullmatch(cell) and _LEFT_OUT in re.findall(rf"{_TEXT}|\.\.\.", cell, re.DOTALL):
        return True
    try:
        ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    quoted = [part[0] in "'\"" for part in re.findall(rf"{_TEXT}|\S", cell, re.DOTALL)]
    return any(a and b for a, b in itertools.pairwise(quoted))
