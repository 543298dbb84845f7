"""Lists of strings in a table cell: as numpy prints them, and those that Python would read as fewer strings."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from edgekit.modalities.words import UNBOUND
from edgekit.spec import cells
from edgekit.tasks import _label_reader

pytestmark = pytest.mark.device

WORDS = ["John", "don't", 'say "x"', "a, b", "c\n", "[d]", "..."]


def read(cell):
    return UNBOUND.read({"words": cell})


@pytest.mark.parametrize("count", [2, 7, 40])
def test_a_list_that_numpy_printed_is_read_as_its_texts(count):
    words = (WORDS * 6)[:count]
    printed = str(np.array(words))
    assert cells.parse_numpy_list(printed) == words
    assert read(printed) == tuple(words)
    assert _label_reader.parse_list_cell(printed) == words


def test_a_list_of_numpy_scalars_is_read_as_its_values():
    words = [*WORDS, "np.str_('x')", "np.True_"]
    assert read(str([np.str_(word) for word in words])) == tuple(words)
    assert read(str(list(np.array(words)))) == tuple(words)
    assert _label_reader.parse_list_cell(str([np.str_("O"), np.str_("B-PER")])) == ["O", "B-PER"]
    assert _label_reader.parse_list_cell(str([np.int64(3), np.int64(-1)])) == [3, -1]
    assert _label_reader.parse_list_cell(str([np.True_, np.float64(0.5)])) == [True, 0.5]
    assert read("[np.argmax(x)]") == "[np.argmax(x)]", "a text stays a text"


@pytest.mark.parametrize("cell", ["['a' 'b', 'c']", "['a', 'b' \"c\"]", "['a' 'b' ... 'c']", "['don''t', 'x']"])
def test_a_list_that_would_be_read_as_fewer_words_is_refused(cell):
    with refused("samples-words-type"):
        read(cell)


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a", "b"]', '["a\'", "\'b"]', "['a\"', '\"b']", "['a',\n 'b']"])
def test_a_list_with_commas_is_read_as_before(cell):
    assert len(read(cell)) == 2
    assert cells.parse_numpy_list(cell) is None


@pytest.mark.parametrize("cell", ["[He said 'a' 'b']", "[a]", "'a' 'b'", "[]"])
def test_a_text_in_brackets_stays_a_text(cell):
    assert read(cell) == cell


def test_a_quote_that_nothing_ends_takes_no_longer_than_its_length():
    """A pattern that searches for the end again at every quote takes hours."""
    cell = "[np.x '" + "\\'" * 100_000 + "]"
    assert read(cell) == _label_reader.parse_list_cell(cell) == cell
    assert cells.strip_numpy_types("[np.str_('a'), 'it") == "['a', 'it"


@pytest.mark.slow
def test_labels_of_as_many_words_as_a_cell_holds_are_read():
    labels = ["O"] * 150_000
    assert _label_reader.parse_list_cell(str(labels)) == labels
    too_long = str(["O"] * 250_000)
    assert _label_reader.parse_list_cell(too_long) == too_long
