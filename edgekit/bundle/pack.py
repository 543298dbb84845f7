"""Packed bundle: a bundle as one file ``NAME.edge``, for copying to another machine.

It is a ZIP archive (PKWARE APPNOTE 6.3) of stored, uncompressed entries, in ZIP64 format where a size requires it. The
manifest comes first, then all other files by name. Times and modes are fixed, so the same bundle gives the same bytes,
whatever the name of its folder. When an archive is unpacked, each entry is checked against the manifest before its
bytes are read.
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
_KIND = "a packed bundle"
_TIME = (1980, 1, 1, 0, 0, 0)  # The earliest time of a ZIP entry.
_MODE = stat.S_IFREG | 0o644
_UNIX = 3
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_CHUNK = 2**20
_MAX_BYTES = 16 * 2**20
"""Largest size of a manifest, of a signature and of the table of entries.

A manifest of this size lists no more files than a table of this size."""
_DAMAGE = (
    OSError,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
)
"""Exceptions of the standard library for a damaged or malicious archive."""


@takes_paths("bundle_folder", "out")
def pack(bundle_folder: str | Path, out: str | Path, *, force: bool = False, trust: Trust | None = None) -> Path:
    """Check a bundle and write it, with its signature, to one file. The file appears complete or not at all.

    Args:
        bundle_folder: Bundle folder.
        out: File to write.
        force: Flag to replace an existing packed bundle.
        trust: Trusted keys. None accepts unsigned bundles and any signer.

    Returns:
        The packed file.

    Raises:
        IntegrityError: If the bundle is not valid (:func:`edgekit.bundle.trust.open_bundle`).
        UsageError: If ``out`` exists without ``force``, or is not a packed bundle.
        BuildError: If the disk is full or not writable. ``out`` is then left unchanged.
    """
    file = Path(out)
    check_free(file, force, _KIND, _is_packed)
    bundle = open_bundle(bundle_folder, trust)
    names = [*bundle.manifest.files, *_signature_names(bundle.path)]
    with disk_errors(file), new_file(file) as (new, stream):
        with zipfile.ZipFile(stream, "w") as archive:
            for name in (MANIFEST, *sorted(names)):
                _add_entry(archive, name, bundle.path / name)
        new.chmod(0o644)  # new_file creates files with mode 0600.
        check_free(file, force, _KIND, _is_packed)  # Another process may have created it in the meantime.
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
    """Unpack a bundle. It is checked before it appears, and appears complete or not at all.

    Args:
        file: Packed bundle.
        out: Bundle folder to write.
        force: Flag to replace an existing bundle.
        trust: Trusted keys. None accepts unsigned bundles and any signer.
        allow_downgrade: Flag to replace a bundle of another name or a newer version too.
        notes: List to append notes for the user to, one sentence each.

    Raises:
        IntegrityError: If the file is not a packed bundle, is damaged, has an entry that differs from its manifest
            (a link, a path outside the bundle, a compressed, encrypted or duplicate entry, another size), is not
            signed by a trusted key, or has expired.
        FormatError: If the bundle has a newer format.
        UsageError: If ``out`` exists without ``force``, is not a bundle, or must not be replaced.
        BuildError: If the disk is full or not writable. ``out`` is then left unchanged.
    """
    source = Path(file)
    destination = Path(out)
    check_output(destination, force)
    with _open_archive(source) as archive, disk_errors(destination), new_folder(destination) as folder:
        with _damage_errors(source):
            for entry in _check_entries(archive, source):
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as content, target.open("xb") as sink:
                    shutil.copyfileobj(content, sink, _CHUNK)
        try:
            bundle = open_bundle(folder, trust)
        except EdgekitError as problem:  # The user knows the packed file, and the folder is temporary.
            raise problem.reworded(str(problem).replace(str(folder), str(source))) from problem
        install_notes = check_install(bundle.manifest, source)

        def check() -> None:
            check_output(destination, force)
            check_replaced(destination, bundle.manifest.name, bundle.manifest.version, allow_downgrade)

        check()
        share(folder)
        sync_tree(folder)
        put_folder(folder, destination, check)
    if notes is not None:
        notes += install_notes
    return replace(bundle, path=destination)


def _is_packed(file: Path) -> bool:
    """Return whether a file begins like a packed bundle: with the local header of the manifest."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(_LOCAL_HEADER_BYTES + len(MANIFEST))
    return head.startswith(_LOCAL_HEADER) and head[_LOCAL_HEADER_BYTES:] == MANIFEST.encode()


def _signature_names(folder: Path) -> list[str]:
    """Return the name of the signature file, or an empty list for an unsigned bundle."""
    file = folder / signature.FILE
    if not (file.exists() or file.is_symlink()):
        return []
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _MAX_BYTES:
        raise IntegrityError(
            f"{file} is a link, not a regular file, or larger than {_MAX_BYTES} bytes. "
            "Sign the bundle again: edgekit sign BUNDLE",
            code="signature-unreadable",
        )
    return [signature.FILE]


