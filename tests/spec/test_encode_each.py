"""Encoding of inputs in chunks."""

from __future__ import annotations

import pytest
from refusals import refused

from edgekit.spec.errors import InputError
from edgekit.spec.rows import encode_each

pytestmark = pytest.mark.device


class Task:
    """A task that accepts integers. Like all tasks it names the position of an input only if there are several."""

    def preprocess(self, inputs):
        for place, value in enumerate(inputs):
            if not isinstance(value, int):
                raise InputError(
                    f"Input{f' at position {place}' if len(inputs) > 1 else ''} is a {type(value).__name__}."
                )
        return list(inputs)


@pytest.mark.parametrize("place", [0, 5, 32, 100, 128])
def test_a_row_that_cannot_be_taken_is_named_by_its_place_among_all(place):
    inputs = [*range(place), "no", *range(place + 1, 128)]
    with refused("error", f"{place}"):
        list(encode_each(Task(), inputs))


def test_all_rows_are_encoded_and_a_single_one_has_no_place():
    assert list(encode_each(Task(), range(100))) == list(range(100))
    with refused("error"):
        list(encode_each(Task(), ["no"]))
