"""Summary: the gates and the main numbers."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.document import Cell, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import changes_of, filled, left_out, rows_of, sides
from edgekit.report.render.words import (
    GAP,
    INTERVAL,
    MARKS,
    NAMES,
    NOTHING,
    amount,
    change_cells,
    cut,
    energy,
    gate_numbers,
    growth,
    percentiles,
    score,
    sentence,
    spread,
    start,
)
from edgekit.report.table import shown_scores
from edgekit.spec.report import Accuracy, Change, Gate, Report
from edgekit.spec.subject import Subject

__all__ = ["gates", "glance"]

_OPEN = 16
"""Number of gates that are visible at first."""


def gates(ordered: Sequence[Gate], limits: Limits) -> Section:
    """Return the section of the gates, the worst first."""
    rows = []
    for gate in ordered[: limits.rows]:
        text = sentence(gate.said, limits.sentence)
        rows.append((cut(gate.name, limits.name), _verdict(gate), *gate_numbers(gate), text))
    header = ("gate", "verdict", "allowed", "measured", INTERVAL, "in words")
    note = left_out(len(rows), len(ordered), "gates")
    first = Table("t-gates", "Limits and measured values", header, tuple(rows[:_OPEN]), (1, 5))
    caption = f"{len(rows) - _OPEN} more gates, none of them worse"
    more = Table("t-more-gates", caption, header, tuple(rows[_OPEN:]), (1, 5), folded=True, note=note)
    return Section("gates", "Gates", filled(first, more))


def glance(report: Report, limits: Limits) -> Section:
    """Return the section of the main numbers, after a sentence if the rows cannot decide the margin."""
    both = sides(report)
    warning = report.accuracy.undecidable_reason if report.accuracy is not None else ""
    if len(both) == 1:
        rows = _rows_of_one(both[0][2], changes_of(report), limits.sentence)
        table = Table("t-glance", "Measurements", ("", "value"), rows, (1,), kind="narrow")
    else:
        header = ("", *(name for _, name, _ in both), "change", INTERVAL)
        rows = _rows_of_both(report, both[0][2], both[1][2], limits.sentence)
        table = Table("t-glance", "Before and now", header, rows, (4,), kind="middle")
    return Section("glance", "At a glance", filled(warning, table))


def _verdict(gate: Gate) -> Cell:
    return Cell(f"{MARKS[gate.verdict]}{GAP}{gate.verdict.replace(' ', GAP)}", f"v {gate.verdict.replace(' ', '-')}")


def _rows_of_one(subject: Subject, changes: Sequence[Change], most: int) -> tuple[Row, ...]:
    """Return the rows of one bundle; ``changes`` are those of a self-check, in which it ran twice."""
    rows: list[tuple[str, Sequence[str]]] = [(cut(subject.score_name, 30) or "score", [score(subject.score)])]
    for name, value in shown_scores(subject.more_scores).items():
        rows.append((cut(name, 30), [score(value)]))
    rows.append(("calibration error", [score(subject.calibration_error)]))
    if subject.times is not None:
        rows += [(NAMES[name], [text]) for name, (_, text) in percentiles(subject.times).items()]
    if subject.sessions:
        rows.append(("sessions", [f"{len(subject.sessions) + 1}, the first on {subject.sessions[0].created}"]))
    rows.append(("first answer", [start(subject)]))
    rows.append(("peak memory", [amount(subject.memory_mb or None, "MB")]))
    rows.append(("size on disk", [amount(subject.size_mb or None, "MB")]))
    rows.append(("energy of an answer", [energy(subject, most)]))
    for change in changes:
        growth_text, interval = change_cells(change, most)
        rows.append((f"{_name(change)}, second over first", [f"{growth_text} ({interval})"]))
    return rows_of(rows)


def _rows_of_both(report: Report, before: Subject, after: Subject, most: int) -> tuple[Row, ...]:
    """Return the rows of a comparison."""
    rows: list[Row] = []
    accuracy = report.accuracy
    changes = changes_of(report)
    if accuracy is not None and accuracy.comparable and accuracy.before is not None:
        rows.append(_score_row(accuracy))
    elif before.score is not None or after.score is not None:
        name = cut(after.score_name or before.score_name, 30)
        rows.append((name, score(before.score), score(after.score), NOTHING, NOTHING))
    for name in shown_scores({**before.more_scores, **after.more_scores}):
        old = before.more_scores.get(name)
        new = after.more_scores.get(name)
        difference = None if old is None or new is None else new - old
        rows.append((cut(name, 30), score(old), score(new), score(difference, True), NOTHING))
    for change in changes:
        rows.append((_name(change), *_values(change), *change_cells(change, most)))
    metrics = {change.metric for change in changes}
    sizes = {"memory": (before.memory_mb, after.memory_mb), "size": (before.size_mb, after.size_mb)}
    for metric, (old_mb, new_mb) in sizes.items():
        if (old_mb or new_mb) and metric not in metrics:
            ratio = new_mb / old_mb if old_mb and new_mb else None
            values = (amount(old_mb or None, "MB"), amount(new_mb or None, "MB"))
            rows.append((NAMES[metric], *values, growth(ratio), NOTHING))
    return tuple(rows)


def _score_row(accuracy: Accuracy) -> Row:
    """Return the row of the score. Its change is the negative drop if a higher score is better."""
    sign = -1 if accuracy.higher_is_better else 1
    changes = []
    for drop in (accuracy.drop, accuracy.low, accuracy.high):
        changes.append(score(None if drop is None else sign * drop, True))
    change, *ends = changes
    name = cut(accuracy.score_name, 30)
    return (name, score(accuracy.before), score(accuracy.after), change, spread(*ends[::sign]))


def _name(change: Change) -> str:
    return NAMES.get(change.metric, change.metric)


def _values(change: Change) -> tuple[str, str]:
    """Return both sides' values; none if they contradict the interleaved ratio, which is more precise."""
    values = (amount(change.before, change.unit), amount(change.after, change.unit))
    if not change.before or change.after is None or change.low is None or change.high is None:
        return values
    is_consistent = change.low * 0.999 <= change.after / change.before <= change.high * 1.001
    return values if is_consistent else (NOTHING, NOTHING)
