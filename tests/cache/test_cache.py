"""The build cache: an entry is whole or not there, whoever else works on it or dies over it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import small
from refusals import refused

from edgekit.cache.records import Records
from edgekit.cache.store import Cache, key

pytestmark = pytest.mark.device

DIGEST = "a" * 64


def fill(cache, digest, size=10, name="data"):
    with cache.fill(digest, {"step": "test"}) as folder:
        (folder / name).write_bytes(b"x" * size)


def left(cache):
    return sorted(p.name for p in cache.root.iterdir())


def start(code, *arguments):
    program = "import sys, time, pathlib\nfrom edgekit.cache.store import Cache\n" + code
    return small.started(
        sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_fill_and_find(cache):
    assert cache.find(DIGEST) is None
    fill(cache, DIGEST)
    entry = cache.find(DIGEST)
    assert entry is not None
    assert (entry / "data").read_bytes() == b"x" * 10
    listed = json.loads((entry / "entry.json").read_text())
    assert listed == {"step": "test", "key": DIGEST, "files": {"data": [hashlib.sha256(b"x" * 10).hexdigest(), 10]}}
    assert stat.S_IMODE(cache.root.stat().st_mode) == stat.S_IMODE(entry.stat().st_mode) == 0o700
    assert Cache(cache.root).find(DIGEST) == entry
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
    entry = cache.find(DIGEST)
    assert sorted(p.name for p in entry.iterdir()) == ["data", "entry.json"]


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
    os.utime(abandoned, (1e9, 1e9))
    fill(Cache(cache.root), "b" * 64)
    assert not abandoned.exists()
    assert left(cache) == sorted([DIGEST, "b" * 64])


def test_a_folder_that_is_being_filled_is_not_taken_for_a_leftover(cache):
    with cache.fill(DIGEST, {}) as folder:
        (folder / "data").write_bytes(b"slow")
        os.utime(folder, (1e9, 1e9))
        fill(Cache(cache.root), "b" * 64)
        assert folder.exists()
    assert cache.find(DIGEST) is not None


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
    entry = cache.find("a" * 64)
    fill(cache, "b" * 64, size=2**20)
    fill(cache, "c" * 64, size=2**20)
    assert entry.exists()
    assert cache.find("b" * 64) is not None
    fill(Cache(tmp_path, limit_mb=0.1), "d" * 64)
    assert left(cache) == ["d" * 64]


def test_what_is_no_entry_stays(tmp_path):
    """Races and compiled engines lie in the same folder; they neither go nor count."""
    c = "c" * 64
    stay = [
        "races/a.json",
        "engines/x.plan",
        f"engines/{c}.plan",
        "new-folder/x",
        f"under-way-{c[1:]}/x",
        f"{c}.old/x",
        f"x{c}/x",
        "note",
    ]
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
    with refused("cache-size", f"{nonsense}", "EDGEKIT_CACHE_MB"):
        Cache(tmp_path)


@pytest.mark.parametrize("nonsense", [float("nan"), -1])
def test_a_limit_from_python_that_is_no_number(tmp_path, nonsense):
    with refused("cache-size", f"{nonsense}", "limit_mb"):
        Cache(tmp_path, limit_mb=nonsense)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    below = Cache(tmp_path / "file" / "below")
    assert below.find(DIGEST) is None
    with refused("cache-not-writable", "EDGEKIT_CACHE"):
        fill(below, DIGEST)
    for use in (lambda c: c.find(DIGEST), lambda c: fill(c, DIGEST), Cache.entries, Cache.clear):
        with refused("cache-folder"):
            use(Cache(tmp_path / "file"))


# ---- whose it is, and what was altered


def use_all(root):
    """Everything that reads or writes."""
    return [
        lambda: Cache(root).find(DIGEST),
        lambda: fill(Cache(root), DIGEST),
        lambda: Cache(root).under_way(DIGEST),
        Cache(root).entries,
        Cache(root).clear,
    ]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_may_write_is_refused(tmp_path, mode):
    root = tmp_path / "cache"
    fill(Cache(root), DIGEST)
    root.chmod(mode)
    for use in use_all(root):
        with refused("cache-writable", "EDGEKIT_CACHE"):
            use()
    root.chmod(0o755)  # as earlier releases have made it
    assert Cache(root).find(DIGEST) is not None


def test_a_link_to_a_folder_is_refused(tmp_path):
    fill(Cache(tmp_path / "cache"), DIGEST)
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    for use in use_all(tmp_path / "link"):
        with refused("cache-folder"):
            use()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder of another user, which root alone can make")
def test_a_folder_of_another_user_is_refused(tmp_path):
    fill(Cache(tmp_path / "cache"), DIGEST)
    os.chown(tmp_path / "cache", 4242, 4242)
    for use in use_all(tmp_path / "cache"):
        with refused("cache-owner", "4242", "0"):
            use()


def changed(entry):
    (entry / "data").write_bytes(b"y" * 10)


def longer(entry):
    (entry / "data").write_bytes(b"x" * 11)


def another_file(entry):
    (entry / "more").write_bytes(b"x")


def one_less(entry):
    (entry / "data").unlink()


def linked(entry):
    (entry / "data").unlink()
    (entry.parent.parent / "elsewhere").write_bytes(b"x" * 10)
    (entry / "data").symlink_to(entry.parent.parent / "elsewhere")


def writable(entry):
    entry.chmod(0o777)


def other_list(entry):
    (entry / "entry.json").write_text("{}")


def no_list(entry):
    (entry / "entry.json").write_text("[" * 100_000)


@pytest.mark.parametrize("alter", [changed, longer, another_file, one_less, linked, writable, other_list, no_list])
def test_an_altered_entry_is_not_used_and_that_is_said(cache, caplog, alter):
    fill(cache, DIGEST)
    fill(cache, "b" * 64)
    alter(cache.root / DIGEST)
    assert Cache(cache.root).find(DIGEST) is None
    (line,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert f"The entry {cache.root / DIGEST} of the build cache was altered: " in line
    assert left(cache) == ["b" * 64], "it is made again"
    fill(cache, DIGEST)
    assert (Cache(cache.root).find(DIGEST) / "data").read_bytes() == b"x" * 10


def test_an_entry_under_another_name_is_altered(cache, caplog):
    fill(cache, DIGEST)
    (cache.root / DIGEST).rename(cache.root / ("b" * 64))
    assert Cache(cache.root).find("b" * 64) is None
    assert "it is another entry under this name" in caplog.text


def test_an_entry_of_an_earlier_release_is_made_again(cache):
    (cache.root / DIGEST).mkdir(parents=True, mode=0o700)
    (cache.root / DIGEST / "entry.json").write_text('{"step": "test"}')
    cache.root.chmod(0o755)
    assert cache.find(DIGEST) is None


# ---- looking into it, and emptying it


def test_what_is_in_it(cache):
    with cache.fill(DIGEST, {"step": "static", "model": "f" * 64}) as folder:
        (folder / "graph").write_bytes(b"x" * 2**20)
    os.utime(cache.root / DIGEST, (1e9, 1e9))
    (cache.under_way("c" * 64) / "part").write_bytes(b"x")
    way, entry = cache.entries()
    assert (way.name, way.step) == ("under-way-" + "c" * 64, "under way")
    assert (entry.name, entry.step, entry.about["model"], entry.used) == (DIGEST, "static", "f" * 64, 1e9)
    assert entry.size_mb == pytest.approx(1.0, abs=0.01)
    assert abs(entry.created - time.time()) < 60
    assert Cache(cache.root.parent / "none").entries() == []


def test_clearing_leaves_what_is_no_entry(tmp_path):
    root = tmp_path / "cache"
    fill(Cache(root), DIGEST, size=2**20)
    fill(Cache(root), "b" * 64)
    os.utime(root / DIGEST, (1e9, 1e9))
    for name in ("engines/x.plan", "races/a.json", "note"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    count, size = Cache(root).clear(older_than_s=3600)
    assert (count, round(size, 1)) == (1, 1.0)
    (root / ".new-killed").mkdir()
    assert Cache(root).clear()[0] == 2
    assert sorted(p.name for p in root.iterdir()) == ["engines", "note", "races"]
    assert Cache(tmp_path / "none").clear() == (0, 0.0)
    assert not (tmp_path / "none").exists()


def test_it_is_not_cleared_under_a_build(cache):
    code = """
