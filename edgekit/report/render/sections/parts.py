"""Helpers that several sections of a report need, and notes on what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgekit.report.render.document import Block, Row, Table
from edgekit.report.render.words import NOTHING, cut
from edgekit.spec.report import Change, Report
from edgekit.spec.subject import Subject

__all__ = ["Side", "changes_of", "filled", "left_out", "limits_of", "rows_of", "sides"]

Side = tuple[str, str, Subject]
"""CSS class (``a`` for before, ``b`` for now), short name and subject of one side."""

_IN_KEY = 28
"""Largest number of characters of a bundle's name beside a mark or above a column."""


def sides(report: Report) -> list[Side]:
    """Return the baseline, if there is one, and the candidate, with different short names."""
    subjects = report.subjects[-2:]
    if len(subjects) == 1 or report.kind == "self-check":
        return [("b", "this bundle", subjects[-1])]
    names = [cut(subject.name, _IN_KEY) or "no name" for subject in subjects]
    if names[0] == names[1]:
        names = [f"{names[0]} (before)", f"{names[1]} (now)"]
    return [("a", names[0], subjects[0]), ("b", names[1], subjects[1])]


def changes_of(report: Report) -> list[Change]:
    """Return the change of each metric. A reason that holds for all latencies is removed from the single changes."""
    speed = report.speed
    if speed is None:
        return []
    changes = []
    for change in speed.changes:
        changes.append(replace(change, said="") if change.said == speed.why_not else change)
    return changes


def limits_of(report: Report) -> dict[str, float]:
    """Return the limit of each gate by name."""
    return {gate.name: gate.limit for gate in report.gates}


def left_out(listed: int, total: int, what: str) -> str:
    """Return a note on the rows that a table leaves out; empty if it lists all."""
    return "" if listed >= total else f"{listed:,} of {total:,} {what} are listed; report.json has the others."


def filled(*blocks: Block | None) -> tuple[Block, ...]:
    """Return the blocks that are not empty; a table without rows is empty."""
    result = []
    for block in blocks:
        has_rows = not isinstance(block, Table) or bool(block.rows)
        if block and has_rows:
            result.append(block)
    return tuple(result)


def rows_of(pairs: Iterable[tuple[str, Sequence[str]]]) -> tuple[Row, ...]:
    """Return rows of a name and cells, without rows whose cells are all empty."""
    rows = []
    for name, cells in pairs:
        if any(cell not in ("", NOTHING) for cell in cells):
            rows.append((name, *cells))
    return tuple(rows)
