"""Digests of files, of folders and of EdgeKit's own code."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["code_digest", "digest_of", "files_below", "sha256"]

_CHUNK = 2**20


def sha256(path: Path) -> str:
    """Digest of a file in hex, read in pieces."""
    with path.open("rb", buffering=0) as stream:
        return digest_of(stream.fileno())


def digest_of(handle: int) -> str:
    """Digest of an open file in hex, read in pieces; the handle stays open."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with open(handle, "rb", buffering=0, closefd=False) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def files_below(folder: Path) -> list[str]:
    """Paths of everything below a folder that is not itself a folder, relative, with forward slashes, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        linked = [d for d in folders if (Path(root) / d).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in files + linked]
    return sorted(found)


def code_digest(*parts: str) -> str:
    """Digest of EdgeKit's own code: another version never takes what this one has made.

    Args:
        parts: files and folders of the package that count; all of it where none is named.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        if parts and file.relative_to(package).parts[0] not in parts:
            continue
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
