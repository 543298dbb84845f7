"""Opening of bundles: no file reaches a backend before its content was checked against the manifest.

A bundle is checked completely: every listed file has its size and sha256, there are no other files and no links, every
graph reads external data only from the weights of the bundle, and its inputs and outputs are those of the manifest.

Graphs, tokenizer and settings are then used as the bytes that were hashed. They are either kept in memory, or the file
is read and hashed again (:meth:`Bundle.read`). A backend reads only the weights itself, because a copy of them would
double the memory at startup. OpenVINO also reads the graph itself, because it does not accept the bytes of a graph with
external weights, and so does LiteRT, whose graph holds the weights. :meth:`Bundle.check_unchanged` tells afterwards
whether these are still the files that were hashed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from edgekit.backends import GraphBytes
from edgekit.bundle import agree, signature
from edgekit.bundle.location import check_path
from edgekit.bundle.owners import check_owners
from edgekit.bundle.place import recover
from edgekit.bundle.signature import Trust
from edgekit.machine.control_groups import memory_limit
from edgekit.spec import manifest as manifests
from edgekit.spec.digests import digest_of, files_below
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.manifest import FileEntry, Manifest
from edgekit.spec.paths import takes_paths

__all__ = ["MANIFEST", "Asset", "Bundle", "Stamp", "open_bundle", "open_written", "sign"]

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 * 2**20
_ATTEMPTS = 5
_ALWAYS_FITS = 64 * 2**20  # Files of up to this size are read without a look at the memory of the machine.
_MAX_NAMES = 3
_REMEDY = "Copy the bundle again, or build it again."

Stamp = tuple[int, ...]
"""Size and times of change of a file, which every writer changes.

The inode is not part of it, because some network file systems invent a new one each time."""


@dataclass(frozen=True)
class Bundle:
    """A bundle folder that was checked against its manifest.

    Attributes:
        path: Bundle folder.
        manifest: Manifest of the bundle.
        trusted: True if the signature was verified with a trusted key.
        digest: sha256 of the manifest file in hexadecimal.
        contents: Contents of the assets by path, hashed when the bundle was opened. :meth:`release` removes them.
        stamps: Stamps of all files and inner folders by path, from before the files were hashed.
    """

    path: Path
    manifest: Manifest
    trusted: bool = False
    digest: str = ""
    contents: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    stamps: dict[str, Stamp] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return one line: path, task, number of variants, and size."""
        variants = len(self.manifest.variants)
        size = sum(file.size for file in self.manifest.files.values())
        return f"<Bundle {self.path}, {self.manifest.task}, {variants} variant(s), {size / 2**20:.1f} MB>"

    @property
    def size(self) -> int:
        """Size on disk in bytes, including the manifest."""
        return sum(f.size for f in self.manifest.files.values()) + (self.path / MANIFEST).stat().st_size

    def read(self, name: str) -> bytes:
        """Return the content of a file: exactly the bytes with the sha256 of the manifest.

        Args:
            name: Path of the file in the bundle.

        Raises:
            IntegrityError: If the manifest does not list the file, or it was altered since the bundle was opened.
        """
        content = self.contents.get(name)
        if content is not None:
            return content
        if name not in self.manifest.files:
            raise IntegrityError(f"{self.path} lacks the required file '{name}'. {_REMEDY}", code="bundle-file-missing")
        return _read_file(self.path / name, self.manifest.files[name])

    @property
    def assets(self) -> Asset:
        """Folder of the tokenizer and the settings of the task."""
        return Asset(self, "assets")

    def graph(self, name: str) -> GraphBytes:
        """Return a graph that is read when a backend loads it."""
        return GraphBytes((self.path / name).absolute(), lambda: self.read(name))

    def check_unchanged(self) -> None:
        """Refuse a bundle with a file that has changed since the bundle was opened.

        Raises:
            IntegrityError: If a file has changed.
        """
        for name, stamp in self.stamps.items():
            if _stamp(self.path, name) != stamp:
                raise IntegrityError(
                    f"{self.path / name} changed while the bundle was loaded. "
                    "Load the bundle again when no process writes there.",
                    code="bundle-changed",
                )

    def is_replaced(self) -> bool:
        """Return whether another bundle is in the folder by now."""
        with contextlib.suppress(OSError, IntegrityError):
            return _read_manifest(self.path)[1] != self.digest
        return False

    def release(self) -> None:
        """Free the file contents in memory. Later reads read and hash the files again."""
        self.contents.clear()


