"""Sample files: every row as it stands in the file, or an error that names the line and never the text."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from types import SimpleNamespace

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit import samples
from edgekit.samples import Sample, parse_columns, read
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.tasks.text_classification import Settings, bind

SEVERAL = Settings("multi_label_classification", ("toxic", "threat", "insult"), 8, ("input_ids",))
ONE = Settings("single_label_classification", ("toxic", "threat", "insult"), 8, ("input_ids",))

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


def assert_refused(file, *said, error=SamplesError, **options):
    with pytest.raises(error) as caught:
        read(file, **options)
    for part in said:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


# ---- what is read


def test_jsonl_exactly(tmp_path):
    file = jsonl(tmp_path, *({"text": t, "label": i} for i, t in enumerate(ODD_TEXTS)))
    found = read(file)
    assert [r.input for r in found.rows] == ODD_TEXTS
    assert [row.label for row in found.rows] == list(range(len(ODD_TEXTS)))
    assert (found.where, len(found)) == (str(file), len(ODD_TEXTS))


def test_jsonl_escapes_and_plain_are_the_same(tmp_path):
    escaped = raw(tmp_path, "".join(json.dumps({"text": t}) + "\n" for t in ODD_TEXTS), "e.jsonl")
    assert [r.input for r in read(escaped).rows] == ODD_TEXTS


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text_survives_jsonl_and_csv(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    assert [r.input for r in read(jsonl(folder, *({"text": t} for t in rows))).rows] == rows
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    rows = [t.replace("\0", "") for t in rows]  # which a table cannot hold
    writer.writerows([["text"], *([t] for t in rows)])
    assert [r.input for r in read(raw(folder, stream.getvalue(), "s.csv")).rows] == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
def test_blank_lines_bom_and_crlf_in_jsonl(tmp_path, suffix):
    file = raw(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \r\n{"text": "b"}', "s" + suffix)
    assert read(file).rows == (Sample("a"), Sample("b"))


def test_csv_quotes_bom_crlf_and_newlines(tmp_path):
    text = '\ufefftext,label\r\n"a ""quoted"" word, and a comma",x\r\n"two\r\nlines",y\r\n"tab\there",z\r\nplain,\r\n'
    assert read(raw(tmp_path, text, "s.csv")).rows == (
        Sample('a "quoted" word, and a comma', "x"),
        Sample("two\r\nlines", "y"),
        Sample("tab\there", "z"),
        Sample("plain"),
    )


def test_tsv_keeps_quotes_as_they_are(tmp_path):
    text = '\ufefftext\ttext_pair\tlabel\r\n"a\t5" wide\t1\r\n\'b\'\t""\t0\n'
    assert read(raw(tmp_path, text, "s.tsv")).rows == (Sample(('"a', '5" wide'), "1"), Sample(("'b'", '""'), "0"))


def test_a_text_that_is_a_number_in_a_table_is_text(tmp_path):
    assert read(raw(tmp_path, "text,label\n42,1\n", "s.csv")).rows == (Sample("42", "1"),)


def test_pairs(tmp_path):
    found = read(jsonl(tmp_path, {"text": "a", "text_pair": "b", "label": 1}, {"text": "c", "text_pair": ""}))
    assert found.inputs == [("a", "b"), ("c", "")]
    assert read(jsonl(tmp_path, {"text": "a"})).inputs == ["a"]


def test_columns_are_mapped(tmp_path):
    file = raw(tmp_path, "id,premise,claim,gold,text\n7,p,c,yes,unused\n", "s.csv")
    columns = {"text": "premise", "text_pair": "claim", "label": "gold"}
    assert read(file, columns).rows == (Sample(("p", "c"), "yes"),)
    assert read(file).rows == (Sample("unused"),)
    assert read(file, {"label": "gold"}).rows == (Sample("unused", "yes"),)


def test_one_column_may_play_two_roles(tmp_path):
    assert read(raw(tmp_path, "a\nx\n", "s.csv"), {"text": "a", "label": "a"}).rows == (Sample("x", "x"),)


@pytest.mark.parametrize("label", [0, 1.5, True, "a|b", ["a", "b"], [0.1, 0.2]])
def test_labels_keep_their_type(tmp_path, label):
    assert [row.label for row in read(jsonl(tmp_path, {"text": "a", "label": label})).rows] == [label]


def test_a_row_without_label_is_named(tmp_path):
    found = read(jsonl(tmp_path, {"text": "a", "label": 1}, {"text": "b", "label": None}))
    with refused("samples-no-label", "row 2"):
        bind(ONE, None).parse_truth(found.rows, found.where)
    with refused("samples-no-label", "row 1", "--columns", "NAME"):
        read(jsonl(tmp_path, {"text": "a"})).evaluation(bind(ONE, None))


# ---- what is refused


def test_missing_files(tmp_path):
    assert_refused(tmp_path / "none.jsonl", "none.jsonl does not exist")
    assert_refused(tmp_path, "is a folder")
    assert_refused(raw(tmp_path, "text\na\n", "s.txt"), "end in '.txt'", ".jsonl, .json", error=UsageError)
    assert_refused(raw(tmp_path, "text\na\n", "s"), "end in ''", error=UsageError)


@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.tsv"])
@pytest.mark.parametrize("data", ["", "\ufeff", "\n", "\n\n"])
def test_empty_files(tmp_path, name, data):
    assert_refused(raw(tmp_path, data, name), "no rows")


@pytest.mark.parametrize(
    ("name", "data"), [("s.csv", "text,label\n"), ("s.csv", "text,label"), ("s.tsv", "text\tlabel\r\n")]
)
def test_a_header_alone(tmp_path, name, data):
    assert_refused(raw(tmp_path, data, name), "no rows")


def test_columns_that_are_not_there(tmp_path):
    file = raw(tmp_path, "sentence,label\na,1\n", "s.csv")
    assert_refused(file, "no column 'text'", "Columns: sentence, label", "--columns text=COLUMN")
    assert_refused(file, "no column 'sentense' (for text)", "Did you mean 'sentence'?", columns={"text": "sentense"})
    assert_refused(file, "no column 'gold' (for label)", columns={"text": "sentence", "label": "gold"})
    assert_refused(
        file, "Unknown column role 'txt'", "Did you mean 'text'?", error=UsageError, columns={"txt": "sentence"}
    )


def test_a_column_that_ends_midway(tmp_path):
    assert_refused(jsonl(tmp_path, {"text": "a"}, {"txt": "b"}), "line 2 has no value for text, expected text")
    assert_refused(
        raw(tmp_path, "label,text\n1,a\n2\n", "s.csv"), "line 3 has fewer cells than the header has columns (1, 2)"
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [(3, "a int"), (1.5, "a float"), (None, "no value"), (True, "a bool"), (["a"], "a list"), ({"a": 1}, "a dict")],
)
def test_a_text_that_is_no_text(tmp_path, value, what):
    assert_refused(jsonl(tmp_path, {"text": "fine"}, {"text": value}), f"line 2 has {what} for text, expected text")
    assert_refused(
        jsonl(tmp_path, {"text": "a", "text_pair": value}), f"line 1 has {what} for text_pair, expected text"
    )


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "secret',
        "{'text': 'secret'}",
        '{"text": "secret"} x',
        "secret",
        "[" * 100_000,
        '{"text": NaN, "x": nan}',
    ],
)
def test_bad_json_is_named_by_its_line(tmp_path, line):
    message = assert_refused(raw(tmp_path, '{"text": "a"}\n\n' + line + "\n", "s.jsonl"), "line 3 is not valid JSON")
    assert "secret" not in message


@pytest.mark.parametrize(
    ("line", "what"), [("[1, 2]", "list"), ('"secret"', "str"), ("3", "int"), ("null", "NoneType")]
)
def test_a_line_that_is_no_object(tmp_path, line, what):
    message = assert_refused(
        raw(tmp_path, '{"text": "a"}\n' + line, "s.jsonl"), f"line 2 is a {what}, expected an object"
    )
    assert "secret" not in message


@pytest.mark.parametrize("name", ["s.csv", "s.jsonl"])
@pytest.mark.parametrize("bad", [1, 3, 5000])
def test_not_utf8_names_the_line_and_the_remedy(tmp_path, name, bad):
    lines = ["text"] if name == "s.csv" else []
    lines += ['"a long enough text"' if name == "s.csv" else '{"text": "a long enough text"}'] * 6000
    encoded = [line.encode() for line in lines]
    encoded[bad - 1] = encoded[bad - 1].replace(b"a", b"\xe9", 1) if bad > 1 else b"\xff" + encoded[0]
    assert_refused(
        raw(tmp_path, b"\n".join(encoded), name), f"line {bad}", "not UTF-8", f"iconv -f latin1 -t utf-8 {name}"
    )


def test_a_line_cut_within_a_character(tmp_path):
    assert_refused(raw(tmp_path, '{"text": "a"}\n{"text": "é'.encode()[:-1], "s.jsonl"), "line 2", "not UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_encodings_that_a_byte_order_mark_tells(tmp_path, encoding):
    for name, text in (
        ("s.jsonl", '{"text": "é 😀"}\n'),
        ("s.csv", "text\r\né 😀\r\n"),
        ("s.tsv", "text\té\né 😀\tx\n"),
    ):
        assert [row.input for row in read(raw(tmp_path, text.encode(encoding), name)).rows] == ["é 😀"]


def test_nul_characters_and_utf16_without_a_mark(tmp_path):
    assert_refused(raw(tmp_path, "text,label\na,1\nb\0,1\n", "s.csv"), "line 3 contains a NUL character")
    assert_refused(
        raw(tmp_path, "text,label\na,1\n".encode("utf-16-le"), "s.csv"),
        "line 1 contains a NUL character",
        "byte-order mark",
    )
    assert_refused(raw(tmp_path, "text\na\n".encode("utf-16")[:-1], "s.csv"), "is not valid UTF-16")
    assert read(raw(tmp_path, '{"text": "a\\u0000b"}', "s.jsonl")).rows == (
        Sample("a\0b"),
    )  # written as JSON writes it, it is part of a text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("s.csv.gz", "text,label\na,1\n"),
        ("s.jsonl.gz", '{"text": "a", "label": "1"}'),
        ("S.TSV.GZ", "text\tlabel\na\t1\n"),
    ],
)
def test_gzip(tmp_path, name, data):
    packed = gzip.compress(data.encode())
    assert read(raw(tmp_path, packed, name)).rows == (Sample("a", "1"),)
    assert_refused(raw(tmp_path, packed[:-9], name), "not a complete gzip file")
    assert_refused(raw(tmp_path, data, name), "not a complete gzip file")
    assert_refused(raw(tmp_path, packed, "s.csv"), "packed with gzip", "s.csv.gz")


@pytest.mark.parametrize("role", ["text", "text_pair"])
def test_a_lone_surrogate(tmp_path, role):
    row = {"text": "a", "text_pair": "b", role: "secret \ud83d"}
    file = raw(tmp_path, '{"text": "fine", "text_pair": "x"}\n' + json.dumps(row) + "\n", "s.jsonl")
    assert "secret" not in assert_refused(file, "line 2 ", f"lone surrogate in {role}, which")


def test_malformed_csv(tmp_path):
    assert_refused(raw(tmp_path, 'text,label\na,1\n"never closed,2\n', "s.csv"), "line", "not valid CSV")
    assert_refused(raw(tmp_path, 'text,label\n"secret"x,1\n', "s.csv"), "line 2", "not valid CSV")
    message = assert_refused(
        raw(tmp_path, "text,label\nsecret, with a comma,1\n", "s.csv"),
        "line 2 has more cells than the header",
        "Quote cells",
    )
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
        with refused("columns-syntax"):
            parse_columns(wrong)
    assert parse_columns("image=photo") == {"image": "photo"}, "which roles there are is the modality's to say"


def test_roles_are_those_of_the_modality(tmp_path):
    file = jsonl(tmp_path, {"text": "a", "label": 1})
    with refused("role-unknown", "labels", "label", "text_pair"):
        read(file, {"labels": "y"})


class Signals:
    """A modality of numbers in two columns."""

    roles = ("low", "high")
    reads_files = False

    def read(self, columns, folder):
        if not all(isinstance(v, (int, float)) for v in columns.values()):
            raise SamplesError("has no number, expected one. Correct or remove the row.")
        return (folder.name, *columns.values())


def test_inputs_are_made_by_the_modality(tmp_path):
    file = jsonl(tmp_path, {"low": 1, "high": 2.5, "label": "x"}, {"low": 3, "high": 4, "label": "y"})
    found = read(file, modality=Signals())
    assert found.inputs == [(tmp_path.name, 1, 2.5), (tmp_path.name, 3, 4)]
    assert [r.label for r in found.rows] == ["x", "y"]
    assert read(file, {"low": "high", "high": "low"}, modality=Signals()).inputs[0] == (tmp_path.name, 2.5, 1)
    with refused("samples-no-column", "low", "--columns", "COLUMN"):
        read(jsonl(tmp_path, {"text": "a"}), modality=Signals())
    with refused("role-unknown", "text"):
        read(file, {"text": "low"}, modality=Signals())
    with refused("slices-private", "high"):
        read(jsonl(tmp_path, {"low": 1, "high": 2}), slices=["high"], modality=Signals())
    with refused("samples-row", "line 1", "b"):
        read(jsonl(tmp_path, {"low": 1, "b": "secret"}), {"high": "b"}, modality=Signals())


def test_rows_become_an_evaluation(tmp_path):
    found = read(
        jsonl(
            tmp_path,
            {"text": "a", "label": "Toxic"},
            {"text": "a", "label": "threat"},
            {"text": "b", "label": "threat"},
        )
    )
    task = bind(ONE, None)
    given = found.evaluation(task)
    assert (given.inputs, list(given.truth), len(given), given.task) == (["a", "a", "b"], [0, 1, 1], 3, task)
    assert given.notes[0].startswith("1 labels of")
    assert (given.places, list(given.distinct.truth)) == ([0, 2], [0, 1])
    with refused("samples-no-label", "row 1"):
        read(jsonl(tmp_path, {"text": "a"})).evaluation(task)


# ---- choosing


def test_take_is_deterministic_and_in_file_order(tmp_path):
    found = read(jsonl(tmp_path, *({"text": str(i)} for i in range(200))))
    chosen = found.take(50, seed=3)
    numbers = [int(r.input) for r in chosen.rows]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert found.take(50, seed=3) == chosen
    assert found.take(50, seed=4).rows != chosen.rows
    assert len({found.digest, chosen.digest, found.take(50, 4).digest, found.take(49, 3).digest}) == 4
    assert found.take(200, 3) == found.take(10**9, 3) == found
    assert numbers != list(range(50))


@pytest.mark.parametrize("count", [0, -1])
def test_take_at_least_one(tmp_path, count):
    with refused("rows-out-of-range", f"{count}"):
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
    file.write_text(
        f'name = "set"\nfile = "data/s.jsonl"\ncolumns = {{ text = "sentence", label = "y" }}\n{line}{text}'
    )
    return file, data


def test_a_recipe(tmp_path):
    file, data = recipe(tmp_path, "count = 30\nseed = 5\n")
    found = read(file)
    assert found == read(data, {"text": "sentence", "label": "y"}).take(30, 5)
    assert len(found) == 30
    assert read(file, {"label": "sentence"}).rows[0].label == found.rows[0].input
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
    assert_refused(file, right, "0" * 64, "samples changed")
    file, _ = recipe(tmp_path, digest=right)
    data.write_bytes(data.read_bytes() + b"\n")
    assert_refused(file, "samples changed")


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
    assert_refused(recipe(tmp_path, text)[0], said, error=(UsageError, SamplesError))


def test_a_recipe_without_its_file(tmp_path):
    file, data = recipe(tmp_path)
    data.unlink()
    assert_refused(file, "s.jsonl does not exist")


def test_a_recipe_that_names_itself(tmp_path):
    file = raw(tmp_path, 'name = "a"\nfile = "a.toml"\n', "a.toml")
    assert_refused(file, "a.toml", error=(UsageError, SamplesError))


SHIPPED = sorted((small.ROOT / "calibration").glob("*.toml"))


def test_something_ships():
    assert SHIPPED
    assert sorted(samples.shipped()) == [f.stem for f in SHIPPED]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_what_ships_loads(file):
    found = read(file)
    assert len(found) >= 16
    assert all(r.input.strip() for r in found.rows)
    assert read(file.stem) == found


def test_an_unknown_shipped_set_with_the_nearest():
    assert_refused(SHIPPED[0].stem[:-1], f"Did you mean '{SHIPPED[0].stem}'?")


def test_a_column_that_only_later_rows_have(tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b", "text_pair": "c"}\n')
    with refused("samples-row", "line 1", "text_pair"):
        read(file)
    file.write_text('{"text": "a"}\n{"text": "b", "label": "x"}\n')
    assert [row.label for row in read(file).rows] == [None, "x"]


def test_a_table_without_a_header_is_not_printed(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("my secret sentence,1\nanother one,0\n")
    with refused("samples-no-column", "2") as caught:
        read(file)
    assert "secret" not in str(caught.value)


# ---- dialects


def tables(rows, *head, **options):
    stream = io.StringIO(newline="")
    csv.writer(stream, **options).writerows([head, *rows])
    return stream.getvalue()


CLERK = [
    ('"two words" said the clerk, "go"', "x"),
    ("plain, with a comma", "y"),
    ("semi; colon | bar", "x"),
    ("over\ntwo lines", "y"),
    ('5" wide', "x"),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_every_delimiter_with_quoting_as_writers_have_it(tmp_path, delimiter, suffix, end, quoting):
    file = raw(
        tmp_path, tables(CLERK, "text", "label", delimiter=delimiter, lineterminator=end, quoting=quoting), "s" + suffix
    )
    assert [(row.input, row.label) for row in read(file).rows] == CLERK


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_delimiter_is_told_by_the_columns_that_are_named(tmp_path, delimiter):
    file = raw(tmp_path, tables([("a, b", "1")], "sentence", "gold, or so", delimiter=delimiter), "s.csv")
    assert read(file, {"text": "sentence", "label": "gold, or so"}).rows == (Sample("a, b", "1"),)
    file = raw(tmp_path, tables([("a", "1"), ("b", "0")], "sentence", "gold", delimiter=delimiter), "s.csv")
    assert_refused(file, "no column 'text'", "may not be a header")
    assert_refused(
        file, "Columns: sentence, gold", "Did you mean 'gold'", columns={"text": "sentence", "label": "golt"}
    )


def test_the_line_by_which_a_spreadsheet_names_its_delimiter(tmp_path):
    assert read(raw(tmp_path, "\ufeffsep=;\r\ntext;label\r\na, b;1\r\n", "s.csv")).rows == (Sample("a, b", "1"),)
    assert_refused(raw(tmp_path, "sep=;\ntext;label\na\n", "s.csv"), "line 3 has fewer cells")


def test_tsv_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas", reason="the dialect that csv.writer writes is tested above")
    frame = pandas.DataFrame(CLERK, columns=["text", "label"])
    frame.to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "index.tsv", sep="\t")
    for name in ("s.tsv", "index.tsv"):
        assert [(row.input, row.label) for row in read(tmp_path / name).rows] == CLERK


@pytest.mark.parametrize(
    "texts",
    [
        ['"all of it"', 'not "all" of it'],
        ['"begins" only', "plain"],
        ['""', '5" wide'],
        ["it's", "no quote"],
    ],
)
def test_tsv_without_quoting_keeps_quotes(tmp_path, texts):
    file = raw(tmp_path, "text\tlabel\n" + "".join(f"{t}\tx\n" for t in texts), "s.tsv")
    assert [row.input for row in read(file).rows] == texts


@pytest.mark.parametrize(
    ("rows", "as_csv"),
    [
        ('"all of it"\tx\nplain secret\ty\n', ["all of it", "plain secret"]),
        ('"all of it"\tx\n', ["all of it"]),
        ('""\tx\n', [""]),
        ('"a\tx\nb"\ty\n', ["a\tx\nb"]),  # two rows, or one with a tab and a line break
    ],
)
def test_tsv_that_can_be_read_in_two_ways(tmp_path, rows, as_csv):
    file = raw(tmp_path, "text\tlabel\n" + rows, "s.tsv")
    assert "secret" not in assert_refused(file, "that begin with a quote (line 2", "ends in .csv", "JSON Lines")
    assert [row.input for row in read(raw(tmp_path, file.read_text(), "s.csv")).rows] == as_csv


def test_tsv_in_which_a_wrong_way_of_quoting_gives_rows_of_one_width_too(tmp_path):
    rows = [('"all"', "0"), ("tab\tin\na second line", "0")]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        text = tables(rows, "text", "label", delimiter="\t", lineterminator="\n", quoting=quoting)
        assert [(row.input, row.label) for row in read(raw(tmp_path, text, "s.tsv")).rows] == rows
    text = 'text\tlabel\n"begins\t0\nshort row\n5" wide\t1\nends"\t0\n'
    assert_refused(raw(tmp_path, text, "s.tsv"), "line 3 has fewer cells")


def test_a_column_that_is_there_twice(tmp_path):
    for name, data in (
        ("s.csv", "id,text,label,text\n1,a,x,b\n"),
        ("s.tsv", "text\tlabel\ttext\na\tx\tb\n"),
        ("s.csv", "text;label; text\na;b;c\n"),
    ):
        assert_refused(raw(tmp_path, data, name), "'text' 2 times")
    assert read(raw(tmp_path, ",text,label,,\n0,a,x,,\n", "s.csv")).rows == (
        Sample("a", "x"),
    )  # columns without a name cannot be meant
    secret = "a long secret sentence that stands in a table without a header"
    assert "secret" not in assert_refused(raw(tmp_path, f"{secret},{secret}\n", "s.csv"), "characters 2 times")


def test_a_key_that_is_there_twice(tmp_path):
    assert_refused(
        raw(tmp_path, '{"text": "a", "label": 1}\n{"text": "a", "label": 1, "text": "b"}\n', "s.jsonl"),
        "line 2 has the key 'text' twice",
    )
    assert_refused(raw(tmp_path, '[{"text": "a", "text": "b"}]', "s.json"), "the key 'text' twice")
    assert_refused(raw(tmp_path, '{"text": ["a"], "text": ["b"]}', "s.json"), "the key 'text' twice")


def test_names_that_are_given_twice(tmp_path):
    with refused("columns-repeated", "a", "b"):
        parse_columns("text=a,label=y,text=b")
    with refused("columns-repeated"):
        parse_columns("text=a,label=y,label=z")
    file = raw(tmp_path, "text,topic\na,b\n", "s.csv")
    assert_refused(file, "'topic' is named twice for slices", error=UsageError, slices=["topic", "topic"])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_arrays_and_columns_in_json(tmp_path, indent, suffix):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    shapes = [rows, {"text": ["a", "b"], "label": [1, 0]}, {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}]
    for shape in shapes:
        assert read(raw(tmp_path, "\ufeff" + json.dumps(shape, indent=indent) + "\n", "s" + suffix)).rows == (
            Sample("a", 1),
            Sample("b", 0),
        )
    assert read(raw(tmp_path, json.dumps(rows[0], indent=indent), "s" + suffix)).rows == (Sample("a", 1),)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[]", "no rows"),
        ("{}", "no column 'text'"),
        ('[{"text": "a"}, 3]', "row 2 is a int"),
        ('[{"text": "a"}, {"text": 3}]', "row 2 has a int for text"),
        ('{"text": ["a", "b"], "label": [1]}', "different rows ('text' 2, 'label' 1)"),
        ('{"text": ["a"], "label": {"0": 1}}', "different rows"),
        ('{"columns": ["text"], "index": [0], "data": [["a"]]}', 'orient="split"'),
        ('[\n{"text": "a"},\n{"text": secret}\n]', "line 3 is not valid JSON"),
        ('["a", 1]\n["b", 0]', "line 1 is a list"),
        ('{\n"text": "a"\n}\n{\n"text": "b"\n}', "line 1 is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_of_another_shape(tmp_path, data, said):
    assert "secret" not in assert_refused(raw(tmp_path, data, "s.json"), said)


@pytest.mark.parametrize(("name", "end"), [("s.csv", ","), ("s.tsv", "\t")])
def test_rows_of_another_width_are_named_by_the_line_they_begin_in(tmp_path, name, end):
    long = '"over\ntwo"'
    assert_refused(
        raw(tmp_path, f"text{end}label\n{long}{end}x\n{long}\n", name),
        "line 4 has fewer cells than the header has columns (1, 2)",
    )
    assert_refused(raw(tmp_path, f"text{end}label\n{long}{end}x\n{long}{end}y{end}\n", name), "line 4 has more cells")


# ---- labels that need the model's names


RIGHT = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def truth(folder, data, settings=SEVERAL, name="s.csv", **options):
    rows = read(raw(folder, data, name), **options)
    return bind(settings, None).parse_truth(rows.rows, rows.where)


@pytest.mark.parametrize(
    "data",
    [
        "text,toxic,threat,insult\na,1,0,1\nb,0,0,0\nc,0,1,0\n",
        "insult,text,threat,id,toxic\n1.0,a,0.0,7,1.0\n0.0,b,0.0,8,0.0\n0.0,c,1.0,9,0.0\n",
        "text,Toxic,THREAT,insult \na,True,False,True\nb,False,False,False\nc,False,True,False\n",
        "text,label\na,toxic|insult\nb,\nc,threat\n",
        'text,label\na,"toxic, insult"\nb,\nc,threat\n',
        "text,label\na,toxic;insult\nb,\nc,threat\n",
        "text,label\na,1|0|1\nb,0|0|0\nc,0|1|0\n",
        "text,label\na,1 | 0 | 1\nb,\nc,0|1|0\n",
        "text,label\na,\"['toxic', 'insult']\"\nb,[]\nc,['threat']\n",
        'text,label\na,"[1, 0, 1]"\nb,"[0, 0, 0]"\nc,"[0, 1, 0]"\n',
        "text,label\na,[1 0 1]\nb,[0 0 0]\nc,[0. 1. 0.]\n",
        "text,label\na,0|2\nb,\nc,1\n",
        "text,label\na,Toxic|INSULT\nb,\nc,threat\n",
    ],
)
def test_every_way_to_write_several_labels(tmp_path, data):
    assert truth(tmp_path, data).values.astype(int).tolist() == RIGHT


@pytest.mark.parametrize(
    "labels",
    [
        [
            {"toxic": 1, "threat": 0, "insult": True},
            {"toxic": 0, "threat": 0, "insult": 0},
            {"insult": 0, "threat": 1, "toxic": 0},
        ],
        [["toxic", "insult"], [], ["threat"]],
        [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
        [[True, False, True], [False, False, False], [False, True, False]],
        [[0, 2], [], [1]],
        ["toxic|insult", "", "threat"],
    ],
)
def test_every_way_to_write_several_labels_in_json(tmp_path, labels):
    rows = json.dumps([{"text": "abc"[i], "label": label} for i, label in enumerate(labels)])
    assert truth(tmp_path, rows, name="s.json").values.astype(int).tolist() == RIGHT


def test_columns_of_labels_that_are_named(tmp_path):
    data = "text,toxic,threat,insult,label\na,1,0,1,x\nb,0,0,0,y\nc,0,1,0,x\n"
    assert truth(tmp_path, data, columns={"label": "insult|toxic|threat"}).values.astype(int).tolist() == RIGHT
    with refused("samples-label-columns"):
        truth(tmp_path, data)
    with refused("samples-no-column", "theat", "threat"):
        truth(tmp_path, data, columns={"label": "toxic|theat|insult"})
    with refused("samples-label", "row 1"):
        truth(tmp_path, data, columns={"label": "toxic|label|insult"})


def test_columns_that_are_not_for_all_labels(tmp_path):
    with refused("samples-label-columns"):
        truth(tmp_path, "text,toxic,threat\na,1,0\nb,0,1\n")
    with refused("samples-label", "row 2", "0.5", "threat", "0", "1"):
        truth(tmp_path, "text,toxic,threat,insult\na,1,0,1\nb,0,0.5,0\n")


@pytest.mark.parametrize("values", ["0101", ["1.0", "0.0"], ["True", "False"]])
def test_one_column_of_0_and_1_is_no_column_of_indices(tmp_path, values):
    for labels in (SEVERAL, Settings("multi_label_classification", ("toxic", "threat"), 8, ("input_ids",))):
        with refused("samples-label-ambiguous", "0", "1"):
            truth(tmp_path, "text,toxic\n" + "".join(f"a,{v}\n" for v in values), labels, columns={"label": "toxic"})
    alone = Settings("multi_label_classification", ("toxic",), 8, ("input_ids",))
    expected = [[v in ("1", "1.0", "True")] for v in values]
    assert truth(tmp_path, "text,label\n" + "".join(f"a,{v}\n" for v in values), alone).values.tolist() == expected


def test_columns_of_a_single_label_head(tmp_path):
    assert truth(tmp_path, "text,insult,toxic,threat\na,0,1,0\nb,1,0,0\n", ONE).values.tolist() == [0, 2]
    with refused("samples-label", "row 2", "2"):
        truth(tmp_path, "text,insult,toxic,threat\na,0,1,0\nb,1,1,0\n", ONE)
    assert truth(tmp_path, "text,label,toxic,threat,insult\na,1,0.2,0.7,0.1\nb,0,0.9,0,0.1\n", ONE).values.tolist() == [
        1,
        0,
    ]  # probabilities of a model


def test_an_empty_cell_is_a_missing_label_of_other_heads(tmp_path):
    with refused("samples-no-label", "row 2"):
        truth(tmp_path, "text,label\na,toxic\nb,\n", ONE)
    with refused("samples-no-label", "row 1"):
        truth(tmp_path, "text,label\na,\nb,\n")
    with refused("samples-no-label", "row 2"):
        truth(tmp_path, '[{"text": "a", "label": ["toxic"]}, {"text": "b", "label": null}]', name="s.json")
    with refused("samples-no-label", "row 1"):
        truth(tmp_path, "text,remark\na,x\nb,y\n")


def test_numbers_in_columns(tmp_path):
    scores = Settings("regression", ("joy", "fear"), 8, ("input_ids",))
    assert truth(
        tmp_path, "text,fear,joy\na,1.5,-2\nb,0,3e-1\n", scores, columns={"label": "fear|joy"}
    ).values.tolist() == [[-2.0, 1.5], [0.3, 0.0]]
    with refused("samples-label", "row 1", "1", "3,5"):
        truth(tmp_path, 'text,label\na,"3,5"\n', Settings("regression", ("joy",), 8, ("input_ids",)))


def test_an_image_that_changes_under_the_same_table_is_another_set(tmp_path):
    """What was kept of the earlier one (answers of torch, of candidates, a baseline) must not be taken for it."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'edgekit-sdk[image]'")
    from edgekit.modalities.image import UNBOUND

    for name, value in (("a.png", 10), ("b.png", 20)):
        pillow.new("RGB", (8, 8), (value, 0, 0)).save(tmp_path / name)
    table = tmp_path / "rows.csv"
    table.write_text("image,label\na.png,cat\nb.png,dog\n")
    first = read(table, modality=UNBOUND).digest
    assert read(table, modality=UNBOUND).digest == first
    pillow.new("RGB", (8, 8), (11, 0, 0)).save(tmp_path / "a.png")
    assert read(table, modality=UNBOUND).digest != first


