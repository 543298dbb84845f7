"""Packed bundles: reproducible bytes, and only complete bundles are unpacked."""

from __future__ import annotations

import os
import random
import shutil
import stat
import struct
import zipfile
from dataclasses import replace

import pytest
import small
from kill import BLANK
from refusals import refused

from edgekit import FormatError, IntegrityError, Trust, UsageError
from edgekit.bundle import assemble, trust
from edgekit.bundle.keys import make_keys
from edgekit.bundle.pack import pack, unpack

GRAPH = b"\x12\x05graph"  # the smallest ONNX file: a producer name
FILES = {
    "graphs/m.onnx": GRAPH,
    "assets/a.json": b"{}",
    "assets/ü b.txt": b"text",
    "golden.npz": bytes(range(256)),
    "empty": b"",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return assemble.write(tmp_path_factory.mktemp("bundle") / "small", BLANK, FILES).path


@pytest.fixture(scope="module")
def packed(bundle, tmp_path_factory):
    return pack(bundle, tmp_path_factory.mktemp("packed") / "small.edge")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return (folder / "ours", make_keys(folder / "ours")), (folder / "theirs", make_keys(folder / "theirs"))


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def forged(packed, out, change):
    """An archive of what a packed one holds, after a change of its entries, a list of (ZipInfo, bytes)."""
    with zipfile.ZipFile(packed) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    change(entries)
    with zipfile.ZipFile(out, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return out


def assert_refused(file, out, *values, error=IntegrityError):
    before = names(out.parent)
    with pytest.raises(error) as caught:
        unpack(file, out)
    for value in values:
        assert value in str(caught.value)
    assert str(file) in str(caught.value)
    assert ".new-" not in str(caught.value)
    assert names(out.parent) == before


# ---- what is sound


def test_a_bundle_comes_out_as_it_went_in(bundle, packed, tmp_path):
    unpacked = unpack(packed, tmp_path / "deep" / "out")
    assert unpacked == replace(trust.open_bundle(bundle), path=tmp_path / "deep" / "out")
    assert content(unpacked.path) == content(bundle)
    assert stat.S_IMODE(unpacked.path.stat().st_mode) == 0o755
    assert stat.S_IMODE(packed.stat().st_mode) == 0o644
    assert names(tmp_path / "deep") == ["out"]
    assert names(packed.parent) == ["small.edge"]


def test_a_real_bundle(tiny_bundle, tmp_path):
    file = pack(tiny_bundle, tmp_path / "tiny.edge")
    assert content(unpack(file, tmp_path / "tiny").path) == content(tiny_bundle)
    assert file.stat().st_size < sum(map(len, content(tiny_bundle).values())) + 10_000


def test_other_tools_read_it(bundle, packed):
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        assert {e.filename: archive.read(e) for e in entries} == content(bundle)
    listed = [e.filename for e in entries]
    assert listed == ["manifest.json", *sorted(FILES)]
    assert {(e.compress_type, e.date_time, e.external_attr >> 16, e.create_system) for e in entries} == {
        (0, (1980, 1, 1, 0, 0, 0), 0o100644, 3)
    }
    if shutil.which("unzip"):
        assert small.run("unzip", "-tq", packed).returncode == 0


def test_the_same_bundle_gives_the_same_bytes(bundle, packed, tmp_path):
    copy = small.copy(bundle, tmp_path / "another name")
    for number, file in enumerate(sorted(copy.rglob("*"), reverse=True)):
        os.utime(file, (number, number))
        file.chmod(0o700)
    assert pack(copy, tmp_path / "b.edge").read_bytes() == packed.read_bytes()
    assert pack(unpack(packed, tmp_path / "out").path, tmp_path / "c.edge").read_bytes() == packed.read_bytes()


def test_sizes_of_zip64(bundle, packed, tmp_path, monkeypatch):
    """Files of gigabytes, without writing any: the limit where the form begins is lowered instead."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    file = pack(bundle, tmp_path / "large.edge")
    assert file.read_bytes() != packed.read_bytes()
    assert struct.pack("<HH", 1, 16) in file.read_bytes(), "the extra field of ZIP64"
    monkeypatch.undo()
    assert content(unpack(file, tmp_path / "out").path) == content(bundle)


def test_a_signature_goes_with_the_bundle(bundle, keys, tmp_path):
    signed = small.copy(bundle, tmp_path / "signed")
    trust.sign(signed, keys[0][0])
    file = pack(signed, tmp_path / "signed.edge", trust=Trust([keys[0][1]]))
    unpacked = unpack(file, tmp_path / "out", trust=Trust([keys[0][1]]))
    assert unpacked.trusted
    assert content(unpacked.path) == content(signed)
    assert unpack(file, tmp_path / "out", force=True).path == unpacked.path, (
        "a signed bundle is a bundle: it may be replaced"
    )
    before = content(unpacked.path)
    (unpacked.path / "graphs/m.onnx").write_bytes(b"damaged")
    assert content(unpack(file, tmp_path / "out", force=True).path) == before
    (unpacked.path / "notes.txt").write_text("somebody's own file")
    with refused("output-other-kind"):
        unpack(file, tmp_path / "out", force=True)


def test_what_no_trusted_key_signed_never_appears(bundle, packed, keys, tmp_path):
    signed = small.copy(bundle, tmp_path / "signed")
    trust.sign(signed, keys[0][0])
    out = unpack(pack(signed, tmp_path / "signed.edge"), tmp_path / "out").path
    before = content(out)
    with refused("bundle-not-signed", "small.edge"):
        unpack(packed, out, force=True, trust=Trust([keys[0][1]]))
    with refused("signature-untrusted"):
        unpack(tmp_path / "signed.edge", out, force=True, trust=Trust([keys[1][1]]))
    with refused("bundle-not-signed"):
        pack(bundle, tmp_path / "new.edge", trust=Trust([keys[0][1]]))
    assert content(out) == before
    assert names(tmp_path) == ["out", "signed", "signed.edge"]


# ---- what is there


def test_a_file_is_not_written_over(bundle, packed, tmp_path):
    out = tmp_path / "out.edge"
    out.write_bytes(packed.read_bytes()[:1000])
    with refused("output-exists", "--force"):
        pack(bundle, out)
    assert pack(bundle, out, force=True).read_bytes() == packed.read_bytes()
    (tmp_path / "letter").write_text("dear all")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(out)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    for name in ("letter", "folder", "link", "other.zip"):
        with refused("output-other-kind"):
            pack(bundle, tmp_path / name, force=True)
    assert (tmp_path / "letter").read_text() == "dear all"
    assert names(tmp_path) == ["folder", "letter", "link", "other.zip", "out.edge"]


def test_a_folder_is_not_written_over(packed, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(UsageError):
            unpack(packed, tmp_path / "home", force=force)
    unpack(packed, tmp_path / "out")
    with refused("output-exists", "--force"):
        unpack(packed, tmp_path / "out")
    unpack(packed, tmp_path / "out", force=True)
    assert names(tmp_path) == ["home", "out"]


def test_what_is_not_whole_is_not_packed(bundle, tmp_path):
    damaged = small.copy(bundle, tmp_path / "damaged")
    (damaged / "golden.npz").write_bytes(b"\1" * 256)
    with refused("bundle-file-altered"):
        pack(damaged, tmp_path / "out.edge")
    linked = small.copy(bundle, tmp_path / "linked")
    (linked / "model.sig").symlink_to("/etc/hostname")
    with refused("signature-unreadable", "model.sig"):
        pack(linked, tmp_path / "out.edge")
    assert names(tmp_path) == ["damaged", "linked"]


def test_an_interrupt_leaves_nothing(bundle, packed, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfileobj", stopped)
    for action in (lambda: pack(bundle, tmp_path / "a.edge"), lambda: unpack(packed, tmp_path / "b")):
        with pytest.raises(KeyboardInterrupt):
            action()
    assert names(tmp_path) == []


def test_a_full_disk(bundle, tmp_path):
    large = assemble.write(
        tmp_path / "large", BLANK, {**FILES, "assets/large": random.Random(0).randbytes(400_000)}
    ).path
    file = pack(large, tmp_path / "large.edge")
    with small.tiny_disk() as disk:
        packed_bytes = pack(bundle, disk / "out.edge").read_bytes()
        unpack(disk / "out.edge", disk / "out")
        before = content(disk / "out")
        with refused("disk-full"):
            pack(large, disk / "out.edge", force=True)
        with refused("disk-full"):
            unpack(file, disk / "out", force=True)
        assert (disk / "out.edge").read_bytes() == packed_bytes
        assert content(disk / "out") == before
        assert names(disk) == ["out", "out.edge"]


# ---- what is refused


def test_what_is_no_packed_bundle(tmp_path):
    (tmp_path / "text").write_text("PK is how it begins")
    (tmp_path / "nothing").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with zipfile.ZipFile(tmp_path / "none", "w"):
        pass
    for place in (tmp_path / "missing", tmp_path):
        assert_refused(place, tmp_path / "out", "edgekit pack BUNDLE", error=UsageError)
    for name in ("text", "nothing", "zip", "none"):
        assert_refused(tmp_path / name, tmp_path / "out", "not a packed bundle")


def _entry(name, data=b"x", mode=stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info, data


def _compressed(entries):
    entries[3][0].compress_type = zipfile.ZIP_DEFLATED


def _link(entries):
    entries[3] = _entry(entries[3][0].filename, b"/etc/hostname", stat.S_IFLNK | 0o777)


def _larger(entries):
    entries[3] = (entries[3][0], entries[3][1] + b"x")


def _altered(entries):
    entries[-1] = (entries[-1][0], b"\0" * len(entries[-1][1]))


def _manifest(data):
    def change(entries):
        entries[0] = (entries[0][0], data(entries[0][1]))

    return change


FORGED = {
    "a link": (_link, "link"),
    "a folder": (lambda e: e.append(_entry("new/", b"", stat.S_IFDIR | 0o755)), "'new/'"),
    "a device": (lambda e: e.append(_entry("new", b"", stat.S_IFCHR | 0o644)), "'new' as a"),
    "an absolute path": (lambda e: e.append(_entry("/etc/new")), "'/etc/new', expected a plain relative path"),
    "a path that leaves": (lambda e: e.append(_entry("assets/../../new")), "expected a plain relative path"),
    "a path of Windows": (lambda e: e.append(_entry("..\\new")), "expected a plain relative path"),
    "a drive": (lambda e: e.append(_entry("C:new")), "expected a plain relative path"),
    "an entry twice": (lambda e: e.append(e[3]), "twice"),
    "a manifest twice": (lambda e: e.append(e[0]), "twice"),
    "an extra entry": (lambda e: e.append(_entry("new")), "'new', which its manifest does not list"),
    "no entry": (lambda e: e.pop(3), "which its manifest lists"),
    "a compressed entry": (_compressed, "compressed or encrypted"),
    "another size": (_larger, "bytes, expected"),
    "other bytes": (_altered, "was altered"),
    "another first entry": (lambda e: e.insert(0, e.pop()), "does not begin with manifest.json"),
    "a signature that is too long": (
        lambda e: e.append(_entry("model.sig", bytes(2**24 + 1))),
        "'model.sig' with 16777217 bytes",
    ),
    "a long manifest": (_manifest(lambda _: bytes(2**24 + 1)), "manifest.json of 16777217 bytes"),
    "a manifest of no JSON": (_manifest(lambda _: b"{"), "is not valid JSON"),
    "a manifest of no UTF-8": (_manifest(lambda _: b"\xff"), "is damaged"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", FORGED)
def test_forged(packed, tmp_path, case):
    change, value = FORGED[case]
    assert_refused(forged(packed, tmp_path / "forged.edge", change), tmp_path / "out", value)


def test_a_newer_format(packed, tmp_path):
    file = forged(packed, tmp_path / "new.edge", _manifest(lambda text: text.replace(b'"format": 1', b'"format": 99')))
    assert_refused(file, tmp_path / "out", "bundle format 99", error=FormatError)


def test_a_file_that_is_a_folder_too(packed, tmp_path):
    """No folder can be packed so; a manifest can say so."""
    entry = '"a%s": {"sha256": "%s", "size": 1}, '
    change = _manifest(
        lambda text: text.replace(
            b'"assets/a.json"', (entry % ("", "0" * 64) + entry % ("/b", "0" * 64)).encode() + b'"assets/a.json"'
        )
    )
    file = forged(packed, tmp_path / "forged.edge", lambda e: (change(e), e.extend([_entry("a"), _entry("a/b")])))
    assert_refused(file, tmp_path / "out", "'a/b' inside")


def test_an_encrypted_entry(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1
    (tmp_path / "a.edge").write_bytes(data)
    assert_refused(tmp_path / "a.edge", tmp_path / "out", "compressed or encrypted")


def test_entries_that_share_their_bytes(bundle, tmp_path):
    """A zip bomb without compression: many entries share their bytes (D. Fifield, "A better zip bomb", WOOT 2019)."""
    large = assemble.write(tmp_path / "large", BLANK, {**FILES, "large": bytes(100_000)}).path
    file = pack(large, tmp_path / "large.edge")
    with zipfile.ZipFile(file, "a") as archive:
        shared = archive.getinfo("large")
        for number in range(1000):
            again = zipfile.ZipInfo(f"bomb{number}")
            for field in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(again, field, getattr(shared, field))
            archive.filelist.append(again)
        archive._didModify = True
    assert_refused(file, tmp_path / "out", "states more bytes than it has")


def test_a_table_that_would_fill_the_memory(tmp_path):
    size = 2**24 + 1
    with (tmp_path / "a.edge").open("wb") as stream:
        stream.truncate(size)
        stream.seek(size)
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    assert_refused(tmp_path / "a.edge", tmp_path / "out", f"its table of entries has {size} bytes")


@pytest.mark.slow
def test_damage_anywhere(packed, bundle, tmp_path):
    """A flipped bit is refused or, where it is in a time or a version number that nobody reads, changes nothing."""
    original = packed.read_bytes()
    choose = random.Random(0)
    harmless = 0
    table = original.index(b"PK\x01\x02")
    for place in [*range(60), *choose.sample(range(60, table), 150), *choose.sample(range(table, len(original)), 250)]:
        data = bytearray(original)
        data[place] ^= 1 << choose.randrange(8)
        (tmp_path / "a.edge").write_bytes(data)
        try:
            unpacked = unpack(tmp_path / "a.edge", tmp_path / "out")
        except IntegrityError:
            assert names(tmp_path) == ["a.edge"]
            continue
        assert content(unpacked.path) == content(bundle) or place < table  # a letter of a sentence in the manifest
        shutil.rmtree(unpacked.path)
        harmless += 1
    assert harmless < 150


def test_what_was_cut_off(packed, tmp_path):
    data = packed.read_bytes()
    for length in {1, 22, 100, *range(0, len(data), 97), len(data) - 1}:
        (tmp_path / "a.edge").write_bytes(data[:length])
        assert_refused(tmp_path / "a.edge", tmp_path / "out", "packed bundle")


# ---- the verb


@pytest.mark.slow
def test_the_verb(bundle, packed, keys, tmp_path):
    copy = small.copy(bundle, tmp_path / "mine")
    done = small.edgekit("pack", copy, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("Wrote mine.edge, ")
    assert (tmp_path / "mine.edge").read_bytes() == packed.read_bytes()
    assert small.edgekit("pack", copy, cwd=tmp_path).returncode == 2
    assert small.edgekit("pack", copy, "--force", cwd=tmp_path).returncode == 0
    shutil.rmtree(copy)
    done = small.edgekit("pack", "--unpack", "mine.edge", cwd=tmp_path)
    assert (done.returncode, done.stdout.decode()) == (0, f"Wrote mine, {len(FILES)} files, 0.0 MB.\n")
    assert content(copy) == content(bundle)
    done = small.edgekit("pack", "--unpack", "mine.edge", "-o", "out", "--key", keys[0][1], cwd=tmp_path)
    assert done.returncode == 5
    assert b"error[bundle-not-signed]" in done.stderr
    assert b"mine.edge" in done.stderr
    assert names(tmp_path) == ["mine", "mine.edge"]
