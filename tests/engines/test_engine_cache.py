"""The cache of compiled engines: what is found is what was stored, by this user, whoever else writes, dies or meddles."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import small
from refusals import refused

from edgekit.cache import owner_only as private
from edgekit.engines import engine_cache as module
from edgekit.engines.engine_cache import EngineCache
from edgekit.spec.errors import EdgekitError

ROOT = os.geteuid() == 0
PLAN = bytes(range(256)) * 40


def parts(name="model"):
    return {
        "onnx": name,
        "recipe": {"flags": ["TF32"], "profiles": [[1, 8, 16]]},
        "tensorrt": [10, 3, 0, 30],
        "device": "Orin",
        "schema": module.SCHEMA,
    }


def key(name="model"):
    return EngineCache.key(parts(name))


KEY = key()


def put(engine_cache, name="model", plan=PLAN, used=None, **about):
    engine_cache.store(key(name), plan, parts(name), about)
    if used is not None:
        os.utime(engine_cache.root / f"{key(name)}.json", (used, used))


def left(engine_cache):
    return sorted(p.name for p in engine_cache.root.iterdir())


def whole(*names):
    return sorted(f"{key(name)}.{kind}" for name in names for kind in ("json", "plan"))


def start(code, *arguments):
    program = (
        "import os, sys, time, pathlib\nfrom edgekit.engines import engine_cache as module\nengine_cache = module.EngineCache(pathlib.Path(sys.argv[1]))\n"
        + code
    )
    return small.started(
        sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


def kill(child):
    assert child.stdout.readline() == "in\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


@pytest.fixture
def engine_cache(tmp_path):
    return EngineCache(tmp_path / "cache" / "engines")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.DEBUG, "edgekit")
    return lambda: [
        r.getMessage() for r in caplog.records if r.name.startswith("edgekit.") and r.levelno >= logging.WARNING
    ]


def test_store_and_find(engine_cache, said):
    assert engine_cache.find(KEY) is None
    assert engine_cache.about(KEY) == {}
    assert not engine_cache.root.exists(), "looking does not make it"
    put(engine_cache, seconds=81.5, power="MAXN")
    assert engine_cache.about(KEY).items() >= {"seconds": 81.5, "power": "MAXN"}.items()
    assert engine_cache.about(key("other")) == {}
    found = engine_cache.find(KEY)
    assert found == PLAN
    assert len(found) == len(PLAN)
    with pytest.raises(TypeError):
        found[0] = 1
    assert EngineCache(engine_cache.root).find(KEY) == PLAN
    assert engine_cache.find(key("other")) is None
    sidecar = json.loads((engine_cache.root / f"{KEY}.json").read_text())
    made = time.strptime(sidecar["about"].pop("made"), "%Y-%m-%dT%H:%M:%SZ")
    assert abs(time.mktime(time.gmtime()) - time.mktime(made)) < 60
    digest = hashlib.sha256(PLAN).hexdigest()
    assert sidecar == {
        "parts": parts(),
        "sha256": digest,
        "size": len(PLAN),
        "about": {"seconds": 81.5, "power": "MAXN"},
    }
    assert left(engine_cache) == whole("model")
    assert said() == []


@pytest.mark.parametrize("size", [1, 2**20 - 1, 2**20, 3 * 2**20 + 17])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda plan: np.frombuffer(plan, np.int8)])
def test_sizes_and_buffers(engine_cache, size, kind):
    plan = os.urandom(size)
    put(engine_cache, plan=kind(plan))
    assert engine_cache.find(KEY) == plan


def test_what_was_checked_is_what_is_given_out(engine_cache, monkeypatch):
    put(engine_cache)
    opened = []
    really = os.open

    def spy(name, *arguments, **options):
        opened.append(str(name).rpartition(".")[2])
        return really(name, *arguments, **options)

    monkeypatch.setattr(os, "open", spy)
    found = engine_cache.find(KEY)
    assert opened.count("plan") == 1
    with (engine_cache.root / f"{KEY}.plan").open("r+b") as stream:  # in place, as nobody here does
        stream.write(b"altered")
    assert found == PLAN, "memory of its own, not the file's"


def test_a_new_plan_takes_the_place_of_the_old(engine_cache):
    put(engine_cache)
    before = engine_cache.find(KEY)
    put(engine_cache, plan=b"new")
    assert (before, engine_cache.find(KEY)) == (PLAN, b"new")
    assert left(engine_cache) == whole("model")


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_only_the_owner_may_read_and_write(engine_cache, umask):
    before = os.umask(umask)
    try:
        put(engine_cache)
        with engine_cache.lock(KEY):
            modes = {stat.S_IMODE(p.stat().st_mode) for p in engine_cache.root.iterdir()}
            assert len(left(engine_cache)) == 3
    finally:
        os.umask(before)
    assert modes == {0o600}
    assert stat.S_IMODE(engine_cache.root.stat().st_mode) == 0o700


def test_keys():
    assert (
        EngineCache.key({"b": [1, 2.5, None, True], "a": {"ü": "x"}})
        == hashlib.sha256(b'{"a":{"\\u00fc":"x"},"b":[1,2.5,null,true]}').hexdigest()
    )
    assert EngineCache.key({"a": 1, "b": 2}) == EngineCache.key({"b": 2, "a": 1})
    assert (
        len(
            {
                EngineCache.key(p)
                for p in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": 1}, {"a": None})
            }
        )
        == 7
    )
    for nonsense, error in (({"a": float("nan")}, EdgekitError), ({"a": b"x"}, TypeError), ({"a": {1, 2}}, TypeError)):
        with pytest.raises(error):
            EngineCache.key(nonsense)


@pytest.mark.parametrize(
    ("given", "made_of"), [(key("other"), parts()), (EngineCache.key({"a": {10: 1, 9: 2}}), {"a": {10: 1, 9: 2}})]
)
def test_a_key_that_would_never_be_found(engine_cache, given, made_of):
    with refused("engine-key"):
        engine_cache.store(given, PLAN, made_of, {})
    assert not engine_cache.root.exists()


def sidecar_with(**changes):
    def damage(plan, sidecar):
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))

    return damage


DAMAGES = {
    "truncated": lambda plan, sidecar: os.truncate(plan, len(PLAN) - 1),
    "empty": lambda plan, sidecar: os.truncate(plan, 0),
    "longer": lambda plan, sidecar: plan.write_bytes(PLAN + b"x"),
    "one bit": lambda plan, sidecar: plan.write_bytes(PLAN[:5000] + bytes([PLAN[5000] ^ 1]) + PLAN[5001:]),
    "zeros after power loss": lambda plan, sidecar: plan.write_bytes(bytes(len(PLAN))),
    "no plan": lambda plan, sidecar: plan.unlink(),
    "a linked plan": lambda plan, sidecar: plan.symlink_to(plan.rename(plan.parent.parent / "moved")),
    "a linked sidecar": lambda plan, sidecar: sidecar.symlink_to(sidecar.rename(sidecar.parent.parent / "moved")),
    "a pipe": lambda plan, sidecar: (plan.unlink(), os.mkfifo(plan, 0o600)),
    "others may write the plan": lambda plan, sidecar: plan.chmod(0o620),
    "others may write the sidecar": lambda plan, sidecar: sidecar.chmod(0o602),
    "another sha256": sidecar_with(sha256="0" * 64),
    "a sha256 that is none": sidecar_with(sha256=None),
    "another size": sidecar_with(size=len(PLAN) + 1),
    "a size that is none": sidecar_with(size=str(len(PLAN))),
    "nothing, as listed": lambda plan, sidecar: (
        plan.write_bytes(b""),
        sidecar_with(size=0, sha256=hashlib.sha256().hexdigest())(plan, sidecar),
    ),
    "other parts": sidecar_with(parts=parts("other")),
    "parts that are none": sidecar_with(parts=3),
    "no notes": sidecar_with(about=7),
    "half a sidecar": lambda plan, sidecar: os.truncate(sidecar, 50),
    "an empty sidecar": lambda plan, sidecar: os.truncate(sidecar, 0),
    "a list": lambda plan, sidecar: sidecar.write_text("[]"),
    "not text": lambda plan, sidecar: sidecar.write_bytes(b"\xff\xfe\xfa"),
    "deep": lambda plan, sidecar: sidecar.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told_removed_and_made_again(engine_cache, said, damage):
    put(engine_cache)
    put(engine_cache, "other", b"other")
    before = engine_cache.about(KEY)
    damage(engine_cache.root / f"{KEY}.plan", engine_cache.root / f"{KEY}.json")
    assert engine_cache.about(KEY) in ({}, before), "notes that do not serve are none"
    assert engine_cache.find(KEY) is None
    (line,) = said()
    assert f"{KEY}.plan is damaged: " in line
    assert "removed" in line
    assert left(engine_cache) == whole("other")
    assert engine_cache.find(KEY) is None
    assert len(said()) == 1, "said once"
    put(engine_cache)
    assert engine_cache.find(KEY) == PLAN
    assert engine_cache.find(key("other")) == b"other"


def test_the_log_says_what_is_wrong(engine_cache, said):
    for damage, text in (
        ("truncated", "it has 10239 bytes, expected 10240"),
        ("one bit", "sha256"),
        ("a pipe", "not a regular file"),
    ):
        put(engine_cache)
        DAMAGES[damage](engine_cache.root / f"{KEY}.plan", None)
        assert engine_cache.find(KEY) is None
        assert text in said()[-1]


def test_it_is_on_the_disk_before_it_appears_and_stays_there(engine_cache, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (
            done.append("sync " + ("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")),
            fsync(handle),
        ),
    )
    monkeypatch.setattr(
        os, "replace", lambda new, name, **options: (done.append(name[-4:]), replace(new, name, **options))
    )
    put(engine_cache)
    assert done == ["sync file", "sync file", "plan", "json", "sync folder"]


def test_what_a_link_points_to_stays(engine_cache, tmp_path):
    put(engine_cache)
    target = tmp_path / "target"
    shutil.move(engine_cache.root / f"{KEY}.plan", target)
    (engine_cache.root / f"{KEY}.plan").symlink_to(target)
    assert engine_cache.find(KEY) is None
    put(engine_cache, plan=b"new")
    assert target.read_bytes() == PLAN
    lock = engine_cache.root / f"{KEY}.lock"
    lock.symlink_to(tmp_path / "made")
    with refused("cache-not-writable"), engine_cache.lock(KEY):
        pass
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kinds", [["plan"], ["plan", "json"]], ids=["engines", "whole entries"])
def test_swapped_engines(engine_cache, said, kinds):
    put(engine_cache, "a", b"plan of a")
    put(engine_cache, "b", b"plan of b")  # of one size
    for kind in kinds:
        a, b, aside = (engine_cache.root / f"{name}.{kind}" for name in (key("a"), key("b"), "aside"))
        a.rename(aside)
        b.rename(a)
        aside.rename(b)
    assert engine_cache.find(key("a")) is None
    assert engine_cache.find(key("b")) is None
    assert len(said()) == 2


CALLS = {
    "find": lambda engine_cache: engine_cache.find(KEY),
    "store": put,
    "lock": lambda engine_cache: engine_cache.lock(KEY).__enter__(),
    "drop": lambda engine_cache: engine_cache.drop(KEY, "of a test"),
    "about": lambda engine_cache: engine_cache.about(KEY),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_is_refused(engine_cache, call, mode):
    put(engine_cache)
    engine_cache.root.chmod(mode)
    with refused("cache-writable", "0700"):
        call(engine_cache)
    assert left(engine_cache) == whole("model")
    engine_cache.root.chmod(0o755)
    assert engine_cache.find(KEY) == PLAN, "what others may read is no danger"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_folder_of_another_user_is_refused(engine_cache, call, monkeypatch):
    put(engine_cache)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with refused("cache-owner", f"{me}", f"{me + 1}", "EDGEKIT_CACHE"):
        call(engine_cache)


@pytest.mark.skipif(not ROOT, reason="only root can give files to another user")
def test_files_of_another_user(engine_cache, said):
    put(engine_cache)
    os.chown(engine_cache.root / f"{KEY}.plan", 12345, -1)
    assert engine_cache.find(KEY) is None
    assert "only this user may write" in said()[0]
    os.chown(engine_cache.root, 12345, -1)
    with refused("cache-owner", "12345"):
        engine_cache.find(KEY)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_linked_folder_is_refused(engine_cache, call):
    put(engine_cache)
    elsewhere = engine_cache.root.rename(engine_cache.root.with_name("elsewhere"))
    engine_cache.root.symlink_to(elsewhere)
    with refused("cache-folder"):
        call(engine_cache)
    engine_cache.root.unlink()
    engine_cache.root.write_text("x")
    with refused("cache-folder"):
        call(engine_cache)


@pytest.mark.parametrize("kind", ["plan", "json"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_cannot_be_read_is_made_again(engine_cache, said, monkeypatch, kind, number):
    put(engine_cache)
    really = os.open

    def refuse(name, *arguments, **options):
        if str(name).endswith(kind):
            raise OSError(number, os.strerror(number))
        return really(name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert engine_cache.find(KEY) is None
    (line,) = said()
    assert f"{engine_cache.root / KEY}.plan cannot be read ({os.strerror(number)})" in line
    assert engine_cache.find(KEY) == PLAN, "it was left"


def test_a_folder_that_cannot_be_opened(engine_cache, said, monkeypatch):
    put(engine_cache)

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert engine_cache.find(KEY) is None
        assert engine_cache.about(KEY) == {}
        engine_cache.drop(KEY, "of a test")
        with refused("cache-not-writable", "EDGEKIT_CACHE"):
            put(engine_cache)
    assert len(said()) == 2
    assert all("Permission denied" in line for line in said())


def test_a_folder_that_can_only_be_read_serves(engine_cache, said, monkeypatch):
    put(engine_cache)

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    assert engine_cache.find(KEY) == PLAN
    assert said() == []


def test_a_folder_that_cannot_be_made(tmp_path, said):
    (tmp_path / "file").write_text("x")
    engine_cache = EngineCache(tmp_path / "file" / "engines")
    with refused("cache-not-writable", "EDGEKIT_CACHE"):
        put(engine_cache)
    with refused("cache-not-writable", "EDGEKIT_CACHE"), engine_cache.lock(KEY):
        pass
    assert engine_cache.find(KEY) is None
    assert engine_cache.about(KEY) == {}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        ROOT
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode
    )
    if not mounted:
        pytest.skip("a disk of a certain size can be mounted by root only")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(small_disk):
    engine_cache = EngineCache(small_disk / "engines")
    put(engine_cache)
    put(engine_cache, "other", b"other")
    for name in ("model", "third"):
        with refused("disk-full", f"{engine_cache.root}", "2.00", "EDGEKIT_CACHE"):
            put(engine_cache, name, bytes(2 * 2**20))
    assert left(engine_cache) == whole("model", "other")
    assert engine_cache.find(KEY) == PLAN, "the older one stays"
    put(engine_cache, "third", bytes(2**19))
    assert engine_cache.find(key("third")) == bytes(2**19)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EIO, "cache-not-writable")],
)
def test_a_disk_that_refuses_late(engine_cache, monkeypatch, call, number, code):
    put(engine_cache, "other", b"other")

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with refused(code):
            put(engine_cache, plan=bytes(2**20))
    assert left(engine_cache) == whole("other")
    with engine_cache.lock(KEY, waiting=lambda: pytest.fail("nothing is held")):
        put(engine_cache)
    assert engine_cache.find(KEY) == PLAN


def test_the_older_one_stays_when_only_the_plan_has_place(engine_cache, monkeypatch):
    put(engine_cache)
    really, calls = os.fsync, []

    def refuse_the_second(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(handle)

    monkeypatch.setattr(os, "fsync", refuse_the_second)
    with refused("disk-full"):
        put(engine_cache, plan=b"new")
    assert engine_cache.find(KEY) == PLAN
    assert left(engine_cache) == whole("model")


def test_a_limit_of_file_sizes(engine_cache):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    engine_cache.store(module.EngineCache.key({"a": 1}), bytes(300_000), {"a": 1}, {})
except module.BuildError as problem:
    print(problem)
"""
    with start(code, engine_cache.root) as child:
        assert "is not writable (File too large)" in child.stdout.read()
    assert left(engine_cache) == []


