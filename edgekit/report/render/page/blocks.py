"""What a page is set from: paragraphs, tables, and pictures with the table of the same numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgekit.report.render._words import number, share
from edgekit.report.render.charts.svg import clean, minus
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Report
from edgekit.spec.subject import Subject

__all__ = [
    "GAP", "MARKS", "NOTHING", "Beside", "Block", "Cell", "Figure", "Limits", "Points", "Row", "Section", "Table",
    "Text", "amount", "chance", "cut", "filled", "growth", "left_out", "limits_of", "percent", "rows_of", "score",
    "sentence", "sides", "spread", "words",
]

GAP = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
_IN_KEY = 28  # characters of a bundle's name beside a mark or above a column
MARKS = {PASS: "✓", REGRESSION: "✗", OVER_BUDGET: "▲", INCONCLUSIVE: "?", INCOMPARABLE: "≠"}


@dataclass(frozen=True)
class Limits:
    """How much of a report a page lists; the JSON has the rest.

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


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with CSS classes: ``v`` and a verdict, ``h1`` ... of a heat, ``mono``, ``wrap`` for words among numbers."""

    text: str
    kind: str = ""


Row = tuple["Cell | str", ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        name: of its id, unique on the page.
        caption: what is in it.
        header: of each column.
        rows: of as many cells.
        words: columns of words, which go to the left; the first always does.
        folded: whether it is closed at first.
        note: below it, e.g. what was left out.
        kind: a CSS class, e.g. ``heat``.
    """

    is_: ClassVar[str] = "table"
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
        picture: SVG.
        caption: how it is read.
        table: the same in numbers.
    """

    is_: ClassVar[str] = "figure"
    picture: str
    caption: str
    table: Table


@dataclass(frozen=True)
class Beside:
    """Tables that stand side by side where there is room."""

    is_: ClassVar[str] = "beside"
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    is_: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Points:
    """A list: a term, which may be empty, and what is said of it."""

    is_: ClassVar[str] = "points"
    items: tuple[tuple[str, str], ...]


Block = Table | Figure | Beside | Text | Points


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of its anchor.
        title: its heading.
        blocks: in order; a section without any is left out.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


def cut(text: str, most: int) -> str:
    """A text of at most so many characters, on one line."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def sides(report: Report) -> list[tuple[str, str, Subject]]:
    """(``a`` or ``b``, name, subject): the baseline, where there is one, and the candidate, by names that fit a key. One name twice is told apart."""
    subjects = report.subjects[-2:]
    if len(subjects) == 1 or report.kind == "self-check":
        return [("b", "this bundle", subjects[-1])]
    names = [cut(s.name, _IN_KEY) or "no name" for s in subjects]
    if names[0] == names[1]:
        names = [f"{names[0]} (before)", f"{names[1]} (now)"]
    return [("a", names[0], subjects[0]), ("b", names[1], subjects[1])]


def limits_of(report: Report) -> dict[str, float]:
    """Gates by name to what they allow."""
    return {gate.name: gate.limit for gate in report.gates}


def words(text: str) -> Cell | str:
    """A cell that holds a number or, where there is none, the reason in words."""
    return Cell(text, "wrap") if len(text) > 30 else text


def left_out(shown: int, all_: int, what: str) -> str:
    """A note on what a table does not list; empty where it lists all."""
    return "" if shown >= all_ else f"{shown:,} of {all_:,} {what} are listed; report.json has the others."


def sentence(text: str, most: int) -> str:
    """A sentence, with a capital (not where a name such as p50 begins it) and an end."""
    text = cut(text, most)
    first = text.split(" ", 1)[0]
    return text and (text[0].upper() + text[1:] if first.isalpha() else text) + ("" if text[-1] in ".!?…" else ".")


def score(value: float | None, signed: bool = False) -> str:
    """A score or a difference of scores, four decimals."""
    return NOTHING if value is None else minus(f"{value:{'+' if signed else ''}.4f}")


def amount(value: float | None, unit: str) -> str:
    """A quantity with its unit."""
    return NOTHING if value is None else f"{minus(number(value))}{GAP}{unit}"


def percent(value: float | None, signed: bool = True) -> str:
    """A share as per cent."""
    return NOTHING if value is None else minus(share(value, signed).removesuffix(" %")) + f"{GAP}%"


def growth(ratio: float | None) -> str:
    """A ratio as growth: 1.083 is +8.3 %."""
    return percent(None if ratio is None else ratio - 1)


def spread(low: str, high: str) -> str:
    """An interval of two numbers as text."""
    return NOTHING if NOTHING in (low, high) else low if low == high else f"{low} to {high}"


def chance(p: float | None) -> str:
    """A p-value."""
    return NOTHING if p is None else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else "below 0.001"


def filled(*blocks: Block | None) -> tuple[Block, ...]:
    """Those that there are, without tables of no row."""
    return tuple(b for b in blocks if b is not None and not (isinstance(b, Table) and not b.rows) and not (isinstance(b, Text) and not b.text))


def rows_of(pairs: Iterable[tuple[str, Sequence[str]]]) -> tuple[Row, ...]:
    """Rows of a name and cells, without those that say nothing at all."""
    return tuple((name, *map(words, cells)) for name, cells in pairs if any(c not in ("", NOTHING) for c in cells))
