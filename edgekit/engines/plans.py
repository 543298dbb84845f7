"""The engines that TensorRT compiled on this device, kept for its next start.

An engine ("plan") is native code for one TensorRT, one driver and one device, and loading it runs it: so its folder belongs to the user
alone (0700, files 0600), links are never followed, and a plan is given out only after its sha256 was found to be the one that its sidecar
lists.

    KEY.plan         the engine, or a timing cache of TensorRT, which the next engines are made with
    KEY.json         its sidecar: all that the key was made of, sha256 and size of the plan, when it was made, and what the caller noted
    KEY.lock, .lock  there while somebody compiles KEY, while somebody writes

Whoever writes holds ``.lock``, renames the plan and then the sidecar. An entry is therefore two files that agree, and whatever else a writer
that lost its power or its life has left (a temporary file, one file of the two) is known as such and removed by the next one.
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

__all__ = ["SCHEMA", "TIMINGS", "Plans"]

SCHEMA = 1  # of this folder: a part of every key
TIMINGS = "timings of"
"""The part that a key of a timing cache has, and none of an engine."""

_NAME = re.compile(r"([0-9a-f]{64})\.(plan|json|lock)")
_NEW = ".new-"
_WRITING = ".lock"

_log = logging.getLogger("edgekit")


class Plans:
    """The folder of engines of one user on one device."""

    def __init__(self, root: Path | None = None, limit_mb: float | None = None) -> None:
        """Opens a cache; a folder is made by the first that writes.

        Args:
            root: where; by default ``engines`` in the build cache (``EDGEKIT_CACHE``).
            limit_mb: size of all engines above which the least recently used go; by default ``EDGEKIT_ENGINES_MB``, else 4096.

        Raises:
            UsageError: when the limit is not a number.
        """
        self.root = root or Cache().root / "engines"
        self.limit_mb = size_limit("EDGEKIT_ENGINES_MB", 4096.0, limit_mb)

    @staticmethod
    def key(parts: Mapping[str, object]) -> str:
        """Digest of what an engine depends on: sha256 of its canonical JSON, in hex; parts must be plain data."""
        return hashlib.sha256(to_json(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def find(self, key: str) -> memoryview | None:
        """The plan of this key, as bytes that cannot be written, or None; a find makes it the most recently used.

        It is read once, and what is returned is the memory that was hashed. An entry that is damaged is removed, and one that cannot be
        read is left; a line in the log says so, and None means for both that the engine is to be compiled.

        Args:
            key: of :meth:`key`.

        Raises:
            IntegrityError: when others could have written into the folder.
        """
        try:
            with private.open_folder(self.root) as folder:
                plan: memoryview | None
                try:
                    plan = _verified(folder, key)
                except Damaged:
                    with private.lock_file(
                        folder, _WRITING
                    ):  # whoever stored it meanwhile may have been between the two renames
                        plan = self._verified_or_removed(folder, key)
                if plan is not None:
                    with contextlib.suppress(OSError):  # a folder that may only be read serves too
                        os.utime(f"{key}.json", dir_fd=folder, follow_symlinks=False)
                return plan
        except FileNotFoundError:
            return None
        except OSError as problem:
            _log.warning(
                "The file %s cannot be read (%s); what it holds is made again.",
                self.root / f"{key}.plan",
                problem.strerror or problem,
            )
            return None

    def about(self, key: str) -> Mapping[str, object]:
        """What was kept of the making of an engine, see :meth:`store`; empty where the cache has none of this key.

        Args:
            key: of :meth:`key`.

        Raises:
            IntegrityError: as :meth:`find`.
        """
        with contextlib.suppress(OSError, Damaged), private.open_folder(self.root) as folder:
            about: Mapping[str, object] = _sidecar(folder, key)["about"]
            return about
        return {}

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Keeps all others, processes and threads, from compiling the same engine; the death of its holder frees it.

        Args:
            key: of :meth:`key`.
            waiting: called once when another holds it, before waiting for that one.

        Raises:
            BuildError: when the folder cannot be written.
            IntegrityError: as :meth:`find`.
        """
        with contextlib.ExitStack() as stack:
            with self._disk():
                folder = stack.enter_context(private.open_folder(self.root, make=True))
                stack.enter_context(private.lock_file(folder, f"{key}.lock", waiting))
            yield

    def store(
        self, key: str, plan: bytes | bytearray | memoryview, parts: Mapping[str, object], about: Mapping[str, object]
    ) -> None:
        """Puts an engine in, in place of an older one of its key; it is there as a whole or not at all.

        Where it would not fit within the limit timing caches go first, then the least recently used engines, but none that is locked. For a timing cache
        no engine goes: making that again takes longer than timing kernels again.

        Args:
            key: of ``parts``.
            plan: TensorRT's serialized engine, anything with a buffer.
            parts: what the key was made of.
            about: what is worth noting besides, such as seconds taken and power mode; plain data.

        Raises:
            BuildError: when the disk is full, the folder cannot be written, or a timing cache does not fit beside the engines; nothing new is then left there.
            IntegrityError: as :meth:`find`.
            UsageError: when the key is not the one of the parts as JSON gives them back.
        """
        view = memoryview(plan)
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {
            "parts": parts,
            "sha256": hashlib.sha256(view).hexdigest(),
            "size": view.nbytes,
            "about": {"made": made, **about},
        }
        sidecar = to_json(said, indent=2, sort_keys=True).encode()
        if self.key(json.loads(sidecar)["parts"]) != key:
            raise UsageError(
                f"The key {key} of an engine is not that of its parts, so it would never be found. Take it from Plans.key(parts).",
                code="engine-key",
            )
        with (
            self._disk(view.nbytes + len(sidecar)),
            private.open_folder(self.root, make=True) as folder,
            private.lock_file(folder, _WRITING),
        ):
            _clean(folder)
            self._shrink(folder, key, view.nbytes + len(sidecar), TIMINGS in parts)
            _put(folder, {f"{key}.plan": (view,), f"{key}.json": (sidecar,)})

    def drop(self, key: str, reason: str) -> None:
        """Removes an engine that turned out not to serve, with a line in the log.

        Args:
            key: of :meth:`key`.
            reason: part of a sentence, such as "TensorRT refused it".

        Raises:
            IntegrityError: as :meth:`find`.
        """
        file = self.root / f"{key}.plan"
        try:
            with private.open_folder(self.root) as folder, private.lock_file(folder, _WRITING):
                _remove(folder, key)
        except OSError as problem:
            _log.warning(
                "The engine %s does not serve (%s), and it cannot be removed (%s).",
                file,
                reason,
                problem.strerror or problem,
            )
        else:
            _log.warning("The engine %s does not serve (%s); it was removed.", file, reason)

    @contextlib.contextmanager
    def _disk(self, size: int | None = None) -> Iterator[None]:
        """Turns what the disk refuses into a BuildError with a remedy."""
        try:
            yield
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                needed = "a lock file is" if size is None else f"{size / 2**20:.2f} MiB are"
                remedy = "Free space there, or set EDGEKIT_CACHE to a folder on another disk."
                raise BuildError(
                    f"The disk of {self.root} is full: {needed} needed, and nothing was left behind. {remedy}",
                    code="disk-full",
                ) from problem
            remedy = "Make it writable, or set EDGEKIT_CACHE to a folder that is."
            raise BuildError(
                f"The engine cache {self.root} cannot be written ({problem.strerror or problem}). {remedy}",
                code="cache-not-writable",
            ) from problem

    def _verified_or_removed(self, folder: int, key: str) -> memoryview | None:
        try:
            return _verified(folder, key)
        except Damaged as problem:
            _log.warning(
                "The file %s is damaged: %s. It is removed, and made again.", self.root / f"{key}.plan", problem
            )
            _remove(folder, key)
            return None

    def _shrink(self, folder: int, key: str, size: int, of_timings: bool) -> None:
        """Removes others, timing caches before engines and the least recently used first, until an entry of this size is within the limit."""
        others = {k: found for k, found in _sizes(folder).items() if k != key}
        total, limit = size + sum(its for _, its in others.values()), self.limit_mb * 2**20
        if total <= limit:
            return
        engines = {k for k in others if not _is_of_timings(folder, k)}
        if of_timings and size + sum(others[k][1] for k in engines) > limit:
            needed = f"{size / 2**20:.2f} MiB of timings do not fit beside the engines in {self.root}, of which {self.limit_mb:g} MiB are kept"
            raise BuildError(f"{needed}. Set EDGEKIT_ENGINES_MB to more.", code="engine-cache-small")
        for other, (_, its) in sorted(others.items(), key=lambda o: (o[0] in engines, o[1])):
            if total <= limit:
                break
            with contextlib.suppress(OSError), private.lock_file(folder, f"{other}.lock", block=False):
                _remove(folder, other)
                total -= its