HANG = """
def hang(*arguments, **options):
    print("in", flush=True)
    time.sleep(60)
"""
DEATHS = {
    "while it is written": "os.fsync = hang",
    "before the plan appears": "os.replace = hang",
    "before the sidecar appears": "really = os.replace\nos.replace = lambda new, name, **o: hang() if name.endswith('.json') else really(new, name, **o)",
}


@pytest.mark.parametrize("older", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_writer_that_is_killed(engine_cache, death, older):
    put(engine_cache, "other", b"other")
    if older:
        put(engine_cache)
    code = f"{HANG}{death}\nengine_cache.store({KEY!r}, b'half', {parts()!r}, {{}})"
    with start(code, engine_cache.root) as child:
        kill(child)
    assert left(engine_cache) != whole("other"), "it left something"
    shutil.copytree(engine_cache.root, engine_cache.root.with_name("copy"))
    EngineCache(engine_cache.root.with_name("copy")).store(KEY, b"new", parts(), {})  # by one that did not look before
    assert EngineCache(engine_cache.root.with_name("copy")).find(KEY) == b"new"
    found = engine_cache.find(KEY)
    assert found in (None, PLAN)
    if not older:
        assert found is None
    put(engine_cache, "third", b"third")
    assert left(engine_cache) == whole("other", "third", *(["model"] if found else [])), "the next writer tidies"
    put(engine_cache, plan=b"new")
    assert engine_cache.find(KEY) == b"new"


def test_only_leftovers_are_tidied(engine_cache):
    put(engine_cache)
    for name in (
        "of an earlier version.timing",
        f".new-{KEY}.plan",
        f"{key('a')}.plan",
        f"{key('b')}.json",
        f"{key('c')}.lock",
        "notes.txt",
        "abc.plan",
    ):
        (engine_cache.root / name).write_text("x")
    (engine_cache.root / "folder").mkdir()
    with engine_cache.lock(key("d")):
        put(engine_cache, "e")
        kept = {f"{key('d')}.lock", "notes.txt", "abc.plan", "folder", *whole("model", "e")}
        assert set(left(engine_cache)) == kept


@pytest.mark.slow
def test_one_at_a_time(engine_cache):
    """Four processes of two threads each add to a number in a file, which loses some when two do so at once."""
    code = """
import threading
file = engine_cache.root.parent / "count"
def add():
    for _ in range(20):
        with engine_cache.lock(sys.argv[2]):
            count = int(file.read_text())
            time.sleep(0.0005)
            file.write_text(str(count + 1))
sys.stdin.readline()
threads = [threading.Thread(target=add) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
"""
    engine_cache.root.parent.mkdir(parents=True)
    (engine_cache.root.parent / "count").write_text("0")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(start(code, engine_cache.root, KEY)) for _ in range(4)]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.wait() for child in children] == [0] * 4
    assert (engine_cache.root.parent / "count").read_text() == "160"
    assert left(engine_cache) == []