def _add_entry(archive: zipfile.ZipFile, name: str, source: Path) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = _UNIX  # On every system, because the mode is a Unix mode.
    entry.external_attr = _MODE << 16
    entry.file_size = source.stat().st_size  # zipfile selects a ZIP64 header by this size before it writes a byte.
    with source.open("rb") as stream, archive.open(entry, "w") as sink:
        shutil.copyfileobj(stream, sink, _CHUNK)


class _BoundedReader(io.BufferedReader):
    """A reader with a limit per read. A table of entries of gigabytes would fill the memory before it is checked."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes."""
        if size is not None and size > _MAX_BYTES:
            raise zipfile.BadZipFile(f"its table of entries has {size} bytes, expected at most {_MAX_BYTES}")
        return super().read(size)


@contextlib.contextmanager
def _open_archive(source: Path) -> Iterator[zipfile.ZipFile]:
    if not source.is_file():
        problem = "is not a regular file" if source.exists() else "does not exist"
        raise UsageError(
            f"{source} {problem}, expected a packed bundle. "
            f"Correct the path, or make one: edgekit pack BUNDLE -o NAME{SUFFIX}",
            code="pack-not-found",
        )
    try:
        stream = _BoundedReader(io.FileIO(source))
    except OSError as error:
        raise UsageError(
            f"{source} cannot be read ({error.strerror}). Check its permissions.", code="pack-unreadable"
        ) from error
    with stream:
        with _damage_errors(source):
            archive = zipfile.ZipFile(stream)
        with archive:
            yield archive


@contextlib.contextmanager
def _damage_errors(source: Path) -> Iterator[None]:
    """Convert the exceptions of zipfile for a damaged or malicious archive to an IntegrityError."""
    try:
        yield
    except EdgekitError:
        raise
    except _DAMAGE as problem:
        # A seek before the first byte gives EINVAL. Other OSErrors are errors of the disk.
        if isinstance(problem, OSError) and problem.errno != errno.EINVAL:
            raise
        raise IntegrityError(
            f"{source} is not a packed bundle or is damaged: {problem or 'it ends early'}. Copy it again.",
            code="pack-damaged",
        ) from problem


def _check_entries(archive: zipfile.ZipFile, source: Path) -> list[zipfile.ZipInfo]:
    """Return all entries after a check against the manifest: the same names and the same sizes."""
    entries = archive.infolist()
    if not entries or entries[0].orig_filename != MANIFEST:
        _refuse(source, f"does not begin with {MANIFEST}, so it is not a packed bundle")
    sizes: dict[str, int] = {}
    for entry in entries:
        _check_entry(entry, source)
        if entry.orig_filename in sizes:
            _refuse(source, f"contains '{entry.orig_filename}' twice")
        sizes[entry.orig_filename] = entry.file_size
    # Entries can share bytes of the archive, so that a small archive would unpack to a large folder.
    if sum(sizes.values()) > source.stat().st_size:
        _refuse(source, "states more bytes than it has")
    if sizes[MANIFEST] > _MAX_BYTES:
        _refuse(source, f"has a {MANIFEST} of {sizes[MANIFEST]} bytes, expected at most {_MAX_BYTES}")
    manifest = manifests.loads(archive.read(entries[0]).decode("utf-8"), f"{MANIFEST} in {source}")
    expected = {MANIFEST: sizes[MANIFEST], **{name: file.size for name, file in manifest.files.items()}}
    if signature.FILE in sizes:
        expected.setdefault(signature.FILE, min(sizes[signature.FILE], _MAX_BYTES))
    for name, size in sizes.items():
        if name not in expected:
            _refuse(source, f"contains '{name}', which its manifest does not list")
        if size != expected[name]:
            _refuse(source, f"contains '{name}' with {size} bytes, expected {expected[name]}")
        if not sizes.keys().isdisjoint(map(str, PurePosixPath(name).parents)):
            _refuse(source, f"contains '{name}' inside another file")
    if missing := sorted(expected.keys() - sizes.keys()):
        _refuse(source, f"lacks '{missing[0]}', which its manifest lists")
    return entries


def _check_entry(entry: zipfile.ZipInfo, source: Path) -> None:
    name = entry.orig_filename  # The name in the archive. zipfile changes ``filename``.
    manifests.check_inside(name, str(source))
    mode = entry.external_attr >> 16
    if mode and not stat.S_ISREG(mode):
        _refuse(source, f"contains '{name}' as a link or another special file")
    if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        _refuse(source, f"contains '{name}' compressed or encrypted, expected a stored entry")


def _refuse(source: Path, problem: str) -> NoReturn:
    raise IntegrityError(f"{source} {problem}. Do not unpack it. Get it from its source again.", code="pack-unsafe")
