"""Small JSON records in the folder of the build cache, such as races at first loads, under its rules: one user's alone, each with a digest of its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from edgekit.cache import owner_only as private
from edgekit.cache.owner_only import Damaged
from edgekit.cache.store import Cache
from edgekit.spec.errors import IntegrityError
from edgekit.spec.parsing import to_json

__all__ = ["RACES", "Records"]

RACES = "races"
"""Kind of the records of races at first loads."""
_NEW, _WRITING = ".new-", ".lock"
_DANGER = "What it holds decides which variant of a bundle runs here."

_log = logging.getLogger(__name__)


class Records:
    """Small JSON records beside the entries, such as races at first loads: in a folder of one user alone, each with a digest of its content."""

    def __init__(self, kind: str, cache: Cache | None = None) -> None:
        """Opens them; the folder is made by the first that is kept.

        Args:
            kind: name of the folder in the cache.
            cache: by default the user's.
        """
        self.root = (cache or Cache()).root / kind

    def find(self, name: str) -> dict[str, Any] | None:
        """A record, or None where there is none. One that was altered is not used, nor is a folder of others; a line in the log says so."""
        file = f"{name}.json"
        try:
            with private.opened(self.root, danger=_DANGER) as folder:
                kept = json.loads(private.read(folder, file))
                if kept["sha256"] != _content_digest(name, kept["record"]):
                    raise Damaged("its sha256 is another")
                return dict(kept["record"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, IntegrityError, Damaged, ValueError, KeyError, TypeError, RecursionError) as problem:
            _log.warning("The record %s cannot be used (%s); it is made anew.", self.root / file, problem)
            return None

    def keep(self, name: str, record: Mapping[str, Any]) -> bool:
        """Puts a record in, whole, in place of an older one; False where the folder cannot be written, or is one that others may write."""
        file, new = f"{name}.json", f"{_NEW}{name}"
        content = to_json({"record": dict(record), "sha256": _content_digest(name, record)}, sort_keys=True)
        try:
            with private.opened(self.root, make=True, danger=_DANGER) as folder, private.held(folder, _WRITING):
                for left in (
                    n for n in os.listdir(folder) if n.startswith(_NEW)
                ):  # whoever wrote it died: the lock is ours
                    os.unlink(left, dir_fd=folder)
                private.write(folder, new, [content.encode()])
                os.replace(new, file, src_dir_fd=folder, dst_dir_fd=folder)
        except (OSError, IntegrityError):
            return False
        return True

    def names(self) -> list[str]:
        """Of all records, sorted."""
        try:
            return sorted(f.stem for f in self.root.iterdir() if f.suffix == ".json" and not f.name.startswith("."))
        except OSError:
            return []

    def clear(self, older_than_s: float = 0.0) -> int:
        """Removes those that were made so many seconds ago; returns how many.

        Raises:
            IntegrityError: when the folder is another user's, a link, or may be written by others.
        """
        count = 0
        with contextlib.suppress(FileNotFoundError), private.opened(self.root, danger=_DANGER) as folder:
            for name in self.names():
                with contextlib.suppress(OSError):
                    if (
                        time.time() - os.stat(f"{name}.json", dir_fd=folder, follow_symlinks=False).st_mtime
                        >= older_than_s
                    ):
                        os.unlink(f"{name}.json", dir_fd=folder)
                        count += 1
        return count


def _content_digest(name: str, record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json([name, dict(record)], sort_keys=True).encode()).hexdigest()
