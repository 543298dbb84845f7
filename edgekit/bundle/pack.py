"""A bundle as one file, ``NAME.edge``: what a copy to another machine takes.

It is a ZIP (PKWARE APPNOTE 6.3) whose entries are stored as they are, in ZIP64 form where a size needs it: the manifest first, then all
other files by name, with the same time and mode everywhere. So the same bundle gives the same bytes, whatever its folder is called.
A file that comes from elsewhere is held against the manifest in it, entry by entry, before its bytes are read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from edgekit.bundle import signature
from edgekit.bundle.assemble import check_output
from edgekit.bundle.install import check_install, check_replaced
from edgekit.bundle.place import check_free, disk_errors, new_file, new_folder, put_file, put_folder, share, sync_tree
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import MANIFEST, Bundle, open_bundle
from edgekit.spec import manifest as manifests
from edgekit.spec.errors import EdgekitError, IntegrityError, UsageError
from edgekit.spec.paths import takes_paths

__all__ = ["SUFFIX", "pack", "unpack"]

SUFFIX = ".edge"
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can state
_MODE = stat.S_IFREG | 0o644
_CHUNK = 2**20
_LIMIT = 16 * 2**20
"""Most bytes of a manifest, of a signature, and of the archive's own table: a manifest of that size lists no more than such a table does."""


@takes_paths("bundle_folder", "out")
def pack(bundle_folder: str | Path, out: str | Path, *, force: bool = False, trust: Trust | None = None) -> Path:
    """Checks a bundle and writes it into one file, its signature with it; the file appears whole or not at all.

    Args:
        bundle_folder: the bundle.
        out: the file.
        force: replace a packed bundle that is there.
        trust: whose bundles may be packed; None for anybody's.

    Returns:
        The file.

    Raises:
        IntegrityError: as :func:`edgekit.bundle.trust.open_bundle`: what is not whole is not packed.
        UsageError: when ``out`` exists and ``force`` is not given, or is something else than a packed bundle.
        BuildError: when the disk is full or cannot be written; ``out`` is then as it was.
    """
    file, what = Path(out), "a packed bundle"
    check_free(file, force, what, _is_packed)
    bundle = open_bundle(bundle_folder, trust)
    names = [*bundle.manifest.files, *_signature(bundle.path)]
    with disk_errors(file), new_file(file) as (new, stream):
        with zipfile.ZipFile(stream, "w") as archive:
            for entry in (MANIFEST, *sorted(names)):
                _add(archive, entry, bundle.path / entry)
        new.chmod(0o644)  # it was made private
        check_free(file, force, what, _is_packed)  # someone else may have been faster
        put_file(new, stream, file)
    return file


@takes_paths("file", "out")
def unpack(
    file: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    trust: Trust | None = None,
    allow_downgrade: bool = False,
    notes: list[str] | None = None,
) -> Bundle:
    """Writes the bundle that a file holds; it is checked before it appears, and appears whole or not at all.

    Args:
        file: that :func:`pack` wrote.
        out: folder of the bundle.
        force: replace a bundle that is there.
        trust: whose bundles may be unpacked; None for anybody's.
        allow_downgrade: replace also a bundle of another name, or a newer one.
        notes: gets what to know besides, a sentence each.

    Raises:
        IntegrityError: when the file is not a packed bundle, is damaged, holds anything that its manifest does not list as it is there
            (a link, a path that leaves the bundle, a compressed or encrypted entry, an entry twice, of another size), or is not signed by
            whom ``trust`` names; or has expired.
        FormatError: for a bundle of a newer format.
        UsageError: when ``out`` exists and ``force`` is not given, or is something else than a bundle, or one that this must not replace.
        BuildError: when the disk is full or cannot be written; ``out`` is then as it was.
    """
    source, final = Path(file), Path(out)
    check_output(final, force)
    with _opened(source) as archive, disk_errors(final), new_folder(final) as folder:
        with _damage(source):
            for entry in _entries(archive, source):
                place = folder / entry.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as content, place.open("xb") as sink:
                    shutil.copyfileobj(content, sink, _CHUNK)
        try:
            bundle = open_bundle(folder, trust)
        except EdgekitError as problem:  # whoever reads it knows the file, and the folder is gone by then
            raise problem.reworded(str(problem).replace(str(folder), str(source))) from problem
        said = check_install(bundle.manifest, source)

        def check() -> None:
            check_output(final, force)
            check_replaced(final, bundle.manifest.name, bundle.manifest.version, allow_downgrade)

        check()
        share(folder)
        sync_tree(folder)
        put_folder(folder, final, check)
    if notes is not None:
        notes += said
    return replace(bundle, path=final)