def _sizes(folder: int) -> dict[str, tuple[float, int]]:
    """When each entry was last used, and its bytes."""
    found = {}
    for match in filter(None, map(_NAME.fullmatch, os.listdir(folder))):
        with contextlib.suppress(OSError):
            if match[2] == "json":
                sidecar, plan = (
                    os.stat(f"{match[1]}.{kind}", dir_fd=folder, follow_symlinks=False) for kind in ("json", "plan")
                )
                found[match[1]] = sidecar.st_mtime, sidecar.st_size + plan.st_size
    return found


def _is_of_timings(folder: int, key: str) -> bool:
    with contextlib.suppress(OSError, Damaged):
        return TIMINGS in _sidecar(folder, key)["parts"]
    return False


def _verified(folder: int, key: str) -> memoryview:
    """A plan that is what its sidecar says; FileNotFoundError where there is no sidecar."""
    said = _sidecar(folder, key)
    try:
        with private.open_file(folder, f"{key}.plan") as handle:
            size = os.fstat(handle).st_size
            if size != said["size"]:
                raise Damaged(f"it has {size} bytes, expected {said['size']}")
            plan, digest = private.read_hashed(handle, size)
    except FileNotFoundError as problem:
        raise Damaged("the plan is missing") from problem
    if digest != said["sha256"]:
        raise Damaged("its sha256 is not the one that its sidecar lists")
    return plan