@dataclass(frozen=True)
class Asset:
    """A file or folder of a bundle with checked content (:class:`edgekit.spec.content.Content`).

    Attributes:
        bundle: Bundle of the asset.
        name: Path of the asset in the bundle.
    """

    bundle: Bundle
    name: str

    def __truediv__(self, name: str, /) -> Asset:
        """Return the asset ``name`` in this folder."""
        return Asset(self.bundle, f"{self.name}/{name}")

    def read_bytes(self) -> bytes:
        """Return the content of a file (:meth:`Bundle.read`)."""
        return self.bundle.read(self.name)

    def __str__(self) -> str:
        """Return the path on disk."""
        return str(self.bundle.path / self.name)


@takes_paths("path")
def open_bundle(path: str | Path, trust: Trust | None = None) -> Bundle:
    """Read a bundle and check it completely.

    Args:
        path: Bundle folder.
        trust: Trusted keys. None accepts unsigned bundles and any signer.

    Raises:
        FormatError: If the bundle has a newer format.
        IntegrityError: If the folder has no manifest; a file is missing, altered, truncated or not listed; there is a
            link or a path outside the bundle; or a graph differs from the manifest or is ambiguous. With ``trust``
            also: if there is no valid signature by a trusted key, others may write the folder, or the name or the
            version is not the required one.
        UsageError: If nothing is at the path, or something other than a bundle; or a trusted key cannot be read.
    """
    folder = Path(path)
    for _ in range(_ATTEMPTS - 1):
        recover(folder)
        before = _identity(folder)
        try:
            return _open(folder, trust)
        except (IntegrityError, UsageError, OSError):
            if before == _identity(folder):
                raise
            # Another bundle replaced this one in the meantime, so files of two bundles were read.
    return _open(folder, trust)


