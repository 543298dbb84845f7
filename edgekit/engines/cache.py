"""What was made before, by the digest of everything it was made from.

An entry is a folder. It is filled under another name in the same place and appears by rename, so that a build which is
killed leaves nothing that a later one could take for whole. The least recently used entries go when the cache is over
its size. Entries hold graphs, numbers and digests; never a text of the samples, but for a vocabulary that was trimmed to their words.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.parsing import to_json

_DONE = "entry.json"
_LIMIT_MB = 8192.0
_ABANDONED_S = 24 * 3600.0
_ENTRY = re.compile(r"(under-way-)?[0-9a-f]{64}")


def key(**parts: object) -> str:
    """Digest of what a step depends on; parts must be plain data."""
    return hashlib.sha256(to_json(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


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


class Cache:
    """A folder of entries."""

    def __init__(self, root: Path | None = None, limit_mb: float | None = None) -> None:
        """Opens a cache.

        Args:
            root: where; by default ``EDGEKIT_CACHE``, else ``XDG_CACHE_HOME/edgekit``, else ``~/.cache/edgekit``.
            limit_mb: size above which old entries go; by default ``EDGEKIT_CACHE_MB``, else 8192.

        Raises:
            UsageError: when ``EDGEKIT_CACHE_MB`` is not a number.
        """
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.root = root or Path(os.environ.get("EDGEKIT_CACHE") or os.path.join(base, "edgekit"))
        setting = os.environ.get("EDGEKIT_CACHE_MB", str(_LIMIT_MB))
        self._used: set[str] = set()
        try:
            self.limit_mb = float(setting) if limit_mb is None else limit_mb
            if not self.limit_mb >= 0:  # NaN is not either
                raise ValueError(setting)
        except ValueError as problem:
            raise UsageError(f"EDGEKIT_CACHE_MB is {setting!r}, expected a number of MiB. Set it to e.g. 8192 or unset it.") from problem

    def find(self, digest: str) -> Path | None:
        """The entry of this digest, or None. A find makes the entry the most recently used."""
        folder = self.root / digest
        if not (folder / _DONE).is_file():
            return None
        self._used.add(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder

    def under_way(self, digest: str) -> Path:
        """A folder that stays when its maker is killed, for a long step that can go on; the maker removes it at the end."""
        folder = self.root / f"under-way-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        self._used.add(folder.name)
        return folder

    @contextlib.contextmanager
    def fill(self, digest: str, made_from: Mapping[str, object]) -> Iterator[Path]:
        """Gives an empty folder to fill; when the block ends well it becomes the entry.

        Args:
            digest: of the entry.
            made_from: what it was made from, kept beside it for people who look into the cache.

        Raises:
            BuildError: when the disk is full or cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        except OSError as problem:
            remedy = "Free space there, or set EDGEKIT_CACHE to another folder."
            raise BuildError(f"The build cache {self.root} cannot be written ({problem.strerror}). {remedy}") from problem
        try:
            yield folder
            (folder / _DONE).write_text(to_json(dict(made_from), indent=2, sort_keys=True), "utf-8")
            final = self.root / digest
            if (final / _DONE).is_file():
                return  # another process was faster with the same thing
            shutil.rmtree(final, ignore_errors=True)
            try:
                folder.rename(final)
            except OSError:
                if not (final / _DONE).is_file():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._used.add(digest)
            self._shrink()

    def _shrink(self) -> None:
        """Removes the least recently used entries until the cache is within its limit, and what killed builds left.

        Entries that were found or filled through this object stay: the build at work still reads them. So does all that is no entry:
        the folder is also that of races and compiled engines, which have limits of their own or none.
        """
        entries = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(OSError):
                used = folder.stat().st_mtime
                if folder.name.startswith(".new-"):
                    if time.time() - used > _ABANDONED_S:
                        shutil.rmtree(folder, ignore_errors=True)
                elif _ENTRY.fullmatch(folder.name) and folder.is_dir():
                    entries.append((used, _size_mb(folder), folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries, key=lambda e: e[0]):
            if total <= self.limit_mb:
                break
            if folder.name not in self._used:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def _size_mb(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20
