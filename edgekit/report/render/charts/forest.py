"""Forest plot: estimates with their intervals, one a row, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.report.render.charts.svg import (
    WIDTH,
    Head,
    Scale,
    around,
    box,
    diamond,
    fit,
    letters,
    line,
    number,
    picture,
    plain,
    ticks,
    width,
)

__all__ = ["Interval", "forest"]

_ROW, _TOP, _BELOW, _RIGHT = 22, 8, 34, 12
_LABELS = 128  # most of the width that names may take


@dataclass(frozen=True)
class Interval:
    """Row of the plot.

    Attributes:
        label: Name of the row.
        value: Estimate; None where there is none.
        low, high: Ends of its interval.
        limit: Largest value that is allowed; None for no limit.
        said: Text in place of a missing interval.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    limit: float | None = None
    said: str = ""


def forest(head: Head, rows: Sequence[Interval], axis: str, shown: Callable[[float], float] = float) -> str:
    """Return a forest plot: mark and whiskers for each row, a line at zero, and a hatched area beyond the limit.

    Args:
        head: Name and title of the figure.
        rows: Rows of the plot, at least one.
        axis: Title of the horizontal axis, with its unit.
        shown: Function from values to the numbers of the axis, e.g. a share to per cent.
    """
    ends = [0.0, *(shown(v) for r in rows for v in (r.value, r.low, r.high, r.limit) if v is not None)]
    low, high = around(ends, least=1e-4)
    labels = min(_LABELS, max(width(fit(r.label, _LABELS - 10)) for r in rows) + 10)
    x = Scale(low, high, labels, WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    hatch = f"{head.name}-h"
    parts = [
        f'<defs><pattern id="{hatch}" width="5" height="5" patternUnits="userSpaceOnUse"><path d="M0 5L5 0" class="hatch"/></pattern></defs>'
    ]
    for i, row in enumerate(rows):
        if row.limit is not None:
            at = x(shown(row.limit))
            parts.append(
                f'<rect x="{number(at)}" y="{_TOP + i * _ROW}" width="{number(WIDTH - _RIGHT - at)}" height="{_ROW}" fill="url(#{hatch})"/>'
            )
    values = ticks(low, high, 6)
    texts = plain(values)
    every = 1 + any(
        x(b) - x(a) < width(max(texts, key=width)) + 8 for a, b in pairwise(values)
    )  # where they would touch, every other one
    for i, (value, text) in enumerate(zip(values, texts, strict=True)):
        parts.append(line(x(value), _TOP, x(value), bottom, "g"))
        if (i - values.index(0.0)) % every == 0:
            parts.append(letters(x(value), bottom + 14, text, "m", "m"))
    parts.append(line(x(0), _TOP - 4, x(0), bottom, "z"))
    for i, row in enumerate(rows):
        parts += _row(row, x, _TOP + i * _ROW, shown)
    parts.append(letters((labels + WIDTH - _RIGHT) / 2, bottom + 29, axis, "m", "m"))
    return picture(head, bottom + _BELOW, parts)


def _row(row: Interval, x: Scale, top: float, shown: Callable[[float], float]) -> list[str]:
    middle = top + _ROW / 2
    parts = [letters(0, middle + 3.5, fit(row.label, x.start - 8))]
    if row.limit is not None:
        parts.append(line(x(shown(row.limit)), top, x(shown(row.limit)), top + _ROW, "lim"))
    if row.value is None or row.low is None or row.high is None:
        text = fit(row.said or "no estimate", x.end - x.start - 8)
        room = width(text)
        return [
            *parts,
            box(x.start + 2, middle - 7, room + 6, 14, "paper"),
            letters(x.start + 5, middle + 3.5, text, "m i"),
        ]
    low, high = x(shown(row.low)), x(shown(row.high))
    parts.append(line(low, middle, high, middle, "ci"))
    parts += [line(end, middle - 4, end, middle + 4, "ci") for end in ((low, high) if high - low > 1 else ())]
    return [*parts, diamond(x(shown(row.value)), middle, "d b")]
