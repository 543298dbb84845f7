"""Tables of ``base_size.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _build import sum_steps
from _numbers import Estimate, table, verdict

RATIO = 0.75
SECONDS = 150
LARGEST_MB = 2000
STEPS = 6
"""Steps of a build in its table, the longest first."""


def document(found: Mapping[str, Any]) -> str:
    """Return the tables in Markdown."""
    lines: list[str] = []
    for case, part in found.get("latency", {}).items():
        lines += [
            f"## {case}: input to answer",
            "",
            f"{_where(part)}; {part['inputs']} inputs, each once, batch 1, 2 threads.",
            "",
        ]
        lines += [*_latency(part), ""]
    for case, part in found.get("start", {}).items():
        rows = [(name, f"{ms:.0f}", f"{part['mb'][name]:.0f}") for name, ms in part["ms"].items()]
        lines += [f"## {case}: start", "", f"{_where(part)}.", ""]
        lines += [*table(("side", "start to first answer, ms", "peak memory, MB"), rows), ""]
    for case, part in found.get("build", {}).items():
        lines += [f"## {case}: build for a CPU", "", f"{_where(part)}.", "", *_build(part), ""]
    rows = [(c["clause"], c["limit"], c["measured"], c["verdict"]) for c in clauses(found)]
    return "\n".join([*lines, "## clauses", "", *table(("clause", "limit", "measured", "verdict"), rows, 4), ""])


def _where(part: Mapping[str, Any]) -> str:
    where = part["machine"]
    return f"{where['cpu']}, {where['cpus']} CPUs, {where['date']}, load {where['load'][0]}"


def _latency(part: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for state, one in part["states"].items():
        for name, side in one["sides"].items():
            cells = [f"{side[key]:.2f}" for key in ("mean_ms", "p50_ms", "p90_ms")]
            over = side["ours_over"]
            same = part["same"].get(name)
            share = "" if same is None else f"{same:.3f}"
            rows.append((state, name, one["rounds"], *cells, "" if over is None else Estimate(**over).text(2), share))
        if one["best"] is not None:
            rows.append(
                (state, "best peer of each round", one["rounds"], "", "", "", Estimate(**one["best"]).text(2), "")
            )
    header = ("state", "side", "rounds", "mean ms", "p50", "p90", "EdgeKit over it", "answers as torch's")
    lines = table(header, rows, 2)
    if part["failed"]:
        lines += ["", *(f"{name} does not run: {reason}" for name, reason in part["failed"].items())]
    return lines


def _build(part: Mapping[str, Any]) -> list[str]:
    if "error" in part:
        return [f"Not built: {part['error'].splitlines()[-1]}"]
    peaks = ", ".join(f"{kind} {mb} MB" for kind, mb in part["peaks_mb"].items())
    lines = [f"{part['seconds']:.0f} s, largest process {part['largest_mb']} MB ({peaks}); {part['variant']}.", ""]
    rows = []
    for one in sum_steps(part["steps"])[:STEPS]:
        rows.append((one["step"], f"{one['seconds']:.1f}", f"{one['peak_mb']:.0f}", f"{one['growth_mb']:.0f}"))
    header = ("step", "seconds", "peak of the building process, MB", "above its beginning, MB")
    return lines + table(header, rows)


def clauses(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the targets, what was measured, and whether they are held."""
    lines: list[dict[str, str]] = []

    def add(clause: str, limit: float, value: float | None) -> None:
        measured = "" if value is None else f"{value:.3g}"
        lines.append({"clause": clause, "limit": f"at most {limit:g}", "measured": measured})
        lines[-1]["verdict"] = verdict(value, limit)

    for case, part in found.get("latency", {}).items():
        for state, one in part["states"].items():
            best = one["best"]
            add(f"{case}: EdgeKit over the best peer, {state}", RATIO, None if best is None else float(best["value"]))
    part = found.get("build", {}).get("BERT-base", {})
    add("BERT-base: seconds of the build", SECONDS, part.get("seconds"))
    add("BERT-base: largest process of the build, MB", LARGEST_MB, part.get("largest_mb"))
    return lines
