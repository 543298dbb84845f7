"""Sample files: every row as it stands in the file, or an error that names the line and never the text."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st

from edgekit import samples
from edgekit.samples import Sample, parse_columns, read
from edgekit.spec.errors import SamplesError, UsageError

ODD_TEXTS = [
    "plain",
    "",
    " two  spaces and a trailing one ",
    "x" * 20_000,
    "😀👩‍👩‍👧‍👦🏳️‍🌈 and 🇩🇪",
    "שלום, עולם \u200f(ימין לשמאל)",
    "مرحبا mixed with English и по-русски 和中文",
    "e\u0301 is not \u00e9",
    "line\u2028separator\u2029 and \x0b \x1f \x85",
    'a "quoted" word, with, commas; and \\ backslashes',
    "\ufeffnot a mark in the middle",
]


def jsonl(folder, *rows, name="s.jsonl"):
    return small.write_jsonl(folder / name, rows)


def raw(folder, data, name):
    file = folder / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def refused(file, *said, error=SamplesError, **options):
    with pytest.raises(error) as caught:
        read(file, **options)
    for part in said:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


# ---- what is read


def test_jsonl_exactly(tmp_path):
    file = jsonl(tmp_path, *({"text": t, "label": i} for i, t in enumerate(ODD_TEXTS)))
    found = read(file)
    assert [r.text for r in found.rows] == ODD_TEXTS
    assert found.labels() == list(range(len(ODD_TEXTS)))
    assert (found.where, len(found)) == (str(file), len(ODD_TEXTS))


def test_jsonl_escapes_and_plain_are_the_same(tmp_path):
    escaped = raw(tmp_path, "".join(json.dumps({"text": t}) + "\n" for t in ODD_TEXTS), "e.jsonl")
    assert [r.text for r in read(escaped).rows] == ODD_TEXTS


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text_survives_jsonl_and_csv(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    assert [r.text for r in read(jsonl(folder, *({"text": t} for t in rows))).rows] == rows
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([["text"], *([t] for t in rows)])
    assert [r.text for r in read(raw(folder, stream.getvalue(), "s.csv")).rows] == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
def test_blank_lines_bom_and_crlf_in_jsonl(tmp_path, suffix):
    file = raw(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \r\n{"text": "b"}', "s" + suffix)
    assert read(file).rows == (Sample("a"), Sample("b"))


def test_csv_quotes_bom_crlf_and_newlines(tmp_path):
    text = '\ufefftext,label\r\n"a ""quoted"" word, and a comma",x\r\n"two\r\nlines",y\r\n"tab\there",z\r\nplain,\r\n'
    assert read(raw(tmp_path, text, "s.csv")).rows == (
        Sample('a "quoted" word, and a comma', None, "x"),
        Sample("two\r\nlines", None, "y"),
        Sample("tab\there", None, "z"),
        Sample("plain", None, None),
    )


def test_tsv_keeps_quotes_as_they_are(tmp_path):
    text = '\ufefftext\ttext_pair\tlabel\r\n"a\t5" wide\t1\r\n\'b\'\t""\t0\n'
    assert read(raw(tmp_path, text, "s.tsv")).rows == (Sample('"a', '5" wide', "1"), Sample("'b'", '""', "0"))


def test_a_text_that_is_a_number_in_a_table_is_text(tmp_path):
    assert read(raw(tmp_path, "text,label\n42,1\n", "s.csv")).rows == (Sample("42", None, "1"),)


def test_pairs(tmp_path):
    found = read(jsonl(tmp_path, {"text": "a", "text_pair": "b", "label": 1}, {"text": "c", "text_pair": ""}))
    assert [r.inputs for r in found.rows] == [("a", "b"), ("c", "")]
    assert [r.inputs for r in read(jsonl(tmp_path, {"text": "a"})).rows] == ["a"]


def test_columns_are_mapped(tmp_path):
    file = raw(tmp_path, "id,premise,claim,gold,text\n7,p,c,yes,unused\n", "s.csv")
    columns = {"text": "premise", "text_pair": "claim", "label": "gold"}
    assert read(file, columns).rows == (Sample("p", "c", "yes"),)
    assert read(file).rows == (Sample("unused"),)
    assert read(file, {"label": "gold"}).rows == (Sample("unused", None, "yes"),)


def test_one_column_may_play_two_roles(tmp_path):
    assert read(raw(tmp_path, "a\nx\n", "s.csv"), {"text": "a", "label": "a"}).rows == (Sample("x", None, "x"),)


@pytest.mark.parametrize("label", [0, 1.5, True, "a|b", ["a", "b"], [0.1, 0.2]])
def test_labels_keep_their_type(tmp_path, label):
    assert read(jsonl(tmp_path, {"text": "a", "label": label})).labels() == [label]


def test_a_row_without_label_is_named(tmp_path):
    found = read(jsonl(tmp_path, {"text": "a", "label": 1}, {"text": "b", "label": None}))
    with pytest.raises(SamplesError, match="row 2 has no label"):
        found.labels()
    with pytest.raises(SamplesError, match=r"row 1 has no label.*--columns label=NAME"):
        read(jsonl(tmp_path, {"text": "a"})).labels()


# ---- what is refused


def test_missing_files(tmp_path):
    refused(tmp_path / "none.jsonl", "none.jsonl does not exist")
    refused(tmp_path, "is a folder")
    refused(raw(tmp_path, "text\na\n", "s.txt"), "end in '.txt'", ".jsonl, .json", error=UsageError)
    refused(raw(tmp_path, "text\na\n", "s"), "end in ''", error=UsageError)


@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.tsv"])
@pytest.mark.parametrize("data", ["", "\ufeff", "\n", "\n\n"])
def test_empty_files(tmp_path, name, data):
    refused(raw(tmp_path, data, name), "no rows")


@pytest.mark.parametrize(("name", "data"), [("s.csv", "text,label\n"), ("s.csv", "text,label"), ("s.tsv", "text\tlabel\r\n")])
def test_a_header_alone(tmp_path, name, data):
    refused(raw(tmp_path, data, name), "no rows")


def test_columns_that_are_not_there(tmp_path):
    file = raw(tmp_path, "sentence,label\na,1\n", "s.csv")
    refused(file, "no column 'text'", "Columns: sentence, label", "--columns text=COLUMN")
    refused(file, "no column 'sentense' (for text)", "Did you mean 'sentence'?", columns={"text": "sentense"})
    refused(file, "no column 'gold' (for label)", columns={"text": "sentence", "label": "gold"})
    refused(file, "Unknown column role 'txt'", "Did you mean 'text'?", error=UsageError, columns={"txt": "sentence"})


def test_a_column_that_ends_midway(tmp_path):
    refused(jsonl(tmp_path, {"text": "a"}, {"txt": "b"}), "line 2 has no value in column 'text'")
    refused(raw(tmp_path, "label,text\n1,a\n2\n", "s.csv"), "line 3 has no value in column 'text'")


@pytest.mark.parametrize(("value", "what"), [(3, "a int"), (1.5, "a float"), (None, "no value"), (True, "a bool"), (["a"], "a list"), ({"a": 1}, "a dict")])
def test_a_text_that_is_no_text(tmp_path, value, what):
    refused(jsonl(tmp_path, {"text": "fine"}, {"text": value}), f"line 2 has {what} in column 'text'")
    refused(jsonl(tmp_path, {"text": "a", "text_pair": value}), f"line 1 has {what} in column 'text_pair'")


@pytest.mark.parametrize("line", ['{"text": "secret', "{'text': 'secret'}", '{"text": "secret"} x', "secret", "[" * 100_000, '{"text": NaN, "x": nan}'])
def test_bad_json_is_named_by_its_line(tmp_path, line):
    message = refused(raw(tmp_path, '{"text": "a"}\n\n' + line + "\n", "s.jsonl"), "line 3 is not valid JSON")
    assert "secret" not in message


@pytest.mark.parametrize(("line", "what"), [("[1, 2]", "list"), ('"secret"', "str"), ("3", "int"), ("null", "NoneType")])
def test_a_line_that_is_no_object(tmp_path, line, what):
    message = refused(raw(tmp_path, '{"text": "a"}\n' + line, "s.jsonl"), f"line 2 is a {what}, expected an object")
    assert "secret" not in message


@pytest.mark.parametrize("name", ["s.csv", "s.jsonl"])
@pytest.mark.parametrize("bad", [1, 3, 5000])
def test_not_utf8_names_the_line_and_the_remedy(tmp_path, name, bad):
    lines = ["text"] if name == "s.csv" else []
    lines += ['"a long enough text"' if name == "s.csv" else '{"text": "a long enough text"}'] * 6000
    encoded = [line.encode() for line in lines]
    encoded[bad - 1] = encoded[bad - 1].replace(b"a", b"\xe9", 1) if bad > 1 else b"\xff" + encoded[0]
    refused(raw(tmp_path, b"\n".join(encoded), name), f"line {bad}", "not UTF-8", f"iconv -f latin1 -t utf-8 {name}")


def test_a_line_cut_within_a_character(tmp_path):
    refused(raw(tmp_path, '{"text": "a"}\n{"text": "é'.encode()[:-1], "s.jsonl"), "line 2", "not UTF-8")


def test_utf16(tmp_path):
    refused(raw(tmp_path, '{"text": "a"}\n'.encode("utf-16"), "s.jsonl"), "line 1", "not UTF-8")


@pytest.mark.parametrize("role", ["text", "text_pair"])
def test_a_lone_surrogate(tmp_path, role):
    row = {"text": "a", "text_pair": "b", role: "secret \ud83d"}
    file = raw(tmp_path, '{"text": "fine", "text_pair": "x"}\n' + json.dumps(row) + "\n", "s.jsonl")
    assert "secret" not in refused(file, f"line 2 holds a lone surrogate in column '{role}'")


def test_malformed_csv(tmp_path):
    refused(raw(tmp_path, 'text,label\na,1\n"never closed,2\n', "s.csv"), "line", "not valid CSV")
    refused(raw(tmp_path, 'text,label\n"secret"x,1\n', "s.csv"), "line 2", "not valid CSV")
    message = refused(raw(tmp_path, "text,label\nsecret, with a comma,1\n", "s.csv"), "line 2 has more cells than the header", "Quote cells")
    assert "secret" not in message


def test_a_cell_larger_than_the_csv_modules_own_limit(tmp_path):
    text = "x" * 200_000
    assert read(raw(tmp_path, f"text\n{text}\n", "s.csv")).rows == (Sample(text),)


# ---- --columns


def test_parse_columns():
    assert parse_columns("text=sentence, label = y ,") == {"text": "sentence", "label": "y"}
    assert parse_columns("text=a=b") == {"text": "a=b"}
    assert parse_columns("") == {}
    for wrong in ("text", "text=", "=x"):
        with pytest.raises(UsageError):
            parse_columns(wrong)
    with pytest.raises(UsageError, match="Did you mean 'label'"):
        parse_columns("labels=y")


# ---- choosing


def test_take_is_deterministic_and_in_file_order(tmp_path):
    found = read(jsonl(tmp_path, *({"text": str(i)} for i in range(200))))
    chosen = found.take(50, seed=3)
    numbers = [int(r.text) for r in chosen.rows]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert found.take(50, seed=3) == chosen
    assert found.take(50, seed=4).rows != chosen.rows
    assert len({found.digest, chosen.digest, found.take(50, 4).digest, found.take(49, 3).digest}) == 4
    assert found.take(200, 3) == found.take(10**9, 3) == found
    assert numbers != list(range(50))


@pytest.mark.parametrize("count", [0, -1])
def test_take_at_least_one(tmp_path, count):
    with pytest.raises(UsageError, match=f"{count}"):
        read(jsonl(tmp_path, {"text": "a"}, {"text": "b"})).take(count, 0)


def test_the_digest_knows_file_and_columns(tmp_path):
    one = read(jsonl(tmp_path, {"text": "a", "b": "x"}))
    assert one.digest == read(jsonl(tmp_path, {"text": "a", "b": "x"}, name="other.jsonl")).digest
    assert one.digest != read(jsonl(tmp_path, {"text": "a", "b": "x"}), {"text": "b"}).digest
    assert one.digest != read(jsonl(tmp_path, {"text": "a", "b": "y"})).digest


# ---- recipes


def recipe(folder, text="", digest=""):
    (folder / "data").mkdir(exist_ok=True)
    data = jsonl(folder / "data", *({"sentence": str(i), "y": i % 2} for i in range(100)))
    file = folder / "set.toml"
    line = f'digest = "{digest}"\n' if digest else ""
    file.write_text(f'name = "set"\nfile = "data/s.jsonl"\ncolumns = {{ text = "sentence", label = "y" }}\n{line}{text}')
    return file, data


def test_a_recipe(tmp_path):
    file, data = recipe(tmp_path, "count = 30\nseed = 5\n")
    found = read(file)
    assert found == read(data, {"text": "sentence", "label": "y"}).take(30, 5)
    assert len(found) == 30
    assert read(file, {"label": "sentence"}).rows[0].label == found.rows[0].text
    assert len(read(recipe(tmp_path)[0])) == 100


def test_a_recipe_from_another_working_folder(tmp_path, monkeypatch):
    recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(read("set.toml")) == 100
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(read("../set.toml")) == 100


def test_the_digest_of_a_recipe(tmp_path):
    _, data = recipe(tmp_path)
    right = "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()
    file, _ = recipe(tmp_path, digest=right)
    assert len(read(file)) == 100
    file, _ = recipe(tmp_path, digest="sha256:" + "0" * 64)
    refused(file, right, "0" * 64, "samples changed")
    file, _ = recipe(tmp_path, digest=right)
    data.write_bytes(data.read_bytes() + b"\n")
    refused(file, "samples changed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cnt = 3\n", "Unknown key 'cnt'"),
        ("seeds = 3\n", "Did you mean 'seed'?"),
        ("count = true\n", "count is True (bool)"),
        ("count = -3\n", "-3"),
        ('count = "3"\n', "count is '3'"),
        ("count =\n", "not valid TOML"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path, text, said):
    refused(recipe(tmp_path, text)[0], said, error=(UsageError, SamplesError))


def test_a_recipe_without_its_file(tmp_path):
    file, data = recipe(tmp_path)
    data.unlink()
    refused(file, "s.jsonl does not exist")


def test_a_recipe_that_names_itself(tmp_path):
    file = raw(tmp_path, 'name = "a"\nfile = "a.toml"\n', "a.toml")
    refused(file, "a.toml", error=(UsageError, SamplesError))


SHIPPED = sorted((small.ROOT / "calibration").glob("*.toml"))


def test_something_ships():
    assert SHIPPED
    assert sorted(samples.shipped()) == [f.stem for f in SHIPPED]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_what_ships_loads(file):
    found = read(file)
    assert len(found) >= 16
    assert all(r.text.strip() for r in found.rows)
    assert read(file.stem) == found


def test_an_unknown_shipped_set_with_the_nearest():
    refused(SHIPPED[0].stem[:-1], f"Did you mean '{SHIPPED[0].stem}'?")


def test_a_column_that_only_later_rows_have(tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b", "text_pair": "c"}\n')
    with pytest.raises(SamplesError, match="line 1 has no value in column 'text_pair'"):
        read(file)
    file.write_text('{"text": "a"}\n{"text": "b", "label": "x"}\n')
    assert [row.label for row in read(file).rows] == [None, "x"]


def test_a_table_without_a_header_is_not_printed(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("my secret sentence,1\nanother one,0\n")
    with pytest.raises(SamplesError, match=r"2 cell\(s\) and may not be a header") as caught:
        read(file)
    assert "secret" not in str(caught.value)
