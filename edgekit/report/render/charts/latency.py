"""Figures of latency: its distribution, and its growth with the size of the input."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.charts.svg import (
    AFTER,
    BEFORE,
    WIDTH,
    Head,
    Scale,
    around,
    axis_below,
    axis_beside,
    dot,
    key,
    letters,
    line,
    lines,
    log_ticks,
    picture,
    plain,
    ticks,
)
from edgekit.spec.subject import ByLength

__all__ = ["distributions", "lengths"]

_LEFT, _RIGHT, _TOP, _HIGH = 40, 34, 10, 190
_LOGARITHMIC = 6.0  # slowest over fastest: from there on equal ratios are drawn equally long
_MARKED = (50, 90, 99)


def distributions(head: Head, sides: Sequence[tuple[str, str, Sequence[float], Sequence[int]]]) -> str:
    """Return the cumulative distribution of latency, with p50, p90 and p99 marked.

    Args:
        head: Name and title of the figure.
        sides: One or two sides (``a`` or ``b``, name, 0th to 100th percentile in ms, marked percentiles); the slowest 1 %
            end at the right edge.
    """
    low = min(q[0] for _, _, q, _ in sides)
    high = max(q[99] for _, _, q, _ in sides)
    low, high = (
        around((low, high), 0.04, least=0.02 * high)
        if high / max(low, 1e-9) < _LOGARITHMIC
        else (max(low, high / 1e3) / 1.1, high * 1.1)
    )
    low = max(low, high / 1e4)
    x = Scale(low, high, _LEFT, WIDTH - _RIGHT, log=high / low >= _LOGARITHMIC)
    y = Scale(0, 1, _TOP + _HIGH, _TOP)
    shares = (0, 0.25, 0.5, 0.75, 1)
    parts = axis_beside(y, shares, [f"{100 * share:.0f}\N{NO-BREAK SPACE}%" for share in shares], _LEFT, WIDTH - _RIGHT)
    parts += _below(x, "milliseconds from input to answer")
    for percentile in _MARKED:
        parts.append(line(_LEFT, y(percentile / 100), WIDTH - _RIGHT, y(percentile / 100), "g dash"))
    for percentile, place in zip(_MARKED, (y(0.5), y(0.9) + 4, y(0.99)), strict=True):
        parts.append(letters(WIDTH - _RIGHT + 5, place + 3.5, f"p{percentile}", "m"))
    for side, _, quantiles, _ in sides:
        seen = [(x(q), y(i / 100)) for i, q in enumerate(quantiles) if q <= high]
        parts.append(lines(seen, f"l {side}"))
    parts += [dot(x(q[p]), y(p / 100), f"d {side}") for side, _, q, marked in sides for p in marked]
    return _with_key(head, parts, [(side, text) for side, text, *_ in sides])


def lengths(head: Head, sides: Sequence[tuple[str, str, Sequence[ByLength]]]) -> str:
    """Return the median latency by length: a bar from the shortest to the longest text of a group, with a mark.

    Args:
        head: Name and title of the figure.
        sides: One or two sides (``a`` or ``b``, name, groups of texts, at least one).
    """
    groups = [g for _, _, found in sides for g in found]
    x = Scale(*around([0, *(g.high for g in groups)], 0, least=1), _LEFT, WIDTH - _RIGHT)
    top = max(g.p50_ms for g in groups)
    y = Scale(0, top * 1.08 or 1.0, _TOP + _HIGH, _TOP)
    values = ticks(y.low, y.high, 5)
    parts = axis_beside(y, values, plain(values), _LEFT, WIDTH - _RIGHT)
    parts.append(
        letters(_LEFT - 6, _TOP - 1, "ms", "m", "e")
        if y(values[-1]) > _TOP + 12
        else letters(_LEFT + 4, _TOP - 1, "ms", "m")
    )
    parts += _below(x, "length of the input")
    for side, _, found in sides:
        places = [(x((g.low + g.high) / 2), y(g.p50_ms)) for g in found]
        parts.append(lines(places, f"l thin {side}"))
        parts += [line(x(g.low), y(g.p50_ms), x(g.high), y(g.p50_ms), f"l wide {side}") for g in found]
        parts += [dot(*place, f"d {side}") for place in places]
    return _with_key(head, parts, [(side, text) for side, text, _ in sides])


def _below(x: Scale, axis: str) -> list[str]:
    bottom = _TOP + _HIGH
    values = log_ticks(x.low, x.high) if x.log else ticks(x.low, x.high, 5)
    texts = [f"{v:g}" for v in values] if x.log else plain(values)
    parts = [line(x(value), bottom, x(value), bottom + 4, "z") for value in values] + axis_below(
        x, values, texts, bottom + 16
    )
    name = letters((x.start + x.end) / 2, bottom + 31, axis + (" (logarithmic)" if x.log else ""), "m", "m")
    return [*parts, line(x.start, bottom, x.end, bottom, "z"), name]


def _with_key(head: Head, parts: list[str], sides: Sequence[tuple[str, str]]) -> str:
    below, last = key([(BEFORE if side == "a" else AFTER, text) for side, text in sides], _TOP + _HIGH + 50, _LEFT)
    return picture(head, last + 10, [*parts, *below])
