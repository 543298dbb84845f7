"""What several sections take of a report, and what they leave out."""

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
    """(``a`` or ``b``, name, subject): the baseline, where there is one, and the candidate, by names that fit a key. One name twice is told apart."""
    subjects = report.subjects[-2:]
    if len(subjects) == 1 or report.kind == "self-check":
        return [("b", "this bundle", subjects[-1])]
    names = [cut(s.name, _IN_KEY) or "no name" for s in subjects]
    if names[0] == names[1]:
        names = [f"{names[0]} (before)", f"{names[1]} (now)"]
    return [("a", names[0], subjects[0]), ("b", names[1], subjects[1])]


def changes_of(report: Report) -> list[Change]:
    """Of each metric; what keeps all latencies from being compared is said once, and not with each."""
    speed = report.speed
    return [] if speed is None else [replace(c, said="") if c.said == speed.why_not else c for c in speed.changes]


def limits_of(report: Report) -> dict[str, float]:
    """Gates by name to what they allow."""
    return {gate.name: gate.limit for gate in report.gates}


def left_out(shown: int, all_: int, what: str) -> str:
    """A note on what a table does not list; empty where it lists all."""
    return "" if shown >= all_ else f"{shown:,} of {all_:,} {what} are listed; report.json has the others."


def filled(*blocks: Block | None) -> tuple[Block, ...]:
    """Those that there are, without tables of no row."""
    return tuple(b for b in blocks if b and not (isinstance(b, Table) and not b.rows))


def rows_of(pairs: Iterable[tuple[str, Sequence[str]]]) -> tuple[Row, ...]:
    """Rows of a name and cells, without those that say nothing at all."""
    return tuple((name, *cells) for name, cells in pairs if any(c not in ("", NOTHING) for c in cells))
