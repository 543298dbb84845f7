"""Nothing of a bundle reaches a backend before its bytes are what the manifest says.

Backends open files by paths that are written inside other files. So a bundle is checked whole: every listed file has
its size and sha256, no other file is there, nothing is a link, and the external data of every ONNX graph lies inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgekit.engines import signature
from edgekit.engines._external import locations
from edgekit.engines.place import recover
from edgekit.engines.signature import Trust
from edgekit.spec import manifest as manifests
from edgekit.spec.errors import IntegrityError
from edgekit.spec.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 * 2**20
_CHUNK = 2**20
_TRIES = 5


@dataclass(frozen=True)
class Bundle:
    """A folder that was checked against its manifest.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
        trusted: its signature was asked for, and is of a key that is trusted.
    """

    path: Path
    manifest: Manifest
    trusted: bool = False

    @property
    def size(self) -> int:
        """Bytes on disk, the manifest included."""
        return sum(f.size for f in self.manifest.files.values()) + (self.path / MANIFEST).stat().st_size


def sha256(path: Path) -> str:
    """Digest of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def entry(path: Path) -> FileEntry:
    """Size and digest of a file, for a manifest."""
    return FileEntry(sha256(path), path.stat().st_size)


def files_below(folder: Path) -> list[str]:
    """Paths of everything below a folder that is not itself a folder, relative, with forward slashes, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        linked = [d for d in folders if (Path(root) / d).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in files + linked]
    return sorted(found)


def open_bundle(path: str | Path, trust: Trust | None = None) -> Bundle:
    """Reads a bundle and checks all of it.

    Args:
        path: its folder.
        trust: whose bundles may be opened; None for anybody's.

    Raises:
        FormatError: for a bundle of a newer format.
        IntegrityError: for a folder that is no bundle; a missing, altered, truncated or extra file; a link; a path that leaves the bundle;
            a signature that is missing, altered, or of nobody who is trusted.
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


def _identity(folder: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        there = folder.stat()
        return there.st_dev, there.st_ino
    return None


def _open(folder: Path, trust: Trust | None) -> Bundle:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise IntegrityError(f"Bundle {folder} {what}, expected a folder with a {MANIFEST}. Make one with: edgekit build MODEL -o {folder}")
    file = folder / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(f"{folder} has no {MANIFEST}, so it is not a bundle. Make one with: edgekit build MODEL -o OUT")
    if file.stat().st_size > _MANIFEST_LIMIT:
        raise IntegrityError(f"{file} has {file.stat().st_size} bytes, expected at most {_MANIFEST_LIMIT}. The bundle is damaged: copy it again.")
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as problem:
        raise IntegrityError(f"{file} is not UTF-8 ({problem}). The bundle is damaged: copy it again.") from problem
    bundle = Bundle(folder, manifests.loads(text, str(file)))
    _check_files(bundle)
    _check_graphs(bundle)
    if trust is None:
        return bundle
    signature.check(folder, _digests(bundle), trust)
    return replace(bundle, trusted=True)


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
    _forget_old_temporary(Path(path))
    bundle = open_bundle(path)
    return signature.write(bundle.path, _digests(bundle), Path(key), password)


def _forget_old_temporary(folder: Path) -> None:
    """Removes what ``sign`` of EdgeKit 0.1 left inside of a bundle when it was killed, and which nothing opens since."""
    with contextlib.suppress(OSError):
        (folder / f".{signature.FILE}.new").unlink()


def _digests(bundle: Bundle) -> dict[str, str]:
    """Of all files that a signature is of: those of the manifest, which were checked, and the manifest."""
    return {MANIFEST: sha256(bundle.path / MANIFEST), **{name: file.sha256 for name, file in bundle.manifest.files.items()}}


def _check_files(bundle: Bundle) -> None:
    listed = bundle.manifest.files
    present = set(files_below(bundle.path)) - {MANIFEST, signature.FILE}
    again = "Copy the bundle again, or build it again."
    if missing := sorted(set(listed) - present):
        raise IntegrityError(f"Bundle {bundle.path} lacks {_some(missing)}, which its manifest lists. {again}")
    if extra := sorted(present - set(listed)):
        raise IntegrityError(f"Bundle {bundle.path} holds {_some(extra)}, which its manifest does not list. Remove what was added, or copy the bundle again.")
    for name, expected in listed.items():
        file = bundle.path / name
        if file.is_symlink() or not file.is_file():
            raise IntegrityError(f"{file} is a link or not a plain file. A bundle holds plain files only. {again}")
        size = file.stat().st_size
        if size != expected.size:
            raise IntegrityError(f"{file} has {size} bytes, expected {expected.size}: it was truncated or altered. {again}")
        if sha256(file) != expected.sha256:
            raise IntegrityError(f"{file} does not have the sha256 that the manifest lists: it was altered. {again}")


def _check_graphs(bundle: Bundle) -> None:
    """Refuses a graph that names a file which the manifest does not list, before a backend follows the name."""
    for name in {path for variant in bundle.manifest.variants for path in variant.graphs.values()}:
        try:
            for location in locations((bundle.path / name).read_bytes()):
                manifests.check_inside(location, f"{bundle.path / name}")
                if (PurePosixPath(name).parent / location).as_posix() not in bundle.manifest.files:
                    raise IntegrityError(f"it names the file {location!r}, which the manifest does not list")
        except IntegrityError as problem:
            remedy = "Do not load this bundle; get it from its source again."
            raise IntegrityError(f"The graph {name} of {bundle.path} cannot be trusted: {problem}. {remedy}") from problem


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
