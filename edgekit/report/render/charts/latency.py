"""Figures of latency: its distribution, and its growth with the length of the input."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.charts.svg import (
    AFTER,
    BEFORE,
    WIDTH,
    Head,
    Scale,
    axis_below,
    axis_beside,
    dot,
    legend,
    line,
    lines,
    log_ticks,
    padded_range,
    picture,
    plain,
    text_element,
    ticks,
)
from edgekit.spec.subject import ByLength

__all__ = ["distributions", "lengths"]

_LEFT = 40
_RIGHT = 34
_TOP = 10
_HIGH = 190
_LOGARITHMIC = 6.0
"""Ratio of slowest to fastest from which the axis is logarithmic."""
_MARKED = (50, 90, 99)


def distributions(head: Head, sides: Sequence[tuple[str, str, Sequence[float], Sequence[int]]]) -> str:
    """Return the cumulative distribution of latency, with p50, p90 and p99 marked.

    Args:
        head: Name and title of the figure.
        sides: One or two sides (``a`` or ``b``, name, 0th to 100th percentile in ms, marked percentiles). The slowest
            1 % end at the right edge.
    """
    low = min(quantiles[0] for _, _, quantiles, _ in sides)
    high = max(quantiles[99] for _, _, quantiles, _ in sides)
    if high / max(low, 1e-9) < _LOGARITHMIC:
        low, high = padded_range((low, high), 0.04, least=0.02 * high)
    else:
        low = max(low, high / 1e3) / 1.1
        high *= 1.1
    low = max(low, high / 1e4)
    x = Scale(low, high, _LEFT, WIDTH - _RIGHT, log=high / low >= _LOGARITHMIC)
    y = Scale(0, 1, _TOP + _HIGH, _TOP)
    shares = (0, 0.25, 0.5, 0.75, 1)
    parts = axis_beside(y, shares, [f"{100 * share:.0f}\N{NO-BREAK SPACE}%" for share in shares], _LEFT, WIDTH - _RIGHT)
    parts += _below(x, "milliseconds from input to answer")
    for percentile in _MARKED:
        parts.append(line(_LEFT, y(percentile / 100), WIDTH - _RIGHT, y(percentile / 100), "g dash"))
    for percentile, place in zip(_MARKED, (y(0.5), y(0.9) + 4, y(0.99)), strict=True):
        parts.append(text_element(WIDTH - _RIGHT + 5, place + 3.5, f"p{percentile}", "m"))
    for side, _, quantiles, _ in sides:
        points = [(x(time), y(percent / 100)) for percent, time in enumerate(quantiles) if time <= high]
        parts.append(lines(points, f"l {side}"))
    for side, _, quantiles, marked in sides:
        parts += [dot(x(quantiles[percent]), y(percent / 100), f"d {side}") for percent in marked]
    return _with_key(head, parts, [(side, text) for side, text, *_ in sides])


def lengths(head: Head, sides: Sequence[tuple[str, str, Sequence[ByLength]]]) -> str:
    """Return the median latency by length: a bar from the shortest to the longest text of a group, with a mark.

    Args:
        head: Name and title of the figure.
        sides: One or two sides (``a`` or ``b``, name, groups of texts, at least one).
    """
    groups = [group for _, _, groups_of_side in sides for group in groups_of_side]
    x = Scale(*padded_range([0, *(group.high for group in groups)], 0, least=1), _LEFT, WIDTH - _RIGHT)
    top = max(group.p50_ms for group in groups)
    y = Scale(0, top * 1.08 or 1.0, _TOP + _HIGH, _TOP)
    values = ticks(y.low, y.high, 5)
    parts = axis_beside(y, values, plain(values), _LEFT, WIDTH - _RIGHT)
    if y(values[-1]) > _TOP + 12:
        parts.append(text_element(_LEFT - 6, _TOP - 1, "ms", "m", "e"))
    else:
        parts.append(text_element(_LEFT + 4, _TOP - 1, "ms", "m"))
    parts += _below(x, "length of the input")
    for side, _, groups_of_side in sides:
        places = [(x((group.low + group.high) / 2), y(group.p50_ms)) for group in groups_of_side]
        parts.append(lines(places, f"l thin {side}"))
        for group in groups_of_side:
            parts.append(line(x(group.low), y(group.p50_ms), x(group.high), y(group.p50_ms), f"l wide {side}"))
        parts += [dot(*place, f"d {side}") for place in places]
    return _with_key(head, parts, [(side, text) for side, text, _ in sides])


def _below(x: Scale, axis: str) -> list[str]:
    bottom = _TOP + _HIGH
    if x.log:
        axis += " (logarithmic)"
        values = log_ticks(x.low, x.high)
        texts = [f"{value:g}" for value in values]
    else:
        values = ticks(x.low, x.high, 5)
        texts = plain(values)
    parts = [line(x(value), bottom, x(value), bottom + 4, "z") for value in values]
    parts += axis_below(x, values, texts, bottom + 16)
    parts.append(line(x.start, bottom, x.end, bottom, "z"))
    parts.append(text_element((x.start + x.end) / 2, bottom + 31, axis, "m", "m"))
    return parts


def _with_key(head: Head, parts: list[str], sides: Sequence[tuple[str, str]]) -> str:
    entries = []
    for side, name in sides:
        entries.append((BEFORE if side == "a" else AFTER, name))
    below, last = legend(entries, _TOP + _HIGH + 50, _LEFT)
    return picture(head, last + 10, [*parts, *below])
