"""Build cache: results of build steps, by the digest of everything that they depend on.

An entry is a folder. It is filled under a temporary name and appears by rename, so a killed build leaves no incomplete
entry. The least recently used entries are removed when the cache exceeds its size limit. Entries contain graphs,
numbers and digests. They contain no texts of samples, except for the words of a vocabulary that was pruned to them.

Entries go into bundles, so only the current user may write the folder (mode 0700 where EdgeKit creates it), and an
entry lists the digests of its files. An altered entry is removed and built again, with a warning in the log. Users of
entries hold a shared lock on the folder (flock(2) on the folder itself, which the kernel releases when its holder
dies), and :meth:`Cache.clear` requires an exclusive lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.cache import owner_only as private
from edgekit.cache.owner_only import Damaged
from edgekit.spec.digests import files_below, sha256
from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.parsing import to_json

__all__ = ["Cache", "Entry", "key", "size_limit", "size_mb"]

_INDEX = "entry.json"
"""File of an entry that marks it as complete and lists its files."""
_NEW = ".new-"
_UNFINISHED = "under-way-"
_LOCK_DELAY_S = 5.0
"""Age in seconds below which a folder may not be locked yet. It is far longer than the time from creation to lock."""
_ENTRY = re.compile(rf"({_UNFINISHED})?[0-9a-f]{{64}}")
_FILES = "files"
"""Field of ``entry.json``: file name to sha256 and size."""
_DANGER = "Its content goes into bundles."
_MAX_NAMES = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Description of a cache entry, from its ``entry.json`` alone.

    Attributes:
        name: Name of the entry's folder.
        step: Name of the build step, e.g. ``static``, or ``under way`` for a long step that is not finished.
        about: Values that the entry depends on.
        size_mb: Size in MiB.
        created: Time of creation in seconds since 1970.
        used: Time of the last use, or of creation, in seconds since 1970.
    """

    name: str
    step: str
    about: Mapping[str, Any]
    size_mb: float
    created: float
    used: float


