"""The cache of engines that TensorRT compiled on this device.

An engine (TensorRT's "plan") is native code for one TensorRT version, one driver and one device, and loading it
executes it. The folder therefore belongs to one user (mode 0700, files 0600), symbolic links are never followed, and an
engine is returned only if its sha256 equals the one in its sidecar file.

    KEY.plan         An engine, or a TensorRT timing cache from which later engines are built.
    KEY.json         The sidecar: all parts of the key, sha256 and size of the engine, build time, notes.
    KEY.lock, .lock  Locks while a process compiles KEY, or writes to the folder.

A writer holds ``.lock``, renames the engine into place and then the sidecar. An entry is a pair of files that agree.
Temporary files and incomplete pairs of a crashed writer are recognized and removed by the next writer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.cache import owner_only as private
from edgekit.cache.owner_only import Damaged
from edgekit.cache.store import Cache, size_limit
from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.parsing import to_json

__all__ = ["SCHEMA", "TIMINGS", "EngineCache"]

SCHEMA = 1
"""Version of the folder's layout; a part of every key."""

TIMINGS = "timings of"
"""Key part that every timing cache has and no engine has."""

_NAME = re.compile(r"([0-9a-f]{64})\.(plan|json|lock)")
_TEMPORARY = ".new-"
_WRITE_LOCK = ".lock"

_log = logging.getLogger(__name__)