def test_threads_compile_once(engine_cache):
    made, waited = [], []

    def load():
        found = engine_cache.find(KEY)
        if found is None:
            with engine_cache.lock(KEY, waiting=lambda: waited.append(1)):
                found = engine_cache.find(KEY)
                if found is None:
                    time.sleep(0.2)
                    made.append(1)
                    put(engine_cache)

    threads = [threading.Thread(target=load) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(waited)) == (1, 4)


def test_keys_are_locked_apart(engine_cache):
    with engine_cache.lock(KEY), engine_cache.lock(key("other"), waiting=lambda: pytest.fail("it is another key")):
        pass


def test_a_waiter_is_told_once_and_goes_on_when_the_holder_dies(engine_cache):
    told = []
    code = f"with engine_cache.lock({KEY!r}):\n    print('in', flush=True)\n    time.sleep(60)"
    with start(code, engine_cache.root) as child:
        assert child.stdout.readline() == "in\n"

        def waiting():
            told.append(1)
            threading.Timer(0.1, child.kill).start()

        with engine_cache.lock(KEY, waiting):
            assert child.wait() == -signal.SIGKILL
        assert told == [1]
    assert left(engine_cache) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system has no /proc/self/fd")
def test_a_copy_of_the_handle_keeps_nobody_waiting(engine_cache):
    """As a child has that was forked under the lock."""
    waits, done = threading.Event(), threading.Event()

    def wait():
        with engine_cache.lock(KEY, waits.set):
            done.set()

    with engine_cache.lock(KEY):
        (handle,) = (
            f
            for f in list(Path("/proc/self/fd").iterdir())
            if f.is_symlink() and os.readlink(f).endswith(f"{KEY}.lock")
        )
        copy = os.dup(int(handle.name))
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert waits.wait(10)
        time.sleep(0.1)
    gone_on = done.wait(10)
    os.close(copy)
    waiter.join()
    assert gone_on


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError, BlockingIOError, OSError])
def test_an_error_under_the_lock_is_the_callers(engine_cache, error):
    with pytest.raises(error) as caught, engine_cache.lock(KEY):
        raise error
    assert caught.type is error
    with engine_cache.lock(KEY, waiting=lambda: pytest.fail("it was let go")):
        pass
    assert left(engine_cache) == []


