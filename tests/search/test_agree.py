"""How far answers in lists are from those alone, and when that is too far."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.search import agree
from edgekit.search.agree import allowed, lists
from edgekit.spec.agreement import Agreement
from edgekit.tasks.text_classification import Settings, bind


def task(problem_type, labels=3):
    names = tuple(f"label {i}" for i in range(labels))
    return bind(Settings(problem_type, names, 64, ("input_ids",)), None)


def compare(task, alone, listed, order, reference, method):
    """The comparison of arrays ``[rows, labels]``."""
    alone, listed, reference = ([{"logits": row} for row in array] for array in (alone, listed, reference))
    return agree.compare(task, alone, listed, order.tolist(), reference, method)


SINGLE = task("single_label_classification")
ALONE = np.array(
    [[4.0, 0.0, -4.0], [0.0, 1.0, 0.0], [1.0, 1.001, 0.0]], np.float32
)  # spread 8; the margins are 4, 1 and 0.001
ORDER = np.array([0, 1, 2, 2])


def moved(row, label, by):
    listed = ALONE[ORDER].copy()
    listed[row, label] += by
    return listed


def test_the_difference_is_a_share_of_the_spread():
    found = compare(SINGLE, ALONE, moved(1, 0, 0.08), ORDER, ALONE, "static")
    assert found == Agreement(4, pytest.approx(0.01), 0, 5e-3)
    assert not found.is_within_limit
    assert compare(SINGLE, ALONE, moved(1, 0, 0.02), ORDER, ALONE, "static").is_within_limit
    assert not compare(SINGLE, ALONE, moved(1, 0, 0.02), ORDER, ALONE, "float32").is_within_limit
    assert compare(SINGLE, ALONE, moved(1, 0, 4e-5), ORDER, ALONE, "float32").is_within_limit


def test_the_spread_is_at_least_one():
    narrow = ALONE / 100
    assert compare(
        SINGLE, narrow, narrow[ORDER] + np.float32(0.004), ORDER, narrow, "static"
    ).difference == pytest.approx(0.004, rel=1e-3)


def test_a_label_counts_unless_torch_itself_is_between_two():
    near = compare(SINGLE, ALONE, moved(3, 0, 0.01), ORDER, ALONE, "static")
    assert (near.labels, near.is_within_limit) == (0, True)
    torch = ALONE + np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)  # torch is sure of the third row
    far = compare(SINGLE, ALONE, moved(3, 0, 0.01), ORDER, torch, "static")
    assert (far.labels, far.is_within_limit) == (1, False)


def test_labels_of_other_heads():
    several = task("multi_label_classification")
    alone = np.array([[2.0, -2.0, 0.01]], np.float32)
    assert (
        compare(several, alone, alone - np.float32(0.015), np.array([0]), alone, "static").labels == 0
    )  # torch is within the tolerance of the border
    assert (
        compare(several, alone, alone - np.float32(0.015), np.array([0]), alone + np.float32(0.2), "static").labels == 1
    )
    numbers = task("regression", 1)
    values = np.array([[1.0], [3.0]], np.float32)
    assert not compare(numbers, values, values + np.float32(0.2), np.array([0, 1]), values, "static").is_within_limit
    assert compare(numbers, values, values + np.float32(0.005), np.array([0, 1]), values, "static").is_within_limit


def test_the_limits():
    assert allowed("float32") == 1e-5
    assert {allowed(method) for method in ("static", "dynamic", "weight_only", "float16", "bfloat16")} == {5e-3}


@pytest.mark.parametrize(("count", "batch"), [(1, 32), (5, 32), (40, 32), (700, 32), (700, 1), (9000, 64)])
def test_rows_are_asked_in_two_orders_and_not_too_many(count, batch):
    whole, *short = lists(count, batch)
    assert whole == sorted(set(whole))
    assert len(whole) == min(count, 2048)
    drawn = [i for part in short for i in part]
    assert len(set(drawn)) == len(drawn) == min(count, 512)
    assert max(map(len, short)) <= batch
    assert lists(count, batch) == [whole, *short]
    assert set(whole) | set(drawn) <= set(range(count))
    if count > 30:
        assert drawn != sorted(drawn)
