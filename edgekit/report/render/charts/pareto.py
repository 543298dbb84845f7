"""Figure of the Pareto front: lower costs to the left, higher accuracy at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.report.render.charts.svg import (
    AFTER,
    WIDTH,
    Head,
    Scale,
    alone,
    around,
    axis_below,
    axis_beside,
    dot,
    fit,
    key,
    letters,
    line,
    lines,
    log_ticks,
    picture,
    plain,
    ticks,
    width,
)
from edgekit.spec.errors import UsageError

__all__ = ["Point", "front", "pareto", "poster"]

_LEFT, _RIGHT, _BOTTOM, _LINE = 46, 10, 66, 12
_NAMED = 6  # points up to which all have their name; of more, only those on the front
_NAME = 150  # most of the width that a name may take
_POSTER = (860, 460)
_Frame = tuple[float, float, float, float]  # left, top, right and bottom end of the axes


@dataclass(frozen=True)
class Point:
    """Something that was measured.

    Attributes:
        name: beside its mark.
        cost: e.g. milliseconds; above 0, less is better.
        score: more is better, unless the front is told otherwise.
        low: lower end of the score's interval.
        high: upper end.
        chosen: whether it is the one that was taken; it gets a ring.
    """

    name: str
    cost: float
    score: float
    low: float
    high: float
    chosen: bool = False


def front(points: Sequence[Point], higher_is_better: bool = True) -> list[Point]:
    """Those that no other beats in one thing without being worse in the other, from the cheapest.

    Args:
        points: in any order.
        higher_is_better: False for error rates.
    """
    kept: list[Point] = []
    sign = 1 if higher_is_better else -1
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.score)):
        if not kept or sign * point.score > sign * kept[-1].score:
            kept.append(point)
    return kept


def poster(points: Sequence[Point], title: str, cost_label: str, score_label: str) -> str:
    """A picture of 860 x 460 as a file of its own, with its title in it and every point named.

    Args:
        points: at least one.
        title: above.
        cost_label: below the horizontal axis, with its unit.
        score_label: above the vertical axis.

    Raises:
        UsageError: when there is no point, or one has no cost above 0.
    """
    wide, high = _POSTER
    head = Head("front", title, f"{len(front(points))} of {len(points)} are on the front.")
    inside = pareto(head, points, cost_label, score_label, look=Look(title, len(points), wide, high))
    return alone(inside, wide, high)


@dataclass(frozen=True)
class Look:
    """How a front is drawn.

    Attributes:
        heading: Title in the picture itself; empty where it stands beside the picture.
        named: Largest number of points of which all have their name; of more, only those on the front and the chosen one have it.
        wide: Width of the picture, in units.
        high: Height of the picture, in units.
    """

    heading: str = ""
    named: int = _NAMED
    wide: float = WIDTH
    high: float = 320


def pareto(
    head: Head,
    points: Sequence[Point],
    cost_label: str,
    score_label: str,
    *,
    higher_is_better: bool = True,
    look: Look | None = None,
) -> str:
    """The points with their intervals, costs on a logarithmic axis, and the front as a line.

    Args:
        head: Name and title of the figure.
        points: at least one.
        cost_label: below the horizontal axis, with its unit.
        score_label: above the vertical axis.
        higher_is_better: False for error rates, whose axis then grows downwards.
        look: Title and size; None for a picture without a title, in the size of a report.

    Raises:
        UsageError: when there is no point, or one has no cost above 0.
    """
    if not points or not all(p.cost > 0 and math.isfinite(p.cost) and math.isfinite(p.score) for p in points):
        raise UsageError(
            "A Pareto front takes at least one point, and a cost above 0 of each. Give what was measured.",
            code="chart-empty",
        )
    look = look or Look()
    heading, named, wide, high = look.heading, look.named, look.wide, look.high
    edge = _RIGHT if heading else 0
    frame = left, top, right, bottom = _LEFT + edge, 56 if heading else 24, wide - _RIGHT - edge, high - _BOTTOM
    costs = [math.log(p.cost) for p in points]
    room = max(0.12, 0.1 * (max(costs) - min(costs)))
    x = Scale(math.exp(min(costs) - room), math.exp(max(costs) + room), left, right, log=True)
    ends = (bottom, top) if higher_is_better else (top, bottom)
    y = Scale(*around([s for p in points for s in (p.low, p.score, p.high)], 0.07, least=0.004), *ends)
    best = front(points, higher_is_better)
    parts = [letters(edge, 24, heading, "title")] if heading else []
    parts += _axes(frame, x, y, cost_label, score_label)
    marks = [(x(p.cost), y(p.score)) for p in points]
    line_of_front = [(x(p.cost), y(p.score)) for p in best]
    parts.append(lines(line_of_front, "l b"))
    for point, (across, up) in zip(points, marks, strict=True):
        kind = "b" if point in best else "a"
        parts.append(line(across, y(point.low), across, y(point.high), f"ci {kind}"))
        parts += (
            [f'<path d="M{across - 8:.1f} {up:.1f}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0" class="ring"/>']
            if point.chosen
            else []
        )
        parts.append(dot(across, up, f"d {kind}", 4))
    told = (
        list(range(len(points))) if len(points) <= named else [i for i, p in enumerate(points) if p in best or p.chosen]
    )
    names = [fit(points[i].name, wide / 2 if heading else _NAME) for i in told]
    for i, text, (across, down) in zip(
        told, names, _places(names, [marks[i] for i in told], marks, line_of_front, frame), strict=True
    ):
        parts.append(letters(across, down, text, "halo h" if points[i] in best else "halo"))
    entries = [(AFTER, "on the front"), (dot(9, 0, "d a", 4), "not on it")]
    ring = '<circle cx="9" cy="0" r="7" class="ring"/>'
    below, _ = key([*entries, *([(ring, "chosen")] if any(p.chosen for p in points) else [])], high - 10, left)
    return picture(head, high, [*parts, *below], wide)


def _axes(frame: _Frame, x: Scale, y: Scale, cost_label: str, score_label: str) -> list[str]:
    left, top, right, bottom = frame
    costs, scores = log_ticks(x.low, x.high), ticks(y.low, y.high, 5)
    parts = [line(x(cost), top, x(cost), bottom, "g") for cost in costs] + axis_below(
        x, costs, [f"{c:g}" for c in costs], bottom + 15
    )
    parts += axis_beside(y, scores, plain(scores), left, right)
    parts += [line(left, bottom, right, bottom, "z"), letters((left + right) / 2, bottom + 31, cost_label, "m", "m")]
    return [*parts, letters(left - _LEFT, top - 10, score_label, "m")]


def _places(
    names: Sequence[str],
    named: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    frame: _Frame,
) -> list[tuple[float, float]]:
    """Return the position of each name: beside its mark, where it overlaps other parts least."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    for (x, y), (x2, y2) in pairwise(line):
        steps = int(max(abs(x2 - x), abs(y2 - y)) // 8) + 1
        taken += [
            (a - 3, b - 3, a + 3, b + 3)
            for i in range(steps + 1)
            for a, b in [(x + (x2 - x) * i / steps, y + (y2 - y) * i / steps)]
        ]
    found = []
    for name, (x, y) in zip(names, named, strict=True):
        room = width(name) * 1.06  # names on the front are bold
        places = [(x + 10, y + 4), (x - 10 - room, y + 4)]
        places += [(x + dx, y + dy) for dy in (-11, 19, -25, 33, -39, 47, -53, 61) for dx in (8, -8 - room, -room / 2)]

        def covers(place: tuple[float, float], room: float = room) -> float:
            box = (place[0] - 2, place[1] - _LINE + 2, place[0] + room + 2, place[1] + 4)
            outside = sum(max(0.0, sign * (box[i] - frame[i])) for i, sign in enumerate((-1, -1, 1, 1)))
            return 50 * outside + sum(
                max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1]))
                for b in taken
            )

        place = min(places, key=covers)  # of equal ones the first
        taken.append((place[0] - 2, place[1] - _LINE + 2, place[0] + room + 2, place[1] + 4))
        found.append(place)
    return found
