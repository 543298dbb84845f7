"""Messages of two processes: what is sent arrives as it was, types included."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import ragged
from refusals import refused

from edgekit.timing import frames

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def send(data):
    stream = io.BytesIO()
    frames.write(stream, data)
    stream.seek(0)
    message = frames.read(stream)
    assert frames.read(stream) is None, "nothing is left over"
    return message


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


@pytest.mark.parametrize(
    "value",
    [
        "a film",
        "line\nbreak \u2028 \x00 \ud83d",
        ("a", "b"),
        ["a", ("b", "c"), 3, 1.5, None, True],
        {"words": ["a", "b"], "image": IMAGE},
        Path("/some/where.png"),
        IMAGE,
        IMAGE[:, ::-2],
        np.array(1, np.float32),
        np.zeros((0, 3), np.int64),
        [IMAGE, (IMAGE, IMAGE.astype(np.float16))],
        {},
        [],
    ],
    ids=str,
)
def test_what_is_sent_arrives(value):
    assert_equal(send({"inputs": [value]})["inputs"][0], value)


def test_a_relative_path_is_one_for_both_processes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert send({"x": Path("a.png")})["x"] == tmp_path / "a.png"


NO_VALUES = (b"bytes", object(), {1: "a"}, {"\0": "a"}, np.array([object()]), {"a"})


@pytest.mark.parametrize("value", NO_VALUES, ids=lambda value: type(value).__name__)
def test_what_does_not_travel_is_refused_before_anything_is_written(value):
    stream = io.BytesIO()
    with refused("input-not-sent"):
        frames.write(stream, {"inputs": ["a", value]})
    assert stream.getvalue() == b""


def test_a_number_that_is_not_finite_is_refused():
    with refused("number-not-finite"):
        send({"seconds": math.nan})


def test_a_message_that_is_cut_off_is_the_end():
    stream = io.BytesIO()
    frames.write(stream, {"a": IMAGE})
    for length in range(len(stream.getvalue())):
        assert frames.read(io.BytesIO(stream.getvalue()[:length])) is None


def test_rows_arrive_by_name_and_size():
    rows = [ragged.token_answers(row) for row in ragged.token_rows((5, 1, 7))]
    assert_equal(frames.unpack_rows(send({"rows": frames.pack_rows(rows)})["rows"]), rows)
    assert frames.unpack_rows(send({"rows": frames.pack_rows([])})["rows"]) == []
