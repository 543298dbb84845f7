"""Figures of rows: margins of different answers, and agreement of attributions between a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.charts.svg import (
    WIDTH,
    Head,
    Scale,
    axis_below,
    axis_beside,
    box,
    cross,
    diamond,
    dot,
    legend,
    line,
    padded_range,
    picture,
    plain,
    text_element,
    ticks,
)

__all__ = ["between", "margins"]

_LEFT = 44
_TOP = 8
_SIDE = 260
_MARKS = {"lost": cross(9, 0, "x"), "won": dot(9, 0, "d b", 3.2), "other": dot(9, 0, "d a", 2.8)}
_WORDS = {
    "lost": "right before, wrong now",
    "won": "wrong before, right now",
    "other": "wrong on both sides, or no right answer known",
}


def margins(head: Head, points: Sequence[tuple[str, float, float]]) -> str:
    """Return the confidence margins of rows with another answer: before on the x axis, now on the y axis.

    At the top right, both models are confident.

    Args:
        head: Name and title of the figure.
        points: Points (``lost``, ``won`` or ``other``, margin before, margin now) with margins of 0 to 1; at least one.
    """
    largest = max(max(before, now) for _, before, now in points)
    high = min(1.0, max(0.1, largest) * 1.05)
    x = Scale(0, high, _LEFT, _LEFT + _SIDE)
    y = Scale(0, high, _TOP + _SIDE, _TOP)
    values = ticks(0, high, 5)
    parts = [line(x(value), _TOP, x(value), _TOP + _SIDE, "g") for value in values]
    parts += axis_below(x, values, plain(values), _TOP + _SIDE + 14)
    parts += axis_beside(y, values, plain(values), _LEFT, _LEFT + _SIDE)
    parts.append(line(x(0), y(0), x(high), y(high), "g dash"))
    for kind, before, now in sorted(points, key=lambda point: point[0] != "other"):
        if kind == "lost":
            parts.append(cross(x(before), y(now), "x"))
        elif kind == "won":
            parts.append(dot(x(before), y(now), "d b", 3.2))
        else:
            parts.append(dot(x(before), y(now), "d a", 2.8))
    parts.append(text_element(_LEFT + _SIDE / 2, _TOP + _SIDE + 29, "margin before", "m", "m"))
    middle = _TOP + _SIDE / 2
    parts.append(f'<g transform="rotate(-90 10 {middle})">{text_element(10, middle, "margin now", "m", "m")}</g>')
    kinds = {kind for kind, _, _ in points}
    marks = [(_MARKS[kind], words) for kind, words in _WORDS.items() if kind in kinds]
    below, last = legend(marks, _TOP + _SIDE + 48)
    return picture(head, last + 10, [*parts, *below])


def between(head: Head, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return where values lie between a floor and a ceiling.

    Args:
        head: Name and title of the figure.
        rows: Rows (name, floor, value, ceiling), at least one.
    """
    low, high = padded_range([0.0, 1.0, *(value for _, *values in rows for value in values)], 0.02)
    x = Scale(low, high, 8, WIDTH - 8)
    y = 4.0
    parts: list[str] = []
    for label, floor, value, ceiling in rows:
        parts.append(text_element(8, y + 10, label, "h"))
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
    below, last = legend(marks, y + 30)
    return picture(head, last + 10, [*parts, *below])