class EngineCache:
    """The folder with the engines of one user on one device.

    Attributes:
        root: Path of the folder.
        limit_mb: Size limit of all engines together, MiB.
    """

    def __init__(self, root: Path | None = None, limit_mb: float | None = None) -> None:
        """Open a cache. The first write creates the folder.

        Args:
            root: Path of the folder. Default: ``engines`` in the build cache (``EDGEKIT_CACHE``).
            limit_mb: Size limit of all engines, MiB; above it the least recently used are removed. Default:
                ``EDGEKIT_ENGINES_MB``, or 4096.

        Raises:
            UsageError: The limit is not a number.
        """
        self.root = root or Cache().root / "engines"
        self.limit_mb = size_limit("EDGEKIT_ENGINES_MB", 4096.0, limit_mb)

    @staticmethod
    def key(parts: Mapping[str, object]) -> str:
        """Return the cache key of an engine: the sha256 of the canonical JSON of its parts, in hex.

        Args:
            parts: Everything that the engine depends on, as plain data.
        """
        return hashlib.sha256(to_json(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def find(self, key: str) -> memoryview | None:
        """Return the engine of a key as read-only bytes, or None; a hit becomes the most recently used entry.

        The file is read once, and the returned memory is the memory that was hashed. A damaged entry is removed and an
        unreadable one is left in place. Both are logged and give None: the engine has to be compiled again.

        Args:
            key: Key from :meth:`key`.

        Raises:
            IntegrityError: Other users could have written to the folder.
        """
        try:
            with private.open_folder(self.root) as folder:
                engine: memoryview | None
                try:
                    engine = _read_verified(folder, key)
                except Damaged:
                    # A writer may have been between its two renames: look again when no writer is active.
                    with private.lock_file(folder, _WRITE_LOCK):
                        engine = self._read_or_remove(folder, key)
                if engine is not None:
                    # A read-only folder is usable too.
                    with contextlib.suppress(OSError):
                        os.utime(f"{key}.json", dir_fd=folder, follow_symlinks=False)
                return engine
        except FileNotFoundError:
            return None
        except OSError as problem:
            _log.warning(
                "The engine file %s cannot be read (%s). The engine will be compiled again.",
                self.root / f"{key}.plan",
                problem.strerror or problem,
            )
            return None

    def about(self, key: str) -> Mapping[str, object]:
        """Return the notes that :meth:`store` saved with an engine; empty if the cache has no such entry.

        Args:
            key: Key from :meth:`key`.

        Raises:
            IntegrityError: Other users could have written to the folder.
        """
        with contextlib.suppress(OSError, Damaged), private.open_folder(self.root) as folder:
            about: Mapping[str, object] = _read_sidecar(folder, key)["about"]
            return about
        return {}

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Lock a key so that no other process or thread compiles the same engine. The lock ends with its process.

        Args:
            key: Key from :meth:`key`.
            waiting: Function called once before waiting for another holder of the lock.

        Raises:
            BuildError: The folder is not writable.
            IntegrityError: Other users could have written to the folder.
        """
        with contextlib.ExitStack() as stack:
            with self._translate_disk_errors():
                folder = stack.enter_context(private.open_folder(self.root, make=True))
                stack.enter_context(private.lock_file(folder, f"{key}.lock", waiting))
            yield

    def store(
        self, key: str, engine: bytes | bytearray | memoryview, parts: Mapping[str, object], about: Mapping[str, object]
    ) -> None:
        """Write an engine, replacing an older one of the same key. The write is atomic.

        If the limit would be exceeded, timing caches are removed first, then the least recently used engines, except
        locked ones. No engine is removed for a timing cache: compiling an engine takes longer than timing kernels.

        Args:
            key: Key of ``parts``.
            engine: Serialized TensorRT engine, as an object with a buffer.
            parts: Everything that the key was computed from.
            about: Notes to save with the engine, e.g. seconds and power mode, as plain data.

        Raises:
            BuildError: The disk is full, the folder is not writable, or a timing cache does not fit beside the engines.
                No new file is left in the folder.
            IntegrityError: Other users could have written to the folder.
            UsageError: The key is not that of the parts after a round trip through JSON.
        """
        view = memoryview(engine)
        build_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = {
            "parts": parts,
            "sha256": hashlib.sha256(view).hexdigest(),
            "size": view.nbytes,
            "about": {"made": build_time, **about},
        }
        sidecar = to_json(record, indent=2, sort_keys=True).encode()
        if self.key(json.loads(sidecar)["parts"]) != key:
            raise UsageError(
                f"The engine key {key} does not match its parts, so the engine could never be found. "
                "Use EngineCache.key(parts).",
                code="engine-key",
            )
        size = view.nbytes + len(sidecar)
        with (
            self._translate_disk_errors(size),
            private.open_folder(self.root, make=True) as folder,
            private.lock_file(folder, _WRITE_LOCK),
        ):
            _remove_leftovers(folder)
            self._make_room(folder, key, size, TIMINGS in parts)
            _write_files(folder, {f"{key}.plan": view, f"{key}.json": sidecar})

    def drop(self, key: str, reason: str) -> None:
        """Remove an engine that does not work on this device, and log a warning.

        Args:
            key: Key from :meth:`key`.
            reason: Part of a sentence, e.g. ``TensorRT refused it``.

        Raises:
            IntegrityError: Other users could have written to the folder.
        """
        file = self.root / f"{key}.plan"
        try:
            with private.open_folder(self.root) as folder, private.lock_file(folder, _WRITE_LOCK):
                _remove_entry(folder, key)
        except OSError as problem:
            _log.warning(
                "The engine %s is unusable (%s) and cannot be removed (%s).", file, reason, problem.strerror or problem
            )
        else:
            _log.warning("The engine %s is unusable (%s). It was removed.", file, reason)

    @contextlib.contextmanager
    def _translate_disk_errors(self, size: int | None = None) -> Iterator[None]:
        """Turn an OSError into a BuildError with a remedy.

        Args:
            size: Number of bytes to be written; None for a lock file.
        """
        try:
            yield
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                content = "a lock file" if size is None else f"{size / 2**20:.2f} MiB"
                raise BuildError(
                    f"The disk of {self.root} is full: {content} could not be written. "
                    "Free space there, or set EDGEKIT_CACHE to a folder on another disk.",
                    code="disk-full",
                ) from problem
            raise BuildError(
                f"The engine cache {self.root} is not writable ({problem.strerror or problem}). "
                "Change its permissions, or set EDGEKIT_CACHE to a writable folder.",
                code="cache-not-writable",
            ) from problem

    def _read_or_remove(self, folder: int, key: str) -> memoryview | None:
        """Return a verified engine; remove a damaged one and return None."""
        try:
            return _read_verified(folder, key)
        except Damaged as problem:
            file = self.root / f"{key}.plan"
            _log.warning("The engine file %s is damaged: %s. It is removed and compiled again.", file, problem)
            _remove_entry(folder, key)
            return None

    def _make_room(self, folder: int, key: str, size: int, is_timing_cache: bool) -> None:
        """Remove entries until a new one fits the limit: timing caches first, then the least recently used engines.

        Args:
            folder: Handle of the folder.
            key: Key of the new entry; an old entry of this key is going to be replaced and does not count.
            size: Size of the new entry, bytes.
            is_timing_cache: True if the new entry is a timing cache.

        Raises:
            BuildError: A timing cache does not fit beside the engines.
        """
        others = {other: entry for other, entry in _list_entries(folder).items() if other != key}
        limit = self.limit_mb * 2**20
        total = size + sum(entry_size for _, entry_size in others.values())
        if total <= limit:
            return
        engine_keys = {other for other in others if not _is_timing_cache(folder, other)}
        if is_timing_cache and size + sum(others[other][1] for other in engine_keys) > limit:
            raise BuildError(
                f"{size / 2**20:.2f} MiB of kernel timings do not fit beside the engines in {self.root} "
                f"(limit {self.limit_mb:g} MiB). Set EDGEKIT_ENGINES_MB to a larger value.",
                code="engine-cache-small",
            )
        oldest_first = sorted(others, key=lambda other: (other in engine_keys, others[other]))
        for other in oldest_first:
            if total <= limit:
                break
            with contextlib.suppress(OSError), private.lock_file(folder, f"{other}.lock", block=False):
                _remove_entry(folder, other)
                total -= others[other][1]


def _list_entries(folder: int) -> dict[str, tuple[float, int]]:
    """Return the time of last use and the size in bytes of each complete entry, by key."""
    entries = {}
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if match is None or match[2] != "json":
            continue
        with contextlib.suppress(OSError):
            sidecar = os.stat(name, dir_fd=folder, follow_symlinks=False)
            engine = os.stat(f"{match[1]}.plan", dir_fd=folder, follow_symlinks=False)
            entries[match[1]] = (sidecar.st_mtime, sidecar.st_size + engine.st_size)
    return entries


def _is_timing_cache(folder: int, key: str) -> bool:
    with contextlib.suppress(OSError, Damaged):
        return TIMINGS in _read_sidecar(folder, key)["parts"]
    return False


def _read_verified(folder: int, key: str) -> memoryview:
    """Return an engine that agrees with its sidecar.

    Raises:
        Damaged: The engine is missing or differs from its sidecar.
        FileNotFoundError: There is no sidecar.
    """
    record = _read_sidecar(folder, key)
    try:
        with private.open_file(folder, f"{key}.plan") as handle:
            size = os.fstat(handle).st_size
            if size != record["size"]:
                raise Damaged(f"it has {size} bytes, expected {record['size']}")
            engine, digest = private.read_hashed(handle, size)
    except FileNotFoundError as problem:
        raise Damaged("the engine is missing") from problem
    if digest != record["sha256"]:
        raise Damaged("its sha256 differs from the one in its sidecar")
    return engine


def _read_sidecar(folder: int, key: str) -> dict[str, Any]:
    """Return the checked content of a sidecar."""
    try:
        record = json.loads(private.read(folder, f"{key}.json"))
        if EngineCache.key(record["parts"]) != key:
            raise ValueError("it belongs to another key")
        if record["size"] < 1:
            raise ValueError(f"its size is {record['size']!r}")
        return {
            "parts": record["parts"],
            "about": dict(record["about"]),
            "size": record["size"],
            "sha256": record["sha256"],
        }
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Damaged(f"its sidecar is invalid ({problem})") from problem


def _write_files(folder: int, files: Mapping[str, bytes | memoryview]) -> None:
    """Write files to temporary names, wait until they are on the disk, then rename them in the given order.

    The caller must hold the write lock.
    """
    try:
        for name, content in files.items():
            private.write(folder, _TEMPORARY + name, (content,))
        for name in files:
            os.replace(_TEMPORARY + name, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        _remove_leftovers(folder)


def _remove_entry(folder: int, key: str) -> None:
    """Remove an entry. The sidecar goes first: an engine without a sidecar is not an entry."""
    for kind in ("json", "plan"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{key}.{kind}", dir_fd=folder)


def _remove_leftovers(folder: int) -> None:
    """Remove the files of crashed writers, and timing caches in the format of EdgeKit 0.1.

    The caller must hold the write lock: then no temporary file or incomplete pair is in use.
    """
    names = set(os.listdir(folder))
    for name in names:
        match = _NAME.fullmatch(name)
        with contextlib.suppress(OSError):
            if match is not None and match[2] == "lock":
                # The lock file of a dead process is deleted when the lock is released.
                with private.lock_file(folder, name, block=False):
                    pass
                continue
            is_temporary = name.startswith(_TEMPORARY) or name.endswith(".timing")
            is_incomplete = match is not None and not {f"{match[1]}.plan", f"{match[1]}.json"} <= names
            if is_temporary or is_incomplete:
                os.unlink(name, dir_fd=folder)
