"""Nothing of a bundle reaches a backend before its bytes are what the manifest says.

So a bundle is checked whole: every listed file has its size and sha256, no other file is there, nothing is a link, every graph reads nothing
but its weights inside, and takes and gives what the manifest states. Graphs, tokenizer and settings are then used as the bytes that were
hashed: those that the opening kept, or of a file that is read and hashed again (:meth:`Bundle.read`). What a backend reads by itself is the
weights, because a copy of them would double the memory of a start, and with OpenVINO, which takes no bytes of a graph whose weights lie beside
it, the graph too; :meth:`Bundle.check_unchanged` tells afterwards whether they are still the files that were hashed.
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
from edgekit.bundle import agree, onnx_reader, signature
from edgekit.bundle.place import recover
from edgekit.bundle.signature import Trust
from edgekit.spec import manifest as manifests
from edgekit.spec.digests import digest_of, files_below
from edgekit.spec.errors import IntegrityError
from edgekit.spec.manifest import FileEntry, Manifest
from edgekit.spec.paths import takes_paths

__all__ = ["MANIFEST", "Asset", "Bundle", "Stamp", "check_owners", "open_bundle", "open_written", "sign"]

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 * 2**20
_CHUNK = 2**20
_TRIES = 5
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_AGAIN = "Copy the bundle again, or build it again."

Stamp = tuple[int, ...]
"""Size and times of change of a file: what no writer leaves as it was. Not its inode, which some network file systems make up each time."""


@dataclass(frozen=True)
class Bundle:
    """A folder that was checked against its manifest.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
        trusted: its signature was asked for, and is of a key that is trusted.
        digest: sha256 of the manifest's file, in hex.
        kept: contents of the assets, which were hashed when it was opened, until :meth:`release`.
        stamps: of all files and of their folders, from before they were hashed.
    """

    path: Path
    manifest: Manifest
    trusted: bool = False
    digest: str = ""
    kept: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    stamps: dict[str, Stamp] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return one line: path, task, number of variants, and size."""
        variants, size = len(self.manifest.variants), sum(file.size for file in self.manifest.files.values())
        return f"<Bundle {self.path}, {self.manifest.task}, {variants} variant(s), {size / 2**20:.1f} MB>"

    @property
    def size(self) -> int:
        """Bytes on disk, the manifest included."""
        return sum(f.size for f in self.manifest.files.values()) + (self.path / MANIFEST).stat().st_size

    def read(self, name: str) -> bytes:
        """Content of a file: the very bytes that have the sha256 of the manifest.

        Raises:
            IntegrityError: when the manifest does not list it, or it was altered since the bundle was opened.
        """
        content = self.kept.get(name)
        if content is not None:
            return content
        if name not in self.manifest.files:
            raise IntegrityError(
                f"{self.path} has no file '{name}', which it needs. {_AGAIN}", code="bundle-file-missing"
            )
        return _read(self.path / name, self.manifest.files[name])

    @property
    def assets(self) -> Asset:
        """The folder of the tokenizer and the task's settings."""
        return Asset(self, "assets")

    def graph(self, name: str) -> GraphBytes:
        """A graph, to be read when a backend loads it."""
        return GraphBytes((self.path / name).absolute(), lambda: self.read(name))

    def check_unchanged(self) -> None:
        """Refuses a bundle whose files are not those any more that were hashed when it was opened.

        Raises:
            IntegrityError: with the file.
        """
        for name, stamp in self.stamps.items():
            if _stamp(self.path, name) != stamp:
                raise IntegrityError(
                    f"{self.path / name} changed while the bundle was loaded. Load it again when nobody writes there.",
                    code="bundle-changed",
                )

    def is_replaced(self) -> bool:
        """Whether another bundle is in its place by now."""
        with contextlib.suppress(OSError, IntegrityError):
            return _manifest(self.path)[1] != self.digest
        return False

    def release(self) -> None:
        """Frees what the opening kept in memory; what is read afterwards is read and hashed again."""
        self.kept.clear()


@dataclass(frozen=True)
class Asset:
    """A file or folder of a bundle, as bytes that were checked; see :class:`edgekit.spec.content.Content`."""

    bundle: Bundle
    name: str

    def __truediv__(self, name: str, /) -> Asset:
        """What has this name in it."""
        return Asset(self.bundle, f"{self.name}/{name}")

    def read_bytes(self) -> bytes:
        """All of a file; raises as :meth:`Bundle.read`."""
        return self.bundle.read(self.name)

    def __str__(self) -> str:
        """Its path."""
        return str(self.bundle.path / self.name)


