"""The gates and the main numbers."""

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
from edgekit.spec.report import Change, Gate, Report
from edgekit.spec.subject import Subject

__all__ = ["gates", "glance"]

_OPEN = 16  # gates that are seen at once


def gates(found: Sequence[Gate], limits: Limits) -> Section:
    """Return the section of the gates, the worst first."""
    rows = tuple(
        (cut(g.name, limits.name), _verdict(g), *gate_numbers(g), sentence(g.said, limits.sentence))
        for g in found[: limits.rows]
    )
    header = ("gate", "verdict", "allowed", "found", INTERVAL, "in words")
    note = left_out(len(rows), len(found), "gates")
    first = Table("t-gates", "What is allowed, and what was found", header, rows[:_OPEN], (1, 5))
    more = Table(
        "t-more-gates",
        f"{len(rows) - _OPEN} more gates, none graver than these",
        header,
        rows[_OPEN:],
        (1, 5),
        True,
        note,
    )
    return Section("gates", "Gates", filled(first, more))


def glance(report: Report, limits: Limits) -> Section:
    """Return the section of the main numbers, after a sentence if the rows can never decide the margin."""
    found, never = sides(report), report.accuracy.undecidable_reason if report.accuracy is not None else ""
    if len(found) == 1:
        table = Table(
            "t-glance",
            "What was measured",
            ("", "value"),
            _alone(found[0][2], changes_of(report), limits.sentence),
            (1,),
            kind="narrow",
        )
    else:
        header = ("", *(name for _, name, _ in found), "change", INTERVAL)
        table = Table(
            "t-glance",
            "Before and now",
            header,
            _both(report, found[0][2], found[1][2], limits.sentence),
            (4,),
            kind="middle",
        )
    return Section("glance", "At a glance", filled(never, table))


def _verdict(gate: Gate) -> Cell:
    return Cell(f"{MARKS[gate.verdict]}{GAP}{gate.verdict.replace(' ', GAP)}", f"v {gate.verdict.replace(' ', '-')}")


def _alone(one: Subject, changes: Sequence[Change], most: int) -> tuple[Row, ...]:
    """Return the rows of one bundle; ``changes`` are those of a self-check, in which it ran twice."""
    times = percentiles(one.times) if one.times is not None else {}
    return rows_of(
        [
            (cut(one.score_name, 30) or "score", [score(one.score)]),
            *((cut(name, 30), [score(value)]) for name, value in shown_scores(one.more_scores).items()),
            ("calibration error", [score(one.calibration_error)]),
            *((NAMES[name], [said]) for name, (_, said) in times.items()),
            ("sessions", [f"{len(one.sessions) + 1}, the first on {one.sessions[0].created}" if one.sessions else ""]),
            ("first answer", [start(one)]),
            ("peak memory", [amount(one.memory_mb or None, "MB")]),
            ("size on disk", [amount(one.size_mb or None, "MB")]),
            ("energy of an answer", [energy(one, most)]),
            *(
                (f"{NAMES.get(c.metric, c.metric)}, second over first", ["{} ({})".format(*change_cells(c, most))])
                for c in changes
            ),
        ]
    )


def _both(report: Report, before: Subject, after: Subject, most: int) -> tuple[Row, ...]:
    rows: list[Row] = []
    accuracy, changes = report.accuracy, changes_of(report)
    if accuracy is not None and accuracy.comparable and accuracy.before is not None:
        sign = -1 if accuracy.higher_is_better else 1  # the change of the score, which falls by the drop
        grown, *ends = (
            score(None if v is None else sign * v, True) for v in (accuracy.drop, accuracy.low, accuracy.high)
        )
        rows.append(
            (cut(accuracy.score_name, 30), score(accuracy.before), score(accuracy.after), grown, spread(*ends[::sign]))
        )
    elif before.score is not None or after.score is not None:
        rows.append(
            (cut(after.score_name or before.score_name, 30), score(before.score), score(after.score), NOTHING, NOTHING)
        )
    for name in shown_scores({**before.more_scores, **after.more_scores}):
        old, new = before.more_scores.get(name), after.more_scores.get(name)
        change = None if old is None or new is None else new - old
        rows.append((cut(name, 30), score(old), score(new), score(change, True), NOTHING))
    rows += [(NAMES.get(c.metric, c.metric), *_medians(c), *change_cells(c, most)) for c in changes]
    for metric, own, its in (("memory", before.memory_mb, after.memory_mb), ("size", before.size_mb, after.size_mb)):
        if (own or its) and metric not in {c.metric for c in changes}:
            rows.append(
                (
                    NAMES[metric],
                    amount(own or None, "MB"),
                    amount(its or None, "MB"),
                    growth(its / own if own and its else None),
                    NOTHING,
                )
            )
    return tuple(rows)


def _medians(change: Change) -> tuple[str, str]:
    """Return both sides' values; none if they contradict the interleaved ratio, which is more precise."""
    seen = (amount(change.before, change.unit), amount(change.after, change.unit))
    if not change.before or change.after is None or change.low is None or change.high is None:
        return seen
    return seen if change.low * 0.999 <= change.after / change.before <= change.high * 1.001 else (NOTHING, NOTHING)
