"""Every way to damage a bundle is an IntegrityError, found before any backend has opened a file."""

from __future__ import annotations

import json
import os
import random
import sys
import time

import pytest
import small
from refusals import refused

import edgekit
from edgekit.bundle.trust import open_bundle
from edgekit.spec.errors import EdgekitError, FormatError, IntegrityError, UsageError
from edgekit.spec.manifest import FORMAT

pytestmark = pytest.mark.device

FLIPS = 40
CUTS = 12


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return small.copy(tiny_bundle, tmp_path / "copy")


@pytest.fixture(scope="module")
def work(tiny_bundle, tmp_path_factory):
    """A copy for tests that put back what they change."""
    return small.copy(tiny_bundle, tmp_path_factory.mktemp("work") / "copy")


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def assert_refused(folder, *values, error=IntegrityError):
    start = time.perf_counter()
    with pytest.raises(error) as caught:
        open_bundle(folder)
    assert time.perf_counter() - start < 2
    for value in values:
        assert value in str(caught.value)
    with pytest.raises(error):
        edgekit.load(folder)


def test_a_sound_bundle_opens(tiny_bundle, bundle, tmp_path):
    for folder in (tiny_bundle, bundle, str(bundle)):
        opened = open_bundle(folder)
        assert sorted(opened.manifest.files) == sorted(
            p.relative_to(bundle).as_posix() for p in files(bundle) if p.name != "manifest.json"
        )
        assert opened.size == sum(p.stat().st_size for p in files(bundle))
    (tmp_path / "link").symlink_to(bundle)
    open_bundle(tmp_path / "link")


def test_the_bundle_has_the_files_that_damage_is_tried_on(work):
    names = {p.relative_to(work).as_posix() for p in files(work)}
    assert names >= {"manifest.json", "golden.npz", "graphs/model.onnx", "assets/task.json", "assets/tokenizer.json"}


@pytest.mark.slow
def test_flipped_bytes(work):
    choose = random.Random(0)
    for file in files(work):
        original = file.read_bytes()
        places = {0, len(original) - 1, *(choose.randrange(len(original)) for _ in range(FLIPS))}
        for place in places:
            changed = bytearray(original)
            changed[place] ^= 1 << choose.randrange(8)
            file.write_bytes(changed)
            try:
                opened = open_bundle(work)
            except IntegrityError:
                continue
            finally:
                file.write_bytes(original)
            # In the manifest a flip may change a letter of a free text, but nothing that decides what is loaded.
            assert file.name == "manifest.json", f"byte {place} of {file.name}"
            before = json.loads(original)
            after = json.loads(bytes(changed))
            assert (after["files"], after["format"]) == (before["files"], before["format"])
            assert opened.manifest.variants[0].graphs == before["variants"][0]["graphs"]
    open_bundle(work)


def test_cut_files(work):
    choose = random.Random(1)
    for file in files(work):
        original = file.read_bytes()
        for length in {
            0,
            1,
            len(original) // 2,
            len(original) - 2,
            *(choose.randrange(len(original) - 1) for _ in range(CUTS)),
        }:
            file.write_bytes(original[:length])
            with pytest.raises(
                IntegrityError,
                match="manifest.json"
                if file.name == "manifest.json"
                else f"has {length} bytes, expected {len(original)}",
            ):
                open_bundle(work)
        file.write_bytes(original + b"\0")
        with pytest.raises(IntegrityError):
            open_bundle(work)
        file.write_bytes(original)
    open_bundle(work)


def test_missing_files(work):
    for file in files(work):
        original = file.read_bytes()
        file.unlink()
        assert_refused(work, "manifest.json" if file.name == "manifest.json" else file.relative_to(work).as_posix())
        file.write_bytes(original)
    open_bundle(work)


EXTRA = [
    "extra.txt",
    "graphs/extra.onnx",
    "graphs/model.onnx.data",
    "assets/.hidden",
    "new/folder/file",
    "graphs/manifest.json",
    "manifest.json.bak",
]


@pytest.mark.parametrize("name", EXTRA)
def test_extra_files(bundle, name):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    assert_refused(bundle, f"'{name}'")


def test_an_empty_folder_is_no_harm(bundle):
    (bundle / "empty" / "below").mkdir(parents=True)
    open_bundle(bundle)


def test_a_renamed_file(bundle):
    (bundle / "graphs/model.onnx").rename(bundle / "graphs/other.onnx")
    assert_refused(bundle, "lacks 'graphs/model.onnx'")


def test_two_files_in_each_others_place(bundle):
    one = bundle / "assets/task.json"
    two = bundle / "assets/tokenizer.json"
    one.rename(bundle / "aside")
    two.rename(one)
    (bundle / "aside").rename(two)
    assert_refused(bundle)


def test_linked_files(work, tmp_path):
    for file in files(work):
        aside = tmp_path / "aside"
        file.rename(aside)
        file.symlink_to(aside)
        assert_refused(work)
        file.unlink()
        os.link(aside, file)
        open_bundle(work)
        file.unlink()
        aside.rename(file)