@takes_paths("path")
def open_bundle(path: str | Path, trust: Trust | None = None) -> Bundle:
    """Reads a bundle and checks all of it.

    Args:
        path: its folder.
        trust: whose bundles may be opened; None for anybody's.

    Raises:
        FormatError: for a bundle of a newer format.
        IntegrityError: for a folder that is no bundle; a missing, altered, truncated or extra file; a link; a path that leaves the bundle; a
            graph that is not what the manifest states, or that readers could read differently; a signature that is missing, altered, or of
            nobody who is trusted; with ``trust``, a folder that others may write, or a bundle of another name or an older version.
        UsageError: when a key that is trusted cannot be read.
    """
    folder = Path(path)
    for _ in range(_TRIES - 1):
        recover(folder)
        before = _identity(folder)
        try:
            return _open(folder, trust)
        except (IntegrityError, OSError):
            if before == _identity(folder):
                raise
            # Another bundle took its place meanwhile, so these files were of two.
    return _open(folder, trust)


def open_written(path: str | Path) -> Bundle:
    """Reads a scratch bundle that this very run has written, and checks nothing of it: its files were hashed when it was written.

    Args:
        path: folder that nobody else writes to; never a bundle of a user.

    Raises:
        IntegrityError: for a folder without a manifest.
    """
    folder = Path(path)
    text, digest = _manifest(folder)
    return Bundle(folder, manifests.loads(text, str(folder / MANIFEST)), digest=digest)


