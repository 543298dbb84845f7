"""Report for a terminal or a log: the main facts, the tables, the gates with the worst first, and the verdict."""

from __future__ import annotations

from edgekit.report.render.document import Document, Limits, Table, is_open
from edgekit.report.render.sections import document
from edgekit.report.render.words import plain
from edgekit.report.table import table
from edgekit.spec.report import Report
from edgekit.spec.text import width, wrap

__all__ = ["terminal"]

_ALL = 1_000_000
_INDENT = "  "


def terminal(report: Report, code: int = 0) -> str:
    """Return a report as lines that fit the width of the terminal.

    Args:
        report: Report of any kind.
        code: Exit status of the command; one other than 0 is printed with the verdict.
    """
    page = document(report, Limits(rows=_ALL, name=_ALL, sentence=_ALL))
    against = f" against {page.before}" if page.before else ""
    lines = wrap(plain(f"{page.kind.lower()}: {page.after}{against}, {', '.join(page.about)}"))
    notes: dict[str, None] = {}
    for section in page.sections:
        if section.page_only or section.name == "gates":
            continue
        for block in section.blocks:
            if not is_open(section, block):
                continue
            if isinstance(block, str):
                lines += wrap(plain(block))
            elif isinstance(block, tuple):
                notes |= dict.fromkeys(f"note: {text}" for _, text in block)
            elif isinstance(block, Table):
                lines += _aligned(block)
    gates = _gates(page)
    if gates.rows:
        lines += _aligned(gates)
    for note in notes:
        lines += wrap(plain(note))
    exit_code = f" (exit {code})" if code else ""
    verdict = f"verdict: {report.verdict}{exit_code}" if gates.rows else f"{page.word}: {page.why}"
    return "\n".join([*lines, *wrap(plain(verdict))])


def _gates(page: Document) -> Table:
    """Return all gates, the worst first, as the document sorts them: verdict, gate and a sentence."""
    rows = []
    for section in page.sections:
        for block in section.blocks:
            if section.name == "gates" and isinstance(block, Table):
                rows += [(row[1][2:], row[0], row[-1]) for row in block.rows]
    return Table("gates", "", ("verdict", "gate", "in words"), tuple(rows), (1, 2))


def _aligned(block: Table) -> list[str]:
    """Return the lines of a table, indented, and those of its note."""
    header = [plain(name) for name in block.header]
    rows = [list(map(plain, row)) for row in block.rows]
    text = table(header, rows, left=(0, *block.words), columns=width.get() - len(_INDENT))
    lines = [f"{_INDENT}{line}" for line in text.splitlines()]
    if block.note:
        lines += wrap(plain(block.note))
    return lines
