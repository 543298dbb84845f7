"""Figure of the Pareto front: lower cost to the left, better score at the top."""

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
    standalone_svg,
    text_element,
    ticks,
    truncate,
    width,
)
from edgekit.spec.errors import UsageError

__all__ = ["Point", "front", "pareto", "poster"]

_LEFT = 46
_RIGHT = 10
_BOTTOM = 66
_LINE = 12
_NAMED = 6
"""Largest number of points that are all labelled; with more points, only those on the front are."""
_NAME = 150
"""Largest width of a name."""
_POSTER_WIDTH = 860
_POSTER_HEIGHT = 460
_Frame = tuple[float, float, float, float]
"""Left, top, right and bottom end of a rectangle."""


@dataclass(frozen=True)
class Point:
    """Measured candidate.

    Attributes:
        name: Text beside the mark.
        cost: Cost, e.g. milliseconds; above 0, lower is better.
        score: Score; higher is better, unless ``higher_is_better`` of the figure is False.
        low: Lower end of the score's interval.
        high: Upper end of the score's interval.
        chosen: True for the chosen candidate, which gets a ring.
    """

    name: str
    cost: float
    score: float
    low: float
    high: float
    chosen: bool = False


def front(points: Sequence[Point], higher_is_better: bool = True) -> list[Point]:
    """Return the Pareto front, the cheapest first: no other point is at least as cheap and as good, and better in one.

    Args:
        points: Points in any order.
        higher_is_better: False for error rates.
    """
    best: list[Point] = []
    sign = 1 if higher_is_better else -1
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.score)):
        if not best or sign * point.score > sign * best[-1].score:
            best.append(point)
    return best


def poster(points: Sequence[Point], title: str, cost_label: str, score_label: str) -> str:
    """Return a figure of 860 x 460 as an SVG file, with its title and the name of every point.

    Args:
        points: Points, at least one.
        title: Title above the figure.
        cost_label: Label of the horizontal axis, with its unit.
        score_label: Label of the vertical axis.

    Raises:
        UsageError: If there is no point, or a cost is not above 0.
    """
    head = Head("front", title, f"{len(front(points))} of {len(points)} are on the front.")
    look = Look(title, len(points), _POSTER_WIDTH, _POSTER_HEIGHT)
    figure = pareto(head, points, cost_label, score_label, look=look)
    return standalone_svg(figure, _POSTER_WIDTH, _POSTER_HEIGHT)


@dataclass(frozen=True)
class Look:
    """Layout of the figure.

    Attributes:
        heading: Title inside the figure; empty if it is beside the figure.
        named: Largest number of points that are all labelled; with more points, only those on the front and the
            chosen one are.
        width: Width of the figure, in units.
        height: Height of the figure, in units.
    """

    heading: str = ""
    named: int = _NAMED
    width: float = WIDTH
    height: float = 320


