"""Forest plot: estimates with their intervals and limits, one per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.report.render.charts.svg import (
    WIDTH,
    Head,
    Scale,
    box,
    diamond,
    line,
    number,
    padded_range,
    picture,
    plain,
    text_element,
    ticks,
    truncate,
    width,
)

__all__ = ["Interval", "forest"]

_ROW = 22
_TOP = 8
_BELOW = 34
_RIGHT = 12
_LABELS = 128
"""Largest width of the names."""


@dataclass(frozen=True)
class Interval:
    """Row of the plot.

    Attributes:
        label: Name of the row.
        value: Estimate; None if there is none.
        low, high: Ends of its interval.
        limit: Largest allowed value; None for no limit.
        reason: Text in place of a missing interval.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    limit: float | None = None
    reason: str = ""


def forest(head: Head, rows: Sequence[Interval], axis: str, convert: Callable[[float], float] = float) -> str:
    """Return a forest plot: mark and whiskers for each row, a line at zero, and a hatched area beyond the limit.

    Args:
        head: Name and title of the figure.
        rows: Rows of the plot, at least one.
        axis: Title of the horizontal axis, with its unit.
        convert: Function from values to the numbers of the axis, e.g. from a share to percent.
    """
    values = [value for row in rows for value in (row.value, row.low, row.high, row.limit) if value is not None]
    low, high = padded_range([0.0, *map(convert, values)], least=1e-4)
    labels = min(_LABELS, max(width(truncate(row.label, _LABELS - 10)) for row in rows) + 10)
    x = Scale(low, high, labels, WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    hatch = f"{head.name}-h"
    parts = [
        f'<defs><pattern id="{hatch}" width="5" height="5" patternUnits="userSpaceOnUse">'
        '<path d="M0 5L5 0" class="hatch"/></pattern></defs>'
    ]
    for i, row in enumerate(rows):
        if row.limit is not None:
            left = x(convert(row.limit))
            parts.append(
                f'<rect x="{number(left)}" y="{_TOP + i * _ROW}" width="{number(WIDTH - _RIGHT - left)}" '
                f'height="{_ROW}" fill="url(#{hatch})"/>'
            )
    marks = ticks(low, high, 6)
    texts = plain(marks)
    widest = max(map(width, texts))
    every = 1 + any(x(b) - x(a) < widest + 8 for a, b in pairwise(marks))  # Every other text, if they would touch.
    for i, (value, text) in enumerate(zip(marks, texts, strict=True)):
        parts.append(line(x(value), _TOP, x(value), bottom, "g"))
        if (i - marks.index(0.0)) % every == 0:
            parts.append(text_element(x(value), bottom + 14, text, "m", "m"))
    parts.append(line(x(0), _TOP - 4, x(0), bottom, "z"))
    for i, row in enumerate(rows):
        parts += _row(row, x, _TOP + i * _ROW, convert)
    parts.append(text_element((labels + WIDTH - _RIGHT) / 2, bottom + 29, axis, "m", "m"))
    return picture(head, bottom + _BELOW, parts)


def _row(row: Interval, x: Scale, top: float, convert: Callable[[float], float]) -> list[str]:
    middle = top + _ROW / 2
    parts = [text_element(0, middle + 3.5, truncate(row.label, x.start - 8))]
    if row.limit is not None:
        limit = x(convert(row.limit))
        parts.append(line(limit, top, limit, top + _ROW, "lim"))
    if row.value is None or row.low is None or row.high is None:
        text = truncate(row.reason or "no estimate", x.end - x.start - 8)
        parts.append(box(x.start + 2, middle - 7, width(text) + 6, 14, "paper"))
        parts.append(text_element(x.start + 5, middle + 3.5, text, "m i"))
        return parts
    low = x(convert(row.low))
    high = x(convert(row.high))
    parts.append(line(low, middle, high, middle, "ci"))
    if high - low > 1:
        parts += [line(end, middle - 4, end, middle + 4, "ci") for end in (low, high)]
    parts.append(diamond(x(convert(row.value)), middle, "d b"))
    return parts
