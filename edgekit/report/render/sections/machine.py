"""Machine and bundles, notes, and how to read a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from edgekit.report.render.document import Cell, Limits, Section, Table
from edgekit.report.render.sections.parts import filled, left_out, rows_of, sides
from edgekit.report.render.words import cut, sentence
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Report
from edgekit.spec.subject import Subject

__all__ = ["how_to_read", "machine", "notes"]

_HOW_TO_READ = (
    (
        "Interval",
        "The range of values that the data allow, at 90 %: the true value lies beyond each end with a probability of "
        "5 %. The interval decides, not the estimate in its middle.",
    ),
    (PASS.capitalize(), "The whole interval is within the limit. For a budget, the value is."),
    (
        REGRESSION.capitalize(),
        "The whole interval is beyond the limit, which noise alone hardly ever causes.",
    ),
    (OVER_BUDGET.capitalize(), "The value exceeds a limit of the bundle itself, whatever the baseline."),
    (
        INCONCLUSIVE.capitalize(),
        "The limit lies within the interval, so these data cannot decide. More rows or more time can.",
    ),
    (
        INCOMPARABLE.capitalize(),
        "The two numbers cannot be compared: another machine, other samples, or no estimate. This is never a pass.",
    ),
    (
        "Drop",
        "Loss of score on the same rows, in the unit of the score: 0.01 of accuracy is one row in a hundred. Below 0, "
        "now is better.",
    ),
    (
        "Flip",
        "A row with different answers. The score can stay equal while many rows flip, as many to right as to wrong.",
    ),
    (
        "Not estimable",
        "A percentile is only given if there are enough calls for it (the early-stopping rule of MLPerf); otherwise "
        "the number of calls that it needs.",
    ),
    (
        "Ratio",
        "For latency, the median ratio over equal inputs in interleaved runs. It is more precise than the two medians, "
        "and need not be their quotient.",
    ),
    ("Before and now", "The baseline, dashed and hollow, and the candidate, solid and filled."),
)


def machine(report: Report, limits: Limits) -> Section:
    """Return the section of the machine's fingerprint and the bundles."""
    rows = []
    for field in fields(report.fingerprint):
        value = getattr(report.fingerprint, field.name)
        if value or field.name == "throttled":
            unit = " MB" if field.name.endswith("_mb") else ""
            name = field.name.removesuffix("_mb").replace("_", " ")
            rows.append((name, cut(_format(value), limits.sentence) + unit))
    table = Table("t-machine", "The machine, at the end of the run", ("", "value"), tuple(rows), (1,))
    return Section("machine", "Machine and bundles", filled(table, _bundles(report, limits)), beside=True)


def notes(report: Report, limits: Limits) -> Section:
    """Return the notes, without those that the summary has."""
    summary = report.accuracy.undecidable_reason if report.accuracy is not None else ""
    more_notes = [note for note in report.notes if note != summary]
    texts = [sentence(note, limits.sentence) for note in more_notes[: limits.rows]]
    texts.append(left_out(limits.rows, len(more_notes), "notes"))
    return Section("notes", "Notes", filled(tuple(("", text) for text in texts if text)))


def how_to_read() -> Section:
    """Return the glossary."""
    return Section("reading", "How to read this", (_HOW_TO_READ,), page_only=True)


def _bundles(report: Report, limits: Limits) -> Table:
    """Return the table of the bundles: their properties, the samples and the report."""
    names = [name for _, name, _ in sides(report)]
    subjects = [subject for _, _, subject in sides(report)]
    rows: list[tuple[str, Sequence[str]]] = []
    rows.append(("kind", [_kind(subject) for subject in subjects]))
    rows.append(("name", [cut(subject.name, limits.sentence) for subject in subjects]))
    for field in ("model", "task", "target", "backend", "method", "executed"):
        rows.append((field, [cut(_format(getattr(subject, field)), limits.name) for subject in subjects]))
    rows.append(("threads", [str(subject.threads or "") for subject in subjects]))
    for key in dict.fromkeys(key for subject in subjects for key in subject.identity):
        values = [cut(_format(subject.identity.get(key)), limits.name) for subject in subjects]
        rows.append((cut(key.replace("_", " "), 30), values))
    rows.append(("digest", [Cell(cut(subject.digest, 80), "mono") for subject in subjects]))
    empty = [""] * (len(subjects) - 1)
    rows.append(("samples", [Cell(cut(report.samples, 80), "mono"), *empty]))
    rows.append(("rows", [f"{report.rows:,}", *empty]))
    rows.append(("seed", [f"{report.seed}", *empty]))
    rows.append(("digest of the report", [Cell(cut(report.digest, 80), "mono"), *empty]))
    columns = tuple(range(1, len(names) + 1))
    return Table("t-what", "Bundles and samples", ("", *names), rows_of(rows), columns)


def _kind(subject: Subject) -> str:
    return f"bundle, format {subject.format}" if subject.format else "predictions"


def _format(value: object) -> str:
    """Return a value of a fingerprint or an identity as text: a string, a number, or several of them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if value is None:
        return ""
    if type(value) is int:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
