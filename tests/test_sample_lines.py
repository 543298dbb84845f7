"""Many rows: lines that are streamed are those of the whole text, and equal inputs are found by their digests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from edgekit import samples
from edgekit.samples import _decode, _records
from edgekit.samples.evaluation import Evaluation, _find_first

ROWS = "\n".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2], "more": i}) for i in range(23))


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
    file.write_text(ROWS, encoding)
    assert not _decode.can_stream(file)
    assert len(samples.read(file)) == 23


def test_a_file_that_is_missing_or_packed_is_not_streamed(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b"\x1f\x8b\x08\x00")
    assert not _decode.can_stream(tmp_path / "s.jsonl")
    assert not _decode.can_stream(tmp_path / "none.jsonl")
    assert not _decode.can_stream(tmp_path / "s.jsonl.gz")


def test_rows_a_line_are_not_read_whole(tmp_path, monkeypatch):
    file = tmp_path / "s.jsonl"
    file.write_text(ROWS, "utf-8")
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