def key(**parts: object) -> str:
    """Return the digest of the values that a step depends on. They must be plain data."""
    return hashlib.sha256(to_json(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def size_limit(variable: str, default: float, limit_mb: float | None = None) -> float:
    """Return a size limit in MiB.

    Args:
        variable: Environment variable with the limit, used if ``limit_mb`` is None.
        default: Limit in MiB if the variable is not set.
        limit_mb: Explicit limit in MiB.

    Raises:
        UsageError: If the limit is not a number of at least 0.
    """
    setting: float | str
    if limit_mb is None:
        name = variable
        setting = os.environ.get(variable, str(default))
        remedy = f"Set it to e.g. {default:g} or unset it."
    else:
        name = "limit_mb"
        setting = limit_mb
        remedy = f"Give e.g. {default:g}."
    with contextlib.suppress(ValueError):
        limit = float(setting)
        if limit >= 0:  # NaN gives False.
            return limit
    raise UsageError(f"{name} is {setting!r}, expected a number of MiB. {remedy}", code="cache-size")


class Cache:
    """A folder of cache entries."""

    def __init__(self, root: Path | None = None, limit_mb: float | None = None) -> None:
        """Open a cache.

        Args:
            root: Cache folder. By default ``EDGEKIT_CACHE``, else ``XDG_CACHE_HOME/edgekit``, else
                ``~/.cache/edgekit``.
            limit_mb: Size in MiB above which old entries are removed. By default ``EDGEKIT_CACHE_MB``, else 8192.

        Raises:
            UsageError: If the limit is not a number.
        """
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.root = root or Path(os.environ.get("EDGEKIT_CACHE") or os.path.join(base, "edgekit"))
        self._used: set[str] = set()
        self._checked: set[str] = set()
        self._lock: int | None = None
        self.limit_mb = size_limit("EDGEKIT_CACHE_MB", 8192.0, limit_mb)

    def __del__(self) -> None:
        """Release the lock on the folder."""
        if self._lock is not None:
            os.close(self._lock)

    def find(self, digest: str) -> Path | None:
        """Return the folder of an entry, or None if there is none. The entry becomes the most recently used one.

        The first time, its files are compared with their digests. An altered entry is removed, with a warning in the
        log.

        Args:
            digest: Digest of the entry (:func:`key`).

        Raises:
            IntegrityError: If the cache folder is a link, or another user owns it or may write it.
        """
        folder = self.root / digest
        try:
            self._lock_shared(make=False)
            if not (folder / _INDEX).is_file():
                return None
            if digest not in self._checked:
                _verify(folder)
        except OSError:
            return None  # The build step that fills the entry reports the problem.
        except Damaged as problem:
            _log.warning(
                "The entry %s of the build cache was altered: %s. It is removed and will be built again.",
                folder,
                problem,
            )
            shutil.rmtree(folder, ignore_errors=True)
            return None
        self._used.add(digest)
        self._checked.add(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder

    def created_at(self, digest: str) -> float:
        """Return the time of creation of an existing entry, in seconds since 1970."""
        return (self.root / digest / _INDEX).stat().st_mtime

    def drop(self, digest: str) -> None:
        """Remove an entry that must not be used again."""
        self._used.discard(digest)
        self._checked.discard(digest)
        shutil.rmtree(self.root / digest, ignore_errors=True)

    def under_way(self, digest: str) -> Path:
        """Return a folder for the intermediate state of a long step, which can then be resumed after a kill.

        The step itself removes the folder when it has finished.

        Args:
            digest: Digest of the entry that the step fills.

        Raises:
            IntegrityError: If the cache folder is not safe (:meth:`find`).
        """
        self._lock_shared(make=True)
        folder = self.root / f"{_UNFINISHED}{digest}"
        folder.mkdir(0o700, exist_ok=True)
        self._used.add(folder.name)
        return folder

    @contextlib.contextmanager
    def fill(self, digest: str, made_from: Mapping[str, object]) -> Iterator[Path]:
        """Create an entry from the files that the block writes.

        Args:
            digest: Digest of the entry.
            made_from: Values that the entry depends on, stored for people who inspect the cache.

        Yields:
            An empty folder. It becomes the entry if the block ends without an exception.

        Raises:
            BuildError: If the disk is full or not writable.
            IntegrityError: If the cache folder is not safe (:meth:`find`).
        """
        import fcntl

        try:
            self._lock_shared(make=True)
            self._remove_abandoned()
            folder = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.root))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)  # It tells other builds that this one is running.
        except OSError as problem:
            raise BuildError(
                f"The build cache {self.root} cannot be written ({problem.strerror}). "
                "Free space there, or set EDGEKIT_CACHE to another folder.",
                code="cache-not-writable",
            ) from problem
        try:
            yield folder
            files = {name: [sha256(folder / name), (folder / name).stat().st_size] for name in files_below(folder)}
            index = to_json({**made_from, "key": digest, _FILES: files}, indent=2, sort_keys=True)
            (folder / _INDEX).write_text(index, "utf-8")
            final = self.root / digest
            if (final / _INDEX).is_file():
                return  # Another process has created the same entry in the meantime.
            shutil.rmtree(final, ignore_errors=True)
            try:
                folder.rename(final)
            except OSError:
                if not (final / _INDEX).is_file():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            self._used.add(digest)
            self._shrink()

    def entries(self) -> list[Entry]:
        """Return all entries and unfinished long steps, the most recently used first.

        Raises:
            IntegrityError: If the cache folder is not safe (:meth:`find`).
        """
        entries = []
        for folder in self._folders():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                entries.append(_read_entry(folder))
        return sorted(entries, key=lambda entry: -entry.used)

    def clear(self, older_than_s: float = 0.0) -> tuple[int, float]:
        """Remove entries, unfinished long steps and files of killed builds.

        Args:
            older_than_s: Minimum time since the last use in seconds.

        Returns:
            The number of removed folders, and their size in MiB.

        Raises:
            UsageError: If a build is using the cache.
            IntegrityError: If the cache folder is not safe (:meth:`find`).
        """
        import fcntl

        count = 0
        total_mb = 0.0
        with contextlib.suppress(FileNotFoundError), private.open_folder(self.root, danger=_DANGER) as root:
            try:
                fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise UsageError(
                    f"A build is using the cache {self.root}. Nothing was removed. Clear it when the build has ended.",
                    code="cache-busy",
                ) from problem
            for folder in self._folders(abandoned=True):
                folder_mb = size_mb(folder)
                if time.time() - folder.stat().st_mtime >= older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)
                    count += 1
                    total_mb += folder_mb
        return count, total_mb

    def _folders(self, abandoned: bool = False) -> list[Path]:
        """Return the folders of entries.

        The cache folder also contains races and compiled engines, which are not entries.

        Args:
            abandoned: Flag to include the folders of killed builds.
        """
        folders = []
        with contextlib.suppress(FileNotFoundError), private.open_folder(self.root, danger=_DANGER):
            for path in self.root.iterdir():
                is_entry = _ENTRY.fullmatch(path.name) or (abandoned and path.name.startswith(_NEW))
                if is_entry and not path.is_symlink() and path.is_dir():
                    folders.append(path)
        return folders

    def _lock_shared(self, *, make: bool) -> None:
        """Check the owner of the folder, and hold a shared lock on it for the lifetime of this object."""
        import fcntl

        with private.open_folder(self.root, make=make, danger=_DANGER) as folder:
            if self._lock is None:
                lock = os.dup(folder)
                fcntl.flock(lock, fcntl.LOCK_SH)
                self._lock = lock

    def _remove_abandoned(self) -> None:
        """Remove the folders of killed builds, which are those that no process has locked."""
        import fcntl

        for folder in self.root.glob(f"{_NEW}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < _LOCK_DELAY_S:
                    continue
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    def _shrink(self) -> None:
        """Remove the least recently used entries until the cache is within its limit.

        Entries that this object has returned or filled stay, because the running build still reads them. Races and
        compiled engines in the same folder stay too: they have no limit or their own.
        """
        entries = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(OSError):
                used = folder.stat().st_mtime
                if _ENTRY.fullmatch(folder.name) and folder.is_dir():
                    entries.append((used, size_mb(folder), folder))
        total_mb = sum(folder_mb for _, folder_mb, _ in entries)
        for _, folder_mb, folder in sorted(entries, key=lambda entry: entry[0]):
            if total_mb <= self.limit_mb:
                break
            if folder.name not in self._used:
                shutil.rmtree(folder, ignore_errors=True)
                total_mb -= folder_mb


def _read_entry(folder: Path) -> Entry:
    """Return the description of an entry or of an unfinished step."""
    used = folder.stat().st_mtime
    if folder.name.startswith(_UNFINISHED):
        return Entry(folder.name, "under way", {}, size_mb(folder), used, used)
    about = json.loads((folder / _INDEX).read_text("utf-8"))
    created = (folder / _INDEX).stat().st_mtime
    return Entry(folder.name, str(about.get("step", "under way")), about, size_mb(folder), created, used)


def _verify(folder: Path) -> None:
    """Compare an entry with its list of files.

    Raises:
        Damaged: If the entry differs from its list.
        FileNotFoundError: If it was removed in the meantime.
    """
    state = os.lstat(folder)
    is_writable = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or is_writable:
        raise Damaged("it is a link, belongs to another user, or may be written by others")
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        if index["key"] != folder.name:
            raise Damaged("it is another entry under this name")
        expected = {name: (str(digest), int(size)) for name, (digest, size) in index[_FILES].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise Damaged("its list of files cannot be read") from problem
    different = (set(files_below(folder)) - {_INDEX}) ^ set(expected)
    if different:
        raise Damaged(f"its files differ from its list ({', '.join(sorted(different)[:_MAX_NAMES])})")
    for name, (digest, size) in expected.items():
        file = folder / name
        try:
            is_same = stat.S_ISREG(os.lstat(file).st_mode) and file.stat().st_size == size and sha256(file) == digest
        except OSError as problem:
            raise Damaged(f"{name} cannot be read ({problem.strerror})") from problem
        if not is_same:
            raise Damaged(f"{name} has other content than was written")


def size_mb(folder: Path) -> float:
    """Return the size of all files in a folder in MiB. Files that are unreadable or removed meanwhile do not count."""
    size = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(root, name)).st_size
    return size / 2**20