def _is_packed(file: Path) -> bool:
    """Whether a file begins as ``pack`` begins one: with a local header (30 bytes) of the manifest."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(30 + len(MANIFEST))
    return head[:4] == b"PK\x03\x04" and head[30:] == MANIFEST.encode()


def _signature(folder: Path) -> list[str]:
    file = folder / signature.FILE
    if not (file.exists() or file.is_symlink()):
        return []
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _LIMIT:
        raise IntegrityError(
            f"{file} is a link, not a plain file, or larger than {_LIMIT} bytes. Sign the bundle again: edgekit sign BUNDLE",
            code="signature-unreadable",
        )
    return [signature.FILE]


def _add(archive: zipfile.ZipFile, name: str, source: Path) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = 3  # Unix, on every system: it is what the mode is of
    entry.external_attr = _MODE << 16
    entry.file_size = source.stat().st_size  # decides, before a byte is written, whether its header is of ZIP64
    with source.open("rb") as stream, archive.open(entry, "w") as sink:
        shutil.copyfileobj(stream, sink, _CHUNK)


class _Bounded(io.BufferedReader):
    """Refuses to read more at a time than the archive's table may have: a table of gigabytes would fill the memory before it is looked at."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as every stream."""
        if size is not None and size > _LIMIT:
            raise zipfile.BadZipFile(f"its table of entries has {size} bytes, expected at most {_LIMIT}")
        return super().read(size)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    if not source.is_file():
        what = "is not a plain file" if source.exists() else "does not exist"
        raise UsageError(
            f"{source} {what}, expected a packed bundle. Correct the path, or make one: edgekit pack BUNDLE -o NAME{SUFFIX}",
            code="pack-not-found",
        )
    try:
        stream = _Bounded(io.FileIO(source))
    except OSError as problem:
        raise UsageError(
            f"{source} cannot be read ({problem.strerror}). Check its permissions.", code="pack-unreadable"
        ) from problem
    with stream:
        with _damage(source):
            archive = zipfile.ZipFile(stream)
        with archive:
            yield archive


@contextlib.contextmanager
def _damage(source: Path) -> Iterator[None]:
    """Turns what zipfile raises for an archive that is damaged, or made to do damage, into an IntegrityError."""
    try:
        yield
    except EdgekitError:
        raise
    except (
        OSError,
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
        struct.error,
    ) as problem:
        if (
            isinstance(problem, OSError) and problem.errno != errno.EINVAL
        ):  # which is what a place before the first byte gives
            raise
        raise IntegrityError(
            f"{source} is not a packed bundle, or is damaged: {problem or 'it ends early'}. Copy it again.",
            code="pack-damaged",
        ) from problem


def _entries(archive: zipfile.ZipFile, source: Path) -> list[zipfile.ZipInfo]:
    """All entries, after each was found to be what the manifest lists: no other name, no other size."""
    entries = archive.infolist()
    if not entries or entries[0].orig_filename != MANIFEST:
        _refuse(source, f"does not begin with {MANIFEST}, so it is not a packed bundle")
    found: dict[str, int] = {}
    for entry in entries:
        _check_entry(entry, source)
        if entry.orig_filename in found:
            _refuse(source, f"holds '{entry.orig_filename}' twice")
        found[entry.orig_filename] = entry.file_size
    # Entries may share bytes of the archive, so that few bytes make many.
    if sum(found.values()) > source.stat().st_size:
        _refuse(source, "states more bytes than it has")
    if found[MANIFEST] > _LIMIT:
        _refuse(source, f"has a {MANIFEST} of {found[MANIFEST]} bytes, expected at most {_LIMIT}")
    manifest = manifests.loads(archive.read(entries[0]).decode("utf-8"), f"{MANIFEST} in {source}")
    listed = {MANIFEST: found[MANIFEST], **{name: file.size for name, file in manifest.files.items()}}
    if signature.FILE in found:
        listed.setdefault(signature.FILE, min(found[signature.FILE], _LIMIT))
    for name in found:
        if name not in listed:
            _refuse(source, f"holds '{name}', which its manifest does not list")
        if found[name] != listed[name]:
            _refuse(source, f"holds '{name}' with {found[name]} bytes, expected {listed[name]}")
        if not found.keys().isdisjoint(map(str, PurePosixPath(name).parents)):
            _refuse(source, f"holds '{name}' below what is a file in it too")
    if missing := sorted(listed.keys() - found.keys()):
        _refuse(source, f"lacks '{missing[0]}', which its manifest lists")
    return entries


def _check_entry(entry: zipfile.ZipInfo, source: Path) -> None:
    name = entry.orig_filename  # as it is written there; zipfile has cleaned the other one
    manifests.check_inside(name, str(source))
    mode = entry.external_attr >> 16
    if mode and not stat.S_ISREG(mode):
        _refuse(source, f"holds '{name}' as a link or something else than a plain file")
    if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        _refuse(source, f"holds '{name}' compressed or encrypted, and a bundle is packed as it is")


def _refuse(source: Path, what: str) -> NoReturn:
    raise IntegrityError(f"{source} {what}. Do not unpack it; get it from its source again.", code="pack-unsafe")
