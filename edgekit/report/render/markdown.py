"""Report as a comment on a pull request: the verdict first, narrow enough for a phone, short enough for GitHub.

Names of models, labels and column values come from others, and GitHub or GitLab reads the comment. None of them becomes
markup, mentions anybody or makes a link. Special characters are written as entities. A zero-width space splits
``@name``, ``#123`` and the like, because these are searched in the rendered text, where an escape has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.report.render.document import Block, Document, Figure, Limits, Section, Table, is_open
from edgekit.report.render.sections import document
from edgekit.spec.report import Report

__all__ = ["MOST_BYTES", "escape", "markdown"]

MOST_BYTES = 64_000
"""Largest size of a comment, in bytes of UTF-8. GitHub accepts 65,536 characters."""

_LAST_LINE_BYTES = 1_000
"""Bytes reserved for the line about parts that were left out."""

_LIMITS = Limits(rows=40, flips=10, name=60, sentence=400)
_TIGHT = Limits(rows=40, flips=10, name=60, sentence=160)
"""Limits for reports whose names and sentences have characters of many bytes each."""

_GAP = "&#8203;"
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_SPECIAL = re.compile(
    r"(?P<entity>[\\`*_{}\[\]<>|^])"
    r"|(?P<both>[&~$])"  # Markup in general, and references in GitLab.
    r"|(?P<reference>[@#!%](?=[\w\"'({]))"
    r"|(?P<linked>GH(?=-\d)|www(?=\.)|:(?=//)|mailto(?=:)|xmpp(?=:)|:(?=[\w+\-]+:))",
    re.IGNORECASE,
)
_OPENS_BLOCK = re.compile(r"[-+=#]|\d{1,9}(?=[.)](?:\s|$))")

_Part = tuple[str, str]
"""Name and text of a part of the comment."""


def markdown(report: Report) -> str:
    """Return the comment.

    Args:
        report: Report of any kind. Texts of samples are only shown if its ``include_text`` is set.

    Returns:
        GitHub-flavoured Markdown of at most ``MOST_BYTES``, the same for equal reports. Tables of numbers are
        collapsed, below all sentences. If the comment would be too long, parts at its end are left out, and a last line
        names them.
    """
    room = MOST_BYTES - _LAST_LINE_BYTES
    parts, folded = _parts(document(report, _LIMITS))
    if sum(_size(text) for _, text in parts) > room:
        parts, folded = _parts(document(report, _TIGHT))
    parts += folded
    texts = []
    for index, (_, text) in enumerate(parts):
        room -= _size(text)
        if room < 0:
            names = ", ".join(name for name, _ in parts[index:])
            texts.append(f"Left out, because a comment cannot be longer: {names}. See report.html or report.json.")
            break
        texts.append(text)
    return "\n\n".join(texts) + "\n"


def _size(text: str) -> int:
    """Return the bytes of a part with the empty line behind it."""
    return len(text.encode()) + 2


def escape(text: str) -> str:
    """Return a text that stays plain text in one line of Markdown, also in a cell of a table.

    Args:
        text: Any text. Line ends become spaces. Invisible characters, and those that change the direction of the text,
            become replacement characters.
    """
    escaped = _SPECIAL.sub(_escape_match, _HIDDEN.sub("\ufffd", " ".join(text.split())))
    opens = _OPENS_BLOCK.match(escaped)
    if opens is None:
        return escaped
    place = opens.end() if opens[0].isdigit() else opens.end() - 1
    return f"{escaped[:place]}&#{ord(escaped[place])};{escaped[place + 1 :]}"


def _escape_match(match: re.Match[str]) -> str:
    if match.lastgroup == "entity":
        return f"&#{ord(match[0])};"
    if match.lastgroup == "both":
        return f"&#{ord(match[0])};{_GAP}"
    return match[0] + _GAP


def _parts(page: Document) -> tuple[list[_Part], list[_Part]]:
    """Return the visible parts and the collapsed parts, each in order."""
    visible = [("verdict", _head(page))]
    folded = []
    for section in page.sections:
        if section.page_only:
            continue
        title = section.title.lower()
        open_blocks = [block for block in section.blocks if is_open(section, block)]
        tables = [block for block in section.blocks if not is_open(section, block)]
        if open_blocks:
            visible.append((title, _visible(section, open_blocks)))
        if tables:
            folded.append((f"{title} tables", _folded(section, tables)))
    return visible, folded


def _head(page: Document) -> str:
    names = f"**{escape(page.after)}**"
    if page.before:
        names += f" against **{escape(page.before)}**"
    title = f"## {page.mark} {page.word}: EdgeKit {page.kind.lower()}"
    return f"{title}\n\n{names}, {escape(', '.join(page.about))}. {escape(page.why)}"


def _visible(section: Section, blocks: Sequence[Block]) -> str:
    """Return the visible blocks of a section: a first paragraph beside the title, the others below it."""
    title = f"**{section.title}**"
    if isinstance(blocks[0], str):
        title += f": {escape(blocks[0])}"
        blocks = blocks[1:]
    return "\n\n".join([title, *map(_block, blocks)])


def _folded(section: Section, blocks: Sequence[Block]) -> str:
    parts = []
    for block in blocks:
        table = block.table if isinstance(block, Figure) else block
        if isinstance(table, Table):
            parts += [f"**{escape(table.caption)}**", _block(table)]
    return "\n\n".join([f"<details><summary>{section.title}: tables</summary>", *parts, "</details>"])


def _block(block: Block) -> str:
    if isinstance(block, str):
        return escape(block)
    if isinstance(block, tuple):
        return "\n".join(f"- {escape(text)}" for _, text in block)
    if isinstance(block, Figure):
        return _block(block.table)
    rulers = ["---:"] * len(block.header)
    for index in (0, *block.words):
        rulers[index] = "---"
    rows = [list(map(escape, row)) for row in (block.header, *block.rows)]
    rows.insert(1, rulers)
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if block.note:
        lines += ["", escape(block.note)]
    return "\n".join(lines)
