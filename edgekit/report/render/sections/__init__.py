"""Sections of a report: each module turns parts of the report into sections, which together are the document."""

from __future__ import annotations

from datetime import datetime

from edgekit.report.render.document import Document, Limits
from edgekit.report.render.sections import accuracy, explain, machine, speed, summary
from edgekit.report.render.words import GRAVEST_FIRST, MARKS, cut, sentence
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Gate, Report

__all__ = ["document"]

_KINDS = {"compare": "Comparison"}
_ARE = {
    REGRESSION: ("is a regression", "are regressions"),
    OVER_BUDGET: ("is over budget", "are over budget"),
    INCOMPARABLE: ("cannot be compared", "cannot be compared"),
    INCONCLUSIVE: ("is not settled", "are not settled"),
    PASS: ("passes", "pass"),
}
_TELLING = 8  # reasons in words; the table has all


def document(report: Report, limits: Limits) -> Document:
    """Return the document of a report: what was compared, the verdict and its reasons, and all sections.

    Args:
        report: Report of any kind. Texts of samples are included only if its ``include_text`` is set.
        limits: Limits of what is listed.
    """
    one, machine_ = report.subjects[-1], report.fingerprint
    after = cut(one.name, limits.name) or "no name"
    before = "" if len(report.subjects) == 1 else cut(report.subjects[0].name, limits.name) or "no name"
    if report.kind == "self-check":
        before = "itself"
    kinds = (cut(value.replace("_", " "), limits.name) for value in one.identity.values() if isinstance(value, str))
    where = f"on {cut(machine_.cpu, limits.name) or 'a CPU without a name'} ({machine_.cpus} CPUs)"
    about = (
        f"{report.rows:,} samples",
        where,
        cut(one.model, limits.name),
        cut(one.task, limits.name),
        *kinds,
        _when(report.created),
    )
    kind, names = _KINDS.get(report.kind, report.kind.capitalize()), f"{after} against {before}" if before else after
    gates = sorted(report.gates, key=lambda g: GRAVEST_FIRST.index(g.verdict))
    if gates:
        verdict, mark, word, why = report.verdict, MARKS[report.verdict], report.verdict.capitalize(), _counts(gates)
    else:
        verdict, mark, (word, why) = "none", "○", _ungated(report)
    reasons = tuple((cut(g.name, limits.name), sentence(g.said, limits.sentence)) for g in gates if g.verdict != PASS)
    title = f"EdgeKit {kind.lower()}: {names}" + (f": {report.verdict}" if gates else "")
    sections = (
        summary.gates(gates, limits),
        summary.glance(report, limits),
        accuracy.accuracy(report, limits),
        accuracy.slices(report, limits),
        accuracy.confusion(report, limits),
        accuracy.flips(report, limits),
        speed.latency(report, limits),
        speed.footprint(report, limits),
        speed.candidates(report, limits),
        explain.faithfulness(report),
        explain.drifts(report, limits),
        explain.robustness(report, limits),
        machine.machine(report, limits),
        machine.notes(report, limits),
        machine.how_to_read(),
    )
    return Document(
        title, kind, after, before, tuple(filter(None, about)), verdict.replace(" ", "-"), mark, word, why, reasons[:_TELLING],
        tuple(s for s in sections if s.blocks), report.include_text, report.schema,
    )  # fmt: skip


def _counts(gates: list[Gate]) -> str:
    found = [(verdict, sum(g.verdict == verdict for g in gates)) for verdict in GRAVEST_FIRST]
    parts = [f"{count:,} {_ARE[verdict][count != 1]}" for verdict, count in found if count]
    return (
        f"Of {len(gates):,} gates {', '.join(parts)}."
        if len(gates) > 1
        else f"The only gate {_ARE[gates[0].verdict][0]}."
    )


def _ungated(report: Report) -> tuple[str, str]:
    if report.kind != "self-check":
        return "Measured, not judged", "No gate was set, so nothing here passes or fails."
    noise = speed.noise(report.speed)
    looks = f" {noise} A margin below that cannot be gated here." if noise else ""
    return "Noise floor", f"The bundle ran against itself, so all that differs is this machine's noise.{looks}"


def _when(created: str) -> str:
    try:
        when = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return cut(created, 40)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
