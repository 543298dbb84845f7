"""A bundle appears whole or not at all, and what was there before stays until it is replaced."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import small
from refusals import refused

from edgekit.bundle import assemble, place
from edgekit.bundle.trust import open_bundle
from edgekit.cache.store import Cache
from edgekit.spec.errors import BuildError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.manifest import FORMAT, Manifest, Variant
from edgekit.spec.tensor import Signature

pytestmark = pytest.mark.device

SIGNATURE = Signature("forward", (), ())
BLANK = Manifest(
    format=FORMAT,
    task="text-classification",
    loop="single",
    max_batch=1,
    signatures=(SIGNATURE,),
    variants=(Variant("onnxruntime", "float32", {"forward": "graphs/m.onnx"}, "cpu", 1, "float32"),),
    files={},
    target="t",
    reason="",
    score_name="accuracy",
    reference_score=1.0,
    trials=(),
)


def _onnx(content):
    """The smallest ONNX file: a producer name."""
    return b"\x12" + bytes([len(content)]) + content


FILES = {"graphs/m.onnx": _onnx(b"graph"), "assets/a.json": b"{}", "golden.npz": b"\0\1"}


def write(out, content=FILES["graphs/m.onnx"], **options):
    return assemble.write(out, BLANK, {**FILES, "graphs/m.onnx": content}, **options)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_bundle_that_opens(tmp_path):
    written = write(tmp_path / "deep" / "below" / "out")
    opened = open_bundle(tmp_path / "deep" / "below" / "out")
    assert written == opened
    assert {n: (tmp_path / "deep/below/out" / n).read_bytes() for n in opened.manifest.files} == FILES
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o755
    assert [p.name for p in written.path.parent.iterdir()] == ["out"]


def test_the_same_twice_is_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_files_are_copied_and_never_linked(tmp_path):
    """Not in a scratch bundle either: a reader of the source may refuse a file with two names, as onnx_ir does."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for scratch in (False, True):
        bundle = assemble.write(tmp_path / f"out{scratch}", BLANK, {**FILES, "big": source}, scratch=scratch)
        assert (bundle.path / "big").stat().st_ino != source.stat().st_ino
        assert source.stat().st_nlink == 1
        open_bundle(bundle.path)


def test_what_exists_is_not_written_over(tmp_path):
    write(tmp_path / "out")
    before = content(tmp_path / "out")
    for action in (
        lambda: assemble.check_output(tmp_path / "out", force=False),
        lambda: write(tmp_path / "out", _onnx(b"other")),
    ):
        with refused("output-exists", "--force"):
            action()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "dangling"):
        with refused("output-exists"):
            write(tmp_path / name)
    assert content(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "empty", "file", "out"]


