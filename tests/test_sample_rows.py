"""Samples in memory: the same rows, errors and digests, whatever object holds them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np
import pytest
import small
from refusals import refused

from edgekit.modalities import image, words
from edgekit.samples import collect, collect_all, read
from edgekit.spec.errors import SamplesError

ROWS = [{"text": "a fine film", "label": "positive"}, {"text": "a dull one", "label": "negative"}]


class Frame:
    """A data frame as pandas has it, as far as it is looked at: iterating over it gives column names."""

    iloc = None

    def __init__(self, rows):
        self.rows = rows

    def to_dict(self, orient):
        assert orient == "records"
        return [{name: np.str_(v) if isinstance(v, str) else v for name, v in row.items()} for row in self.rows]

    def __iter__(self):
        return iter(self.rows[0])

    def __len__(self):
        return len(self.rows)


class Indexed:
    """A data set of torch: no iterator, and no end that an index finds."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, position):
        return self.rows[position % len(self.rows)]


class Row(Mapping):
    """A row that is no dict, like a lazy row of datasets."""

    def __init__(self, values):
        self.values_of = values

    def __getitem__(self, name):
        return self.values_of[name]

    def __iter__(self):
        return iter(self.values_of)

    def __len__(self):
        return len(self.values_of)


class Shuffled:
    """Another order at every reading."""

    def __init__(self, rows):
        self.rows, self.draw = rows, random.Random(0)

    def __iter__(self):
        return iter(self.draw.sample(self.rows, len(self.rows)))


HOLDERS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "mappings": lambda rows: [Row(row) for row in rows],
    "indexed": Indexed,
    "frame": Frame,
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_every_holder_gives_the_rows_of_a_file(tmp_path, holder):
    file = read(small.write_jsonl(tmp_path / "rows.jsonl", ROWS))
    held = read(holder(ROWS))
    assert held.rows == file.rows
    assert held.digest == read(list(ROWS)).digest


def test_columns_and_slices_are_named_as_for_a_file():
    held = read(
        [{"s": "one", "y": 1, "who": "x"}, {"s": "two", "y": 0, "who": "z"}], {"text": "s", "label": "y"}, ["who"]
    )
    assert [(row.input, row.label, dict(row.slices)) for row in held.rows] == [
        ("one", 1, {"who": "x"}),
        ("two", 0, {"who": "z"}),
    ]


def test_scalars_of_numpy_are_those_of_python_and_vectors_are_lists():
    (row,) = read([{"text": np.str_("t"), "label": np.int64(3), "other": np.array([1.5, 2.0])}]).rows
    assert type(row.input) is str and type(row.label) is int
    assert row.others == {"other": [1.5, 2.0]}


def test_nan_is_a_missing_value_in_a_frame_alone():
    assert read(Frame([{"text": "t", "label": math.nan}])).rows[0].label is None
    assert math.isnan(read([{"text": "t", "label": math.nan}]).rows[0].label)


def test_words_of_an_array_are_words():
    (row,) = read([{"words": np.array(["new", "york"], dtype=object)}], modality=words.UNBOUND).rows
    assert row.input == ("new", "york")


def digest(*rows, columns=None):
    return read(list(rows), columns).digest


def test_the_digest_is_that_of_the_content_in_its_order():
    assert digest(*ROWS) == digest(*(dict(reversed(row.items())) for row in ROWS))
    others = [
        digest(*reversed(ROWS)),
        digest(*ROWS, ROWS[0]),
        digest({**ROWS[0], "label": "negative"}, ROWS[1]),
        digest({**ROWS[0], "text": "b"}, ROWS[1]),
        digest({**ROWS[0], "toxic": 1}, ROWS[1]),
    ]
    assert len({digest(*ROWS), *others}) == len(others) + 1
    assert digest(ROWS[0]) != digest({**ROWS[0], "label": None})


