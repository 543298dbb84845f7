"""Parts of all figures: scales, ticks, text cut to a width, and the frame with a title for screen readers."""

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
    "axis_below",
    "axis_beside",
    "box",
    "clean",
    "cross",
    "diamond",
    "dot",
    "legend",
    "line",
    "lines",
    "log_ticks",
    "minus",
    "number",
    "padded_range",
    "picture",
    "plain",
    "standalone_svg",
    "text_element",
    "ticks",
    "truncate",
    "width",
]

WIDTH = 360
LETTER = 6.2
"""Average width of a letter of the 11 unit text, in units, in the widest fonts that a page may use."""
STYLE = Path(__file__).parents[1] / "charts.css"
_CONTROLS = {
    i: "\ufffd"
    for i in [*range(9), 11, 12, *range(14, 32), 127, *range(128, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF]
}


@dataclass(frozen=True)
class Head:
    """Name and title of a figure.

    Attributes:
        name: Prefix of the ids in the figure, unique on the page.
        title: Content of the figure in a few words.
        description: Content of the figure in one or two sentences.
    """

    name: str
    title: str
    description: str


@dataclass(frozen=True)
class Scale:
    """Map from values to positions, linear or logarithmic.

    Attributes:
        low, high: Values at the ends; different, and above 0 on a logarithmic scale.
        start, end: Positions of the ends, in units. ``end`` is the smaller one if values grow upwards.
        log: True for a logarithmic scale.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; a value outside the ends is put at the nearer end."""
        value = min(max(value, self.low), self.high)
        share = (value - self.low) / (self.high - self.low)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def padded_range(values: Iterable[float], room: float = 0.06, least: float = 1e-9) -> tuple[float, float]:
    """Return the ends of an axis for values, with some room. The axis always has a length.

    Args:
        values: Values, at least one.
        room: Room beyond each end, as a share of the range of the values.
        least: Shortest length of the axis, in the unit of the values.
    """
    values = list(values)
    low = min(values)
    high = max(values)
    extra = max((high - low) * room, (least - (high - low)) / 2, abs(high) * 1e-6, 1e-12)
    return low - extra, high + extra


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values between two ends.

    Steps are 1, 2 or 5 times a power of ten (Heckbert, Graphics Gems, 1990).
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values of a logarithmic axis with ends above 0: at least four, unless the axis is very short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 2 for n in range(2, 20))):
        candidates = [step * 10.0**decade for decade in decades for step in steps]
        values = [round(value, 12) for value in candidates if low <= value <= high]
        if len(values) >= 4:
            break
    return values


