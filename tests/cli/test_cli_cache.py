"""``edgekit cache``: what is in it, and what goes."""

from __future__ import annotations

import os

import pytest

from edgekit.cache.records import Records
from edgekit.cache.store import Cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    made_from = {
        "step": "race",
        "model": "f" * 64,
        "candidates": ["static openvino 0 shapes []", "float32 onnxruntime 0"],
        "samples": "e" * 64,
    }
    with Cache().fill("a" * 64, made_from) as folder:
        (folder / "data").write_bytes(b"x" * 2**20)
    with Cache().fill("b" * 64, {"step": "export", "model": "f" * 64}) as folder:
        (folder / "data").write_bytes(b"x")
    os.utime(tmp_path / "cache" / ("a" * 64), (1e9, 1e9))
    Records("races").keep("one", {"winner": 0})
    return tmp_path / "cache"


def test_show(edgekit, cache):
    done = edgekit("cache", "show")
    head, columns, _, *rows, races = done.out.splitlines()
    rows = [row for row in rows if not row.startswith(" ")]  # the others are further lines of a cell
    assert done.code == 0
    assert head == f"{cache}: 2 entries, 1.0 of 8192 MB"
    assert columns.split() == ["entry", "step", "of", "MB", "written", "used"]
    assert rows[0].split()[:4] == ["bbbbbbbbbbbb", "export", "model", "ffffffffffff"]
    assert rows[1].startswith("aaaaaaaaaaaa  race")
    assert "model ffffffffffff, float32 on" in rows[1]
    assert "eeeeeeeeeeee" in done.out
    assert rows[1].rstrip().endswith("d ago")
    assert races == "races at first loads: 1"


def test_clear(edgekit, cache):
    done = edgekit("cache", "clear", "--older-than", "7d")
    assert (done.code, done.out) == (0, f"Removed 1 entries, 1.0 MB, and 0 races at first loads, from {cache}.\n")
    assert edgekit("cache", "clear").out == f"Removed 1 entries, 0.0 MB, and 1 races at first loads, from {cache}.\n"
    assert edgekit("cache", "show").out == f"{cache}: 0 entries, 0.0 of 8192 MB\n"


@pytest.mark.parametrize("age", ["7", "d", "-1d", "7 days", "1e3d", "nan"])
def test_what_is_no_age(edgekit, cache, age):
    done = edgekit("cache", "clear", "--older-than", age)
    assert done.code == 2
    assert "Write a number and m, h, d or w, e.g. 7d." in done.err or "No such option" in done.err
    assert len(Cache().entries()) == 2


def test_a_folder_that_others_may_write(edgekit, cache):
    cache.chmod(0o777)
    for verb in ("show", "clear"):
        done = edgekit("cache", verb)
        assert done.code == 5
        assert "may be written by others" in done.err
