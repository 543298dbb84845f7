"""The build cache: an entry is whole or not there, whoever else works on it or dies over it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small

from edgekit.engines import cache as module
from edgekit.engines.cache import Cache, code_digest, key
from edgekit.spec.errors import BuildError, UsageError

DIGEST = "a" * 64


def fill(cache, digest, size=10, name="data"):
    with cache.fill(digest, {"step": "test"}) as folder:
        (folder / name).write_bytes(b"x" * size)


def left(cache):
    return sorted(p.name for p in cache.root.iterdir())


def start(code, *arguments):
    program = "import sys, time, pathlib\nfrom edgekit.engines.cache import Cache\n" + code
    return small.started(sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_fill_and_find(cache):
    assert cache.find(DIGEST) is None
    fill(cache, DIGEST)
    found = cache.find(DIGEST)
    assert found is not None
    assert (found / "data").read_bytes() == b"x" * 10
    assert json.loads((found / "entry.json").read_text()) == {"step": "test"}
    assert Cache(cache.root).find(DIGEST) == found
    assert cache.find("b" * 64) is None
    assert left(cache) == [DIGEST]


def test_the_entry_is_not_there_before_the_end(cache):
    with cache.fill(DIGEST, {}) as folder:
        (folder / "data").write_bytes(b"x")
        assert cache.find(DIGEST) is None
        assert folder.parent == cache.root
    assert cache.find(DIGEST) is not None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_an_error_inside_leaves_nothing(cache, error):
    with pytest.raises(error), cache.fill(DIGEST, {}) as folder:
        (folder / "data").write_bytes(b"x")
        raise error
    assert left(cache) == []
    fill(cache, DIGEST)
    assert cache.find(DIGEST) is not None


def test_an_unfinished_entry_is_none_and_is_replaced(cache):
    (cache.root / DIGEST).mkdir(parents=True)
    (cache.root / DIGEST / "half").write_text("x")
    assert cache.find(DIGEST) is None
    fill(cache, DIGEST)
    found = cache.find(DIGEST)
    assert sorted(p.name for p in found.iterdir()) == ["data", "entry.json"]


def test_the_second_of_two_keeps_the_first(cache):
    with cache.fill(DIGEST, {}) as slow:
        (slow / "data").write_bytes(b"slow")
        with cache.fill(DIGEST, {}) as fast:
            (fast / "data").write_bytes(b"fast")
    assert (cache.find(DIGEST) / "data").read_bytes() == b"fast"
    assert left(cache) == [DIGEST]


def test_processes_that_fill_one_entry(cache):
    code = """
cache = Cache(pathlib.Path(sys.argv[1]))
sys.stdin.readline()
with cache.fill(sys.argv[2], {}) as folder:
    for index in range(20):
        (folder / f"file{index}").write_text(sys.argv[3] * 1000)
        time.sleep(0.002)
"""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(start(code, cache.root, DIGEST, who)) for who in "pqrs"]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.wait() for child in children] == [0] * 4
    contents = {(cache.find(DIGEST) / f"file{i}").read_text() for i in range(20)}
    assert len(contents) == 1, "one process's files, not a mixture"
    assert left(cache) == [DIGEST]


def test_a_killed_process_leaves_no_entry(cache):
    code = """
with Cache(pathlib.Path(sys.argv[1])).fill(sys.argv[2], {}) as folder:
    (folder / "data").write_text("half")
    print("in", flush=True)
    time.sleep(60)
"""
    with start(code, cache.root, DIGEST) as child:
        assert child.stdout.readline() == "in\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert cache.find(DIGEST) is None
    (abandoned,) = cache.root.iterdir()
    fill(cache, DIGEST)
    assert (cache.find(DIGEST) / "data").read_bytes() == b"x" * 10
    assert abandoned.exists(), "it might still be at work"
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(abandoned, (long_ago, long_ago))
    fill(cache, "b" * 64)
    assert left(cache) == sorted([DIGEST, "b" * 64])


def test_an_interrupted_process_leaves_nothing(cache):
    code = """
with Cache(pathlib.Path(sys.argv[1])).fill(sys.argv[2], {}) as folder:
    (folder / "data").write_text("half")
    print("in", flush=True)
    time.sleep(60)
