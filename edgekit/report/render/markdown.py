"""A report as a comment on a pull request: the verdict first, narrow enough for a phone, short enough for GitHub.

What a report holds was written by others (names of models, labels, values of columns), and a comment is read by GitHub or GitLab. Nothing of it
becomes markup, pings anybody or links anywhere: special characters are entities, and a zero-width space takes ``@name``, ``#123`` and the like
apart, since these are looked for in the text as it is shown, behind any escape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.report.render.document import Block, Document, Figure, Limits, Table, is_open
from edgekit.report.render.sections import document
from edgekit.spec.report import Report

__all__ = ["MOST_BYTES", "escape", "markdown"]

MOST_BYTES = 64_000
"""Of a comment, as UTF-8. GitHub takes 65,536 characters."""

_LIMITS = Limits(rows=40, flips=10, name=60, sentence=400)
_TIGHT = Limits(rows=40, flips=10, name=60, sentence=160)
"""Where names and sentences are of characters that take many bytes each."""

_GAP = "&#8203;"
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_TAKEN_APART = re.compile(
    r"(?P<entity>[\\`*_{}\[\]<>|^])"
    r"|(?P<both>[&~$])"  # of the markup, and in GitLab of references
    r"|(?P<reference>[@#!%](?=[\w\"'({]))"
    r"|(?P<linked>GH(?=-\d)|www(?=\.)|:(?=//)|mailto(?=:)|xmpp(?=:)|:(?=[\w+\-]+:))",
    re.IGNORECASE,
)
_OPENS_BLOCK = re.compile(r"[-+=#]|\d{1,9}(?=[.)](?:\s|$))")


def markdown(report: Report) -> str:
    """The comment.

    Args:
        report: of any kind. Texts of samples are shown only where its ``include_text`` is set.

    Returns:
        GitHub-flavoured Markdown of at most ``MOST_BYTES``, always the same for the same report. What is in numbers alone is folded, below all that is
        said. What does not fit is left out from the bottom, and a last line says what that was.
    """
    parts, folded = _parts(document(report, _LIMITS))
    if sum(len(text.encode()) + 2 for _, text in parts) > MOST_BYTES - 1_000:
        parts, folded = _parts(document(report, _TIGHT))
    parts += folded
    room, kept = MOST_BYTES - 1_000, []  # for the last line
    for index, (_, text) in enumerate(parts):
        room -= len(text.encode()) + 2
        if room < 0:
            left_out = ", ".join(name for name, _ in parts[index:])
            kept.append(
                f"Left out here, as a comment holds no more: {left_out}. All of it is in report.html and report.json."
            )
            break
        kept.append(text)
    return "\n\n".join(kept) + "\n"


def escape(text: str) -> str:
    """Text that stays text in one line of Markdown, in a cell of a table too.

    Args:
        text: any; line ends become spaces, characters that are not seen (or turn the direction of what follows) a replacement character.
    """
    escaped = _TAKEN_APART.sub(_apart, _HIDDEN.sub("\ufffd", " ".join(text.split())))
    if opens := _OPENS_BLOCK.match(escaped):
        place = opens.end() - 1 if not opens[0].isdigit() else opens.end()
        return f"{escaped[:place]}&#{ord(escaped[place])};{escaped[place + 1 :]}"
    return escaped


def _apart(found: re.Match[str]) -> str:
    if found.lastgroup == "entity":
        return f"&#{ord(found[0])};"
    return (f"&#{ord(found[0])};" if found.lastgroup == "both" else found[0]) + _GAP


def _parts(made: Document) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is seen at once and what is folded, by name and in order."""
    parts = [("verdict", _head(made))]
    told, folded = [s for s in made.sections if not s.page_only], []
    for section in told:
        shown = [b for b in section.blocks if is_open(section, b)]
        hidden = [b for b in section.blocks if not is_open(section, b)]
        title = section.title.lower()
        parts += [(title, _open(section.title, shown))] if shown else []
        folded += [(f"{title} tables", _folded(section.title, hidden))] if hidden else []
    return parts, folded


def _head(made: Document) -> str:
    who = f"**{escape(made.after)}**" + (f" against **{escape(made.before)}**" if made.before else "")
    return f"## {made.mark} {made.word}: EdgeKit {made.kind.lower()}\n\n{who}, {escape(', '.join(made.about))}. {escape(made.why)}"


def _open(title: str, blocks: Sequence[Block]) -> str:
    """What is seen at once: a first paragraph beside the title, all else below it."""
    first, rest = (f": {escape(blocks[0])}", blocks[1:]) if isinstance(blocks[0], str) else ("", blocks)
    return "\n\n".join([f"**{title}**{first}", *map(_block, rest)])


def _folded(title: str, blocks: Sequence[Block]) -> str:
    tables = [block.table if isinstance(block, Figure) else block for block in blocks]
    inside = [part for t in tables if isinstance(t, Table) for part in (f"**{escape(t.caption)}**", _block(t))]
    return "\n\n".join([f"<details><summary>{title}: tables</summary>", *inside, "</details>"])


def _block(block: Block) -> str:
    if isinstance(block, str):
        return escape(block)
    if isinstance(block, tuple):
        return "\n".join(f"- {escape(said)}" for _, said in block)
    if isinstance(block, Figure):
        return _block(block.table)
    under = ["---" if i == 0 or i in block.words else "---:" for i in range(len(block.header))]
    lines = [
        f"| {' | '.join(cells)} |"
        for cells in (map(escape, block.header), under, *(map(escape, row) for row in block.rows))
    ]
    return "\n".join(lines) + (f"\n\n{escape(block.note)}" if block.note else "")
