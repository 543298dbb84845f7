"""Exponents and tables of ``scaling.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from _numbers import Fit, fit_exponent, table

MARGIN = 0.1
"""Share of an exponent that the last step may exceed a limit by, because two points have no interval."""
FLAT = 0.1
"""Largest exponent of what is to be flat."""
QUANTITIES = {"seconds": "build, s", "largest_mb": "largest process, MB", "p50_ms": "p50, ms"}
LINEAR = ("samples", "evaluation", "labels", "layers")
BY_WORK = ("length", "width")
"""Axes whose limit is the exponent of the multiply-accumulates, plus 0.1."""


def of_axis(points: Sequence[Mapping[str, Any]], axis: str) -> list[Mapping[str, Any]]:
    """Return the points of an axis without an error, by size."""
    part = [p for p in points if p["key"].split()[0] == axis and "error" not in p]
    return sorted(part, key=size_of)


def size_of(point: Mapping[str, Any]) -> int:
    """Return the size of a point along its axis."""
    return int(point["key"].split()[1])


def growth(part: Sequence[Mapping[str, Any]], quantity: str) -> tuple[Fit | None, float | None]:
    """Return the exponent over all points, and that of the last step."""
    known = [(size_of(p), float(p[quantity])) for p in part if p.get(quantity)]
    if len(known) < 2:
        return None, None
    (first, before), (last, after) = known[-2:]
    sizes, values = zip(*known, strict=True)
    return fit_exponent(sizes, values), math.log(after / before) / math.log(last / first)


def clauses(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each axis and quantity: exponent, last step, limit, and whether it is held."""
    lines: list[dict[str, Any]] = []

    def add(axis: str, quantity: str, limit: float | None, text: str) -> None:
        fit, last = growth(of_axis(points, axis), quantity)
        line = {
            "axis": axis,
            "quantity": quantity,
            "limit": text,
            "exponent": "",
            "last_step": "",
            "verdict": "not measured",
        }
        if fit is not None and last is not None and limit is not None:
            held = fit.exponent <= limit and last <= limit + MARGIN
            line |= {"exponent": fit.text(), "last_step": f"{last:.2f}", "verdict": "held" if held else "not held"}
        lines.append(line)

    for axis in LINEAR:
        for quantity in QUANTITIES:
            add(axis, quantity, 1.0, "1")
    add("calibration", "seconds", 1.0, "1")
    add("calibration", "largest_mb", FLAT, f"flat: {FLAT}")
    add("eval", "seconds", 1.0, "1")
    add("eval", "largest_mb", FLAT, f"flat: {FLAT}")
    for axis in BY_WORK:
        work, _ = growth(of_axis(points, axis), "macs")
        limit = None if work is None else work.exponent + MARGIN
        for quantity in QUANTITIES:
            text = "" if limit is None else f"{limit:.2f}: that of the multiply-accumulates + {MARGIN}"
            add(axis, quantity, limit, text)
    return lines


def document(points: Sequence[Mapping[str, Any]]) -> str:
    """Return the curves and the limits in Markdown."""
    lines: list[str] = []
    for axis in dict.fromkeys(p["key"].split()[0] for p in points):
        rows = []
        for point in of_axis(points, axis):
            cells = [f"{point[q]:.3g}" if point.get(q) else "" for q in ("seconds", "largest_mb", "p50_ms", "macs")]
            peaks = ", ".join(f"{kind} {mb}" for kind, mb in point["peaks_mb"].items())
            rows.append((size_of(point), *cells, peaks, point["machine"]["load"][0]))
        header = (axis, "s", "largest process, MB", "p50, ms", "multiply-accumulates", "peaks, MB", "load")
        lines += [f"## {axis}", "", *table(header, rows, 0), ""]
    lines += [f"{p['key']}: {p['error'].splitlines()[-1]}" for p in points if "error" in p]
    rows = [
        (c["axis"], QUANTITIES[c["quantity"]], c["exponent"], c["last_step"], c["limit"], c["verdict"])
        for c in clauses(points)
    ]
    header = ("axis", "quantity", "exponent (95 % interval)", "last step", "at most", "verdict")
    return "\n".join([*lines, "## limits", "", *table(header, rows, 6), ""])
