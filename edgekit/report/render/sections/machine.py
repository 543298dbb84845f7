"""Machine and bundles, notes, and how to read a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from edgekit.report.render.document import Cell, Limits, Section, Table
from edgekit.report.render.sections.parts import filled, left_out, rows_of, sides
from edgekit.report.render.words import cut, sentence
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Report

__all__ = ["how_to_read", "machine", "notes"]

_HOW_TO_READ = (
    ("Interval", "The values that the data do not rule out, at 90 %: each end is a bound that the truth is beyond only one time in twenty. It decides, "
     "never the estimate in its middle."),
    (PASS.capitalize(), "The whole interval is within what is allowed. Of a budget: the value is."),
    (REGRESSION.capitalize(), "The whole interval is beyond what is allowed: noise alone hardly ever does that."),
    (OVER_BUDGET.capitalize(), "The value is above a limit that the bundle has by itself, whatever the baseline."),
    (INCONCLUSIVE.capitalize(), "The interval holds both: these data do not settle it. More rows, or more time, would."),
    (INCOMPARABLE.capitalize(), "The two numbers are not of one kind: another machine, other samples, or no estimate. This is never a pass."),
    ("Drop", "How much worse the score is now, on the same rows, in the score's own unit: 0.01 of accuracy is one row in a hundred. Below 0, now is better."),
    ("Flip", "A row that is answered differently. Scores can stay alike while many rows flip, one way as often as the other."),
    ("Not estimable", "A percentile is told only where enough calls carry it (the early-stopping rule of MLPerf); else how many it would take."),
    ("Ratio", "Of a latency: the median over the same inputs in turns. It is steadier than the two medians, and need not be their quotient."),
    ("Before and now", "The baseline, dashed and hollow, and the candidate, solid and filled."),
)  # fmt: skip


def machine(report: Report, limits: Limits) -> Section:
    """Return the section of the machine's fingerprint and the bundles."""
    rows = []
    for field in fields(report.fingerprint):
        value = getattr(report.fingerprint, field.name)
        if value or field.name == "throttled":
            unit = " MB" if field.name.endswith("_mb") else ""
            rows.append((field.name.removesuffix("_mb").replace("_", " "), cut(_told(value), limits.sentence) + unit))
    print_ = Table("t-machine", "The machine, at the end of the run", ("", "told"), tuple(rows), (1,))
    return Section("machine", "Machine and bundles", filled(print_, _what(report, limits)), beside=True)


def notes(report: Report, limits: Limits) -> Section:
    """Return the notes, without those that the summary has."""
    never = report.accuracy.undecidable_reason if report.accuracy is not None else ""
    found = [note for note in report.notes if note != never]
    said = [
        *(sentence(note, limits.sentence) for note in found[: limits.rows]),
        left_out(limits.rows, len(found), "notes"),
    ]
    items = tuple(("", note) for note in said if note)
    return Section("notes", "Notes", filled(items))


def how_to_read() -> Section:
    """Return the glossary."""
    return Section("reading", "How to read this", (_HOW_TO_READ,), page_only=True)


def _what(report: Report, limits: Limits) -> Table:
    found = sides(report)
    subjects = [s for *_, s in found]

    def told(values: list[object]) -> list[str]:
        return [cut(_told(value), limits.name) for value in values]

    alone = [""] * (len(subjects) - 1)
    rows = rows_of(
        [
            ("kind", [f"bundle, format {s.format}" if s.format else "predictions" for s in subjects]),
            ("name", [cut(s.name, limits.sentence) for s in subjects]),
            *(
                (name, told([getattr(s, name) for s in subjects]))
                for name in ("model", "task", "target", "backend", "method", "executed")
            ),
            ("threads", [str(s.threads or "") for s in subjects]),
            *(
                (cut(name.replace("_", " "), 30), told([s.identity.get(name) for s in subjects]))
                for name in {n: None for s in subjects for n in s.identity}
            ),
            ("digest", [Cell(cut(s.digest, 80), "mono") for s in subjects]),
            ("samples", [Cell(cut(report.samples, 80), "mono"), *alone]),
            ("rows", [f"{report.rows:,}", *alone]),
            ("seed", [f"{report.seed}", *alone]),
            ("report's digest", [Cell(cut(report.digest, 80), "mono"), *alone]),
        ]
    )
    return Table(
        "t-what", "What was measured", ("", *(name for _, name, _ in found)), rows, tuple(range(1, len(found) + 1))
    )


def _told(value: object) -> str:
    """Return a value of a fingerprint or an identity as text: a string, a number, or several of them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return (
        f"{value:,}"
        if type(value) is int
        else f"{value:g}"
        if isinstance(value, float)
        else ""
        if value is None
        else str(value)
    )
