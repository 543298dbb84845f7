"""Rows of arrays held as one array a name: they are the rows that were stored, in any order and of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.spec.rows import PackedRows, column, finite, pack, take


def made(count, ragged=False):
    rows = []
    for index in range(count):
        size = 1 + index % 3 if ragged else 2
        rows.append({"a": np.full((size, 2), index, np.float32), "b": np.array(index, np.int64)})
    return rows


def check_equal(found, expected):
    assert len(found) == len(expected)
    for row, right in zip(found, expected, strict=True):
        assert row.keys() == right.keys()
        for name in right:
            assert row[name].dtype == right[name].dtype
            np.testing.assert_array_equal(row[name], right[name])


@settings(deadline=None)
@given(st.permutations(range(7)), st.lists(st.integers(1, 3), min_size=7, max_size=7), st.booleans())
def test_rows_stored_in_any_order(order, sizes, ragged):
    rows, packed, start = made(7, ragged), PackedRows(7), 0
    for size in sizes:
        places = order[start : start + size]
        if places:
            packed.put(places, pack([rows[i] for i in places]))
        start += size
    check_equal(packed, rows)
    check_equal(packed[2:6], rows[2:6])
    check_equal(take(packed, [5, 1]), [rows[5], rows[1]])
    check_equal([packed[-1]], rows[-1:])
    assert (packed.columns is None) is ragged
    with pytest.raises(IndexError):
        packed[7]


def test_a_row_of_another_shape_or_type_after_others():
    for other in ({"a": np.zeros(3, np.float32)}, {"a": np.zeros(2)}, {"c": np.zeros(2, np.float32)}):
        packed = PackedRows(3)
        packed.put([2, 0], pack([{"a": np.ones(2, np.float32)}] * 2))
        packed.put([1], pack([other]))
        check_equal(packed, [{"a": np.ones(2, np.float32)}, other, {"a": np.ones(2, np.float32)}])


@pytest.mark.parametrize("ragged", [False, True])
def test_a_row_that_was_not_stored_is_an_error(ragged):
    packed = PackedRows(3)
    packed.put([0, 2], pack(made(2, ragged)))
    for read in (lambda: packed[0], lambda: packed.columns, lambda: list(packed), lambda: finite(packed)):
        with pytest.raises(ValueError, match="1 of 3 rows"):
            read()


def test_a_table_is_one_array_a_name():
    packed = PackedRows(4)
    packed.put(range(4), pack(made(4)))
    assert column(packed, "a") is packed.columns["a"]
    assert pack(packed)["a"] is packed.columns["a"]
    assert take(packed, range(4)) is packed
    np.testing.assert_array_equal(column(made(4), "a"), packed.columns["a"])
    np.testing.assert_array_equal(column(made(1), "a"), packed.columns["a"][:1])


def test_which_rows_are_finite():
    rows = made(4)
    rows[1]["a"][1, 0] = np.nan
    rows[3]["a"][0, 1] = -np.inf
    packed = PackedRows(4)
    packed.put(range(4), pack(rows))
    assert finite(packed).tolist() == finite(rows).tolist() == [True, False, True, False]


def test_taken_values_have_the_form_of_the_values():
    array = np.arange(5)
    assert take(array, [3, 1]).tolist() == [3, 1]
    assert take("abcde", [3, 1]) == ["d", "b"]
    assert take(array, range(5)) is array
    assert take([7, 8], range(1)) == [7]


def test_no_rows():
    assert list(PackedRows(0)) == []