def pareto(
    head: Head,
    points: Sequence[Point],
    cost_label: str,
    score_label: str,
    *,
    higher_is_better: bool = True,
    look: Look | None = None,
) -> str:
    """Return the points with their intervals, a logarithmic cost axis, and the front as a line.

    Args:
        head: Name and title of the figure.
        points: Points, at least one.
        cost_label: Label of the horizontal axis, with its unit.
        score_label: Label of the vertical axis.
        higher_is_better: False for error rates, whose axis then grows downwards.
        look: Title and size; None for a figure without a title, in the size of a report.

    Raises:
        UsageError: If there is no point, or a cost is not above 0.
    """
    if not points or not all(map(_is_drawable, points)):
        raise UsageError(
            "A Pareto front needs at least one point, each with a finite score and a cost above 0. "
            "Give measured candidates.",
            code="chart-empty",
        )
    look = look or Look()
    edge = _RIGHT if look.heading else 0
    left = _LEFT + edge
    top = 56 if look.heading else 24
    right = look.width - _RIGHT - edge
    bottom = look.height - _BOTTOM
    frame = (left, top, right, bottom)
    costs = [math.log(point.cost) for point in points]
    room = max(0.12, 0.1 * (max(costs) - min(costs)))
    x = Scale(math.exp(min(costs) - room), math.exp(max(costs) + room), left, right, log=True)
    ends = (bottom, top) if higher_is_better else (top, bottom)
    scores = [value for point in points for value in (point.low, point.score, point.high)]
    y = Scale(*padded_range(scores, 0.07, least=0.004), *ends)
    best = front(points, higher_is_better)
    parts = [text_element(edge, 24, look.heading, "title")] if look.heading else []
    parts += _axes(frame, x, y, cost_label, score_label)
    marks = [(x(point.cost), y(point.score)) for point in points]
    front_line = [(x(point.cost), y(point.score)) for point in best]
    parts.append(lines(front_line, "l b"))
    for point, (across, up) in zip(points, marks, strict=True):
        kind = "b" if point in best else "a"
        parts.append(line(across, y(point.low), across, y(point.high), f"ci {kind}"))
        if point.chosen:
            parts.append(f'<path d="M{across - 8:.1f} {up:.1f}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0" class="ring"/>')
        parts.append(dot(across, up, f"d {kind}", 4))
    named = list(range(len(points)))
    if len(points) > look.named:
        named = [i for i, point in enumerate(points) if point in best or point.chosen]
    name_room = look.width / 2 if look.heading else _NAME
    names = [truncate(points[i].name, name_room) for i in named]
    places = _places(names, [marks[i] for i in named], marks, front_line, frame)
    for i, text, (across, down) in zip(named, names, places, strict=True):
        parts.append(text_element(across, down, text, "halo h" if points[i] in best else "halo"))
    entries = [(AFTER, "on the front"), (dot(9, 0, "d a", 4), "not on it")]
    if any(point.chosen for point in points):
        entries.append(('<circle cx="9" cy="0" r="7" class="ring"/>', "chosen"))
    below, _ = legend(entries, look.height - 10, left)
    return picture(head, look.height, [*parts, *below], look.width)


def _is_drawable(point: Point) -> bool:
    return point.cost > 0 and math.isfinite(point.cost) and math.isfinite(point.score)


def _axes(frame: _Frame, x: Scale, y: Scale, cost_label: str, score_label: str) -> list[str]:
    left, top, right, bottom = frame
    costs = log_ticks(x.low, x.high)
    scores = ticks(y.low, y.high, 5)
    parts = [line(x(cost), top, x(cost), bottom, "g") for cost in costs]
    parts += axis_below(x, costs, [f"{cost:g}" for cost in costs], bottom + 15)
    parts += axis_beside(y, scores, plain(scores), left, right)
    parts.append(line(left, bottom, right, bottom, "z"))
    parts.append(text_element((left + right) / 2, bottom + 31, cost_label, "m", "m"))
    parts.append(text_element(left - _LEFT, top - 10, score_label, "m"))
    return parts


def _places(
    names: Sequence[str],
    named: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    frame: _Frame,
) -> list[tuple[float, float]]:
    """Return the position of each name: beside its mark, where it overlaps other parts least."""
    boxes = [_square(x, y, 5) for x, y in marks]
    for (x, y), (x2, y2) in pairwise(line):
        steps = int(max(abs(x2 - x), abs(y2 - y)) // 8) + 1
        for i in range(steps + 1):
            boxes.append(_square(x + (x2 - x) * i / steps, y + (y2 - y) * i / steps, 3))
    places = []
    for name, (x, y) in zip(names, named, strict=True):
        room = width(name) * 1.06  # Names on the front are bold.
        candidates = [(x + 10, y + 4), (x - 10 - room, y + 4)]
        for dy in (-11, 19, -25, 33, -39, 47, -53, 61):
            candidates += [(x + dx, y + dy) for dx in (8, -8 - room, -room / 2)]
        overlaps = [_overlap(_name_box(place, room), boxes, frame) for place in candidates]
        place = candidates[overlaps.index(min(overlaps))]
        boxes.append(_name_box(place, room))
        places.append(place)
    return places


def _square(x: float, y: float, half: float) -> _Frame:
    return x - half, y - half, x + half, y + half


def _name_box(place: tuple[float, float], room: float) -> _Frame:
    x, y = place
    return x - 2, y - _LINE + 2, x + room + 2, y + 4


def _overlap(box: _Frame, boxes: Sequence[_Frame], frame: _Frame) -> float:
    """Return the area that a box shares with others, and a penalty for the part outside the frame."""
    outside = sum(max(0.0, sign * (box[i] - frame[i])) for i, sign in enumerate((-1, -1, 1, 1)))
    shared = 0.0
    for other in boxes:
        shared_width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        shared_height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        shared += shared_width * shared_height
    return 50 * outside + shared
