"""Measurements of the candidate for a chart over time: ``customSmallerIsBetter`` JSON of github-action-benchmark.

An entry has ``name``, ``unit`` and ``value``, and may have ``range`` and ``extra``, which are texts for display
(https://github.com/benchmark-action/github-action-benchmark, README and ``BenchmarkResult`` in src/extract.ts). The
action compares single numbers by a factor. It is used for the chart only, and the gates decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from edgekit.report.render.words import number, percentiles
from edgekit.spec.parsing import to_json
from edgekit.spec.report import Report
from edgekit.spec.subject import Subject

__all__ = ["Entry", "history"]

Entry = dict[str, str | float]


def history(report: Report) -> str:
    """Return the measurements of the candidate as a JSON list.

    Names are the same in every report, since the chart has one line per name. A percentile that cannot be estimated has
    no entry, nor has energy on a machine without a meter. A score of which a higher value is better is written as
    ``error (1 - accuracy)``, since smaller must be better.
    """
    candidate = report.subjects[-1]
    machine = f"edgekit {report.fingerprint.edgekit}\n{report.fingerprint.cpu}\nsamples {report.samples}"
    entries = []
    for entry in _entries(candidate, report.rows):
        extra = str(entry.get("extra", ""))
        entries.append({**entry, "extra": "\n".join(filter(None, (extra, machine)))})
    return to_json(entries, indent=1) + "\n"


def _entries(subject: Subject, rows: int) -> list[Entry]:
    entries: list[Entry] = []
    if subject.times is not None:
        calls = f"{subject.times.count} calls"
        for name, (value, _) in percentiles(subject.times).items():
            if value is not None:
                spread = _spread(_process_medians(subject)) if name == "p50" else {}
                entries.append({"name": f"latency {name}", "unit": "ms", "value": value, **spread, "extra": calls})
    if subject.start is not None:
        spread = _spread([process.start.total_ms for process in subject.processes])
        entries.append({"name": "first answer", "unit": "ms", "value": subject.start.total_ms, **spread})
    if subject.memory_mb:
        spread = _spread([process.memory_mb for process in subject.processes])
        entries.append({"name": "peak memory", "unit": "MB", "value": subject.memory_mb, **spread})
    if subject.size_mb:
        entries.append({"name": "bundle size", "unit": "MB", "value": subject.size_mb})
    if subject.energy_mj is not None:
        source = subject.energy_from
        entries.append({"name": "energy of an answer", "unit": "mJ", "value": subject.energy_mj, "extra": source})
    if subject.score is not None:
        name = subject.score_name
        value = subject.score
        if subject.higher_is_better:
            name = f"error (1 - {subject.score_name})"
            value = 1 - subject.score
        score = f"{subject.score_name} {subject.score:.4f} on {rows} samples"
        entries.append({"name": name, "unit": "1", "value": round(value, 12), "extra": score})
    return entries


def _process_medians(subject: Subject) -> list[float]:
    medians = []
    for process in subject.processes:
        if any(process.blocks_ms):
            medians.append(median(time for block in process.blocks_ms for time in block))
    return medians


def _spread(values: Sequence[float]) -> Entry:
    """Return the range over the processes; empty for fewer than two."""
    if len(values) < 2:
        return {}
    return {"range": f"{number(min(values))} to {number(max(values))} over {len(values)} processes"}