def plain(values: Sequence[float]) -> list[str]:
    """Return ticks as text, with as many decimals as they need to differ."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [minus(f"{v:.{decimals}f}") for v in values]


def minus(number: str) -> str:
    """Return a number with a minus sign as wide as a plus, and no sign before a zero."""
    if number[:1] not in ("+", "-"):
        return number
    digits = number[1:]
    if "0" in digits and not digits.strip("0.,"):
        return digits
    return f"\u2212{digits}" if number[0] == "-" else number


def clean(text: str) -> str:
    """Return text that HTML and XML can hold: control characters and surrogates become the replacement character."""
    return text.translate(_CONTROLS)


def width(text: str) -> float:
    """Return the approximate width of a text, in units."""
    total = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            total += 2 * LETTER
        elif not unicodedata.combining(character):
            total += LETTER
    return total


def truncate(text: str, room: float) -> str:
    """Return a text that fits a width in units, cut with an ellipsis if needed."""
    text = " ".join(clean(text).split())
    if width(text) <= room:
        return text
    start = ""
    for character in text:
        if width(start + character) > room - LETTER:
            break
        start += character
    return start.rstrip() + "…"


def number(value: float) -> str:
    """Return a coordinate with one decimal, or with none if it is 0."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def text_element(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    """Return a text element with the classes ``kind``. ``anchor`` is ``m`` for middle, ``e`` for end."""
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
    size = f'width="{number(max(0.0, wide))}" height="{number(max(0.0, high))}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size}{_class(kind)}/>'


def dot(x: float, y: float, kind: str, radius: float = 3.5) -> str:
    """Return a round mark: hollow for ``a`` (before), filled for ``b`` (now)."""
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"{_class(kind)}/>'


def diamond(x: float, y: float, kind: str, size: float = 4.5) -> str:
    """Return the mark of an estimate."""
    up = number(-size)
    down = number(size)
    return f'<path d="M{number(x - size)} {number(y)}l{down} {up} {down} {down} {up} {down}z"{_class(kind)}/>'


def cross(x: float, y: float, kind: str, size: float = 3.2) -> str:
    """Return the mark of a loss."""
    double = number(2 * size)
    start = f"M{number(x - size)} {number(y - size)}"
    return f'<path d="{start}l{double} {double}m-{double} 0l{double} -{double}"{_class(kind)}/>'


BEFORE = line(0, 0, 18, 0, "l a") + dot(9, 0, "d a", 3)
"""Mark of before in a key."""
AFTER = line(0, 0, 18, 0, "l b") + dot(9, 0, "d b", 3)
"""Mark of now in a key."""


def legend(
    entries: Sequence[tuple[str, str]], y: float, left: float = 0.0, right: float = WIDTH
) -> tuple[list[str], float]:
    """Return the key below or above a figure, in as many lines as needed.

    Args:
        entries: Pairs (mark, text). A mark is SVG around (9, 0), 18 units wide.
        y: Middle of the first line, in units.
        left: Left end of the key, in units.
        right: Right end of the key, in units.

    Returns:
        SVG parts, and the middle of the last line in units.
    """
    parts = []
    x = left
    for mark, text in entries:
        text = truncate(text, right - left - 24)
        wide = 24 + width(text)
        if x > left and x + wide > right:
            x = left
            y += 16
        parts.append(f'<g transform="translate({number(x)} {number(y)})">{mark}{text_element(23, 3.5, text)}</g>')
        x += wide + 14
    return parts, y


def axis_below(x: Scale, values: Sequence[float], texts: Sequence[str], y: float) -> list[str]:
    """Return the labels below a horizontal axis, without those that would touch the one before."""
    parts = []
    end = -1.0
    for value, text in zip(values, texts, strict=True):
        if x(value) - width(text) / 2 > end + LETTER:
            parts.append(text_element(x(value), y, text, "m", "m"))
            end = x(value) + width(text) / 2
    return parts


def axis_beside(y: Scale, values: Sequence[float], texts: Sequence[str], left: float, right: float) -> list[str]:
    """Return horizontal lines across a figure, with their labels to the left."""
    grid = [line(left, y(value), right, y(value), "g") for value in values]
    labels = [text_element(left - 6, y(value) + 3.5, text, "m", "e") for value, text in zip(values, texts, strict=True)]
    return grid + labels


def picture(head: Head, high: float, parts: Iterable[str], wide: float = WIDTH) -> str:
    """Return an inline SVG with a title and a description.

    Args:
        head: Name and title of the figure.
        high: Height of the figure, in units.
        parts: SVG parts.
        wide: Width of the figure, in units.
    """
    name = head.name
    title = escape(clean(head.title), quote=False)
    description = escape(clean(head.description), quote=False)
    return (
        f'<svg class="chart" viewBox="0 0 {number(wide)} {number(high)}" role="img" '
        f'aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>{"".join(parts)}</svg>'
    )


def standalone_svg(svg: str, wide: float, high: float) -> str:
    """Return a figure as a complete SVG file with its style. It has no scripts, fonts or links."""
    size = f'width="{number(wide)}" height="{number(high)}"'
    style = f'<style>{STYLE.read_text("utf-8")}</style><rect class="paper" {size}/>'
    head, rest = svg.split("</desc>", 1)  # The title and the description must stay in front.
    head = head.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" {size}', 1)
    return f"{head}</desc>{style}{rest}\n"