def test_readers_never_see_a_half(engine_cache, said):
    """Two processes store engines of various lengths under one key; all are found whole."""
    code = f"""
sys.stdin.readline()
for i in range(60):
    engine_cache.store({KEY!r}, sys.argv[2].encode() * (1000 + 997 * i), {parts()!r}, {{}})
"""
    put(engine_cache, plan=b"p")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(start(code, engine_cache.root, who)) for who in "pq"]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        found = 0
        while any(child.poll() is None for child in children):
            plan = engine_cache.find(KEY)
            assert plan is not None
            assert len(set(plan)) == 1
            found += 1
        assert [child.wait() for child in children] == [0, 0]
    assert found > 50
    assert said() == []
    assert left(engine_cache) == whole("model")


def test_a_reader_between_the_two_renames_waits(engine_cache, said, monkeypatch):
    put(engine_cache, plan=b"old!")
    between, found = threading.Event(), []
    reader = threading.Thread(target=lambda: (between.wait(10), found.append(engine_cache.find(KEY))))
    reader.start()
    really = os.replace

    def slow(new, name, **options):
        really(new, name, **options)
        between.set()
        time.sleep(0.2)

    monkeypatch.setattr(os, "replace", slow)
    put(engine_cache, plan=b"new!")
    reader.join()
    assert found == [b"new!"]
    assert said() == []


