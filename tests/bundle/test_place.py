"""Atomic replacement: writers that are killed at every step, run at the same time, or replace a bundle that is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from kill import BLANK, files
from refusals import refused

from edgekit import Trust, UsageError
from edgekit.bundle import assemble, place, signature, trust
from edgekit.bundle.keys import make_keys
from edgekit.bundle.pack import pack

KILL = Path(__file__).parents[1] / "kill.py"


@pytest.mark.slow
def test_a_writer_that_is_killed(tmp_path):
    """At every step: nothing is lost, and the next start leaves nothing of it."""
    actions = ("new", "replace", "unpack", "sign", "pack", "replace two-steps", "unpack two-steps")
    memory = Path("/dev/shm")  # where it is there: a disk takes seconds for some thousand fsyncs
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        done = subprocess.run(
            [sys.executable, KILL, Path(folder) / "k", *actions], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(results) == set(actions)
    for action, result in results.items():
        assert result["killed"] >= 10, action
        assert (result["lost"], result["left"]) == ([], []), action


def write(out, mark=b"new!", **options):
    return assemble.write(out, BLANK, files(mark), **options)


def test_what_a_living_writer_has_stays(tmp_path):
    """Another process holds its folder; a writer of the same place leaves it alone, until it is dead."""
    code = f"""if True:
        import sys
        from pathlib import Path
        from edgekit.bundle import place
        with place.new_folder(Path({str(tmp_path / "out")!r})) as folder:
            (folder / "begun").write_text("x")
            print(folder.name, flush=True)
            sys.stdin.read()
        """
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name = child.stdout.readline().strip()
    write(tmp_path / "out")
    write(tmp_path / "out", force=True)
    assert sorted(os.listdir(tmp_path)) == [name, "out"]
    assert (tmp_path / name / "begun").is_file()
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert sorted(os.listdir(tmp_path)) == [name, "out"]
    write(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == [name, "other", "out"], "it is of another place"
    write(tmp_path / "out", force=True)
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_names_of_others_are_not_taken_for_leftovers(tmp_path):
    for name in (
        ".out.new-",
        ".out.new-abcdefghi",
        ".out.new-ABCDEFGH",
        ".out.old",
        ".outer.new-abcdefgh",
        "out.new-abcdefgh",
    ):
        (tmp_path / name).mkdir()
    before = set(os.listdir(tmp_path))
    write(tmp_path / "out")
    assert set(os.listdir(tmp_path)) == before | {"out"}


def test_a_bundle_that_was_put_aside_comes_back(tmp_path):
    """A kill between the two renames, by this version or 0.1. Opening or writing without force restores it."""

    def write_without_force(out):
        with refused("output-exists"):
            write(out)

    for number, start in enumerate((trust.open_bundle, write_without_force)):
        out = tmp_path / f"out{number}"
        write(out, b"old!")
        aside = tmp_path / f".{out.name}.old-abc_0123"
        aside.mkdir()
        out.rename(aside / "bundle")
        start(out)
        assert trust.open_bundle(out).path == out
        assert (out / "golden.npz").read_bytes() == b"old!"
        assert not aside.exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["one", "two"])
def test_who_opens_while_it_is_replaced_and_signed(steps, tmp_path, monkeypatch):
    """Some hundred openings beside some hundred writers: never half a bundle, never one that is gone."""
    if steps == "two":
        monkeypatch.setattr(place, "_exchange", lambda one, other: False)
    key = tmp_path / "key"
    out = tmp_path / "out"
    end = threading.Event()
    trusting = Trust([make_keys(key)])
    write(out)
    seen = set()
    problems = []

    def read():
        while not end.is_set():
            try:
                seen.add((trust.open_bundle(out).path / "golden.npz").read_bytes())
            except FileNotFoundError:  # of the line above, after it was opened
                pass
            except Exception as problem:
                problems.append(problem)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        write(out, b"old!" if turn % 2 else b"new!", force=True)
        trust.sign(out, key)
        trust.open_bundle(out, trusting)
    end.set()
    reader.join()
    assert problems == []
    assert seen == {b"old!", b"new!"}


def test_a_temporary_signature_of_an_earlier_version(tmp_path):
    """0.1 wrote it into the bundle; signing again mends the bundle."""
    write(tmp_path / "out")
    (tmp_path / "out" / ".model.sig.new").write_text("{")
    with refused("bundle-file-extra"):
        trust.open_bundle(tmp_path / "out")
    public = make_keys(tmp_path / "key")
    trust.sign(tmp_path / "out", tmp_path / "key")
    trust.open_bundle(tmp_path / "out", Trust([public]))


def test_a_place_beside_a_bundle_that_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path / "out")
    make_keys(tmp_path / "key")
    before = sorted(os.listdir(tmp_path / "out"))

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place.tempfile, "mkstemp", refuse)
    with refused("signature-not-writable"):
        trust.sign(tmp_path / "out", tmp_path / "key")
    assert sorted(os.listdir(tmp_path / "out")) == before
    with refused("output-not-writable"):
        pack(tmp_path / "out", tmp_path / "out.edge")
    assert not (tmp_path / signature.FILE).exists()


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
@pytest.mark.parametrize("when", [1, 2])
def test_a_key_pair_that_could_not_be_written_leaves_nothing(failure, when, tmp_path, monkeypatch):
    calls = []
    fsync = os.fsync

    def refuse(handle):
        calls.append(handle)
        if len(calls) == when:
            raise failure
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises((UsageError, KeyboardInterrupt)):
            make_keys(tmp_path / "key")
    assert os.listdir(tmp_path) == []
    make_keys(tmp_path / "key")


def test_a_key_that_someone_else_made_meanwhile_stays(tmp_path, monkeypatch):
    """What is there is not this command's to remove."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    (tmp_path / "key.pub").write_text("theirs")
    with refused("key-not-writable"):
        make_keys(tmp_path / "key")
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"key.pub": "theirs"}
