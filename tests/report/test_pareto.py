"""The picture of a Pareto front, read back as XML."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from refusals import refused

from edgekit.report.render.charts.pareto import Point, front, pareto, poster
from edgekit.report.render.charts.svg import LETTER, Head

POINTS = [
    Point("pipeline", 15.0, 0.885, 0.87, 0.9),
    Point("teacher", 2.5, 0.887, 0.872, 0.902),
    Point("worse & dearer <i>", 3.0, 0.88, 0.86, 0.9),
    Point("student", 1.2, 0.88, 0.865, 0.895),
    Point("cheapest", 0.8, 0.86, 0.85, 0.87),
]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_front():
    assert [p.name for p in front(POINTS)] == ["cheapest", "student", "teacher"]
    assert front([POINTS[0]]) == [POINTS[0]]


def test_the_front_of_error_rates():
    """The same points by their errors: the same front, and the better one is above as it was."""
    errors = [Point(p.name, p.cost, 1 - p.score, 1 - p.high, 1 - p.low) for p in POINTS]
    assert [p.name for p in front(errors, higher_is_better=False)] == ["cheapest", "student", "teacher"]
    root = ElementTree.fromstring(pareto(Head("front", "t", "d"), errors, "ms", "WER", higher_is_better=False))
    heights = [float(c.get("cy")) for c in root.findall("circle")]
    for y, p in zip(heights, POINTS, strict=True):
        for y2, q in zip(heights, POINTS, strict=True):
            assert (y < y2) == (p.score > q.score)


def test_the_picture():
    picture = poster(POINTS, "Speed & accuracy", "p50, ms", "accuracy")
    assert picture == poster(POINTS, "Speed & accuracy", "p50, ms", "accuracy")
    root = ElementTree.fromstring(picture)
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {p.name for p in POINTS} <= set(texts)
    assert {"Speed & accuracy", "p50, ms", "accuracy", "1", "2", "5", "10"} <= set(texts)
    circles = [
        (float(c.get("cx")), float(c.get("cy"))) for c in root.findall(f"{SVG}circle")
    ]  # those of the key are in groups
    for (x, y), p in zip(circles, POINTS, strict=True):
        for (x2, y2), q in zip(circles, POINTS, strict=True):
            assert (x < x2) == (p.cost < q.cost)
            assert (y < y2) == (p.score > q.score)
    (line,) = [p for p in root.findall(f"{SVG}path") if p.get("class") == "l b"]
    assert len(re.findall(r"[\d.]+ [\d.]+", line.get("d"))) == 3
    assert "href" not in picture
    assert "script" not in picture
    assert root.find(f"{SVG}title").text == "Speed & accuracy"
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


def test_of_many_points_those_that_matter_are_named():
    many = [Point(f"model {i}", 1.0 + i, 0.9 - abs(i - 3) * 0.01, 0.8, 0.95, chosen=i == 7) for i in range(9)]
    root = ElementTree.fromstring(pareto(Head("front", "t", "d"), many, "c", "s"))
    assert {t.text for t in root.iter("text") if t.text.startswith("model")} == {
        "model 0",
        "model 1",
        "model 2",
        "model 3",
        "model 7",
    }
    assert len(root.findall("circle")) == 9, "all are drawn"


def test_names_do_not_cover_each_other():
    close = [Point(f"model number {i}", 1.0 + i * 0.01, 0.9 + i * 0.0002, 0.89, 0.91) for i in range(5)]
    root = ElementTree.fromstring(poster(close, "t", "c", "s"))
    boxes = [(float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.text.startswith("model")]
    assert len(boxes) == 5
    width = LETTER * len("model number 0")
    assert not any(abs(a[0] - b[0]) < width and abs(a[1] - b[1]) < 12 for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("points", [[], [Point("x", 0.0, 1.0, 1.0, 1.0)], [Point("x", float("nan"), 1.0, 1.0, 1.0)]])
def test_nothing_to_draw(points):
    with refused("chart-empty"):
        poster(points, "t", "c", "s")
