"""The pictures, read back as XML: marks are where the numbers are, and nothing breaks on numbers that are all alike, or not there."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import reports

from edgekit.report.render.charts.answers import between, margins
from edgekit.report.render.charts.bars import side_by_side, stacked
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.latency import distributions, lengths
from edgekit.report.render.charts.pareto import Point, pareto
from edgekit.report.render.charts.svg import (
    Head,
    Scale,
    clean,
    log_ticks,
    minus,
    padded_range,
    plain,
    standalone_svg,
    ticks,
    truncate,
    width,
)
from edgekit.spec.subject import ByLength

HEAD = Head("name", "A title & more", "What <is> seen.")


def drawn(svg):
    """The picture as XML; every number of it is one, and inside the frame where it places a mark."""
    root = ElementTree.fromstring(svg)
    assert not re.search(r"nan|inf|None", svg)
    assert root.get("role") == "img"
    assert [e.tag for e in root[:2]] == ["title", "desc"]
    assert (root[0].text, root[1].text) == (HEAD.title, HEAD.description)
    assert root.get("aria-labelledby").split() == [root[0].get("id"), root[1].get("id")]
    _, _, wide, high = map(float, root.get("viewBox").split())
    for mark in root.findall("circle"):
        assert 0 <= float(mark.get("cx")) <= wide
        assert 0 <= float(mark.get("cy")) <= high
    return root


def paths(root, kind):
    """Points of the paths of a class."""
    return [
        [tuple(map(float, p)) for p in re.findall(r"(-?[\d.]+) (-?[\d.]+)", e.get("d"))]
        for e in root.iter("path")
        if e.get("class") == kind
    ]


def says(root):
    return [t.text for t in root.iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0.13, 0.87, 5, [0.2, 0.4, 0.6, 0.8]),
        (-0.012, 0.021, 6, [-0.01, 0, 0.01, 0.02]),
        (97, 1_003, 5, [200, 400, 600, 800, 1_000]),
    ],
)
def test_ticks_are_round(low, high, count, expected):
    assert ticks(low, high, count) == pytest.approx(expected)


def test_ticks_of_any_range():
    draw = np.random.default_rng(0)
    for _ in range(500):
        low = draw.normal() * 10.0 ** draw.integers(-6, 6)
        high = low + 10.0 ** draw.uniform(-6, 6)
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        step = 1e-9 * (high - low)
        assert all(low - step <= v <= high + step for v in found)
        texts = plain(found)
        assert len(set(texts)) == len(texts)


def test_log_ticks():
    assert log_ticks(0.6, 20) == [1, 2, 5, 10, 20]
    assert log_ticks(0.09, 2_000) == [0.1, 1, 10, 100, 1_000]
    assert len(log_ticks(2.1, 3.4)) >= 2


def test_plain_ticks_have_the_decimals_that_they_need():
    assert plain([-0.01, 0.0, 0.01]) == ["\N{MINUS SIGN}0.01", "0.00", "0.01"]
    assert plain([0, 0.005, 0.01]) == ["0.000", "0.005", "0.010"]
    assert plain([0, 200, 400]) == ["0", "200", "400"]


def test_the_sign_of_a_number():
    assert [minus(n) for n in ("-0.0", "+0.00", "-1.5", "+1.5", "0.3", "nan")] == [
        "0.0",
        "0.00",
        "\N{MINUS SIGN}1.5",
        "+1.5",
        "0.3",
        "nan",
    ]


def test_scales():
    assert [Scale(0, 10, 100, 200)(v) for v in (0, 5, 10, -3, 99)] == [100, 150, 200, 100, 200]
    assert Scale(0, 1, 90, 10)(0.25) == 70
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-2.0, 7.0], [1e9, 1e9], [1e-12]])
def test_an_axis_has_a_length(values):
    low, high = padded_range(values)
    assert low < min(values)
    assert high > max(values)


def test_texts_fit():
    assert truncate("short", 100) == "short"
    assert truncate("a long name that goes on", 62).endswith("…")
    assert width(truncate("a long name that goes on", 62)) <= 62
    assert width("日本") == 2 * width("ab"), "wide letters are as wide as two"
    assert truncate("a\nb\x00", 100) == "a b\ufffd"
    assert clean("\ud800\x1b<") == "\ufffd\ufffd<"


def test_a_forest_is_in_order_and_marks_what_is_not_allowed():
    rows = [
        Interval("worst", 0.03, 0.01, 0.05, 0.02),
        Interval("none", None, None, None, 0.02, "1 row"),
        Interval("best", -0.01, -0.02, 0.0, 0.02),
    ]
    root = drawn(forest(HEAD, rows, "drop"))
    (worst,), (best,) = (p[:1] for p in paths(root, "d b"))
    assert worst[0] > best[0]
    assert worst[1] < best[1]
    low, high = next(p for p in paths(root, "ci") if p[0][1] == p[1][1])  # whiskers' ends are upright
    assert low[0] < worst[0] + 4.5 < high[0], "a diamond begins at its left corner"
    assert (worst[0] + 4.5 - low[0]) == pytest.approx(high[0] - worst[0] - 4.5, abs=0.2)
    limits = {p[0][0] for p in paths(root, "lim")}
    assert len(limits) == 1
    assert low[0] < next(iter(limits)) < high[0]
    hatched = [r for r in root.iter("rect") if r.get("fill", "").startswith("url(#")]
    assert [float(r.get("x")) for r in hatched] == pytest.approx([*limits] * 3)
    assert "1 row" in says(root)
    (zero,) = paths(root, "z")
    assert zero[0][0] == pytest.approx(best[0] + 4.5 + (high[0] - low[0]) / 4, abs=0.3), (
        "0 is a quarter of 0.04 right of -0.01"
    )


def test_a_forest_of_nothing_random():
    for rows in (
        [Interval("same", 0.0, 0.0, 0.0)],
        [Interval("none", None, None, None)],
        [Interval("", 1e6, 1e6, 1e6)],
        [Interval("x" * 300, 0.1, 0, 0.2)],
    ):
        drawn(forest(HEAD, rows, "drop"))


def test_a_forest_in_per_cent():
    assert {"0", "10"} <= set(
        says(drawn(forest(HEAD, [Interval("p50", 0.08, 0.07, 0.1)], "growth in %", lambda v: 100 * v)))
    )


def test_distributions_rise_and_end_where_their_quantiles_do():
    slow, fast = reports.quantiles(3.0, 0.2), reports.quantiles(2.0, 0.2, seed=1)
    root = drawn(distributions(HEAD, [("a", "slow", slow, (50, 90, 99)), ("b", "fast", fast, (50,))]))
    before, after = (max(paths(root, kind), key=len) for kind in ("l a", "l b"))  # the short ones are in the key
    for curve in (before, after):
        assert all(x2 >= x and y2 <= y for (x, y), (x2, y2) in pairwise(curve))
    assert before[50][0] > after[50][0]
    marks = [(m.get("class"), float(m.get("cx")), float(m.get("cy"))) for m in root.findall("circle")]
    assert [kind for kind, *_ in marks] == ["d a"] * 3 + ["d b"], "what cannot be estimated has no mark"
    assert marks[0][1:] == pytest.approx(before[50], abs=0.1)
    assert {"p50", "p90", "p99", "slow", "fast"} <= set(says(root))


def test_distributions_of_a_long_tail_are_logarithmic():
    tail = (*(1.0 + i / 100 for i in range(98)), 50.0, 80.0, 400.0)
    assert "milliseconds from input to answer (logarithmic)" in says(drawn(distributions(HEAD, [("b", "x", tail, ())])))
    for same in ((2.0,) * 101, (0.0,) * 100 + (1.0,)):
        drawn(distributions(HEAD, [("b", "x", same, (50, 90, 99))]))


def test_lengths():
    groups = (ByLength(1, 8, 10, 1.0), ByLength(9, 32, 20, 2.0))
    root = drawn(lengths(HEAD, [("a", "before", groups), ("b", "now", groups[:1])]))
    marks = [(float(m.get("cx")), float(m.get("cy"))) for m in root.findall("circle")]
    assert len(marks) == 3
    assert marks[1][0] > marks[0][0]
    assert marks[1][1] < marks[0][1]
    bars = paths(root, "l wide a")
    assert (bars[1][1][0] - bars[1][0][0]) / (bars[0][1][0] - bars[0][0][0]) == pytest.approx(23 / 7, abs=0.05)
    drawn(lengths(HEAD, [("b", "now", (ByLength(1, 1, 1, 0.0),))]))


def test_stacked_bars_add_up():
    root = drawn(stacked(HEAD, ("a", "b"), [("one", (30.0, 10.0), "40 ms"), ("two", (20.0, 0.0), "20 ms")]))
    wide = [[float(r.get("width")) for r in root.findall("rect") if r.get("class") == kind] for kind in ("s0", "s1")]
    assert np.array(wide) + 1 == pytest.approx(np.array([[270, 180], [90, 1]]))
    assert {"40 ms", "20 ms", "a", "b"} <= set(says(root))


def test_bars_side_by_side_have_a_scale_of_each_measure():
    groups = [
        ("memory", [("a", "x", 100.0, "100 MB"), ("b", "y", 50.0, "50 MB")]),
        ("energy", [("b", "y", 2.0, "2 mJ")]),
        ("none", [("b", "y", 0.0, "0")]),
    ]
    wide = [float(r.get("width")) for r in drawn(side_by_side(HEAD, groups)).findall("rect")]
    assert wide[1] == pytest.approx(wide[0] / 2, abs=0.1)
    assert wide[2] == wide[0]
    assert wide[3] == 1


def test_margins():
    root = drawn(margins(HEAD, [("lost", 0.9, 0.1), ("won", 0.1, 0.5), ("other", 0.3, 0.3)]))
    (lost,) = (p for p in paths(root, "x") if p[0][1] > 100 and len(p) > 1)
    won = next(m for m in root.findall("circle") if m.get("class") == "d b")
    assert lost[0][0] > float(won.get("cx"))
    assert lost[0][1] > float(won.get("cy"))
    assert "wrong before, right now" in says(root)
    assert "wrong before, right now" not in says(drawn(margins(HEAD, [("lost", 0.0, 0.0)])))
    assert len(drawn(margins(HEAD, [("other", i / 500, 1 - i / 500) for i in range(500)])).findall("circle")) == 500


def test_between_floor_and_ceiling():
    root = drawn(between(HEAD, [("rank", 0.0, 0.5, 1.0), ("top", -0.3, 0.9, 0.8)]))
    (rank, *_), (top, *_) = paths(root, "d b")[:2]
    assert rank[0] < top[0]
    bands = [r for r in root.findall("rect") if r.get("class") == "band"]
    left, wide = float(bands[0].get("x")), float(bands[0].get("width"))
    assert rank[0] + 5.5 == pytest.approx(left + wide / 2, abs=0.2)


def test_a_front_of_one_and_of_equals():
    drawn(pareto(HEAD, [Point("x", 1.0, 0.9, 0.9, 0.9, chosen=True)], "ms", "accuracy"))
    root = drawn(pareto(HEAD, [Point(f"p{i}", 1.0, 0.9, 0.8, 1.0) for i in range(60)], "ms", "accuracy"))
    assert len(root.findall("circle")) == 60
    assert len([t for t in says(root) if re.fullmatch(r"p\d+", t)]) == 1


def test_a_picture_alone_is_a_file():
    root = ElementTree.fromstring(standalone_svg(forest(HEAD, [Interval("a", 0.1, 0.0, 0.2)], "drop"), 360, 64))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("360", "64")
    assert root[0].tag.endswith("title"), "a title comes first"
    assert math.isclose(float(root.get("viewBox").split()[2]), 360)
