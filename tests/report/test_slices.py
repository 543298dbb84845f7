"""Slices: Holm against statsmodels, each slice against a comparison of its rows alone."""

from __future__ import annotations

import numpy as np
import pytest
from heads import MULTI, REGRESSION, SINGLE, evaluation, rows, score, task
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit.report import slices
from edgekit.report.slices import by_length
from edgekit.stats.holm import holm


def compare(head, before, after, truth, columns):
    return slices.compare(evaluation(head, truth), rows(before), rows(after), columns)


def by_label(head, truth):
    return slices.by_label(
        evaluation(head, truth), rows(np.zeros((len(truth), len(head.identity["labels"])), np.float32))
    )


def models(rows=300, seed=0):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 3, rows)
    before = (np.eye(3)[truth] * 2 + draw.normal(size=(rows, 3))).astype(np.float32)
    return before, (before + draw.normal(size=(rows, 3))).astype(np.float32), truth


# ---- Holm


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # statsmodels 0.15.0: multipletests(p_values, method="holm")[1]
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.0001, 0.0121, 0.0449, 0.0450, 0.3, 1.0], [0.0006, 0.0605, 0.1796, 0.1796, 0.6, 1.0]),
        ([0.02, 0.02, 0.9, 0.5, 0.001, 0.7, 0.02], [0.12, 0.12, 1.0, 1.0, 0.007, 1.0, 0.12]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_against_statsmodels(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, rel=1e-12)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms())
def test_holm_keeps_the_order_begins_with_bonferroni_and_knows_no_places(p_values, order):
    adjusted = holm(p_values)
    assert all(
        p <= a <= min(1.0, max(p * len(p_values), max(adjusted))) for p, a in zip(p_values, adjusted, strict=True)
    )
    assert sorted(range(len(p_values)), key=p_values.__getitem__) == sorted(
        range(len(p_values)), key=lambda i: (adjusted[i], p_values[i])
    )
    assert not p_values or min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    places = list(range(len(p_values)))
    order.shuffle(places)
    assert holm([p_values[i] for i in places]) == [adjusted[i] for i in places]


# ---- slices


def test_each_slice_is_a_comparison_of_its_rows():
    before, after, truth = models()
    column = ["odd" if i % 2 else "even" for i in range(300)]
    found = compare(
        task(SINGLE), before, after, truth, {"parity": column, "length": by_length([20 + i for i in range(300)])}
    )
    assert [(s.column, s.value) for s in found] == [
        ("parity", "even"),
        ("parity", "odd"),
        ("length", "17-32"),
        ("length", "33-64"),
        ("length", "65-128"),
        ("length", "129-256"),
        ("length", "257-512"),
    ]
    assert sum(s.rows for s in found) == 600
    half = np.arange(300) % 2 == 1
    alone = evaluation(task(SINGLE), truth[half]).compare(rows(after[half]), rows(before[half]))
    odd = found[1]
    assert (odd.rows, odd.drop, odd.low, odd.high, odd.p_value) == (
        150,
        alone.drop,
        alone.low,
        alone.high,
        alone.p_value,
    )
    assert odd.before == score(task(SINGLE), before[half], truth[half])
    assert odd.after == score(task(SINGLE), after[half], truth[half])
    assert [s.p_holm for s in found] == pytest.approx(holm([s.p_value for s in found]))
    assert any(s.p_holm > s.p_value for s in found)
    assert all(s.said == "" for s in found)


def test_one_row_is_told_and_does_not_count_for_holm():
    before, after, truth = models(40)
    alone, *rest = compare(task(SINGLE), before, after, truth, {"c": ["a"] + ["b"] * 39})
    assert (alone.value, alone.rows, alone.said, alone.before, alone.drop, alone.p_value, alone.p_holm) == (
        "a",
        1,
        "1 row",
        None,
        None,
        None,
        None,
    )
    assert [s.p_holm for s in rest] == [s.p_value for s in rest]


def test_scores_that_are_not_defined():
    truth = np.array([[0.0]] * 5 + [[float(i)] for i in range(5)] + [[2.0]] * 7 + [[3.0]])
    before = np.linspace(0, 1, 18, dtype=np.float32)[:, None]
    kind = task(REGRESSION, ("score",))
    equal, spread, hardly = compare(kind, before, before[::-1].copy(), truth, {"c": ["a"] * 5 + ["b"] * 5 + ["c"] * 8})
    assert (equal.rows, equal.before, equal.drop, equal.said) == (
        5,
        None,
        None,
        "Pearson r is not defined on these rows",
    )
    assert spread.low <= spread.drop <= spread.high
    assert 0 < spread.p_value <= spread.p_holm <= 1, "of approximate randomization"
    assert hardly.drop is not None and hardly.low <= hardly.drop, (
        "a third of the resamples has no row of the other label, and is drawn again"
    )


def test_a_score_without_an_interval(monkeypatch):
    """Two rows of different labels: half of the resamples have a score, and it is always 1 or -1."""
    truth, logits = np.array([[0.0], [1.0]]), np.array([[0.2], [0.7]], np.float32)
    first, second, compared = slices.compare_scores(
        evaluation(task(REGRESSION, ("score",)), truth), rows(logits), rows(logits)
    )
    assert (first, second) == pytest.approx((1.0, 1.0))
    assert compared.drop == 0.0
    monkeypatch.setattr("edgekit.stats.paired._TRIES", 1)  # so that half is too few
    only = compare(task(REGRESSION, ("score",)), logits, logits, truth, {"c": ["a", "a"]})[0]
    assert (only.before, only.drop, only.low, only.said) == (
        pytest.approx(1.0),
        0.0,
        None,
        "too few different labels for an interval",
    )


def test_columns_that_do_not_fit():
    before, after, truth = models(60)
    with refused("rows-differ", "c", "59", "60"):
        compare(task(SINGLE), before, after, truth, {"c": ["a"] * 59})
    with refused("slices-too-many", "c", "60", "50"):
        compare(task(SINGLE), before, after, truth, {"c": [str(i) for i in range(60)]})
    assert compare(task(SINGLE), before, after, truth, {}) == ()


def test_a_value_is_compared_as_it_stands():
    before, after, truth = models(4)
    assert [s.value for s in compare(task(SINGLE), before, after, truth, {"c": ["x", "x ", "X", "(none)"]})] == [
        "(none)",
        "X",
        "x",
        "x ",
    ]


# ---- built-in columns


def test_lengths():
    tokens = [1, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513]
    expected = (
        ["1-16"] * 2 + ["17-32"] * 2 + ["33-64"] * 2 + ["65-128"] * 2 + ["129-256"] * 2 + ["257-512"] * 2 + ["513-1024"]
    )
    assert by_length(tokens) == expected


@given(st.integers(1, 100_000))
def test_a_length_lies_in_its_bucket(count):
    low, high = map(int, by_length([count])[0].split("-"))
    assert low <= count <= high


def test_labels():
    assert by_label(task(SINGLE), np.array([2, 0])) == ["good", "bad"]
    assert by_label(task(MULTI), np.array([[True, False, True], [False, False, False]])) == [], "a row has several"
    assert by_label(task(REGRESSION), np.zeros((2, 3))) == []
    assert by_label(task(SINGLE, [str(i) for i in range(51)]), np.array([0, 1])) == [], (
        "more labels than slices may have"
    )