def test_rows_are_copied_once_and_in_the_order_of_that_reading():
    table = collect(Shuffled([{"text": str(n)} for n in range(50)]))
    assert read(table).rows == read(table).rows
    once = collect(iter(ROWS))
    assert len(read(once)) == len(read(once)) == 2
    assert collect(once) is once


def test_a_row_changed_afterwards_does_not_change_the_table():
    rows = [dict(row) for row in ROWS]
    table = collect(rows)
    rows[0]["text"] = "changed"
    assert read(table).rows[0].input == "a fine film"


def test_several_sources_are_told_from_rows(tmp_path):
    file = small.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert [type(one).__name__ for one in collect_all(ROWS)] == ["RowTable"]
    assert collect_all(file) == [file]
    assert collect_all([file, str(file)]) == [file, str(file)]
    assert [len(read(one)) for one in collect_all([file, ROWS, iter(ROWS[:1])])] == [2, 2, 1]
    assert collect_all(()) == []


@pytest.mark.parametrize(
    ("rows", "code", "fields"),
    [
        ([], "samples-empty", {}),
        ([*ROWS, "text"], "samples-row-type", {"row": 3}),
        ([{1: "text"}], "samples-row-type", {"row": 1}),
        ([{"sentence": "t"}], "samples-no-column", {}),
        ([{"text": 3}], "samples-row", {}),
        ([{"text": "t"}, {"label": 1}], "samples-row", {}),
    ],
)
def test_wrong_rows_are_refused_as_those_of_a_file(rows, code, fields):
    with refused(code, **fields):
        read(rows)


@pytest.mark.parametrize(
    ("value", "code"), [(None, "path-type"), (3, "path-type"), (b"x", "path-type"), ({"train": ROWS}, "samples-type")]
)
def test_what_has_no_rows_is_refused(value, code):
    with refused(code):
        read(value)


def test_no_value_of_a_row_is_in_an_error():
    with pytest.raises(SamplesError) as caught:
        read([{"text": [small.CANARY]}])
    assert small.CANARY not in str(caught.value)


def test_no_library_of_data_sets_is_imported():
    code = "import sys, edgekit.samples as s; s.read([{'text': 'a'}]); print({'pandas', 'datasets', 'torch', 'PIL'} & set(sys.modules))"
    assert small.python(code).stdout.decode().strip() == "set()"


# ---- images


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def saved(array, file):
    import PIL.Image

    PIL.Image.fromarray(array).save(file)
    return file


def test_images_are_taken_in_every_form(tmp_path, monkeypatch, picture):
    import PIL.Image

    file = saved(picture, tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    forms = [
        picture,
        PIL.Image.fromarray(picture),
        file.read_bytes(),
        {"bytes": file.read_bytes(), "path": None},
        {"bytes": None, "path": str(file)},
        "a.png",
        file,
    ]
    held = read([{"image": form, "label": 0} for form in forms], modality=image.UNBOUND)
    for row in held.rows:
        np.testing.assert_array_equal(image.decode(row.input), picture)
    assert held.rows[-2].input == str(file)
    assert len({row.content for row in held.rows[:4]}) == 1  # of equal pixels


def test_the_digest_holds_the_pixels(picture):
    def of(array):
        return read([{"image": array}], modality=image.UNBOUND).digest

    changed = picture.copy()
    changed[0, 0, 0] ^= 1
    assert of(picture) == of(picture.copy()) != of(changed)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "samples-row"),
        (3, "samples-row"),
        ("none.png", "samples-row"),
        (b"no image", "samples-row"),
        (np.zeros(3), "samples-row"),
    ],
    ids=["None", "number", "path", "bytes", "array"],
)
def test_what_is_no_image_is_refused(value, code):
    with refused(code):
        read([{"image": value}], modality=image.UNBOUND)


def test_an_image_without_a_role_does_not_break_a_text(picture):
    assert read([{"text": "t", "picture": picture}]).rows[0].input == "t"
