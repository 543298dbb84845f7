"""Many rows in little memory: packed rows are the rows, and lines that are streamed are those of the whole text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit import samples
from edgekit.samples import _decode, _packed, _records
from edgekit.samples._packed import PackedList
from edgekit.samples.evaluation import Evaluation, _find_first
from edgekit.spec.rows import take

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def few(monkeypatch):
    """Ten rows are many, in blocks of four."""
    monkeypatch.setattr(_packed, "FEWEST", 10)
    monkeypatch.setattr(_packed, "_BLOCK", 4)


def same(value):
    return value


# ---- lists


@settings(deadline=None)
@given(st.lists(PLAIN, max_size=12))
def test_packed_values_are_the_values(values):
    block, _packed._BLOCK = _packed._BLOCK, 4
    try:
        packed = PackedList(values, same, same)
        assert (len(packed), list(packed), packed) == (len(values), values, values)
        assert [type(value) for value in packed] == [type(value) for value in values]
        assert packed[2:7] == values[2:7]
        assert packed[::-1] == values[::-1]
        places = list(range(len(values)))[1::2]
        assert take(take(packed, places), range(len(places))) == [values[i] for i in places]
        assert packed.take(places).take([0] * bool(places)) == [values[i] for i in places[:1]]
        assert list(packed.parts(repr)) == [repr(value) for value in values]
        assert list(packed.drain()) == values
    finally:
        _packed._BLOCK = block


def test_places_outside_are_an_error(few):
    packed = PackedList(range(9), same, same)
    assert (packed[-1], packed[8]) == (8, 8)
    for place in (9, -10):
        with pytest.raises(IndexError):
            packed[place]
    with pytest.raises(IndexError):
        packed.take([1, 2])[2]
    assert packed != list(range(8))
    assert packed != "012345678"


def test_a_block_with_other_objects_stays_as_it_is(few):
    values = [1, 2, 3, 4, Path("a"), 6, 7, 8]
    packed = PackedList(values, same, same)
    assert packed == values
    assert [type(block) for block in packed._blocks] == [bytes, list]


def test_drained_blocks_are_free(few):
    packed = PackedList(range(12), same, same)
    values = packed.drain()
    assert [next(values) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert packed._blocks[:2] == [[], []]
    assert isinstance(packed._blocks[2], bytes)


# ---- rows of files


CASES = {
    "s.jsonl": "\n".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2], "more": i}) for i in range(23)),
    "s.json": json.dumps([{"text": f"text {i}", "label": i % 3} for i in range(23)]),
    "s.csv": "text,label,lang\n" + "".join(f"text {i},{'ab'[i % 2]},{'de' if i % 3 else 'en'}\n" for i in range(23)),
    "s.tsv": "text\tlabel\n" + "".join(f'a "text" {i}\t{i % 2}\n' for i in range(23)),
    "pairs.jsonl": "\n".join(json.dumps({"text": f"t {i}", "text_pair": "é", "label": i}) for i in range(23)),
}


@pytest.mark.parametrize("name", CASES)
def test_many_rows_of_a_file_are_those_of_a_file_that_is_not_packed(name, tmp_path, monkeypatch):
    file = tmp_path / name
    file.write_text(CASES[name], "utf-8")
    slices = ["lang"] if name == "s.csv" else []
    expected = samples.read(file, slices=slices)
    monkeypatch.setattr(_packed, "FEWEST", 10)
    monkeypatch.setattr(_packed, "_BLOCK", 4)
    many = samples.read(file, slices=slices)
    assert isinstance(expected.rows, tuple)
    assert isinstance(many.rows, PackedList)
    assert many.rows == expected.rows
    assert [row.others for row in many.rows] == [row.others for row in expected.rows]
    assert (many.inputs, many.inputs[3], many.digest) == (expected.inputs, expected.inputs[3], expected.digest)
    assert many.take(5, seed=1) == samples.Samples(expected.take(5, seed=1).rows, many.where, many.take(5, 1).digest)


def test_rows_in_memory_are_packed_too(few):
    rows = [{"text": f"text {i}", "label": "a"} for i in range(23)]
    many = samples.read(rows)
    assert isinstance(many.rows, PackedList)
    assert many.inputs == [row["text"] for row in rows]
    first, second = list(many.rows)[:2]
    assert first.label is second.label, "equal labels are one object"


def test_an_error_in_many_rows_names_its_line(few, tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text(CASES["s.jsonl"].replace('"text 19"', "19"), "utf-8")
    with refused("samples-row", "line 20"):
        samples.read(file)
    table = tmp_path / "s.csv"
    table.write_text(CASES["s.csv"].replace("text 19", "text, 19"), "utf-8")
    with refused("samples-csv-width", "line 21"):
        samples.read(table)
    table.write_text(CASES["s.csv"].replace("text 19", '"text" 19'), "utf-8")
    with refused("samples-csv", "line 21"):
        samples.read(table)


# ---- lines


@settings(deadline=None)
@given(st.text(st.sampled_from("ab\u2028\x0b\x0c\x85\r\n"), max_size=30))
def test_lines_end_as_in_a_file(text):
    assert list(_decode.split_lines(text)) == list(io.StringIO(text, newline=""))


@settings(deadline=None)
@given(st.text(st.sampled_from("ab{}é\u2028\x0b \r\n"), max_size=40))
def test_streamed_lines_are_those_of_the_text(text):
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "s.jsonl"
        file.write_bytes(text.encode())
        assert _decode.can_stream(file)
        assert list(_decode.stream_lines(file)) == list(_decode.split_lines(_decode.read_text(file)))


@pytest.mark.parametrize("data", [b"{}\n\xff\n", b"{}\n{}\n\0\n"])
def test_a_line_that_is_no_text_has_the_error_of_the_file(data, tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_bytes(data)
    messages = []
    for read in (lambda: list(_decode.stream_lines(file)), lambda: _decode.read_text(file)):
        with refused("samples-encoding") as caught:
            read()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_with_a_mark_is_not_streamed(encoding, tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text(CASES["s.jsonl"], encoding)
    assert not _decode.can_stream(file)
    assert len(samples.read(file)) == 23


def test_a_file_that_is_missing_or_packed_is_not_streamed(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b"\x1f\x8b\x08\x00")
    assert not _decode.can_stream(tmp_path / "s.jsonl")
    assert not _decode.can_stream(tmp_path / "none.jsonl")
    assert not _decode.can_stream(tmp_path / "s.jsonl.gz")


def test_rows_a_line_are_not_read_whole(tmp_path, monkeypatch):
    file = tmp_path / "s.jsonl"
    file.write_text(CASES["s.jsonl"], "utf-8")
    monkeypatch.setattr(_records, "read_text", None)  # A call would be a TypeError.
    assert len(samples.read(file)) == 23


# ---- equal inputs


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"\0", b"\0\0"]), max_size=20))
def test_the_first_of_equal_contents(contents):
    assert _find_first(contents).tolist() == [contents.index(content) for content in contents]


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.booleans())
def test_different_inputs_and_their_repeats(inputs, has_keys):
    class Task:
        class modality:
            content = staticmethod(str.encode)

    evaluation = Evaluation(Task, inputs, list(range(len(inputs))), inputs if has_keys else ())
    groups = {}
    for row, value in enumerate(inputs):
        groups.setdefault(value, []).append(row)
    assert list(evaluation.places) == [group[0] for group in groups.values()]
    assert evaluation.repeats == [group for group in groups.values() if len(group) > 1]