def test_the_least_recently_used_go_first(tmp_path):
    engine_cache = EngineCache(tmp_path / "engines", limit_mb=4.1)
    for index, name in enumerate("abcd"):
        put(engine_cache, name, bytes(2**20), used=1e9 + index)
    assert left(engine_cache) == whole(*"abcd"), "within the limit nothing goes"
    assert engine_cache.find(key("a")) is not None, "now the most recent"
    put(engine_cache, "e", bytes(2**20))
    assert left(engine_cache) == whole(*"acde")
    put(engine_cache, "f", bytes(2 * 2**20))
    assert left(engine_cache) == whole(*"aef")
    put(engine_cache, "f", bytes(2 * 2**20))
    assert left(engine_cache) == whole(*"aef"), "what is replaced does not count"


def test_the_new_one_stays_whatever_the_limit(tmp_path):
    engine_cache = EngineCache(tmp_path / "engines", limit_mb=0)
    put(engine_cache, "a")
    put(engine_cache, "b")
    assert left(engine_cache) == whole("b")
    assert engine_cache.find(key("b")) == PLAN


def test_timings_go_first_and_no_engine_goes_for_them(tmp_path):
    engine_cache = EngineCache(tmp_path / "engines", limit_mb=4.1)
    timed = {module.TIMINGS: "Orin"}
    timings = sorted(f"{EngineCache.key(timed)}.{kind}" for kind in ("json", "plan"))
    put(engine_cache, "a", bytes(2 * 2**20), used=1e9)
    engine_cache.store(EngineCache.key(timed), bytes(2**20), timed, {})
    assert left(engine_cache) == sorted(whole("a") + timings)
    put(engine_cache, "b", bytes(2 * 2**20), used=1e9 + 1)
    assert left(engine_cache) == whole("a", "b"), "the older engine stays"
    with refused("engine-cache-small", "1.00", "4.1", "EDGEKIT_ENGINES_MB"):
        engine_cache.store(EngineCache.key(timed), bytes(2**20), timed, {})
    assert left(engine_cache) == whole("a", "b")