def test_a_linked_folder(bundle, tmp_path):
    (bundle / "graphs").rename(tmp_path / "graphs")
    (bundle / "graphs").symlink_to(tmp_path / "graphs")
    assert_refused(bundle, "graphs")


def test_a_link_beside_the_files(bundle, tmp_path):
    (bundle / "more").symlink_to(tmp_path)
    assert_refused(bundle, "'more'")
    (bundle / "more").unlink()
    (bundle / "dangling").symlink_to(tmp_path / "nowhere")
    assert_refused(bundle, "'dangling'")


def test_special_files(bundle):
    original = (bundle / "golden.npz").read_bytes()
    (bundle / "golden.npz").unlink()
    os.mkfifo(bundle / "golden.npz")
    assert_refused(bundle, "golden.npz")
    (bundle / "golden.npz").unlink()
    (bundle / "golden.npz").mkdir()
    assert_refused(bundle, "golden.npz")
    (bundle / "golden.npz").rmdir()
    (bundle / "golden.npz").write_bytes(original)
    os.mkfifo(bundle / "pipe")
    assert_refused(bundle, "'pipe'")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        ("ä".encode("latin1"), "not UTF-8"),
        (b"", "not valid JSON"),
        (b"[]", "expected a table"),
        (b" " * (16 * 2**20 + 1), "bytes, expected at most"),
        (b"[" * 1_000_000, "not valid JSON"),
        (b'{"format": 3}', "format 3"),
        (b'{"format": NaN}', "NaN"),
    ],
    ids=["utf-16", "latin-1", "empty", "list", "large", "deep", "newer", "nan"],
)
def test_a_manifest_that_is_none(bundle, content, value):
    (bundle / "manifest.json").write_bytes(content)
    assert_refused(bundle, value)


def test_a_newer_format(bundle):
    small.sign(bundle, format=FORMAT + 1)
    assert_refused(bundle, "Install a newer EdgeKit", error=FormatError)


def test_no_bundle_at_all(tmp_path):
    """A wrong path is a mistake of the call; a folder that was a bundle is damaged."""
    for place, code in ((tmp_path / "nothing", "bundle-not-found"), (tmp_path, "bundle-other-folder")):
        with refused(code, str(place)) as caught:
            open_bundle(place)
        assert isinstance(caught.value, UsageError)
    (tmp_path / "file").write_text("x")
    with refused("bundle-not-found"):
        open_bundle(tmp_path / "file")
    (tmp_path / "film.edge").write_bytes(b"PK\x03\x04...")
    with refused("bundle-packed", "edgekit pack --unpack", "film.edge"):
        open_bundle(tmp_path / "film.edge")
    (tmp_path / "graphs").mkdir()
    with refused("bundle-no-manifest") as caught:
        open_bundle(tmp_path)
    assert isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize(
    "path", ["../outside.txt", "/etc/hostname", "graphs/../../outside.txt", "./golden.npz", "manifest.json"]
)
def test_a_manifest_that_lists_what_is_outside(bundle, path):
    (bundle.parent / "outside.txt").write_text("x")
    data = json.loads((bundle / "manifest.json").read_text())
    data["files"][path] = {"sha256": "0" * 64, "size": 1}
    (bundle / "manifest.json").write_text(json.dumps(data))
    assert_refused(bundle, path.split("/")[-1])


@pytest.mark.parametrize(
    "change",
    [
        {"loop": "other"},
        {"loop": "../single"},
        {"task": "other"},
        {"task": "_text"},
        {"signatures": []},
        {"max_batch": 0},
    ],
    ids=str,
)
def test_a_manifest_of_something_else_with_right_digests(bundle, change):
    """Whoever writes a manifest writes right digests too; what it says must still be refused as what it is."""
    small.sign(bundle, **change)
    with pytest.raises(EdgekitError):
        edgekit.load(bundle)


def test_a_variant_of_something_else_with_right_digests(bundle):
    variant = json.loads((bundle / "manifest.json").read_text())["variants"][0]
    graphs = ({}, {"forward": "assets/task.json"})
    for change in (
        {"backend": "other"},
        {"backend": "__init__"},
        {"device": "tpu"},
        {"threads": 0},
        *({"graphs": g} for g in graphs),
    ):
        small.sign(bundle, variants=[{**variant, **change}])
        with pytest.raises(EdgekitError):
            edgekit.load(bundle)


def test_nothing_is_loaded_of_a_damaged_bundle(bundle):
    """In a fresh process: a damaged graph does not even bring the backend's library in."""
    graph = bundle / "graphs/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    code = """
import sys, edgekit
try:
    edgekit.load(sys.argv[1])
except edgekit.IntegrityError as problem:
    print("refused", *sorted({m.split(".")[0] for m in sys.modules} & {"onnxruntime", "openvino"}))
"""
    done = small.run(sys.executable, "-c", code, bundle)
    assert done.stdout.decode().split() == ["refused"]
