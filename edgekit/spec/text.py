"""Text that comes from elsewhere, on a terminal: what would move the cursor, colour, hide or reorder characters is shown as an escape."""

from __future__ import annotations

import re

__all__ = ["on_one_line", "visible"]

# Controls but line feed and tab (ANSI sequences begin with one), what formats invisibly (Unicode Cf: marks of direction among them) but the two
# joiners, which scripts need, line and paragraph separators, and halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""A text without anything that a terminal acts on but line feeds and tabs.

    The escapes are those of JSON, ``\\u001b``: JSON stays JSON, and says the same.
    """
    return _HIDDEN.sub(_escape, text)


def on_one_line(text: str) -> str:
    """As :func:`visible`, and line feeds and tabs too: a value that cannot look like a line of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
