"""Confusion matrices as heat maps."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.document import Cell, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import sides
from edgekit.report.render.words import cut
from edgekit.spec.report import Report
from edgekit.spec.subject import Subject

__all__ = ["confusion"]

_SHADES = 6
_LABEL = 24
"""Largest number of characters of a label."""


def confusion(report: Report, limits: Limits) -> Section:
    """Return the confusion matrix of each side as a heat map."""
    tables = []
    for side, name, subject in sides(report):
        if subject.confusion:
            tables.append(_matrix(side, name, subject, limits))
    return Section("confusion", "Confusion", tuple(tables), beside=True, page_only=True)


def _matrix(side: str, name: str, subject: Subject, limits: Limits) -> Table:
    cells, labels, merged = _merge_labels(subject.confusion, subject.labels, limits.labels)
    rows: list[Row] = []
    for i, (label, counts) in enumerate(zip(labels, cells, strict=True)):
        is_merged = merged > 0 and i == len(labels) - 1
        total = sum(counts)
        row = [cut(label, _LABEL)]
        for j, count in enumerate(counts):
            shade = min(_SHADES, 1 + int(count / total * _SHADES)) if count else 0
            is_right = i == j and not is_merged
            row.append(Cell(f"{count:,}", f"h{shade} right" if is_right else f"h{shade}"))
        rows.append(tuple(row))
    note = "The shade of a cell is its share of the row; right answers are framed."
    if merged:
        note += f" {merged} labels with the fewest errors are merged."
    header = ("right \\ answered", *(cut(label, _LABEL) for label in labels))
    caption = f"{name}: true label (down) and answer (across), number of rows"
    return Table(f"t-confusion-{side}", caption, header, tuple(rows), note=note, kind="heat")


def _merge_labels(
    cells: Sequence[Sequence[int]], labels: Sequence[str], most: int
) -> tuple[list[list[int]], list[str], int]:
    """Return a matrix of at most ``most`` labels, the others merged into one, and the number of merged labels."""
    count = len(cells)
    if count <= most:
        return [list(row) for row in cells], list(labels), 0
    errors = []
    for i in range(count):
        column_sum = sum(row[i] for row in cells)
        errors.append(sum(cells[i]) + column_sum - 2 * cells[i][i])
    by_errors = sorted(range(count), key=lambda i: -errors[i])
    listed = sorted(by_errors[: most - 1])
    groups = [[i] for i in listed]
    groups.append([i for i in range(count) if i not in listed])
    matrix = []
    for rows in groups:
        sums = []
        for columns in groups:
            sums.append(sum(cells[i][j] for i in rows for j in columns))
        matrix.append(sums)
    merged = count - len(listed)
    return matrix, [*(labels[i] for i in listed), f"{merged} others"], merged