def _identity(folder: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        there = folder.stat()
        return there.st_dev, there.st_ino
    return None


def _open(folder: Path, trust: Trust | None) -> Bundle:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise IntegrityError(
            f"Bundle {folder} {what}, expected a folder with a {MANIFEST}. Make one with: edgekit build MODEL -o {folder}",
            code="bundle-not-found",
        )
    if trust is not None:
        check_owners(folder)
    text, digest = _manifest(folder)
    bundle = Bundle(folder, manifests.loads(text, str(folder / MANIFEST)), digest=digest)
    _check_names(bundle)
    _check_contents(bundle)
    if trust is None:
        return bundle
    signature.check(folder, _digests(bundle), trust)
    signature.check_identity(folder, bundle.manifest, trust)
    return replace(bundle, trusted=True)


def _manifest(folder: Path) -> tuple[str, str]:
    """Text and sha256 of a manifest."""
    file = folder / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(
            f"{folder} has no {MANIFEST}, so it is not a bundle. Make one with: edgekit build MODEL -o OUT",
            code="bundle-no-manifest",
        )
    with file.open("rb") as stream:
        data = stream.read(_MANIFEST_LIMIT + 1)
    if len(data) > _MANIFEST_LIMIT:
        raise IntegrityError(
            f"{file} has {file.stat().st_size} bytes, expected at most {_MANIFEST_LIMIT}. The bundle is damaged: copy it again.",
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
    """Checks a bundle and signs it; returns the signature's file, ``model.sig`` in the bundle, in place of an older one.

    Args:
        path: of the bundle.
        key: private key, ECDSA P-256, PEM.
        password: of the key, where it is encrypted.

    Raises:
        IntegrityError: as :func:`open_bundle`: what is not whole is not signed.
        UsageError: when the key cannot be used.
        BuildError: when the signature cannot be written.
    """
    with contextlib.suppress(
        OSError
    ):  # what ``sign`` of EdgeKit 0.1 left inside when it was killed, and which nothing opens since
        (Path(path) / f".{signature.FILE}.new").unlink()
    bundle = open_bundle(path)
    return signature.write(bundle.path, _digests(bundle), Path(key), password)


def _digests(bundle: Bundle) -> dict[str, str]:
    """Of all files that a signature is of: those of the manifest, which were checked, and the manifest."""
    return {MANIFEST: bundle.digest, **{name: file.sha256 for name, file in bundle.manifest.files.items()}}


def _check_names(bundle: Bundle) -> None:
    listed = bundle.manifest.files
    present = set(files_below(bundle.path)) - {MANIFEST, signature.FILE}
    if missing := sorted(set(listed) - present):
        raise IntegrityError(
            f"Bundle {bundle.path} lacks {_some(missing)}, which its manifest lists. {_AGAIN}",
            code="bundle-file-missing",
        )
    if extra := sorted(present - set(listed)):
        raise IntegrityError(
            f"Bundle {bundle.path} holds {_some(extra)}, which its manifest does not list. Remove what was added, or copy the bundle again.",
            code="bundle-file-extra",
        )


def _check_contents(bundle: Bundle) -> None:
    """Hashes every file. Graphs and assets stay in memory, so that they are read once."""
    manifest = bundle.manifest
    graphs = dict.fromkeys(path for variant in manifest.variants for path in variant.graphs.values())
    # Of the folders inside. Not of the bundle's own: a signature may come into it at any time.
    folders = {str(folder) for name in manifest.files for folder in PurePosixPath(name).parents} - {"."}
    bundle.stamps.update({name: _stamp(bundle.path, name) for name in folders})
    for name, expected in manifest.files.items():
        bundle.stamps[name] = _stamp(bundle.path, name)
        if name in graphs:
            _check_graph(bundle, name, _read(bundle.path / name, expected))
        elif name.startswith("assets/"):
            bundle.kept[name] = _read(bundle.path / name, expected)
        else:
            with _opened(bundle.path / name, expected) as handle:
                _check_digest(bundle.path / name, digest_of(handle), expected)


def _check_graph(bundle: Bundle, name: str, data: bytes) -> None:
    manifest = bundle.manifest
    try:
        facts = onnx_reader.read(data)
        agree.check_external(name, facts, manifest.files)
        for stated in manifest.signatures:
            if any(variant.graphs[stated.name] == name for variant in manifest.variants):
                agree.check_signature(facts, stated)
    except IntegrityError as problem:
        remedy = "Do not load this bundle; get it from its source again."
        raise IntegrityError(
            f"The graph {name} of {bundle.path} cannot be trusted: {problem}. {remedy}", code="bundle-graph"
        ) from problem


def _stamp(bundle: Path, name: str) -> Stamp:
    try:
        there = (bundle / name).lstat()
    except OSError:
        return ()
    return there.st_size, there.st_mtime_ns, there.st_ctime_ns


def _read(file: Path, expected: FileEntry) -> bytes:
    """Content of a file, once its sha256 was compared."""
    with _opened(file, expected) as handle, open(handle, "rb", buffering=0, closefd=False) as stream:
        data = stream.read(expected.size + 1) or b""
    _check_digest(file, hashlib.sha256(data).hexdigest(), expected)
    return data


@contextlib.contextmanager
def _opened(file: Path, expected: FileEntry) -> Iterator[int]:
    """A handle of a plain file of the size that the manifest lists."""
    plain = f"{file} is a link or not a plain file. A bundle holds plain files only. {_AGAIN}"
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its writer
    except FileNotFoundError as problem:
        raise IntegrityError(f"{file} is there no more. {_AGAIN}", code="bundle-file-missing") from problem
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise IntegrityError(plain, code="bundle-file-kind") from problem
        raise IntegrityError(
            f"{file} cannot be read ({problem.strerror}). Check its permissions, or copy the bundle again.",
            code="bundle-unreadable",
        ) from problem
    try:
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode):
            raise IntegrityError(plain, code="bundle-file-kind")
        if there.st_size != expected.size:
            raise IntegrityError(
                f"{file} has {there.st_size} bytes, expected {expected.size}: it was truncated or altered. {_AGAIN}",
                code="bundle-file-size",
            )
        yield handle
    finally:
        os.close(handle)


def _check_digest(file: Path, digest: str, expected: FileEntry) -> None:
    if digest != expected.sha256:
        raise IntegrityError(
            f"{file} does not have the sha256 that the manifest lists: it was altered. {_AGAIN}",
            code="bundle-file-altered",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_owners(bundle: Path) -> None:
    """Refuses a folder that somebody else than this user and root may write, in whole or in part.

    As ssh asks of its keys, every folder up to the root counts, since who may rename one may put another in its place. A folder with the sticky bit
    (``/tmp``) may be above it: there nobody renames what belongs to another.

    Args:
        bundle: its folder.

    Raises:
        IntegrityError: with the file or folder, who owns it and its mode.
    """
    folder = Path(os.path.realpath(bundle))
    _check_owner(folder, inside=True)
    for above in folder.parents:
        _check_owner(above, inside=False)
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _check_owner(Path(root) / name, inside=True)


def _check_owner(path: Path, *, inside: bool) -> None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return  # whoever reads it next says so
    except OSError as problem:
        raise IntegrityError(
            f"{path} cannot be looked at ({problem.strerror}), so who may write it is not known. Check its permissions.",
            code="bundle-unreadable",
        ) from problem
    remedy = "With trust, a bundle lies where this user and root alone may write."
    if there.st_uid not in (0, os.geteuid()):
        raise IntegrityError(
            f"{path} belongs to user {there.st_uid}, expected user {os.geteuid()} or root. {remedy} Copy the bundle elsewhere, or run: chown",
            code="bundle-owner",
        )
    if stat.S_ISLNK(there.st_mode):
        return  # has no mode of its own; a bundle that holds one is refused
    if there.st_mode & _OTHERS and not (not inside and there.st_mode & stat.S_ISVTX):
        mode = f"{stat.S_IMODE(there.st_mode):04o}"
        raise IntegrityError(
            f"{path} may be written by others (mode {mode}). {remedy} Run: chmod {'-R ' if inside else ''}go-w {path}",
            code="bundle-writable",
        )