def test_what_is_locked_stays(tmp_path):
    engine_cache = EngineCache(tmp_path / "engines", limit_mb=2.1)
    for index, name in enumerate("ab"):
        put(engine_cache, name, bytes(2**20), used=1e9 + index)
    with engine_cache.lock(key("a")):
        put(engine_cache, "c", bytes(2**20))
        assert {n for n in left(engine_cache) if not n.endswith(".lock")} == set(whole("a", "c"))
        with start(
            f"with engine_cache.lock({key('c')!r}):\n    print('in', flush=True)\n    time.sleep(60)", engine_cache.root
        ) as child:
            assert child.stdout.readline() == "in\n"
            put(engine_cache, "d", bytes(2**20))
            assert {n for n in left(engine_cache) if not n.endswith(".lock")} == set(whole("a", "c", "d")), (
                "over the limit"
            )
    put(engine_cache, "e", bytes(2**20))
    assert left(engine_cache) == whole("d", "e")


def test_drop(engine_cache, said):
    put(engine_cache)
    put(engine_cache, "other")
    engine_cache.drop(KEY, "TensorRT refused it")
    assert left(engine_cache) == whole("other")
    (line,) = said()
    assert f"{engine_cache.root / KEY}.plan" in line
    assert "TensorRT refused it" in line
    engine_cache.drop(KEY, "again")
    assert len(said()) == 2


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "one"))
    assert EngineCache().root == tmp_path / "one" / "engines"
    put(EngineCache())
    assert EngineCache().find(KEY) == PLAN


