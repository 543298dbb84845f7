"""What every form of a report is set from: paragraphs, tables, and pictures with the table of the same numbers.

``sections`` makes a document of a report, once; ``html``, ``markdown`` and ``terminal`` set it. A text form shows no picture, its table instead:
folded in Markdown, left out in a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Block", "Cell", "Document", "Figure", "Limits", "Points", "Row", "Section", "Table", "is_open"]


@dataclass(frozen=True)
class Limits:
    """How much of a report a document lists; the JSON has the rest.

    Attributes:
        rows: of a table.
        flips: rows that are answered differently.
        text: characters of a sample's text.
        name: characters of a name.
        sentence: characters of a sentence.
        labels: of a confusion matrix before the rest is put together.
        words: of a heat-map.
    """

    rows: int = 60
    flips: int = 100
    text: int = 240
    name: int = 80
    sentence: int = 400
    labels: int = 12
    words: int = 40


class Cell(str):
    """A cell of a table, with CSS classes: ``v`` and a verdict, ``h1`` ... of a heat, ``mono``."""

    kind: str

    def __new__(cls, text: str, kind: str) -> Cell:
        """The text, and its classes beside it."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made


Row = tuple[str, ...]
Points = tuple[tuple[str, str], ...]
"""A list: a term, which may be empty, and what is said of it."""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        name: of its id, unique in the document.
        caption: what is in it.
        header: of each column.
        rows: of as many cells.
        words: columns of words, which go to the left; the first always does.
        folded: whether it is closed at first.
        note: below it, e.g. what was left out.
        kind: a CSS class, e.g. ``heat``.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    words: tuple[int, ...] = ()
    folded: bool = False
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture and its table.

    Attributes:
        draw: makes the SVG.
        caption: how it is read.
        table: the same in numbers.
    """

    draw: Callable[[], str]
    caption: str
    table: Table


Block = str | Table | Figure | Points
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of the document.

    Attributes:
        name: of its anchor.
        title: its heading.
        blocks: in order; a section without any is left out.
        beside: its blocks are tables that stand side by side where there is room.
        page_only: text forms leave it out: it takes colours or room.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    beside: bool = False
    page_only: bool = False


@dataclass(frozen=True)
class Document:
    """A report, ready to be set.

    Attributes:
        title: of a window.
        kind: what sort of report it is.
        after, before: names of the candidate and of the baseline, which may be empty.
        about: facts: how many samples, on which machine, the model ...
        verdict: a CSS class: a verdict with a hyphen, or ``none``.
        mark, word: the verdict as a sign and in a word.
        why: the verdict in a sentence.
        reasons: (gate, sentence) of the gates that do not pass.
        sections: in order, each with something in it.
        include_text: whether texts of samples are in it.
        schema: of the report.
    """

    title: str
    kind: str
    after: str
    before: str
    about: tuple[str, ...]
    verdict: str
    mark: str
    word: str
    why: str
    reasons: Points
    sections: tuple[Section, ...]
    include_text: bool
    schema: int


def is_open(section: Section, block: Block) -> bool:
    """Whether a text form shows a block at once."""
    return isinstance(block, (str, tuple)) or (isinstance(block, Table) and not block.folded and not section.beside)
