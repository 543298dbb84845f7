"""Digests of files, of folders and of the code of EdgeKit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["code_digest", "digest_of", "files_below", "sha256"]

_CHUNK = 2**20


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hex, read in chunks."""
    with path.open("rb", buffering=0) as stream:
        return digest_of(stream.fileno())


def digest_of(handle: int) -> str:
    """Return the sha256 of an open file in hex, read in chunks. The handle stays open."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with open(handle, "rb", buffering=0, closefd=False) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files and links below a folder: relative, with forward slashes, sorted."""
    paths = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        paths += [(Path(root) / name).relative_to(folder).as_posix() for name in files + links]
    return sorted(paths)


def code_digest(*parts: str) -> str:
    """Return the sha256 of the code of EdgeKit, as a cache key: no version uses cache entries of another one.

    Args:
        parts: Files and folders of the package to include; all if none is named.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        if parts and file.relative_to(package).parts[0] not in parts:
            continue
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