def test_the_limit(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEKIT_ENGINES_MB", raising=False)
    assert EngineCache(tmp_path).limit_mb == 4096
    monkeypatch.setenv("EDGEKIT_ENGINES_MB", "12.5")
    assert EngineCache(tmp_path).limit_mb == 12.5
    assert EngineCache(tmp_path, limit_mb=3).limit_mb == 3


@pytest.mark.parametrize("nonsense", ["lots", "", "8GB", "nan", "-1"])
def test_a_limit_that_is_no_number(tmp_path, monkeypatch, nonsense):
    monkeypatch.setenv("EDGEKIT_ENGINES_MB", nonsense)
    with refused("cache-size", f"{nonsense}", "EDGEKIT_ENGINES_MB"):
        EngineCache(tmp_path)
    with refused("cache-size", "limit_mb", "1"):
        EngineCache(tmp_path, limit_mb=-1)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system has no /proc/self/fd")
def test_no_handle_stays_open(engine_cache):
    def handles():
        return len(list(Path("/proc/self/fd").iterdir()))

    put(engine_cache)
    before = handles()
    for _ in range(3):
        put(engine_cache)
        assert engine_cache.find(KEY) == PLAN
        with (
            engine_cache.lock(KEY),
            private.open_folder(engine_cache.root) as folder,
            pytest.raises(BlockingIOError),
            private.lock_file(folder, f"{KEY}.lock", block=False),
        ):
            pass
        (engine_cache.root / f"{KEY}.plan").unlink()
        (engine_cache.root / f"{KEY}.plan").mkdir()
        assert engine_cache.find(KEY) is None
        (engine_cache.root / f"{KEY}.plan").rmdir()
    assert handles() == before