def test_force_replaces_a_bundle(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out/graphs/m.onnx").write_bytes(b"a damaged bundle may be replaced too")
    write(tmp_path / "out", _onnx(b"other"), force=True)
    assert open_bundle(tmp_path / "out").path == tmp_path / "out"
    assert (tmp_path / "out/graphs/m.onnx").read_bytes() == _onnx(b"other")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", force=True)
    write(tmp_path / "new", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "new", "out"]


def test_force_spares_a_folder_that_only_looks_like_a_bundle(tmp_path):
    (tmp_path / "web" / "src").mkdir(parents=True)
    (tmp_path / "web" / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "web" / "src" / "app.js").write_text("x")
    write(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("somebody's own file among a bundle's")
    for folder in (tmp_path / "web", tmp_path / "out"):
        with refused("output-other-kind"):
            write(folder, force=True)
    assert (tmp_path / "web/src/app.js").is_file()
    assert (tmp_path / "out/notes.txt").is_file()


def test_force_spares_what_is_no_bundle(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("home", "file", "link", "dangling"):
        with refused("output-other-kind", "--force"):
            write(tmp_path / name, force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "file", "home", "link", "real"]


def test_an_error_while_writing_leaves_the_old_one(tmp_path):
    write(tmp_path / "out")
    before = content(tmp_path / "out")
    files = {**FILES, "z": tmp_path / "not there"}
    with refused("output-not-writable"):
        assemble.write(tmp_path / "out", BLANK, files, force=True)
    with refused("output-not-writable"):
        assemble.write(tmp_path / "new", BLANK, files)
    assert content(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, OSError(5, "Input/output error")], ids=["interrupt", "exit", "disk"]
)
@pytest.mark.parametrize(("when", "done"), [(1, False), (1, True), (2, False), (2, True)])
def test_an_interrupt_while_it_is_replaced(tmp_path, monkeypatch, error, when, done):
    """On a file system that cannot exchange two names, the user's bundle must survive between the two renames."""
    monkeypatch.setattr(place, "_exchange", lambda one, other: False)
    write(tmp_path / "out")
    before = content(tmp_path / "out")
    rename = Path.rename
    calls = []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == when and not done:
            raise error
        rename(self, target)
        if len(calls) == when:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit, BuildError)):
            write(tmp_path / "out", _onnx(b"other"), force=True)
    assert len(calls) >= when
    if (when, done) == (2, True):
        before = {
            **before,
            "graphs/m.onnx": _onnx(b"other"),
            "manifest.json": content(tmp_path / "out")["manifest.json"],
        }
        open_bundle(tmp_path / "out")
    assert content(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_someone_else_was_faster(tmp_path):
    class Slow(dict):
        def items(self):
            write(tmp_path / "out", _onnx(b"theirs"))
            return super().items()

    with refused("output-exists"):
        assemble.write(tmp_path / "out", BLANK, Slow(FILES))
    assert (tmp_path / "out/graphs/m.onnx").read_bytes() == _onnx(b"theirs")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk():
    with small.tiny_disk("256k") as disk:
        with refused("disk-full"):
            write(disk / "out", os.urandom(400_000))
        assert list(disk.iterdir()) == []
        write(disk / "out", _onnx(b"small"))
        before = content(disk / "out")
        with refused("disk-full"):
            write(disk / "out", os.urandom(400_000), force=True)
        assert content(disk / "out") == before
        assert [p.name for p in disk.iterdir()] == ["out"]
        open_bundle(disk / "out")


def test_a_full_disk_under_the_cache():
    with small.tiny_disk("256k") as disk:
        cache = Cache(disk / "cache")
        with (
            refused("disk-full"),
            place.disk_errors(cache.root),
            cache.fill("a" * 64, {}) as folder,
        ):
            (folder / "data").write_bytes(os.urandom(400_000))
        assert list((disk / "cache").iterdir()) == []
        with (
            refused("disk-full"),
            place.disk_errors(cache.root),
            cache.fill("a" * 64, {"x": "y" * 10_000}) as folder,
        ):
            (folder / "data").write_bytes(b"x" * (256 * 1024 - 4096))  # what it was made from does not fit any more
        assert list((disk / "cache").iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "below" / "out"):
        with refused("output-not-writable"):
            write(out)
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_may_not_be_written(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes whatever the mode says; the test above has a file in the way")
    (tmp_path / "folder").mkdir(mode=0o555)
    with refused("output-not-writable"):
        write(tmp_path / "folder" / "out")


def test_files_of_a_graph_set(tmp_path):
    (tmp_path / "made" / "weights").mkdir(parents=True)
    (tmp_path / "made" / "assets").mkdir()
    for name in ("model.onnx", "weights/abc", "assets/task.json", "assets/tokenizer.json", "graphs.json"):
        (tmp_path / "made" / name).write_text(name)
    graphs = GraphSet(
        "t", "single", (Graph(SIGNATURE, tmp_path / "made/model.onnx", "float32"),), tmp_path / "made/assets"
    )
    files = assemble.graph_files(graphs)
    assert {place: file.read_text() for place, file in files.items()} == {
        "graphs/model.onnx": "model.onnx",
        "graphs/weights/abc": "weights/abc",
        "assets/task.json": "assets/task.json",
        "assets/tokenizer.json": "assets/tokenizer.json",
    }
    manifest = replace(BLANK, variants=(replace(BLANK.variants[0], graphs={"forward": "graphs/model.onnx"}),))
    (tmp_path / "made/model.onnx").write_bytes(_onnx(b"made"))
    open_bundle(assemble.write(tmp_path / "out", manifest, files).path)
