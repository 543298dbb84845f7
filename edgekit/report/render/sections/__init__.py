"""Sections of a report. Each module turns parts of the report into sections, which together are the document."""

from __future__ import annotations

from datetime import datetime

from edgekit.report.render.document import Document, Limits
from edgekit.report.render.sections import accuracy, candidates, confusion, explain, machine, speed, summary
from edgekit.report.render.words import GRAVEST_FIRST, MARKS, cut, sentence
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Gate, Report

__all__ = ["document"]

_KINDS = {"compare": "Comparison"}
_PHRASES = {
    REGRESSION: ("is a regression", "are regressions"),
    OVER_BUDGET: ("is over budget", "are over budget"),
    INCOMPARABLE: ("cannot be compared", "cannot be compared"),
    INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    PASS: ("passes", "pass"),
}
_MAX_REASONS = 8
"""Largest number of reasons below the verdict; the table of the gates has all."""


def document(report: Report, limits: Limits) -> Document:
    """Return the document of a report: the facts of the run, the verdict and its reasons, and all sections.

    Args:
        report: Report of any kind. Texts of samples are only included if its ``include_text`` is set.
        limits: Limits of what is listed.
    """
    after = cut(report.subjects[-1].name, limits.name) or "no name"
    before = ""
    if report.kind == "self-check":
        before = "itself"
    elif len(report.subjects) > 1:
        before = cut(report.subjects[0].name, limits.name) or "no name"
    kind = _KINDS.get(report.kind, report.kind.capitalize())
    title = f"EdgeKit {kind.lower()}: {after}"
    if before:
        title += f" against {before}"
    gates = sorted(report.gates, key=lambda gate: GRAVEST_FIRST.index(gate.verdict))
    if gates:
        title += f": {report.verdict}"
        verdict = report.verdict
        mark = MARKS[verdict]
        word = verdict.capitalize()
        why = _counts(gates)
    else:
        verdict = "none"
        mark = "○"
        word, why = _ungated(report)
    failing = [gate for gate in gates if gate.verdict != PASS]
    reasons = [(cut(gate.name, limits.name), sentence(gate.said, limits.sentence)) for gate in failing]
    sections = (
        summary.gates(gates, limits),
        summary.glance(report, limits),
        accuracy.accuracy(report, limits),
        accuracy.slices(report, limits),
        confusion.confusion(report, limits),
        accuracy.flips(report, limits),
        speed.latency(report, limits),
        speed.footprint(report, limits),
        candidates.candidates(report, limits),
        explain.faithfulness(report),
        explain.drifts(report, limits),
        explain.robustness(report, limits),
        machine.machine(report, limits),
        machine.notes(report, limits),
        machine.how_to_read(),
    )
    return Document(
        title=title,
        kind=kind,
        after=after,
        before=before,
        about=_about(report, limits),
        verdict=verdict.replace(" ", "-"),
        mark=mark,
        word=word,
        why=why,
        reasons=tuple(reasons[:_MAX_REASONS]),
        sections=tuple(section for section in sections if section.blocks),
        include_text=report.include_text,
        schema=report.schema,
    )


def _about(report: Report, limits: Limits) -> tuple[str, ...]:
    """Return the facts of a run: samples, machine, model, task and date."""
    subject = report.subjects[-1]
    cpu = cut(report.fingerprint.cpu, limits.name) or "an unknown CPU"
    identity = [value for value in subject.identity.values() if isinstance(value, str)]
    facts = (
        f"{report.rows:,} samples",
        f"on {cpu} ({report.fingerprint.cpus} CPUs)",
        cut(subject.model, limits.name),
        cut(subject.task, limits.name),
        *(cut(value.replace("_", " "), limits.name) for value in identity),
        _format_time(report.created),
    )
    return tuple(filter(None, facts))


def _counts(gates: list[Gate]) -> str:
    """Return the number of gates with each verdict, in a sentence."""
    if len(gates) == 1:
        return f"The only gate {_PHRASES[gates[0].verdict][0]}."
    verdicts = [gate.verdict for gate in gates]
    parts = []
    for verdict in GRAVEST_FIRST:
        count = verdicts.count(verdict)
        if count:
            parts.append(f"{count:,} {_PHRASES[verdict][count != 1]}")
    return f"Of {len(gates):,} gates {', '.join(parts)}."


def _ungated(report: Report) -> tuple[str, str]:
    """Return the heading and the sentence of a report without gates."""
    if report.kind != "self-check":
        return "Measured, not judged", "No gate was set, so nothing here passes or fails."
    noise = speed.noise(report.speed)
    floor = f" {noise} A margin below that cannot be gated here." if noise else ""
    return "Noise floor", f"The bundle ran against itself, so every difference is noise of this machine.{floor}"


def _format_time(created: str) -> str:
    try:
        time = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return cut(created, 40)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
