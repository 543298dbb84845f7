"""Parts of all figures: scales, ticks, fitted text, and the frame with a title for screen readers."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

__all__ = [
    "AFTER",
    "BEFORE",
    "LETTER",
    "STYLE",
    "WIDTH",
    "Head",
    "Scale",
    "alone",
    "around",
    "axis_below",
    "axis_beside",
    "box",
    "clean",
    "cross",
    "diamond",
    "dot",
    "fit",
    "key",
    "letters",
    "line",
    "lines",
    "log_ticks",
    "minus",
    "number",
    "picture",
    "plain",
    "ticks",
    "width",
]

WIDTH = 360
LETTER = 6.2
"""Units of a letter of the 11 unit text, on average, in the wider of the fonts that a page may meet."""
STYLE = Path(__file__).parents[1] / "charts.css"
_CONTROLS = {
    i: "\ufffd"
    for i in [*range(9), 11, 12, *range(14, 32), 127, *range(128, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF]
}


@dataclass(frozen=True)
class Head:
    """Name and title of a figure.

    Attributes:
        name: of its ids, unique on the page.
        title: what it shows, in a few words.
        description: what is seen in it, a sentence or two.
    """

    name: str
    title: str
    description: str


@dataclass(frozen=True)
class Scale:
    """Values to places, linear or logarithmic.

    Attributes:
        low, high: values at the ends; different, and above 0 on a logarithmic scale.
        start, end: places of the ends; ``end`` is the smaller one where values go up the page.
        log: whether equal ratios, not equal differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; one outside the ends is put at the nearer end."""
        value = min(max(value, self.low), self.high)
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)


def around(values: Iterable[float], room: float = 0.06, least: float = 1e-9) -> tuple[float, float]:
    """The ends of an axis that holds values, with some room: never of no length.

    Args:
        values: at least one.
        room: beyond each end, as a share of the whole.
        least: shortest length of the axis, in the values' unit.
    """
    found = list(values)
    low, high = min(found), max(found)
    extra = max((high - low) * room, (least - (high - low)) / 2, abs(high) * 1e-6, 1e-12)
    return low - extra, high + extra


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values between two ends, about ``count`` of them: steps of 1, 2 or 5 times a power of ten (Heckbert, Graphics Gems, 1990)."""
    raw = (high - low) / count
    size = next(n for n in (m * 10.0 ** math.floor(math.log10(raw)) for m in (1, 2, 5, 10, 20)) if n >= raw * 0.999)
    return [round(i * size, 12) + 0.0 for i in range(math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two ends above 0 of a logarithmic axis: at least four where the axis is not very short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 2 for n in range(2, 20))):
        found = [round(n * 10.0**d, 12) for d in decades for n in steps if low <= n * 10.0**d <= high]
        if len(found) >= 4:
            break
    return found


