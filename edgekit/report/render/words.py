"""Numbers and sentences of a report as text, the same in every form."""

from __future__ import annotations

from edgekit.report.render.charts.svg import clean, minus
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Change, Gate
from edgekit.spec.subject import Subject, Times

__all__ = [
    "GAP", "GRAVEST_FIRST", "INTERVAL", "LATENCY", "MARKS", "NAMES", "NOTHING", "amount", "chance", "change_cells",
    "cut", "energy", "gate_numbers", "growth", "number", "percent", "percentiles", "plain", "score", "sentence", "spread", "start",
]  # fmt: skip

GAP = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
_PLAIN = str.maketrans({GAP: " ", "\N{MINUS SIGN}": "-", NOTHING: "-", "…": "..."})
INTERVAL = f"90{GAP}% interval"
LATENCY = ("p50", "p90", "p99")
GRAVEST_FIRST = (REGRESSION, OVER_BUDGET, INCOMPARABLE, INCONCLUSIVE, PASS)
MARKS = {PASS: "✓", REGRESSION: "✗", OVER_BUDGET: "▲", INCONCLUSIVE: "?", INCOMPARABLE: "≠"}
NAMES = {
    "p50": "p50 latency",
    "p90": "p90 latency",
    "p99": "p99 latency",
    "first_answer": "first answer",
    "memory": "peak memory",
    "size": "size on disk",
    "energy": "energy of an answer",
}


def number(value: float) -> str:
    """Return a number with about four digits and no exponent: ``1450``, ``101.4``, ``23.40``, ``2.41``, ``0.0121``."""
    places = next((p for limit, p in ((1000, 0), (100, 1), (1, 2)) if abs(value) >= limit), 4)
    return f"{value:.{places}f}"


def plain(text: str) -> str:
    """Return a text in which characters that not every terminal has are replaced by ASCII."""
    return text.translate(_PLAIN)


def score(value: float | None, signed: bool = False) -> str:
    """Return a score, or a difference of scores, with four decimals."""
    return NOTHING if value is None else minus(f"{value:{'+' if signed else ''}.4f}")


def amount(value: float | None, unit: str) -> str:
    """Return a quantity with its unit."""
    return NOTHING if value is None else f"{minus(number(value))}{GAP}{unit}"


def percent(value: float | None, signed: bool = True) -> str:
    """Return a share as per cent; ``signed`` for a growth, not for a part of a whole."""
    return NOTHING if value is None else minus(f"{100 * value:{'+' if signed else ''}.1f}") + f"{GAP}%"


def growth(ratio: float | None) -> str:
    """Return a ratio as growth: 1.083 is +8.3 %."""
    return percent(None if ratio is None else ratio - 1)


def spread(low: str, high: str) -> str:
    """Return an interval of two numbers as text."""
    return NOTHING if NOTHING in (low, high) else low if low == high else f"{low} to {high}"


def chance(p: float | None) -> str:
    """Return a p-value with three digits."""
    return NOTHING if p is None else f"{p:.3g}"


def cut(text: str, most: int) -> str:
    """Return a text on one line, cut to a number of characters."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def sentence(text: str, most: int) -> str:
    """Return a sentence with a capital letter (not before a name such as p50) and a full stop."""
    text = cut(text, most)
    first = text.split(" ", 1)[0]
    return text and (text[0].upper() + text[1:] if first.isalpha() else text) + ("" if text[-1] in ".!?…" else ".")


def gate_numbers(gate: Gate) -> tuple[str, str, str]:
    """Return the limit of a gate as it was written, its value and its interval, in the unit of its name."""
    table, _, metric = gate.name.partition(".")
    unit = {"_ms": "ms", "_mb": "MB"}.get(metric[-3:]) if table == "budget" else None
    share, signed = table in ("latency", "footprint") or gate.name == "accuracy.flips", table != "accuracy"

    def said(value: float | None) -> str:
        return percent(value, signed) if share else score(value) if unit is None else amount(value, unit)

    allowed = (
        f"{100 * gate.limit:{'+' if signed else ''}g}{GAP}%"
        if share
        else f"{gate.limit:g}" + (f"{GAP}{unit}" if unit else "")
    )
    return (
        minus(allowed),
        said(gate.value),
        NOTHING if gate.low == gate.high else spread(said(gate.low), said(gate.high)),
    )


def change_cells(change: Change, most: int) -> tuple[str, str]:
    """Return a change as growth and its interval; without one, the reason, cut to a number of characters."""
    if change.ratio is None:
        return NOTHING, cut(change.said, most) or NOTHING
    return growth(change.ratio), NOTHING if change.low == change.high else spread(
        growth(change.low), growth(change.high)
    )


def percentiles(times: Times) -> dict[str, tuple[float | None, str]]:
    """Return p50, p90 and p99 in ms and as text, e.g. ``not estimable from 300 samples (needs 662)``."""
    found: dict[str, tuple[float | None, str]] = {}
    for name in LATENCY:
        value, needs = getattr(times, f"{name}_ms"), f" (needs {times.needed[name]})" if name in times.needed else ""
        found[name] = (
            value,
            f"not estimable from {times.count} samples{needs}" if value is None else amount(value, "ms"),
        )
    return found


def energy(one: Subject, most: int) -> str:
    """Return the energy of an answer, or the reason why it is not known, cut to a number of characters."""
    return (
        amount(one.energy_mj, "mJ")
        if one.energy_mj is not None
        else f"not told: {cut(one.energy_from, most)}"
        if one.energy_from
        else NOTHING
    )


def start(one: Subject) -> str:
    """Return a cold start and its parts."""
    if one.start is None:
        return NOTHING
    parts = (
        ("import", one.start.import_ms),
        ("verify", one.start.verify_ms),
        ("load", one.start.load_ms),
        ("first answer", one.start.answer_ms),
    )
    return f"{amount(one.start.total_ms, 'ms')} ({', '.join(f'{name} {number(value)}' for name, value in parts)})"