"""
    with start(code, cache.root, DIGEST) as child:
        assert child.stdout.readline() == "in\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
    assert left(cache) == []


def test_the_least_recently_used_go_first(tmp_path):
    for name in "abcd":
        fill(Cache(tmp_path, limit_mb=100), name * 64, size=2**20)
        os.utime(tmp_path / (name * 64), (1e9 + ord(name), 1e9 + ord(name)))
    assert Cache(tmp_path).find("a" * 64) is not None, "now the most recent"
    fill(Cache(tmp_path, limit_mb=3.5), "e" * 64, size=2**20)
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["a", "d", "e"]
    fill(Cache(tmp_path, limit_mb=100), "f" * 64, size=2**20)
    assert len(list(tmp_path.iterdir())) == 4, "within the limit nothing goes"


def test_what_this_build_uses_stays_whatever_the_limit(tmp_path):
    fill(Cache(tmp_path), "a" * 64, size=2**20)
    cache = Cache(tmp_path, limit_mb=0.1)
    found = cache.find("a" * 64)
    fill(cache, "b" * 64, size=2**20)
    fill(cache, "c" * 64, size=2**20)
    assert found.exists()
    assert cache.find("b" * 64) is not None
    fill(Cache(tmp_path, limit_mb=0.1), "d" * 64)
    assert left(cache) == ["d" * 64]


def test_what_is_no_entry_stays(tmp_path):
    """Races and compiled engines lie in the same folder; they neither go nor count."""
    c = "c" * 64
    stay = ["races/a.json", "engines/x.plan", f"engines/{c}.plan", "new-folder/x", f"under-way-{c[1:]}/x", f"{c}.old/x", f"x{c}/x", "note"]
    for name in stay:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 2**20)
        os.utime((tmp_path / name).parent, (1e9, 1e9))
    fill(Cache(tmp_path), DIGEST, size=2**20)
    (tmp_path / f"under-way-{DIGEST}").mkdir()
    (tmp_path / f"under-way-{DIGEST}" / "part").write_bytes(b"x" * 2**20)
    fill(Cache(tmp_path, limit_mb=3.5), "b" * 64, size=2**20)
    assert len(left(Cache(tmp_path))) == 7 + 3
    fill(Cache(tmp_path, limit_mb=0.5), "d" * 64)
    assert [name for name in stay if not (tmp_path / name).is_file()] == []
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(("a" * 64, "b" * 64, "d" * 64))] == ["d" * 64]


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    monkeypatch.setenv("HOME", str(tmp_path / "three"))
    assert Cache().root == tmp_path / "one"
    assert not Cache().root.exists(), "looking does not make it"
    monkeypatch.delenv("EDGEKIT_CACHE")
    assert Cache().root == tmp_path / "two" / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert Cache().root == tmp_path / "three" / ".cache" / "edgekit"


def test_the_limit(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEKIT_CACHE_MB", raising=False)
    assert Cache(tmp_path).limit_mb == 8192
    monkeypatch.setenv("EDGEKIT_CACHE_MB", "12.5")
    assert Cache(tmp_path).limit_mb == 12.5
    assert Cache(tmp_path, limit_mb=3).limit_mb == 3


@pytest.mark.parametrize("nonsense", ["lots", "", "8GB", "nan", "-1", "1,5"])
def test_a_limit_that_is_no_number(tmp_path, monkeypatch, nonsense):
    monkeypatch.setenv("EDGEKIT_CACHE_MB", nonsense)
    with pytest.raises(UsageError, match=f"EDGEKIT_CACHE_MB is '{nonsense}', expected a number"):
        Cache(tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = Cache(root)
        assert cache.find(DIGEST) is None
        with pytest.raises(BuildError, match="EDGEKIT_CACHE"):
            fill(cache, DIGEST)


def test_keys():
    assert key(a=1, b=["x", {"c": None}]) == key(b=["x", {"c": None}], a=1)
    assert len({key(a=1), key(a=2), key(b=1), key(a="1"), key(a=[1]), key(a=1, b=1)}) == 6
    assert len(key(text="ü")) == 64


def test_the_code_digest_knows_every_file(tmp_path, monkeypatch):
    before = code_digest()
    assert before == code_digest()
    package = tmp_path / "edgekit"
    (package / "engines").mkdir(parents=True)
    (package / "a.py").write_text("one")
    monkeypatch.setattr(module, "__file__", str(package / "engines" / "cache.py"))
    one = code_digest()
    (package / "a.py").write_text("two")
    two = code_digest()
    (package / "a.py").rename(package / "b.py")
    assert len({before, one, two, code_digest()}) == 4
    assert Path(module.__file__).parts[-2] == "engines"