def test_files_that_rows_name_are_read_once(tmp_path, monkeypatch):
    """For the digest of the set, for what tells rows apart, and for the ids of a report."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'edgekit-sdk[image]'")
    from edgekit.modalities.image import ImageModality
    from edgekit.report.predictions import row_ids

    for place in range(3):
        pillow.new("RGB", (8, 8), (place // 2, 0, 0)).save(tmp_path / f"{place}.png")
    asked, real = [], ImageModality.content
    monkeypatch.setattr(ImageModality, "content", lambda modality, value: asked.append(value) or real(modality, value))
    modality = ImageModality()
    found = read(raw(tmp_path, "image,label\n0.png,a\n1.png,a\n2.png,b\n", "rows.csv"), modality=modality)
    task = SimpleNamespace(
        modality=modality, parse_truth=lambda rows, where: SimpleNamespace(values=[0, 0, 1], notes=())
    )
    evaluation = found.evaluation(task)
    assert (evaluation.places, evaluation.repeats) == ([0, 2], [[0, 1]])
    ids = row_ids(found.contents(modality), b"key")
    assert len(asked) == 3
    assert ids == row_ids([real(modality, row.input) for row in found.rows], b"key")
    assert ids[0] == ids[1] != ids[2]


def words_of(path):
    from edgekit.modalities.words import UNBOUND

    return [(row.input, row.label) for row in read(path, modality=UNBOUND).rows]


@pytest.mark.parametrize("name", ["s.jsonl", "s.ndjson", "s.jsonl.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_one_row_of_lists_is_one_row_where_a_line_is_a_row(tmp_path, name, indent):
    row = {"words": ["no", "stop"], "label": ["O", "B-X"]}
    data = json.dumps(row, indent=indent).encode()
    assert words_of(raw(tmp_path, gzip.compress(data) if name.endswith(".gz") else data, name)) == [
        (("no", "stop"), ["O", "B-X"])
    ]


def test_one_object_of_lists_that_may_be_a_row_or_a_table_is_refused(tmp_path):
    from edgekit.modalities.words import UNBOUND

    row = {"words": ["no", "stop"], "label": ["O", "B-X"]}
    assert_refused(raw(tmp_path, json.dumps(row), "s.json"), "one row or a table of columns", modality=UNBOUND)
    assert_refused(
        raw(tmp_path, json.dumps({"tokens": ["no"]}), "s.json"),
        "one row or a table",
        modality=UNBOUND,
        columns={"words": "tokens"},
    )
    assert words_of(raw(tmp_path, json.dumps([row]), "s.json")) == [(("no", "stop"), ["O", "B-X"])]


@pytest.mark.parametrize("name", ["s.jsonl", "s.json"])
@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (["Ada L", "x y"], ["Ada L", "x y"]),
        (["['Ada', 'L']", "['x']"], [("Ada", "L"), ("x",)]),
        (["['Ada' 'L']", "stop"], [("Ada", "L"), "stop"]),
    ],
    ids=["texts", "lists", "a list and a text"],
)
def test_columns_of_what_can_be_no_word_are_a_table(tmp_path, name, words, inputs):
    assert words_of(raw(tmp_path, json.dumps({"words": words, "label": ["a", "b"]}), name)) == list(
        zip(inputs, ["a", "b"], strict=True)
    )


@pytest.mark.parametrize("name", ["s.jsonl", "s.json"])
def test_columns_of_words_are_a_table(tmp_path, name):
    table = {"words": [["no", "stop"], ["go"]], "label": [["O", "O"], ["O"]]}
    assert words_of(raw(tmp_path, json.dumps(table), name)) == [(("no", "stop"), ["O", "O"]), (("go",), ["O"])]


@pytest.fixture
def pictures(tmp_path):
    """``DIR/label/*.png``, and a function that adds a file."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'edgekit-sdk[image]'")
    folder = tmp_path / "set.toml"  # a folder of any name

    def add(name, value=0):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pillow.new("RGB", (4, 4), (value, 0, 0)).save(folder / name, "PNG")

    for value, name in enumerate(("dog/b.png", "cat/2.png", "cat/10.png")):
        add(name, value)
    return SimpleNamespace(folder=folder, add=add)


def images_of(folder, **options):
    from edgekit.modalities.image import UNBOUND

    return read(folder, modality=UNBOUND, **options)


def test_a_folder_with_a_subfolder_a_label(pictures):
    (pictures.folder / ".cache").mkdir()
    (pictures.folder / "cat" / ".DS_Store").write_bytes(b"x")
    found = images_of(pictures.folder, slices=["label"])
    assert [(row.input, row.label) for row in found.rows] == [
        (str(pictures.folder / name), label)
        for name, label in (("cat/10.png", "cat"), ("cat/2.png", "cat"), ("dog/b.png", "dog"))
    ]
    assert found.rows[0].slices == {"label": "cat"}
    assert images_of(pictures.folder).digest == found.digest
    (pictures.folder / "dog/b.png").rename(pictures.folder / "cat/b.png")
    pictures.add("dog/a.png")
    assert images_of(pictures.folder).digest != found.digest


def test_a_folder_of_images_without_labels(pictures):
    for name in ("b.png", "a.png"):
        pictures.add(f"flat/{name}")
    found = images_of(pictures.folder / "flat")
    assert [(row.input, row.label) for row in found.rows] == [
        (str(pictures.folder / "flat" / name), None) for name in ("a.png", "b.png")
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.add("root.png"), "1 file(s) beside 2 subfolder(s)"),
        (lambda p: p.add("cat/deep/a.png"), "subfolder 'cat' has 1 folder(s)"),
        (lambda p: (p.folder / "bird").mkdir(), "subfolder 'bird' has no file"),
        (
            lambda p: (p.folder / "cat/secret.txt").write_text("secret"),
            "file 3 (by name) of 'cat' has an image that cannot be used",
        ),
        (
            lambda p: (p.folder / "cat/secret.png").symlink_to(p.folder.parent / "x.png"),
            "file 3 (by name) of 'cat' has an image path that leads out of",
        ),
        (
            lambda p: (p.folder / "elsewhere").symlink_to(p.folder.parent / "other"),
            "file 1 (by name) of 'elsewhere' has an image path that leads out of",
        ),
    ],
)
def test_a_folder_of_another_form_is_refused(pictures, change, said):
    (pictures.folder.parent / "other").mkdir()
    (pictures.folder.parent / "other" / "secret.png").write_bytes((pictures.folder / "dog/b.png").read_bytes())
    change(pictures)
    with pytest.raises(SamplesError) as problem:
        images_of(pictures.folder)
    assert said in str(problem.value)
    assert "secret" not in str(problem.value)


def test_an_empty_folder_and_one_of_texts_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused("samples-empty"):
        images_of(tmp_path / "empty")
    assert_refused(tmp_path, "is a folder, and the column 'text' holds no files")


def test_a_recipe_names_a_folder(pictures, tmp_path):
    recipe = tmp_path / "few.toml"
    recipe.write_text('name = "few"\nfile = "set.toml"\ncount = 2\n')
    assert_refused(recipe, "expected a JSON, CSV or TSV file")
    pictures.folder.rename(tmp_path / "photos")
    recipe.write_text('name = "few"\nfile = "photos"\ncount = 2\n')
    assert len(images_of(recipe)) == 2
    digest = images_of(tmp_path / "photos").digest
    recipe.write_text(f'name = "few"\nfile = "photos"\ndigest = "sha256:{digest}"\n')
    assert len(images_of(recipe)) == 3
    (tmp_path / "photos/cat/10.png").rename(tmp_path / "photos/cat/c.png")
    with refused("calibration-digest"):
        images_of(recipe)


@pytest.mark.parametrize(
    ("content", "is_named"),
    [
        ("sentence,y\na fine film,1\n", True),
        ("great,positive\nawful film,positive\n", False),
        ("a fine film,1\nawful,0\n", False),
        ("great,bad\nawful,good\n", False),
        ("42,y\na fine film,1\n", False),
    ],
)
def test_columns_are_listed_where_the_first_line_is_a_header(tmp_path, content, is_named):
    """A first line that may be a text is never printed."""
    file = tmp_path / "rows.csv"
    file.write_text(content, "utf-8")
    with refused("samples-no-column") as caught:
        read(file)
    first = content.partition(",")[0]
    assert (f"Columns: {first}" in str(caught.value)) == is_named
    assert is_named or first not in str(caught.value)
