"""The top of the page: what was compared with what, the verdict in words, its reasons, and the numbers that most people look for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from edgekit.report.render._words import GRAVEST_FIRST, percentiles
from edgekit.report.render.page.blocks import (
    GAP,
    MARKS,
    NOTHING,
    Cell,
    Limits,
    Row,
    Section,
    Table,
    amount,
    cut,
    filled,
    growth,
    left_out,
    percent,
    rows_of,
    score,
    sentence,
    sides,
    spread,
    words,
)
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Change, Gate, Report
from edgekit.spec.subject import Subject

__all__ = ["NAMES", "Top", "change_cells", "energy", "gates", "glance", "in_unit", "top", "verdict_cell"]

NAMES = {
    "p50": "p50 latency",
    "p90": "p90 latency",
    "p99": "p99 latency",
    "first_answer": "first answer",
    "memory": "peak memory",
    "size": "size on disk",
    "energy": "energy of an answer",
}
_KINDS = {"report": "Report", "baseline": "Baseline", "compare": "Comparison", "check": "Check", "self-check": "Self-check"}
_ARE = {
    REGRESSION: ("is a regression", "are regressions"),
    OVER_BUDGET: ("is over budget", "are over budget"),
    INCOMPARABLE: ("cannot be compared", "cannot be compared"),
    INCONCLUSIVE: ("is not settled", "are not settled"),
    PASS: ("passes", "pass"),
}
_TELLING = 8  # reasons in words; the table has all
_OPEN = 16  # gates that are seen at once


@dataclass(frozen=True)
class Top:
    """The head of the page.

    Attributes:
        title: of the window.
        kind: what sort of report it is.
        after, before: names of the candidate and of the baseline, which may be empty.
        about: a line of facts.
        verdict: a CSS class: a verdict with a hyphen, or ``none``.
        mark, word: the verdict as a sign and in a word.
        why: the verdict in a sentence.
        reasons: (gate, sentence) of the gates that do not pass.
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
    reasons: tuple[tuple[str, str], ...]


def top(report: Report, limits: Limits) -> Top:
    """The head."""
    one = report.subjects[-1]
    after = cut(one.name, limits.name) or "no name"
    before = "" if len(report.subjects) == 1 else cut(report.subjects[0].name, limits.name) or "no name"
    if report.kind == "self-check":
        before = "itself"
    kinds = (cut(value.replace("_", " "), limits.name) for value in one.identity.values() if isinstance(value, str))
    about = (cut(one.model, limits.name), one.task, *kinds, f"{report.rows:,} samples", _when(report.created))
    kind, names = _KINDS.get(report.kind, report.kind), f"{after} against {before}" if before else after
    gates = sorted(report.gates, key=lambda g: GRAVEST_FIRST.index(g.verdict))
    if gates:
        verdict, mark, word, why = report.verdict, MARKS[report.verdict], report.verdict.capitalize(), _counts(gates)
    else:
        verdict, mark, (word, why) = "none", "○", _ungated(report)
    told = [g for g in gates if g.verdict != PASS]
    reasons = tuple((cut(g.name, limits.name), sentence(g.said, limits.sentence)) for g in told[:_TELLING])
    title = f"EdgeKit {kind.lower()}: {names}" + (f": {report.verdict}" if gates else "")
    return Top(title, kind, after, before, tuple(filter(None, about)), verdict.replace(" ", "-"), mark, word, why, reasons)


def gates(report: Report, limits: Limits) -> Section:
    """The gates, the gravest first."""
    found = sorted(report.gates, key=lambda g: GRAVEST_FIRST.index(g.verdict))
    rows = tuple(_gate(g, limits) for g in found[: limits.rows])
    header = ("gate", "verdict", "allowed", "found", "90\N{NO-BREAK SPACE}% interval", "in words")
    note = left_out(len(rows), len(found), "gates")
    first = Table("t-gates", "What is allowed, and what was found", header, rows[:_OPEN], (1, 5))
    more = Table("t-more-gates", f"{len(rows) - _OPEN} more gates, none graver than these", header, rows[_OPEN:], (1, 5), True, note)
    return Section("gates", "Gates", filled(first, more))


def glance(report: Report) -> Section:
    """The numbers that most people look for."""
    found = sides(report)
    if len(found) == 1:
        table = Table("t-glance", "What was measured", ("", "value"), _alone(found[0][2]), kind="narrow")
    else:
        header = ("", *(name for _, name, _ in found), "change", "90\N{NO-BREAK SPACE}% interval")
        table = Table("t-glance", "Before and now", header, _both(report, found[0][2], found[1][2]), kind="middle")
    return Section("glance", "At a glance", filled(table))


def in_unit(name: str) -> Callable[[float | None], str]:
    """How the numbers of a gate are said: growth as per cent, a budget in its unit, a drop in that of the score."""
    table, _, metric = name.partition(".")
    if table in ("latency", "footprint"):
        return percent
    if name == "accuracy.flips":
        return lambda value: percent(value, signed=False)
    unit = {"_ms": "ms", "_mb": "MB"}.get(metric[-3:]) if table == "budget" else None
    return score if unit is None else partial(amount, unit=unit)