def plain(values: Sequence[float]) -> list[str]:
    """Return ticks as text, with as many decimals as they need to differ."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [minus(f"{v:.{decimals}f}") for v in values]


def minus(number: str) -> str:
    """A number with the sign that is as wide as a plus, and no sign before a zero."""
    sign, rest = (number[0], number[1:]) if number[:1] in "+-" else ("", number)
    if sign and not rest.strip("0.,") and any(c == "0" for c in rest):
        return rest
    return "\u2212" + rest if sign == "-" else number


def clean(text: str) -> str:
    """Return text that HTML and XML can hold: control characters and surrogates become the replacement character."""
    return text.translate(_CONTROLS)


def width(text: str) -> float:
    """Return the approximate width of a text, in units."""
    return sum(
        2 * LETTER if unicodedata.east_asian_width(c) in "WF" else 0.0 if unicodedata.combining(c) else LETTER
        for c in text
    )


def fit(text: str, room: float) -> str:
    """Return a text that fits a width in units, cut with an ellipsis if needed."""
    text = " ".join(clean(text).split())
    if width(text) <= room:
        return text
    kept = ""
    for character in text:
        if width(kept + character) > room - LETTER:
            break
        kept += character
    return kept.rstrip() + "…"


def number(value: float) -> str:
    """Return a coordinate with one decimal, none where it is 0."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def letters(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    """Return a text element; ``kind`` are classes, ``anchor`` is ``m`` for middle, ``e`` for end."""
    classes = " ".join(filter(None, (kind, anchor and f"t{anchor}")))
    return f'<text x="{number(x)}" y="{number(y)}"{_class(classes)}>{escape(clean(text), quote=False)}</text>'


def line(x: float, y: float, x2: float, y2: float, kind: str) -> str:
    """Return a line between two points."""
    return f'<path d="M{number(x)} {number(y)}L{number(x2)} {number(y2)}"{_class(kind)}/>'


def lines(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    return f'<path d="M{"L".join(f"{number(x)} {number(y)}" for x, y in points)}"{_class(kind)}/>'


def box(x: float, y: float, wide: float, high: float, kind: str) -> str:
    """Return a rectangle."""
    return f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(0.0, wide))}" height="{number(max(0.0, high))}"{_class(kind)}/>'


def dot(x: float, y: float, kind: str, radius: float = 3.5) -> str:
    """Return a round mark: hollow for ``a`` (before), filled for ``b`` (now)."""
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"{_class(kind)}/>'


def diamond(x: float, y: float, kind: str, size: float = 4.5) -> str:
    """Return the mark of an estimate."""
    up, down = number(-size), number(size)
    return f'<path d="M{number(x - size)} {number(y)}l{down} {up} {down} {down} {up} {down}z"{_class(kind)}/>'


def cross(x: float, y: float, kind: str, size: float = 3.2) -> str:
    """Return the mark of a loss."""
    double = number(2 * size)
    return f'<path d="M{number(x - size)} {number(y - size)}l{double} {double}m-{double} 0l{double} -{double}"{_class(kind)}/>'


BEFORE, AFTER = line(0, 0, 18, 0, "l a") + dot(9, 0, "d a", 3), line(0, 0, 18, 0, "l b") + dot(9, 0, "d b", 3)
"""Marks of before and now, for a key."""


def key(
    entries: Sequence[tuple[str, str]], y: float, left: float = 0.0, right: float = WIDTH
) -> tuple[list[str], float]:
    """Return the key below or above a figure, in as many lines as needed.

    Args:
        entries: (mark, text): a mark is SVG drawn around (9, 0), 18 units wide.
        y: middle of the first line.
        left: where the room begins.
        right: where it ends.

    Returns:
        The parts, and the middle of the last line.
    """
    parts, x = [], left
    for mark, text in entries:
        text = fit(text, right - left - 24)
        wide = 24 + width(text)
        if x > left and x + wide > right:
            x, y = left, y + 16
        parts.append(f'<g transform="translate({number(x)} {number(y)})">{mark}{letters(23, 3.5, text)}</g>')
        x += wide + 14
    return parts, y


def axis_below(x: Scale, values: Sequence[float], texts: Sequence[str], y: float) -> list[str]:
    """Return the labels below a horizontal axis; of labels that would touch, the first stays."""
    parts, end = [], -1.0
    for value, text in zip(values, texts, strict=True):
        if x(value) - width(text) / 2 > end + LETTER:
            parts.append(letters(x(value), y, text, "m", "m"))
            end = x(value) + width(text) / 2
    return parts


def axis_beside(y: Scale, values: Sequence[float], texts: Sequence[str], left: float, right: float) -> list[str]:
    """Lines across a picture, with their values to the left."""
    pairs = [(y(value), text) for value, text in zip(values, texts, strict=True)]
    return [line(left, up, right, up, "g") for up, _ in pairs] + [
        letters(left - 6, up + 3.5, text, "m", "e") for up, text in pairs
    ]


def picture(head: Head, high: float, parts: Iterable[str], wide: float = WIDTH) -> str:
    """The frame: an inline SVG with a title and a description.

    Args:
        head: Name and title of the figure.
        high: its height in units.
        parts: SVG.
        wide: its width in units.
    """
    name, title, description = (
        head.name,
        escape(clean(head.title), quote=False),
        escape(clean(head.description), quote=False),
    )
    return (
        f'<svg class="chart" viewBox="0 0 {number(wide)} {number(high)}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>{"".join(parts)}</svg>'
    )


def alone(svg: str, wide: float, high: float) -> str:
    """A picture as a file of its own, with its style in it and nothing outside it: no script, no font, no link."""
    style = (
        f'<style>{STYLE.read_text("utf-8")}</style><rect class="paper" width="{number(wide)}" height="{number(high)}"/>'
    )
    head, rest = svg.split("</desc>", 1)  # a title is the first thing in a picture
    return (
        head.replace(
            "<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(wide)}" height="{number(high)}"', 1
        )
        + f"</desc>{style}{rest}\n"
    )
