"""Columns of samples as slices of a report: their values as text, and nothing that may be a sample's text."""

from __future__ import annotations

import hashlib
import json

import pytest
import small

from edgekit.samples import Sample, read
from edgekit.spec.errors import SamplesError, UsageError


def jsonl(folder, *rows, name="s.jsonl"):
    return small.write_jsonl(folder / name, rows)


def raw(folder, text, name):
    file = folder / name
    file.write_bytes(text.encode())
    return file


def assert_refused(file, *said, error=SamplesError, **options):
    with pytest.raises(error) as caught:
        read(file, **options)
    for part in said:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value).replace(str(file), "")


def test_slices_are_read_as_text(tmp_path):
    rows = [
        {"text": "a", "lang": "de", "year": 2020, "new": True, "label": 1},
        {"text": "b", "lang": "", "year": None, "new": False, "label": 0},
        {"text": "c", "lang": " fr ", "label": ["x", "y"]},
    ]
    found = read(jsonl(tmp_path, *rows), slices=("lang", "year", "new", "label"))
    assert [dict(r.slices) for r in found.rows] == [
        {"lang": "de", "year": "2020", "new": "true", "label": "1"},
        {"lang": "(none)", "year": "(none)", "new": "false", "label": "0"},
        {"lang": "fr", "year": "(none)", "new": "(none)", "label": "x|y"},
    ]
    table = read(raw(tmp_path, "text,lang\na,de\nb,\n", "s.csv"), slices=["lang"])
    assert [r.slices["lang"] for r in table.rows] == ["de", "(none)"]
    assert read(raw(tmp_path, "text,lang\na,de\n", "s.csv")).rows == (Sample("a"),)


def test_slices_do_not_change_the_digest(tmp_path):
    file = jsonl(tmp_path, *({"text": str(i), "lang": "ab"[i % 2]} for i in range(20)))
    plain, sliced = read(file), read(file, slices=["lang"])
    assert plain.digest == sliced.digest
    assert plain.take(5, 1).digest == sliced.take(5, 1).digest
    # as it was before there were slices: the file, and which column plays which role
    expected = hashlib.sha256(
        json.dumps([hashlib.sha256(file.read_bytes()).hexdigest(), [["text", "text"]]]).encode()
    ).hexdigest()
    assert plain.digest == expected


def test_slices_of_a_recipe(tmp_path):
    (tmp_path / "d").mkdir()
    jsonl(tmp_path / "d", *({"sentence": str(i), "lang": "ab"[i % 2]} for i in range(100)))
    file = raw(
        tmp_path, 'name = "s"\nfile = "d/s.jsonl"\ncolumns = { text = "sentence" }\ncount = 10\nseed = 3\n', "s.toml"
    )
    found = read(file, slices=["lang"])
    assert [r.slices["lang"] for r in found.rows] == ["ab"[int(r.input) % 2] for r in found.rows]
    assert found.digest == read(file).digest
    assert_refused(file, "no column 'lng' for slices", "Did you mean 'lang'?", slices=["lng"])


def test_slices_by_a_column_that_is_not_there(tmp_path):
    assert_refused(
        raw(tmp_path, "text,lang\na,de\n", "s.csv"),
        "no column 'langs' for slices",
        "Did you mean 'lang'?",
        "Columns: text, lang",
        slices=["langs"],
    )
    assert_refused(
        raw(tmp_path, "text,lang\na,de\n", "s.csv"),
        "one text ('lang')",
        "slices=['lang']",
        error=UsageError,
        slices="lang",
    )


@pytest.mark.parametrize("role", ["text", "text_pair"])
def test_texts_are_no_slices(tmp_path, role):
    file = raw(tmp_path, "a,b,lang\nx,y,de\n", "s.csv")
    columns = {"text": "a", "text_pair": "b"}
    assert_refused(
        file,
        f"Column '{columns[role]}' is the {role}",
        error=UsageError,
        columns=columns,
        slices=["lang", columns[role]],
    )
    assert_refused(
        raw(tmp_path, "text\nx\n", "s.csv"),
        "Column 'text' is the text",
        error=UsageError,
        columns={"label": "text"},
        slices=["text"],
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("secret " * 6, "41 characters"),
        (["secret secret secret", "secret secret secret"], "41 characters"),
        ("sec\nret", "a line break or another control character"),
        ("sec\u2028ret", "a line break"),
        ("sec\x1b[31mret", "control character"),
        ("secret \ud83d", "control character"),
        ({"secret": 1}, "a list or an object"),
        ([["secret"]], "a list or an object"),
    ],
)
def test_what_may_be_text_is_no_value_of_a_slice(tmp_path, value, what):
    file = raw(tmp_path, '{"text": "a", "c": "fine"}\n' + json.dumps({"text": "b", "c": value}) + "\n", "s.jsonl")
    assert "sec" not in assert_refused(file, "line 2 has", what, "column 'c'", slices=["c"])
    assert len(read(file)) == 2


def test_at_most_50_values_and_40_characters(tmp_path):
    file = jsonl(tmp_path, *({"text": "a", "c": f"secret{i:034d}"} for i in range(50)))
    assert len({r.slices["c"] for r in read(file, slices=["c"]).rows}) == 50
    file = jsonl(tmp_path, *({"text": "a", "c": f"secret{i}"} for i in range(51)))
    assert "secret" not in assert_refused(file, "51 different values in column 'c'", "at most 50", slices=["c"])