def verdict_cell(verdict: str) -> Cell:
    """A verdict with its sign."""
    return Cell(f"{MARKS[verdict]}{GAP}{verdict.replace(' ', GAP)}", f"v {verdict.replace(' ', '-')}")


def _gate(gate: Gate, limits: Limits) -> Row:
    said = in_unit(gate.name)
    interval = NOTHING if gate.low == gate.high else spread(said(gate.low), said(gate.high))
    return (cut(gate.name, limits.name), verdict_cell(gate.verdict), said(gate.limit), said(gate.value), interval, sentence(gate.said, limits.sentence))


def _counts(gates: list[Gate]) -> str:
    found = [(verdict, sum(g.verdict == verdict for g in gates)) for verdict in GRAVEST_FIRST]
    parts = [f"{count:,} {_ARE[verdict][count != 1]}" for verdict, count in found if count]
    whole = "the only gate" if len(gates) == 1 else f"{len(gates):,} gates"
    return f"Of {whole} {', '.join(parts)}." if len(gates) > 1 else f"{whole.capitalize()} {_ARE[gates[0].verdict][0]}."


def _ungated(report: Report) -> tuple[str, str]:
    if report.kind != "self-check":
        return "Measured, not judged", "No gate was set, so nothing here passes or fails."
    floor = report.speed.noise_floor if report.speed is not None else {}
    said = ", ".join(f"{percent(value)} in {NAMES.get(metric, metric)}" for metric, value in floor.items())
    looks = f" It can look like {said}: a margin below that cannot be gated here." if said else ""
    return "Noise floor", f"The bundle ran against itself, so all that differs is this machine's noise.{looks}"


def _alone(one: Subject) -> tuple[Row, ...]:
    times = percentiles(one.times) if one.times is not None else {}
    return rows_of(
        [
            (one.score_name or "score", [score(one.score)]),
            *((cut(name, 30), [score(value)]) for name, value in one.more_scores.items()),
            *((NAMES[name], [said.replace(" ms", f"{GAP}ms")]) for name, (_, said) in times.items()),
            ("first answer", [amount(one.start.total_ms if one.start is not None else None, "ms")]),
            ("peak memory", [amount(one.memory_mb or None, "MB")]),
            ("size on disk", [amount(one.size_mb or None, "MB")]),
            ("energy of an answer", [energy(one)]),
            ("calibration error", [score(one.calibration_error)]),
        ]
    )


def energy(one: Subject) -> str:
    """Energy of an answer, or why it is not known."""
    return amount(one.energy_mj, "mJ") if one.energy_mj is not None else f"not told: {cut(one.energy_from, 80)}" if one.energy_from else NOTHING


def _both(report: Report, before: Subject, after: Subject) -> tuple[Row, ...]:
    rows: list[Row] = []
    accuracy = report.accuracy
    if accuracy is not None and accuracy.comparable and accuracy.before is not None:
        grown, ends = accuracy.drop, (accuracy.low, accuracy.high)
        if accuracy.higher_is_better:  # the change of the score, which falls by the drop
            grown, ends = _negative(accuracy.drop), (_negative(accuracy.high), _negative(accuracy.low))
        change = (score(grown, True), spread(score(ends[0], True), score(ends[1], True)))
        rows.append((accuracy.score_name, score(accuracy.before), score(accuracy.after), *change))
    elif before.score is not None or after.score is not None:
        rows.append((after.score_name or before.score_name, score(before.score), score(after.score), NOTHING, NOTHING))
    for name in {**before.more_scores, **after.more_scores}:
        rows.append((cut(name, 30), score(before.more_scores.get(name)), score(after.more_scores.get(name)), NOTHING, NOTHING))
    changes = report.speed.changes if report.speed is not None else ()
    rows += [(NAMES.get(c.metric, c.metric), *_medians(c), *change_cells(c)) for c in changes]
    seen = {c.metric for c in changes}
    for metric, own, its in (
        ("memory", before.memory_mb or None, after.memory_mb or None),
        ("size", before.size_mb or None, after.size_mb or None),
    ):
        if metric not in seen and (own is not None or its is not None):
            rows.append((NAMES[metric], amount(own, "MB"), amount(its, "MB"), growth(its / own) if own and its else NOTHING, NOTHING))
    return tuple(rows)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _medians(change: Change) -> tuple[str, str]:
    """Both sides' values; none where they contradict the ratio of what was measured in turns, which is steadier than either."""
    values = (amount(change.before, change.unit), amount(change.after, change.unit))
    if None in (change.before, change.after, change.low, change.high) or not change.before:
        return values
    assert change.after is not None and change.low is not None and change.high is not None  # as seen above, for the type checker
    return values if change.low * 0.999 <= change.after / change.before <= change.high * 1.001 else (NOTHING, NOTHING)


def change_cells(change: Change) -> tuple[Cell | str, Cell | str]:
    """A change as growth, and its interval; where there is none, why."""
    if change.ratio is None:
        return NOTHING, words(cut(change.said, 80)) or NOTHING
    return growth(change.ratio), NOTHING if change.low == change.high else spread(growth(change.low), growth(change.high))


def _when(created: str) -> str:
    try:
        when = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return cut(created, 40)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