def open_written(path: str | Path) -> Bundle:
    """Read a scratch bundle that this run has written, without a check: its files were hashed when it was written.

    Args:
        path: Folder that no other process writes to. Never a bundle of a user.

    Raises:
        IntegrityError: If the folder has no manifest.
    """
    folder = Path(path)
    text, digest = _read_manifest(folder)
    return Bundle(folder, manifests.loads(text, str(folder / MANIFEST)), digest=digest)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a folder, or None if it does not exist."""
    with contextlib.suppress(OSError):
        state = folder.stat()
        return state.st_dev, state.st_ino
    return None


def _open(folder: Path, trust: Trust | None) -> Bundle:
    check_path(folder)
    if trust is not None:
        check_owners(folder)
    text, digest = _read_manifest(folder)
    bundle = Bundle(folder, manifests.loads(text, str(folder / MANIFEST)), digest=digest)
    _check_names(bundle)
    _check_contents(bundle)
    if trust is None:
        return bundle
    signature.check(folder, _digests(bundle), trust)
    signature.check_identity(folder, bundle.manifest, trust)
    return replace(bundle, trusted=True)


def _read_manifest(folder: Path) -> tuple[str, str]:
    """Return the text and the sha256 of a manifest."""
    file = folder / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(
            f"{folder} has no {MANIFEST}, which every bundle has. {_REMEDY}",
            code="bundle-no-manifest",
        )
    with file.open("rb") as stream:
        data = stream.read(_MAX_MANIFEST_BYTES + 1)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise IntegrityError(
            f"{file} has {file.stat().st_size} bytes, expected at most {_MAX_MANIFEST_BYTES}. "
            "The bundle is damaged: copy it again.",
            code="manifest-too-large",
        )
    try:
        return data.decode("utf-8"), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as problem:
        raise IntegrityError(
            f"{file} is not UTF-8 ({problem}). The bundle is damaged: copy it again.", code="manifest-invalid"
        ) from problem


@takes_paths("path", "key")
def sign(path: str | Path, key: str | Path, password: bytes | None = None) -> Path:
    """Check a bundle and sign it. The signature ``model.sig`` replaces an older one.

    Args:
        path: Bundle folder.
        key: Private key file (ECDSA P-256, PEM).
        password: Password of the key. None for a key that is not encrypted.

    Returns:
        The signature file.

    Raises:
        IntegrityError: If the bundle is not valid (:func:`open_bundle`).
        UsageError: If the key cannot be used.
        BuildError: If the signature cannot be written.
    """
    # EdgeKit 0.1 left this file in the bundle when it was killed while signing. Such a bundle cannot be opened.
    with contextlib.suppress(OSError):
        (Path(path) / f".{signature.FILE}.new").unlink()
    bundle = open_bundle(path)
    return signature.write(bundle.path, _digests(bundle), Path(key), password)


def _digests(bundle: Bundle) -> dict[str, str]:
    """Return the sha256 of all signed files: the manifest and the files that it lists."""
    return {MANIFEST: bundle.digest, **{name: file.sha256 for name, file in bundle.manifest.files.items()}}


def _check_names(bundle: Bundle) -> None:
    """Check that the folder contains exactly the files of the manifest."""
    listed = set(bundle.manifest.files)
    present = set(files_below(bundle.path)) - {MANIFEST, signature.FILE}
    if missing := sorted(listed - present):
        raise IntegrityError(
            f"Bundle {bundle.path} lacks {_join_names(missing)}, which its manifest lists. {_REMEDY}",
            code="bundle-file-missing",
        )
    if extra := sorted(present - listed):
        raise IntegrityError(
            f"Bundle {bundle.path} contains {_join_names(extra)}, which its manifest does not list. "
            "Remove the extra files, or copy the bundle again.",
            code="bundle-file-extra",
        )


def _check_contents(bundle: Bundle) -> None:
    """Hash every file and check the graphs. Assets stay in memory, so that they are read once."""
    manifest = bundle.manifest
    graphs = {path for variant in manifest.variants for path in variant.graphs.values()}
    # The bundle folder itself is not stamped, because a signature may be added at any time.
    folders = {str(folder) for name in manifest.files for folder in PurePosixPath(name).parents} - {"."}
    bundle.stamps.update({name: _stamp(bundle.path, name) for name in folders})
    for name, expected in manifest.files.items():
        bundle.stamps[name] = _stamp(bundle.path, name)
        if name in graphs:
            _check_graph(bundle, name, _read_file(bundle.path / name, expected))
        elif name.startswith("assets/"):
            bundle.contents[name] = _read_file(bundle.path / name, expected)
        else:
            with _open_file(bundle.path / name, expected) as handle:
                _check_digest(bundle.path / name, digest_of(handle), expected)


def _check_graph(bundle: Bundle, name: str, data: bytes) -> None:
    """Check a graph against the manifest."""
    try:
        agree.check_graph(name, data, bundle.manifest)
    except IntegrityError as problem:
        raise IntegrityError(
            f"The graph {name} of {bundle.path} cannot be trusted: {problem}. "
            "Do not load this bundle. Get it from its source again.",
            code="bundle-graph",
        ) from problem


def _stamp(bundle: Path, name: str) -> Stamp:
    try:
        state = (bundle / name).lstat()
    except OSError:
        return ()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _read_file(file: Path, expected: FileEntry) -> bytes:
    """Return the content of a file after a check of its sha256."""
    if expected.size > _ALWAYS_FITS and expected.size > memory_limit():
        raise IntegrityError(
            f"{file} has {expected.size / 2**20:.0f} MiB, more than the memory that this process may use "
            f"({memory_limit() / 2**20:.0f} MiB). Load the bundle on a larger machine, or build a smaller model.",
            code="bundle-exceeds-memory",
        )
    with _open_file(file, expected) as handle, open(handle, "rb", buffering=0, closefd=False) as stream:
        data = stream.read(expected.size + 1) or b""
    _check_digest(file, hashlib.sha256(data).hexdigest(), expected)
    return data


@contextlib.contextmanager
def _open_file(file: Path, expected: FileEntry) -> Iterator[int]:
    """Open a regular file with the size that the manifest lists, and yield its file descriptor."""
    not_regular = f"{file} is a link or not a regular file. A bundle contains regular files only. {_REMEDY}"
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # Without O_NONBLOCK, a pipe would block.
    except FileNotFoundError as problem:
        raise IntegrityError(f"{file} no longer exists. {_REMEDY}", code="bundle-file-missing") from problem
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):  # A link gives ELOOP, a socket ENXIO.
            raise IntegrityError(not_regular, code="bundle-file-kind") from problem
        raise IntegrityError(
            f"{file} cannot be read ({problem.strerror}). Check its permissions, or copy the bundle again.",
            code="bundle-unreadable",
        ) from problem
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise IntegrityError(not_regular, code="bundle-file-kind")
        if state.st_size != expected.size:
            raise IntegrityError(
                f"{file} has {state.st_size} bytes, expected {expected.size}: it was truncated or altered. {_REMEDY}",
                code="bundle-file-size",
            )
        yield handle
    finally:
        os.close(handle)


def _check_digest(file: Path, digest: str, expected: FileEntry) -> None:
    if digest != expected.sha256:
        raise IntegrityError(
            f"{file} does not have the sha256 that the manifest lists: it was altered. {_REMEDY}",
            code="bundle-file-altered",
        )


def _join_names(names: list[str]) -> str:
    text = ", ".join(f"'{n}'" for n in names[:_MAX_NAMES])
    if len(names) > _MAX_NAMES:
        text += f" and {len(names) - _MAX_NAMES} more"
    return text
