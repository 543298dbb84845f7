"""Text for a terminal: escapes for characters that a terminal acts on, and lines that fit its width."""

from __future__ import annotations

import re
import textwrap
from contextvars import ContextVar

__all__ = ["WIDTH", "on_one_line", "visible", "width", "wrap", "wrap_lines"]

WIDTH = 100
"""Widest line of a text for a terminal or a log, in columns. Paths and addresses may be longer."""

width: ContextVar[int] = ContextVar("width", default=WIDTH)
"""Columns that texts are laid out for. The command line sets a smaller number in a narrower terminal."""

# Control characters except line feed and tab (ANSI sequences begin with one), line and paragraph separators,
# surrogates, and the invisible format characters of Unicode (Cf, e.g. direction marks). The two joiners stay, since
# scripts need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001-\U000e007f\ud800-\udfff]"
)
_LABEL = re.compile(r" *(\S+ )?\S+ {2,}(?=\S)|note: |verified here: |not verified: +")
"""Beginning of a line whose further lines are indented below what follows it: a name and its value, or a note."""


def visible(text: str) -> str:
    r"""Escape all characters that a terminal acts on, except line feeds and tabs.

    The escapes are those of JSON (``\u001b``), so JSON text stays valid and keeps its meaning.
    """
    return _HIDDEN.sub(_escape, text)


def on_one_line(text: str) -> str:
    """Escape like :func:`visible`, and also line feeds and tabs, so that a value cannot imitate another line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def wrap(text: str, columns: int | None = None) -> list[str]:
    """Return the lines of one paragraph, those after the first indented below its label, else by two spaces.

    Args:
        text: Paragraph without line feeds.
        columns: Widest line; None for :data:`width`. A word that is longer stays whole.
    """
    columns = columns or width.get()
    if len(text) <= columns:
        return [text]
    indent = text[: len(text) - len(text.lstrip(" "))]
    label = _LABEL.match(text)
    hanging = f"{indent}  " if label is None else " " * len(label[0])
    if len(hanging) > columns // 2:
        hanging = f"{indent}  "
    first = text if label is None else text[len(label[0]) :]
    lines = textwrap.wrap(
        first,
        columns,
        initial_indent=indent if label is None else label[0],
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [text]


def wrap_lines(text: str, columns: int | None = None) -> str:
    """Return a text of several paragraphs, a line each, with every paragraph wrapped by :func:`wrap`."""
    return "\n".join(line for paragraph in text.split("\n") for line in wrap(paragraph, columns))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
