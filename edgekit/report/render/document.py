"""Document of a report that every form renders: paragraphs, tables, and figures with a table of the same numbers.

``sections`` builds the document; ``html``, ``markdown`` and ``terminal`` render it. A text form shows the table of a
figure instead of the figure: collapsed in Markdown, left out in a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Block", "Cell", "Document", "Figure", "Limits", "Points", "Row", "Section", "Table", "is_open"]


@dataclass(frozen=True)
class Limits:
    """Limits of what a document lists. The JSON has everything.

    Attributes:
        rows: Largest number of rows of a table.
        flips: Largest number of listed rows that are answered differently.
        text: Characters of a sample's text.
        name: Characters of a name.
        sentence: Characters of a sentence.
        labels: Labels of a confusion matrix before the rest is merged.
        words: Words of a heat map.
    """

    rows: int = 60
    flips: int = 100
    text: int = 240
    name: int = 80
    sentence: int = 400
    labels: int = 12
    words: int = 40


class Cell(str):
    """Cell of a table, with CSS classes: ``v`` and a verdict, ``h1`` to ``h6`` for a shade, ``mono``."""

    kind: str

    def __new__(cls, text: str, kind: str) -> Cell:
        """Create a cell with a text and its CSS classes."""
        cell = super().__new__(cls, text)
        cell.kind = kind
        return cell


Row = tuple[str, ...]
Points = tuple[tuple[str, str], ...]
"""List of terms, which may be empty, each with its description."""


@dataclass(frozen=True)
class Table:
    """Table; the first cell of a row is its name.

    Attributes:
        name: Id of the table, unique in the document.
        caption: Content of the table in words.
        header: Name of each column.
        rows: Rows, each with one cell per column.
        words: Indices of columns with words. They are aligned to the left, like the first column.
        folded: True if the table is collapsed at first.
        note: Text below the table, e.g. what was left out.
        kind: CSS class, e.g. ``heat``.
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
    """Figure and its table.

    Attributes:
        draw: Function that returns the SVG.
        caption: Explanation of the figure.
        table: Table of the same numbers.
    """

    draw: Callable[[], str]
    caption: str
    table: Table


Block = str | Table | Figure | Points
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """Section of the document.

    Attributes:
        name: Name of the anchor.
        title: Heading.
        blocks: Blocks in order; a section without blocks is left out.
        beside: True if the blocks are tables that stand side by side if there is room.
        page_only: True if text forms leave the section out, because it needs colours or room.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    beside: bool = False
    page_only: bool = False


@dataclass(frozen=True)
class Document:
    """Report that is ready to be rendered.

    Attributes:
        title: Title of the window.
        kind: Kind of the report.
        after, before: Names of the candidate and of the baseline; the latter may be empty.
        about: Facts such as the number of samples, the machine and the model.
        verdict: CSS class: a verdict with hyphens, or ``none``.
        mark, word: Verdict as a symbol and as a word.
        why: Verdict as a sentence.
        reasons: Gates that do not pass, each with a sentence.
        sections: Sections in order, none of them empty.
        include_text: True if texts of samples are included.
        schema: Schema version of the report.
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
    """Return whether a text form shows a block without unfolding it."""
    return isinstance(block, (str, tuple)) or (isinstance(block, Table) and not block.folded and not section.beside)
