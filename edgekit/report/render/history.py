"""Measurements of the candidate for a page that draws them over time: ``customSmallerIsBetter`` JSON of github-action-benchmark.

An entry has ``name``, ``unit`` and ``value``, and may have ``range`` and ``extra``, both texts that are only shown
(https://github.com/benchmark-action/github-action-benchmark, README and ``BenchmarkResult`` in src/extract.ts). It compares single
numbers by a factor, so it serves for the figure; the gates decide.
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

    Names are the same in every report, since a page draws one line for each name. A percentile that cannot be estimated has
    no entry, nor has energy on a machine without a meter. A score of which a higher value is better is written as
    ``error (1 - accuracy)``, since smaller must be better.
    """
    last = report.subjects[-1]
    about = f"edgekit {report.fingerprint.edgekit}\n{report.fingerprint.cpu}\nsamples {report.samples}"
    entries = [
        {**entry, "extra": "\n".join(filter(None, (str(entry.get("extra", "")), about)))}
        for entry in _entries(last, report.rows)
    ]
    return to_json(entries, indent=1) + "\n"


def _entries(last: Subject, rows: int) -> list[Entry]:
    found: list[Entry] = []
    if last.times is not None:
        medians = [median(t for block in p.blocks_ms for t in block) for p in last.processes if any(p.blocks_ms)]
        for name, (value, _) in percentiles(last.times).items():
            if value is not None:
                spread = _spread(medians) if name == "p50" else {}
                found.append(
                    {
                        "name": f"latency {name}",
                        "unit": "ms",
                        "value": value,
                        **spread,
                        "extra": f"{last.times.count} calls",
                    }
                )
    if last.start is not None:
        found.append(
            {
                "name": "first answer",
                "unit": "ms",
                "value": last.start.total_ms,
                **_spread([p.start.total_ms for p in last.processes]),
            }
        )
    if last.memory_mb:
        found.append(
            {
                "name": "peak memory",
                "unit": "MB",
                "value": last.memory_mb,
                **_spread([p.memory_mb for p in last.processes]),
            }
        )
    if last.size_mb:
        found.append({"name": "bundle size", "unit": "MB", "value": last.size_mb})
    if last.energy_mj is not None:
        found.append({"name": "energy of an answer", "unit": "mJ", "value": last.energy_mj, "extra": last.energy_from})
    if last.score is not None:
        score = f"{last.score_name} {last.score:.4f} on {rows} samples"
        name, value = (
            (f"error (1 - {last.score_name})", 1 - last.score)
            if last.higher_is_better
            else (last.score_name, last.score)
        )
        found.append({"name": name, "unit": "1", "value": round(value, 12), "extra": score})
    return found


def _spread(values: Sequence[float]) -> Entry:
    """Return the range over the processes."""
    return (
        {"range": f"{number(min(values))} to {number(max(values))} over {len(values)} processes"}
        if len(values) > 1
        else {}
    )
