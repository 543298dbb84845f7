"""What was made before, by the digest of everything it was made from.

An entry is a folder. It is filled under another name in the same place and appears by rename, so that a build which is
killed leaves nothing that a later one could take for whole. The least recently used entries go when the cache is over
its size. Entries hold graphs, numbers and digests; never a text of the samples, but for a vocabulary that was trimmed to their words.

What is in an entry goes into bundles, so the folder belongs to one user alone (mode 0700 where EdgeKit makes it), and an entry lists the digests of its
files: one that was altered is removed and made again, with a line in the log. Whoever uses entries holds a shared lock on the folder (flock(2) on the
folder itself, which the kernel frees when its holder dies); ``clear`` asks for the whole of it.
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

_DONE = "entry.json"
_NEW = ".new-"
_UNLOCKED_S = 5.0  # far longer than from the making of a folder to its lock
_ENTRY = re.compile(r"(under-way-)?[0-9a-f]{64}")
_FILES = "files"  # of an entry's own file: name to sha256 and size
_DANGER = "What it holds goes into bundles."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """An entry of the cache, as its own file tells it; nothing of it was read beside that.

    Attributes:
        name: of its folder.
        step: what was made, e.g. ``static``; ``under way`` for a long step that is not at its end.
        about: what it was made from.
        size_mb: MiB.
        made: seconds since 1970.
        used: when it was made or last found, seconds since 1970.
    """

    name: str
    step: str
    about: Mapping[str, Any]
    size_mb: float
    made: float
    used: float


def key(**parts: object) -> str:
    """Digest of what a step depends on; parts must be plain data."""
    return hashlib.sha256(to_json(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def size_limit(variable: str, usual: float, given: float | None = None) -> float:
    """A limit in MiB: as given, else as a user may set it in the environment.

    Raises:
        UsageError: when it is not a number of at least 0.
    """
    name, setting = (variable, os.environ.get(variable, str(usual))) if given is None else ("limit_mb", given)
    with contextlib.suppress(ValueError):
        if (limit := float(setting)) >= 0:  # NaN is not
            return limit
    remedy = f"Set it to e.g. {usual:g} or unset it." if given is None else f"Give e.g. {usual:g}."
    raise UsageError(f"{name} is {setting!r}, expected a number of MiB. {remedy}", code="cache-size")


class Cache:
    """A folder of entries."""

    def __init__(self, root: Path | None = None, limit_mb: float | None = None) -> None:
        """Opens a cache.

        Args:
            root: where; by default ``EDGEKIT_CACHE``, else ``XDG_CACHE_HOME/edgekit``, else ``~/.cache/edgekit``.
            limit_mb: size above which old entries go; by default ``EDGEKIT_CACHE_MB``, else 8192.

        Raises:
            UsageError: when the limit is not a number.
        """
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.root = root or Path(os.environ.get("EDGEKIT_CACHE") or os.path.join(base, "edgekit"))
        self._used: set[str] = set()
        self._checked: set[str] = set()
        self._held: int | None = None
        self.limit_mb = size_limit("EDGEKIT_CACHE_MB", 8192.0, limit_mb)

    def __del__(self) -> None:
        """Lets go of the folder."""
        if self._held is not None:
            os.close(self._held)

    def find(self, digest: str) -> Path | None:
        """The entry of this digest, or None. A find makes the entry the most recently used.

        Its files are read and compared with their digests the first time. An entry that was altered is removed; a line in the log says so.

        Raises:
            IntegrityError: when the folder is another user's, a link, or may be written by others.
        """
        folder = self.root / digest
        try:
            self._hold(make=False)
            if not (folder / _DONE).is_file():
                return None
            if digest not in self._checked:
                _verify(folder)
        except OSError:
            return None  # whoever fills it is told why
        except Damaged as problem:
            _log.warning(
                "The entry %s of the build cache was altered: %s. It is removed, and made again.", folder, problem
            )
            shutil.rmtree(folder, ignore_errors=True)
            return None
        self._used.add(digest)
        self._checked.add(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder

    def made(self, digest: str) -> float:
        """When an entry that is there was made, seconds since 1970."""
        return (self.root / digest / _DONE).stat().st_mtime

    def drop(self, digest: str) -> None:
        """Removes an entry that is not to be used again."""
        self._used.discard(digest)
        self._checked.discard(digest)
        shutil.rmtree(self.root / digest, ignore_errors=True)

    def under_way(self, digest: str) -> Path:
        """A folder that stays when its maker is killed, for a long step that can go on; the maker removes it at the end.

        Raises:
            IntegrityError: as :meth:`find`.
        """
        self._hold(make=True)
        folder = self.root / f"under-way-{digest}"
        folder.mkdir(0o700, exist_ok=True)
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
            IntegrityError: as :meth:`find`.
        """
        import fcntl

        try:
            self._hold(make=True)
            self._sweep()
            folder = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.root))
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_EX)  # tells others that whoever fills it is alive
        except OSError as problem:
            remedy = "Free space there, or set EDGEKIT_CACHE to another folder."
            raise BuildError(
                f"The build cache {self.root} cannot be written ({problem.strerror}). {remedy}",
                code="cache-not-writable",
            ) from problem
        try:
            yield folder
            files = {name: [sha256(folder / name), (folder / name).stat().st_size] for name in files_below(folder)}
            (folder / _DONE).write_text(
                to_json({**made_from, "key": digest, _FILES: files}, indent=2, sort_keys=True), "utf-8"
            )
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
            os.close(held)
            self._used.add(digest)
            self._shrink()

    def entries(self) -> list[Entry]:
        """All entries, and long steps that are under way, the most recently used first.

        Raises:
            IntegrityError: as :meth:`find`.
        """
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                about, made = {}, folder.stat().st_mtime
                if not folder.name.startswith("under-way-"):
                    about, made = json.loads((folder / _DONE).read_text("utf-8")), (folder / _DONE).stat().st_mtime
                found.append(
                    Entry(
                        folder.name,
                        str(about.get("step", "under way")),
                        about,
                        size_mb(folder),
                        made,
                        folder.stat().st_mtime,
                    )
                )
        return sorted(found, key=lambda e: -e.used)

    def clear(self, older_than_s: float = 0.0) -> tuple[int, float]:
        """Removes entries, long steps that are under way, and what killed builds left.

        Args:
            older_than_s: only those that nothing has used for so many seconds.

        Returns:
            How many, and their size in MiB.

        Raises:
            UsageError: when a build is using the cache.
            IntegrityError: as :meth:`find`.
        """
        import fcntl

        count, size = 0, 0.0
        with contextlib.suppress(FileNotFoundError), private.opened(self.root, danger=_DANGER) as folder:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise UsageError(
                    f"A build is using the cache {self.root}, so nothing was removed. Clear it when the build has ended.",
                    code="cache-busy",
                ) from problem
            for place in self._folders(abandoned=True):
                its = size_mb(place)
                if time.time() - place.stat().st_mtime >= older_than_s:
                    shutil.rmtree(place, ignore_errors=True)
                    count, size = count + 1, size + its
        return count, size

    def _folders(self, abandoned: bool = False) -> list[Path]:
        """Those of entries; with ``abandoned`` what killed builds left too. Races and compiled engines, which lie in the same folder, are none of them."""
        with contextlib.suppress(FileNotFoundError), private.opened(self.root, danger=_DANGER):
            names = [
                f for f in self.root.iterdir() if _ENTRY.fullmatch(f.name) or (abandoned and f.name.startswith(_NEW))
            ]
            return [f for f in names if not f.is_symlink() and f.is_dir()]
        return []

    def _hold(self, *, make: bool) -> None:
        """Checks whose folder it is, and holds a shared lock on it as long as this object lives."""
        import fcntl

        with private.opened(self.root, make=make, danger=_DANGER) as folder:
            if self._held is None:
                held = os.dup(folder)
                fcntl.flock(held, fcntl.LOCK_SH)
                self._held = held

    def _sweep(self) -> None:
        """Removes folders that killed builds were filling: nobody holds their lock."""
        import fcntl

        for folder in self.root.glob(f"{_NEW}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < _UNLOCKED_S:
                    continue
                held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(held)

    def _shrink(self) -> None:
        """Removes the least recently used entries until the cache is within its limit.

        Entries that were found or filled through this object stay: the build at work still reads them. So does all that is no entry:
        the folder is also that of races and compiled engines, which have limits of their own or none.
        """
        entries = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(OSError):
                used = folder.stat().st_mtime
                if _ENTRY.fullmatch(folder.name) and folder.is_dir():
                    entries.append((used, size_mb(folder), folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries, key=lambda e: e[0]):
            if total <= self.limit_mb:
                break
            if folder.name not in self._used:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def _verify(folder: Path) -> None:
    """Holds an entry against its own list.

    Raises:
        Damaged: with what differs.
        FileNotFoundError: when it was removed meanwhile.
    """
    state = os.lstat(folder)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Damaged("it is a link, another user's, or may be written by others")
    try:
        listed = json.loads((folder / _DONE).read_text("utf-8"))
        if listed["key"] != folder.name:
            raise Damaged("it is another entry under this name")
        expected = {name: (str(digest), int(size)) for name, (digest, size) in listed[_FILES].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise Damaged("its list of files cannot be read") from problem
    there = set(files_below(folder)) - {_DONE}
    if there != set(expected):
        raise Damaged(f"it has other files than it lists ({', '.join(sorted(there ^ set(expected))[:3])})")
    for name, (digest, size) in expected.items():
        file = folder / name
        try:
            same = stat.S_ISREG(os.lstat(file).st_mode) and file.stat().st_size == size and sha256(file) == digest
        except OSError as problem:
            raise Damaged(f"{name} cannot be read ({problem.strerror})") from problem
        if not same:
            raise Damaged(f"{name} is not what was put there")


def size_mb(folder: Path) -> float:
    """Of all files in a folder, MiB; one that goes meanwhile, or may not be read, does not count."""
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, file)).st_size
    return size / 2**20
