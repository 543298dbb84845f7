"""Bar charts: stacked bars, and bars side by side."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.render.charts.svg import WIDTH, Head, box, legend, line, picture, text_element, truncate, width

__all__ = ["side_by_side", "stacked"]

_BAR = 16
_GAP = 6


def stacked(head: Head, parts_of: Sequence[str], rows: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """Return stacked bars on one scale.

    Args:
        head: Name and title of the figure.
        parts_of: Names of the parts, in the order of the bars, at most five.
        rows: Rows (name, values of the parts, text of the sum), at least one sum above 0.
    """
    longest = max(sum(values) for _, values, _ in rows)
    y = 4.0
    parts = []
    for label, values, total in rows:
        parts.append(text_element(0, y + 10, truncate(label, WIDTH - width(total) - 20)))
        parts.append(text_element(WIDTH, y + 10, total, "", "e"))
        y += 16
        at = 0.0
        for i, value in enumerate(values):
            wide = value / longest * WIDTH
            parts.append(box(at, y, max(0.0, wide - 1), _BAR, f"s{i}"))
            at += wide
        y += _BAR + 12
    marks = [(box(3, -5, 12, 10, f"s{i}"), part) for i, part in enumerate(parts_of)]
    below, last = legend(marks, y + 4)
    return picture(head, last + 10, [*parts, *below])


def side_by_side(head: Head, groups: Sequence[tuple[str, Sequence[tuple[str, str, float, str]]]]) -> str:
    """Return bars of before and now; each group has its own scale, which begins at 0.

    Args:
        head: Name and title of the figure.
        groups: Groups (title, bars (``a`` or ``b``, name, value, text of the value)), at least one of each.
    """
    room = max(width(text) for _, bars in groups for *_, text in bars) + 8
    names = min(92.0, max(width(truncate(label, 86)) for _, bars in groups for _, label, _, _ in bars) + 8)
    y = 4.0
    parts = []
    for title, bars in groups:
        parts.append(text_element(0, y + 10, truncate(title, WIDTH), "h"))
        y += 18
        longest = max(value for _, _, value, _ in bars) or 1.0
        for side, label, value, text in bars:
            wide = value / longest * (WIDTH - names - room)
            parts.append(text_element(0, y + 11, truncate(label, names - 6), "m"))
            parts.append(box(names, y + 0.5, max(1.0, wide), _BAR - 1, f"bar {side}"))
            parts.append(text_element(names + max(1.0, wide) + 6, y + 11.5, text))
            y += _BAR + 4
        parts.append(line(names, y - len(bars) * (_BAR + 4) - 2, names, y - 2, "z"))
        y += _GAP
    return picture(head, y, parts)
