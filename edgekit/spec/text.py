"""Untrusted text on a terminal: characters that move the cursor, color, hide or reorder text are escaped."""

from __future__ import annotations

import re

__all__ = ["on_one_line", "visible"]

# Control characters except line feed and tab (ANSI sequences begin with one), line and paragraph separators,
# surrogates, and the invisible format characters of Unicode (Cf, e.g. direction marks). The two joiners stay, since
# scripts need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Escape all characters that a terminal acts on, except line feeds and tabs.

    The escapes are those of JSON (``\u001b``), so JSON text stays valid and keeps its meaning.
    """
    return _HIDDEN.sub(_escape, text)


def on_one_line(text: str) -> str:
    """Escape like :func:`visible`, and also line feeds and tabs, so that a value cannot imitate another line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