def _sidecar(folder: int, key: str) -> dict[str, Any]:
    try:
        said = json.loads(private.read(folder, f"{key}.json"))
        if Plans.key(said["parts"]) != key:
            raise ValueError("it is of another key")
        if said["size"] < 1:
            raise ValueError(f"its size is {said['size']!r}")
        return {"parts": said["parts"], "about": dict(said["about"]), "size": said["size"], "sha256": said["sha256"]}
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Damaged(f"its sidecar does not serve ({problem})") from problem


def _put(folder: int, files: Mapping[str, tuple[bytes | memoryview, ...]]) -> None:
    """Writes files that appear by rename, in this order, once all of them are on the disk; only under the lock of writers."""
    try:
        for name, pieces in files.items():
            private.write(folder, _NEW + name, pieces)
        for name in files:
            os.replace(_NEW + name, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        _clean(folder)


def _remove(folder: int, key: str) -> None:
    """Removes an entry, the sidecar first: a plan alone is none."""
    for kind in ("json", "plan"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{key}.{kind}", dir_fd=folder)


def _clean(folder: int) -> None:
    """Removes what writers left that are no more, and timing caches in the form of EdgeKit 0.1.

    Who holds the lock of writers is the only one, so nothing of this is at work.
    """
    names = set(os.listdir(folder))
    for name in names:
        match = _NAME.fullmatch(name)
        with contextlib.suppress(OSError):
            if (
                name.startswith(_NEW)
                or name.endswith(".timing")
                or (match and match[2] != "lock" and not {f"{match[1]}.plan", f"{match[1]}.json"} <= names)
            ):
                os.unlink(name, dir_fd=folder)
            elif match and match[2] == "lock":
                with private.lock_file(folder, name, block=False):
                    pass  # its holder died; it goes when it is let go
