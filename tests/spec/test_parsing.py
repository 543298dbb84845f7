"""Plain data to dataclasses and back: unknown keys, missing keys and wrong types are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit.spec.errors import IntegrityError, UsageError, near
from edgekit.spec.parsing import parse, plain, to_json


@dataclass(frozen=True)
class Inner:
    size: int
    note: str | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float
    on: bool
    inner: Inner
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (0, "")
    sizes: tuple[str | int, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    nested: Mapping[str, Inner] = field(default_factory=dict)
    anything: Any = None
    limit: int | float | None = None


GOOD = {"name": "a", "ratio": 0.5, "on": True, "inner": {"size": 3}}

_inner = st.builds(Inner, st.integers(), st.none() | st.text())
_floats = st.floats(allow_nan=False, allow_infinity=False)
_outer = st.builds(
    Outer,
    name=st.text(),
    ratio=_floats,
    on=st.booleans(),
    inner=_inner,
    many=st.lists(_inner, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    sizes=st.lists(st.text() | st.integers(), max_size=4).map(tuple),
    table=st.dictionaries(st.text(), st.integers(), max_size=3),
    nested=st.dictionaries(st.text(), _inner, max_size=2),
    limit=st.none() | st.integers() | _floats,
)


@given(_outer)
def test_plain_and_parse_are_inverse(value):
    assert parse(Outer, plain(value), "x") == value


@given(_outer)
def test_also_by_way_of_json(value):
    assert parse(Outer, json.loads(json.dumps(plain(value))), "x") == value


def test_defaults_stay_where_keys_are_missing():
    assert parse(Outer, GOOD, "x") == Outer("a", 0.5, True, Inner(3))


def test_an_int_is_taken_for_a_float_and_becomes_one():
    ratio = parse(Outer, {**GOOD, "ratio": 2}, "x").ratio
    assert ratio == 2.0
    assert type(ratio) is float


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nam": "b"}, ("key-unknown", "'nam'", "'name'", "name, ratio")),
        ({"zzzzz": "b"}, ("key-unknown", "'zzzzz'")),
        ({"name": 1}, ("value-type", "x: name", "1 (int)", "str")),
        ({"name": None}, ("value-type", "x: name", "None")),
        ({"on": 1}, ("value-type", "x: on", "1 (int)", "bool")),
        ({"on": "true"}, ("value-type", "bool")),
        ({"ratio": True}, ("value-type", "x: ratio", "True (bool)", "float")),
        ({"ratio": "0.5"}, ("value-type", "float")),
        ({"ratio": 10**400}, ("value-not-finite", "x: ratio")),
        ({"ratio": float("nan")}, ("value-not-finite", "x: ratio", "nan")),
        ({"ratio": float("-inf")}, ("value-not-finite", "x: ratio", "-inf")),
        ({"inner": {"size": True}}, ("value-type", "x: inner: size", "True (bool)", "int")),
        ({"inner": {"size": 1.0}}, ("value-type", "x: inner: size", "1.0 (float)", "int")),
        ({"inner": {}}, ("key-missing", "x: inner", "'size'")),
        ({"inner": {"size": 1, "sise": 2}}, ("key-unknown", "'sise'", "x: inner", "'size'")),
        ({"inner": [1]}, ("value-type", "x: inner", "list", "table")),
        ({"inner": None}, ("value-type", "x: inner", "null", "table")),
        ({"inner": {"size": 1, "note": 5}}, ("value-type", "x: inner: note", "5")),
        ({"many": {"size": 1}}, ("value-type", "x: many", "dict", "list")),
        ({"many": "ab"}, ("value-type", "x: many", "str", "list")),
        ({"many": [{"size": 1}, {"size": "1"}]}, ("value-type", "x: many[1]: size", "'1'")),
        ({"pair": [1]}, ("value-length", "x: pair", "1", "2")),
        ({"pair": [1, "a", 2]}, ("value-length", "x: pair", "3", "2")),
        ({"pair": [True, "a"]}, ("value-type", "x: pair[0]", "True (bool)")),
        ({"sizes": ["batch", False]}, ("value-type", "x: sizes[1]", "False (bool)")),
        ({"sizes": ["batch", None]}, ("value-type", "x: sizes[1]", "None")),
        ({"table": {"k": True}}, ("value-type", "x: table: k", "True (bool)")),
        ({"table": [1]}, ("value-type", "x: table", "list")),
        ({"nested": {"k": {"size": 1, "x": 2}}}, ("key-unknown", "'x'", "x: nested: k")),
        ({"limit": "1"}, ("value-type", "x: limit", "'1'")),
        ({"limit": True}, ("value-type", "x: limit", "True (bool)")),
    ],
)
def test_an_error_names_the_place(change, error):
    with refused(error) as caught:
        parse(Outer, {**GOOD, **change}, "x")
    assert type(caught.value) is UsageError


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_key_is_named(missing):
    with refused("key-missing", f"{missing}"):
        parse(Outer, {k: v for k, v in GOOD.items() if k != missing}, "x")


@pytest.mark.parametrize("data", [None, 3, "text", [], [("name", "a")], True])
def test_something_else_than_a_table(data):
    with refused("value-type"):
        parse(Outer, data, "x")


def test_the_caller_names_the_error():
    with refused("key-unknown") as caught:
        parse(Outer, {**GOOD, "extra": 1}, "x", IntegrityError)
    assert type(caught.value) is IntegrityError
    with refused("value-type") as caught:
        parse(Outer, {**GOOD, "sizes": [1.5]}, "x", IntegrityError)
    assert type(caught.value) is IntegrityError


def test_near_misses():
    assert near("activation", ["activations", "weights"]) == " Did you mean 'activations'?"
    assert near("qqqq", ["activations", "weights"]) == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_has_no_number_that_is_not_finite(number):
    for value, place in (
        (number, "the value itself"),
        ({"a": [1, {"b": number}]}, "a[1].b"),
        ([(0.5, number)], "[0][1]"),
    ):
        with refused("number-not-finite", place):
            to_json(value)


def test_json_is_that_of_the_standard_library():
    value = {"b": [1.5, None, "é"], "a": {"x": True}}
    for options in ({}, {"sort_keys": True, "indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}):
        assert to_json(value, **options) == json.dumps(value, **options)
