"""Parts of a report that several sections need, and notes on what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgekit.report.render.document import Block, Row, Table
from edgekit.report.render.words import NOTHING, cut
from edgekit.spec.report import Change, Report
from edgekit.spec.subject import Subject

__all__ = ["changes_of", "filled", "left_out", "limits_of", "rows_of", "sides"]

_IN_KEY = 28  # characters of a bundle's name beside a mark or above a column


def sides(report: Report) -> list[tuple[str, str, Subject]]:
    """Return (``a`` or ``b``, name, subject) of the baseline, if there is one, and of the candidate, with distinct short names."""
    subjects = report.subjects[-2:]
    if len(subjects) == 1 or report.kind == "self-check":
        return [("b", "this bundle", subjects[-1])]
    names = [cut(s.name, _IN_KEY) or "no name" for s in subjects]
    if names[0] == names[1]:
        names = [f"{names[0]} (before)", f"{names[1]} (now)"]
    return [("a", names[0], subjects[0]), ("b", names[1], subjects[1])]


def changes_of(report: Report) -> list[Change]:
    """Return the change of each metric; the reason why no latency can be compared is not repeated for each."""
    speed = report.speed
    return [] if speed is None else [replace(c, said="") if c.said == speed.why_not else c for c in speed.changes]


def limits_of(report: Report) -> dict[str, float]:
    """Return the limit of each gate by name."""
    return {gate.name: gate.limit for gate in report.gates}


def left_out(shown: int, all_: int, what: str) -> str:
    """Return a note on what a table does not list; empty if it lists all."""
    return "" if shown >= all_ else f"{shown:,} of {all_:,} {what} are listed; report.json has the others."


def filled(*blocks: Block | None) -> tuple[Block, ...]:
    """Return the blocks without empty ones and tables without rows."""
    return tuple(b for b in blocks if b and not (isinstance(b, Table) and not b.rows))


def rows_of(pairs: Iterable[tuple[str, Sequence[str]]]) -> tuple[Row, ...]:
    """Return rows of a name and cells, without rows whose cells are all empty."""
    return tuple((name, *cells) for name, cells in pairs if any(c not in ("", NOTHING) for c in cells))
