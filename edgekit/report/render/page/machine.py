"""Where it was measured and of what, what else there is to know, and how a report is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from edgekit.report.render.page.blocks import Beside, Cell, Limits, Points, Row, Section, Table, cut, filled, left_out, rows_of, sentence, sides
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Report
from edgekit.spec.subject import Subject

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
    """The fingerprint, and what was compared."""
    rows = []
    for field in fields(report.fingerprint):
        value = getattr(report.fingerprint, field.name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
        elif isinstance(value, tuple):
            value = " ".join(value)
        elif field.name.endswith("_mb"):
            value = f"{value:,} MB" if value else ""
        elif isinstance(value, float):
            value = f"{value:g}" if value else ""
        name = field.name.removesuffix("_mb").replace("_", " ")
        rows.append((name, [cut(str(value), limits.sentence) if value or field.name == "throttled" else ""]))
    print_ = Table("t-machine", "The machine, at the end of the run", ("", "told"), rows_of(rows), (1,))
    return Section("machine", "Machine and bundles", filled(Beside((print_, _what(report, limits)))))


def notes(report: Report, limits: Limits) -> Section:
    """What whoever reads it should know."""
    shown = report.notes[: limits.rows]
    items = tuple(("", sentence(note, limits.sentence)) for note in shown)
    if more := left_out(len(shown), len(report.notes), "notes"):
        items = (*items, ("", more))
    return Section("notes", "Notes", (Points(items),) if items else ())


def how_to_read() -> Section:
    """A glossary."""
    return Section("reading", "How to read this", (Points(_HOW_TO_READ),))


def _what(report: Report, limits: Limits) -> Table:
    found = sides(report)
    subjects = [s for *_, s in found]

    def told(name: str) -> list[str]:
        return [cut(str(getattr(s, name)), limits.name) for s in subjects]

    def kind(subject: Subject) -> str:
        return f"bundle, format {subject.format}" if subject.format else "predictions"

    rows = rows_of(
        [
            ("kind", [kind(s) for s in subjects]),
            ("name", [cut(s.name, limits.sentence) for s in subjects]),
            *((name, told(name)) for name in ("model", "task", "target", "backend", "method", "executed")),
            ("threads", [str(s.threads or "") for s in subjects]),
            *((name.replace("_", " "), [_told(s.identity.get(name), limits) for s in subjects]) for name in {n: None for s in subjects for n in s.identity}),
        ]
    )
    empty = [""] * (len(subjects) - 1)
    whole: list[Row] = list(rows)
    if any(s.digest for s in subjects):
        whole.append(("digest", *(Cell(cut(s.digest, 80), "mono") for s in subjects)))
    whole += [(name, Cell(value, kind), *empty) for name, value, kind in _of_all(report) if value]
    return Table("t-what", "What was measured", ("", *(name for _, name, _ in found)), tuple(whole), tuple(range(1, len(found) + 1)))


def _told(value: object, limits: Limits) -> str:
    """A value of an identity: a text, a number or a list of them."""
    words = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    return cut(words, limits.name)


def _of_all(report: Report) -> list[tuple[str, str, str]]:
    return [
        ("samples", cut(report.samples, 80), "mono"),
        ("rows", f"{report.rows:,}", ""),
        ("seed", f"{report.seed}", ""),
        ("report's digest", cut(report.digest, 80), "mono"),
    ]
