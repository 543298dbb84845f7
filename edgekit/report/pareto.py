"""The Pareto front as a picture: what costs less is to the left, what is right more often is above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from edgekit.spec.errors import UsageError

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 44, 58
_LETTER, _LINE = 7.2, 15  # pixels of bold 12 px text
_FRONT, _OTHER, _INK, _GRID = "#0b6e4f", "#8a8f98", "#1f2328", "#e3e6ea"


@dataclass(frozen=True)
class Point:
    """Something that was measured.

    Attributes:
        name: beside its mark.
        cost: e.g. milliseconds; above 0, less is better.
        score: more is better.
        low: lower end of the score's interval.
        high: upper end.
    """

    name: str
    cost: float
    score: float
    low: float
    high: float


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in one thing without being worse in the other, from the cheapest."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.score)):
        if not kept or point.score > kept[-1].score:
            kept.append(point)
    return kept


def svg(points: Sequence[Point], title: str, cost_label: str, score_label: str) -> str:
    """A picture of 860 x 460, costs on a logarithmic axis, with nothing outside it: no script, no font, no link.

    Args:
        points: at least one.
        title: above.
        cost_label: below the horizontal axis, with its unit.
        score_label: along the vertical axis.

    Raises:
        UsageError: when there is no point, or one has no cost above 0.
    """
    if not points or not all(p.cost > 0 and math.isfinite(p.cost) and math.isfinite(p.score) for p in points):
        raise UsageError("A Pareto front takes at least one point, and a cost above 0 of each. Give what was measured.")
    costs = [math.log(p.cost) for p in points]
    edge = max(0.12, 0.1 * (max(costs) - min(costs)))
    left, right = min(costs) - edge, max(costs) + edge
    low, high = min(p.low for p in points), max(p.high for p in points)
    room = max(0.002, 0.08 * (high - low))
    low, high = low - room, high + room

    def x(cost: float) -> float:
        return _LEFT + (math.log(cost) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(score: float) -> float:
        return _HEIGHT - _BOTTOM - (score - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    best = front(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" font-weight="600" fill="{_INK}">{escape(title)}</text>',
    ]
    bottom = _HEIGHT - _BOTTOM
    for cost in _ticks_of_costs(math.exp(left), math.exp(right)):
        parts.append(f'<line x1="{x(cost):.1f}" y1="{_TOP}" x2="{x(cost):.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{x(cost):.1f}" y="{bottom + 18}" text-anchor="middle" fill="{_INK}">{cost:g}</text>')
    for score in _ticks_of_scores(low, high):
        parts.append(f'<line x1="{_LEFT}" y1="{y(score):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(score):.1f}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(score) + 4:.1f}" text-anchor="end" fill="{_INK}">{score:.3f}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 16}" text-anchor="middle" fill="{_INK}">{escape(cost_label)}</text>')
    parts.append(f'<text x="18" y="{middle}" text-anchor="middle" fill="{_INK}" transform="rotate(-90 18 {middle})">{escape(score_label)}</text>')
    line = " ".join(f"{x(p.cost):.1f},{y(p.score):.1f}" for p in best)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_FRONT}" stroke-width="2"/>')
    for point in points:
        color = _FRONT if point in best else _OTHER
        across, up = x(point.cost), y(point.score)
        parts.append(f'<line x1="{across:.1f}" y1="{y(point.low):.1f}" x2="{across:.1f}" y2="{y(point.high):.1f}" stroke="{color}" opacity="0.45"/>')
        parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{color}"/>')
    marks = [(x(p.cost), y(p.score)) for p in points]
    for point, (across, down) in zip(points, _labels(points, marks, [(x(p.cost), y(p.score)) for p in best]), strict=True):
        weight = ' font-weight="600"' if point in best else ""
        halo = 'stroke="white" stroke-width="4" paint-order="stroke"'
        parts.append(f'<text x="{across:.1f}" y="{down:.1f}" fill="{_INK}" {halo}{weight}>{escape(point.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _labels(points: Sequence[Point], marks: Sequence[tuple[float, float]], line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each name begins: beside its mark, where it covers least of other names, of marks and of the line."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    for (x, y), (x2, y2) in pairwise(line):
        steps = int(max(abs(x2 - x), abs(y2 - y)) // 8) + 1
        taken += [(a - 4, b - 3, a + 4, b + 3) for i in range(steps + 1) for a, b in [(x + (x2 - x) * i / steps, y + (y2 - y) * i / steps)]]
    found = []
    for point, (x, y) in zip(points, marks, strict=True):
        width = _LETTER * len(point.name)
        places = [(x + 10, y + 4), (x - 10 - width, y + 4)]
        places += [(x + dx, y + dy) for dy in (-12, 22, -28, 38, -44, 54) for dx in (8, -8 - width, -width / 2)]

        def covers(place: tuple[float, float], width: float = width) -> float:
            box = (place[0] - 2, place[1] - _LINE + 2, place[0] + width + 2, place[1] + 4)
            outside = max(0.0, _LEFT - box[0]) + max(0.0, box[2] - (_WIDTH - 4)) + max(0.0, _TOP - box[1]) + max(0.0, box[3] - (_HEIGHT - _BOTTOM))
            return 50 * outside + sum(max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1])) for b in taken)

        place = min(places, key=covers)  # of equal ones the first
        taken.append((place[0] - 2, place[1] - _LINE + 2, place[0] + width + 2, place[1] + 4))
        found.append(place)
    return found


def _ticks_of_costs(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 2 for n in range(2, 20))):
        found = [round(n * 10.0**d, 12) for d in decades for n in steps if low <= n * 10.0**d <= high]
        if len(found) >= 4:
            break
    return found


def _ticks_of_scores(low: float, high: float) -> list[float]:
    raw = (high - low) / 6
    size = min((n * 10.0 ** math.floor(math.log10(raw)) for n in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    return [round(i * size, 10) for i in range(math.ceil(low / size), math.floor(high / size) + 1)]
