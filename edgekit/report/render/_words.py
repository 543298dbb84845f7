"""Numbers of a report as people read them, the same in every text form."""

from __future__ import annotations

from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Change, Gate
from edgekit.spec.subject import Start, Times

LATENCY = ("p50", "p90", "p99")
GRAVEST_FIRST = (REGRESSION, OVER_BUDGET, INCOMPARABLE, INCONCLUSIVE, PASS)
UNKNOWN = "not known"


def number(value: float) -> str:
    """Some four digits, without an exponent: ``1450``, ``101.4``, ``23.40``, ``2.41``, ``0.0121``."""
    places = next((p for limit, p in ((1000, 0), (100, 1), (1, 2)) if abs(value) >= limit), 4)
    return f"{value:.{places}f}"


def share(value: float, signed: bool = True) -> str:
    """``0.083`` as ``+8.3 %``; ``signed`` for a growth, not for a part of a whole."""
    return f"{100 * value:{'+' if signed else ''}.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """`` (0.0100 to 0.0210)``; nothing where there is none."""
    return "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"


def gate_numbers(gate: Gate) -> tuple[str, str]:
    """What a gate saw, with its interval, and what it allows, in the unit that its name stands for."""
    table, _, metric = gate.name.partition(".")
    unit = next((f" {unit}" for ending, unit in (("_ms", "ms"), ("_mb", "MB")) if table == "budget" and metric.endswith(ending)), "")

    parts = table in ("latency", "footprint") or gate.name == "accuracy.flips"
    signed = table != "accuracy"

    def said(value: float) -> str:
        return share(value, signed) if parts else number(value) + unit

    allowed = f"{100 * gate.limit:{'+' if signed else ''}g} %" if parts else f"{gate.limit:g}{unit}"  # as it was written, not rounded
    if gate.value is None:
        return UNKNOWN, allowed
    if gate.low is None or gate.high is None or gate.low == gate.high:
        return said(gate.value), allowed
    around = f"{said(gate.low)} to {said(gate.high)}"
    return f"{said(gate.value)} ({around.replace(' %', '')})", allowed


def change(found: Change) -> str:
    """A metric after over before: ``ratio 1.083 (1.070 to 1.097), can resolve +2.1 %``; with both values where nothing is random in them.

    A ratio with an interval is one of values that were measured in turns. Each side's median is another number, and may contradict it.
    """
    exact = found.ratio is None or found.low is None or found.low == found.high
    values = f"{number(found.before)} → {number(found.after)} {found.unit}" if exact and found.before is not None and found.after is not None else ""
    if found.ratio is None:
        return ", ".join(filter(None, [values, found.said])) or UNKNOWN
    around = "" if found.low is None or found.high is None or found.low == found.high else f" ({found.low:.3f} to {found.high:.3f})"
    resolves = "" if not found.resolvable else f"can resolve {share(found.resolvable)}"
    return ", ".join(filter(None, [values, f"ratio {found.ratio:.3f}{around}", resolves, found.said]))


def percentiles(times: Times) -> dict[str, tuple[float | None, str]]:
    """p50, p90 and p99 in milliseconds and in words: ``not estimable from 300 samples (needs 662)`` where the count does not carry one."""
    found: dict[str, tuple[float | None, str]] = {}
    for name, value in (("p50", times.p50_ms), ("p90", times.p90_ms), ("p99", times.p99_ms)):
        needs = f" (needs {times.needed[name]})" if name in times.needed else ""
        found[name] = value, f"not estimable from {times.count} samples{needs}" if value is None else f"{number(value)} ms"
    return found


def start(found: Start) -> str:
    """A cold start and its parts."""
    parts = (("import", found.import_ms), ("verify", found.verify_ms), ("load", found.load_ms), ("first answer", found.answer_ms))
    return f"{number(found.total_ms)} ms ({', '.join(f'{name} {number(value)}' for name, value in parts)})"