cache = Cache(pathlib.Path(sys.argv[1]))
cache.find(sys.argv[2])
print("in", flush=True)
sys.stdin.readline()
"""
    fill(Cache(cache.root), DIGEST)
    with start(code, cache.root, DIGEST) as child:
        assert child.stdout.readline() == "in\n"
        with refused("cache-busy"):
            Cache(cache.root).clear()
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert Cache(cache.root).clear()[0] == 1, "the lock died with its holder"


# ---- small records beside the entries


def test_a_record(cache, caplog):
    records = Records("races", cache)
    assert records.find("one") is None
    assert not records.root.exists()
    assert records.keep("one", {"winner": 1, "times": "a 1.00 ms"})
    assert Records("races", cache).find("one") == {"winner": 1, "times": "a 1.00 ms"}
    assert records.keep("one", {"winner": 0})
    assert records.find("one") == {"winner": 0}
    assert (records.names(), [f.name for f in records.root.iterdir()]) == (["one"], ["one.json"])
    (records.root / "one.json").rename(records.root / "two.json")
    assert records.find("two") is None, "one of another name is altered too"
    assert "sha256" in caplog.text
    assert (records.clear(3600), records.clear(), records.names()) == (0, 1, [])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": "", "record": 3}', '{"winner": 1}', "[" * 100_000])
def test_what_is_no_record(cache, caplog, content):
    records = Records("races", cache)
    records.keep("one", {"winner": 1})
    (records.root / "one.json").write_text(content)
    assert records.find("one") is None
    assert str(records.root / "one.json") in caplog.text


def test_records_where_others_may_write_are_not_used(cache, caplog):
    """A bundle still loads there: it races again, and nothing is remembered."""
    records = Records("races", cache)
    records.keep("one", {"winner": 1})
    records.root.chmod(0o777)
    assert records.find("one") is None
    assert "mode 0777, expected 0700" in caplog.text
    assert not records.keep("one", {"winner": 2})
    with refused("cache-writable"):
        records.clear()
    records.root.chmod(0o700)
    assert records.find("one") == {"winner": 1}


def test_a_record_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    assert not Records("races", Cache(tmp_path / "file")).keep("one", {})


def test_keys():
    assert key(a=1, b=["x", {"c": None}]) == key(b=["x", {"c": None}], a=1)
    assert len({key(a=1), key(a=2), key(b=1), key(a="1"), key(a=[1]), key(a=1, b=1)}) == 6
    assert len(key(text="ü")) == 64
