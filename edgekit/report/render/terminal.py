"""A report for a terminal or a log: who was measured, what was found, each gate with its reason, and last of all the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.document import Limits, Table, is_open
from edgekit.report.render.sections import document
from edgekit.report.render.words import plain
from edgekit.report.table import table
from edgekit.spec.report import Report

__all__ = ["terminal"]

_ALL = 1_000_000


def terminal(report: Report, code: int = 0) -> str:
    """The lines.

    Args:
        report: of any kind.
        code: the exit code, said with the verdict.
    """
    made = document(report, Limits(rows=_ALL, name=_ALL, sentence=_ALL))
    lines = [
        f"{made.kind.lower()}: {made.after}{f' against {made.before}' if made.before else ''}, {', '.join(made.about)}"
    ]
    notes = []
    for block in (b for s in made.sections if not s.page_only and s.name != "gates" for b in s.blocks if is_open(s, b)):
        if isinstance(block, str):
            lines.append(block)
        elif isinstance(block, tuple):
            notes += [f"note: {said}" for _, said in block]
        elif isinstance(block, Table):
            lines += [*_aligned(block.header, block.rows, block.words), *filter(None, [block.note])]
    gates = [
        (row[1][2:], row[0], row[-1])
        for s in made.sections
        if s.name == "gates"
        for t in s.blocks
        if isinstance(t, Table)
        for row in t.rows
    ]
    if gates:
        lines += _aligned(
            ("verdict", "gate", "in words"), gates[::-1], (1, 2)
        )  # the gravest last: that is where a log is read first
    lines += notes
    lines.append(
        f"verdict: {report.verdict}" + (f" (exit {code})" if code else "") if gates else f"{made.word}: {made.why}"
    )
    return plain("\n".join(lines))


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]) -> list[str]:
    return [f"  {line}" for line in table(header, rows, left=(0, *words)).splitlines()]
