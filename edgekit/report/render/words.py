"""Numbers and sentences of a report as text, the same in every form."""

from __future__ import annotations

from edgekit.report.render.charts.svg import clean, minus
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Change, Gate
from edgekit.spec.subject import Subject, Times

# fmt: off
__all__ = [
    "GAP", "GRAVEST_FIRST", "INTERVAL", "LATENCY", "MARKS", "NAMES", "NOTHING", "amount", "chance", "change_cells",
    "cut", "energy", "gate_numbers", "growth", "number", "percent", "percentiles", "plain", "score", "sentence",
    "spread", "start",
]
# fmt: on

GAP = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
"""Text of a missing value."""
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
    decimals = 4
    for limit, fewer in ((1000, 0), (100, 1), (1, 2)):
        if abs(value) >= limit:
            decimals = fewer
            break
    return f"{value:.{decimals}f}"


def plain(text: str) -> str:
    """Return a text in ASCII as far as not every terminal has its characters."""
    return text.translate(_PLAIN)


def score(value: float | None, signed: bool = False) -> str:
    """Return a score, or a difference of scores, with four decimals."""
    if value is None:
        return NOTHING
    return minus(f"{value:+.4f}" if signed else f"{value:.4f}")


def amount(value: float | None, unit: str) -> str:
    """Return a quantity with its unit."""
    return NOTHING if value is None else f"{minus(number(value))}{GAP}{unit}"


def percent(value: float | None, signed: bool = True) -> str:
    """Return a share in percent; ``signed`` for growth, not for a part of a whole."""
    if value is None:
        return NOTHING
    digits = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return f"{minus(digits)}{GAP}%"


def growth(ratio: float | None) -> str:
    """Return a ratio as growth: 1.083 is +8.3 %."""
    return percent(None if ratio is None else ratio - 1)


def spread(low: str, high: str) -> str:
    """Return an interval of two numbers as text."""
    if NOTHING in (low, high):
        return NOTHING
    return low if low == high else f"{low} to {high}"


def chance(p: float | None) -> str:
    """Return a p-value with three digits."""
    return NOTHING if p is None else f"{p:.3g}"


def cut(text: str, most: int) -> str:
    """Return a text on one line, cut to a number of characters."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def sentence(text: str, most: int) -> str:
    """Return a sentence with a capital letter (except for a name such as p50) and a full stop."""
    text = cut(text, most)
    if not text:
        return ""
    if text.split(" ", 1)[0].isalpha():
        text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?…" else f"{text}."


def gate_numbers(gate: Gate) -> tuple[str, str, str]:
    """Return the limit of a gate as it was written, its value and its interval, in the unit of the gate."""
    table, _, metric = gate.name.partition(".")
    is_share = table in ("latency", "footprint") or gate.name == "accuracy.flips"
    is_signed = table != "accuracy"
    unit = ""
    if table == "budget":
        unit = {"_ms": "ms", "_mb": "MB"}.get(metric[-3:], "")

    def text(value: float | None) -> str:
        if is_share:
            return percent(value, is_signed)
        return amount(value, unit) if unit else score(value)

    if is_share:
        limit = f"{100 * gate.limit:+g}" if is_signed else f"{100 * gate.limit:g}"
        allowed = f"{limit}{GAP}%"
    else:
        allowed = f"{gate.limit:g}{GAP}{unit}" if unit else f"{gate.limit:g}"
    interval = NOTHING if gate.low == gate.high else spread(text(gate.low), text(gate.high))
    return minus(allowed), text(gate.value), interval


def change_cells(change: Change, most: int) -> tuple[str, str]:
    """Return a change as growth and its interval; without a ratio, the reason, cut to ``most`` characters."""
    if change.ratio is None:
        return NOTHING, cut(change.said, most) or NOTHING
    if change.low == change.high:
        return growth(change.ratio), NOTHING
    return growth(change.ratio), spread(growth(change.low), growth(change.high))


def percentiles(times: Times) -> dict[str, tuple[float | None, str]]:
    """Return p50, p90 and p99 in ms and as text, e.g. ``not estimable from 300 samples (needs 662)``."""
    result: dict[str, tuple[float | None, str]] = {}
    for name in LATENCY:
        value = getattr(times, f"{name}_ms")
        text = amount(value, "ms")
        if value is None:
            needs = f" (needs {times.needed[name]})" if name in times.needed else ""
            text = f"not estimable from {times.count} samples{needs}"
        result[name] = (value, text)
    return result


def energy(subject: Subject, most: int) -> str:
    """Return the energy of an answer, or the reason why it is not known, cut to ``most`` characters."""
    if subject.energy_mj is not None:
        return amount(subject.energy_mj, "mJ")
    return f"not measured: {cut(subject.energy_from, most)}" if subject.energy_from else NOTHING


def start(subject: Subject) -> str:
    """Return a cold start and its parts."""
    if subject.start is None:
        return NOTHING
    values = {
        "import": subject.start.import_ms,
        "verify": subject.start.verify_ms,
        "load": subject.start.load_ms,
        "first answer": subject.start.answer_ms,
    }
    parts = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    return f"{amount(subject.start.total_ms, 'ms')} ({parts})"
