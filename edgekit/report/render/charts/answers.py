"""Figures of single rows: margins of answers that differ, and agreement of attributions between a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.charts.svg import (
    WIDTH,
    Head,
    Scale,
    around,
    axis_below,
    axis_beside,
    box,
    cross,
    diamond,
    dot,
    key,
    letters,
    line,
    picture,
    plain,
    ticks,
)

__all__ = ["between", "margins"]

_LEFT, _TOP, _SIDE = 44, 8, 260
_MARKS = {"lost": cross(9, 0, "x"), "won": dot(9, 0, "d b", 3.2), "other": dot(9, 0, "d a", 2.8)}
_WORDS = {
    "lost": "right before, wrong now",
    "won": "wrong before, right now",
    "other": "wrong on both sides, or no right answer known",
}


def margins(head: Head, points: Sequence[tuple[str, float, float]]) -> str:
    """Return the margins of answers that differ: before on the x axis, now on the y axis; top right both were certain.

    Args:
        head: Name and title of the figure.
        points: Points (``lost``, ``won`` or ``other``, margin before, margin now) with margins of 0 to 1; at least one.
    """
    high = min(1.0, max(0.1, *(m for _, *both in points for m in both)) * 1.05)
    x, y = Scale(0, high, _LEFT, _LEFT + _SIDE), Scale(0, high, _TOP + _SIDE, _TOP)
    values = ticks(0, high, 5)
    parts = [line(x(value), _TOP, x(value), _TOP + _SIDE, "g") for value in values] + axis_below(
        x, values, plain(values), _TOP + _SIDE + 14
    )
    parts += axis_beside(y, values, plain(values), _LEFT, _LEFT + _SIDE)
    parts.append(line(x(0), y(0), x(high), y(high), "g dash"))
    for kind, before, now in sorted(points, key=lambda p: p[0] != "other"):
        place = (x(before), y(now))
        parts.append(
            cross(*place, "x")
            if kind == "lost"
            else dot(*place, "d b", 3.2)
            if kind == "won"
            else dot(*place, "d a", 2.8)
        )
    parts.append(letters(_LEFT + _SIDE / 2, _TOP + _SIDE + 29, "margin before", "m", "m"))
    middle = _TOP + _SIDE / 2
    parts.append(f'<g transform="rotate(-90 10 {middle})">{letters(10, middle, "margin now", "m", "m")}</g>')
    seen = [kind for kind in _WORDS if any(p[0] == kind for p in points)]
    below, last = key([(_MARKS[kind], _WORDS[kind]) for kind in seen], _TOP + _SIDE + 48)
    return picture(head, last + 10, [*parts, *below])


def between(head: Head, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return where values lie between a floor and a ceiling.

    Args:
        head: Name and title of the figure.
        rows: Rows (name, floor, value, ceiling), at least one.
    """
    low, high = around([0.0, 1.0, *(v for _, *found in rows for v in found)], 0.02)
    x, y = Scale(low, high, 8, WIDTH - 8), 4.0
    parts: list[str] = []
    for label, floor, value, ceiling in rows:
        parts.append(letters(8, y + 10, label, "h"))
        y += 26
        parts += [
            line(x.start, y, x.end, y, "g"),
            box(min(x(floor), x(ceiling)), y - 4, abs(x(ceiling) - x(floor)), 8, "band"),
        ]
        parts += [
            line(x(floor), y - 7, x(floor), y + 7, "z"),
            line(x(ceiling), y - 7, x(ceiling), y + 7, "z"),
            diamond(x(value), y, "d b", 5.5),
        ]
        y += 14
    values = ticks(low, high, 5)
    parts += axis_below(x, values, plain(values), y + 10)
    ends = line(1, -6, 1, 6, "z") + box(1, -4, 16, 8, "band") + line(17, -6, 17, 6, "z")
    marks = [(diamond(9, 0, "d b"), "the two models"), (ends, "from chance to the model against itself")]
    below, last = key(marks, y + 30)
    return picture(head, last + 10, [*parts, *below])
