"""Small JSON records in the folder of the build cache, for example the races at first loads.

Only the current user may write the folder, and each record has a digest of its content.
"""

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
_NEW = ".new-"
_LOCK = ".lock"
_DANGER = "Its records decide which variant of a bundle runs here."

_log = logging.getLogger(__name__)


class Records:
    """JSON records of one kind, by name."""

    def __init__(self, kind: str, cache: Cache | None = None) -> None:
        """Store the location. The first :meth:`keep` creates the folder.

        Args:
            kind: Kind of the records: the name of their folder in the cache.
            cache: Build cache. By default the user's.
        """
        self.root = (cache or Cache()).root / kind

    def find(self, name: str) -> dict[str, Any] | None:
        """Return a record, or None if there is none.

        A record that was altered, or a folder that others may write, gives None and a warning in the log.

        Args:
            name: Name of the record.
        """
        file = f"{name}.json"
        try:
            with private.open_folder(self.root, danger=_DANGER) as folder:
                content = json.loads(private.read(folder, file))
                if content["sha256"] != _content_digest(name, content["record"]):
                    raise Damaged("its sha256 differs")
                return dict(content["record"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, IntegrityError, Damaged, ValueError, KeyError, TypeError, RecursionError) as problem:
            _log.warning("The record %s cannot be used (%s). It will be created again.", self.root / file, problem)
            return None

    def keep(self, name: str, record: Mapping[str, Any]) -> bool:
        """Store a record in place of an older one. It appears complete or not at all.

        Args:
            name: Name of the record.
            record: Content of the record, plain data.

        Returns:
            True if the record was stored, False if the folder is not writable or others may write it.
        """
        file = f"{name}.json"
        new = f"{_NEW}{name}"
        content = to_json({"record": dict(record), "sha256": _content_digest(name, record)}, sort_keys=True)
        try:
            with (
                private.open_folder(self.root, make=True, danger=_DANGER) as folder,
                private.lock_file(folder, _LOCK),
            ):
                # The lock is held, so a file with this prefix was left by a killed writer.
                for leftover in os.listdir(folder):
                    if leftover.startswith(_NEW):
                        os.unlink(leftover, dir_fd=folder)
                private.write(folder, new, [content.encode()])
                os.replace(new, file, src_dir_fd=folder, dst_dir_fd=folder)
        except (OSError, IntegrityError):
            return False
        return True

    def names(self) -> list[str]:
        """Return the names of all records, sorted."""
        try:
            return sorted(f.stem for f in self.root.iterdir() if f.suffix == ".json" and not f.name.startswith("."))
        except OSError:
            return []

    def clear(self, older_than_s: float = 0.0) -> int:
        """Remove records.

        Args:
            older_than_s: Minimum age of a record in seconds.

        Returns:
            The number of removed records.

        Raises:
            IntegrityError: If the folder is a link, or another user owns it or may write it.
        """
        count = 0
        with contextlib.suppress(FileNotFoundError), private.open_folder(self.root, danger=_DANGER) as folder:
            for name in self.names():
                file = f"{name}.json"
                with contextlib.suppress(OSError):
                    age_s = time.time() - os.stat(file, dir_fd=folder, follow_symlinks=False).st_mtime
                    if age_s >= older_than_s:
                        os.unlink(file, dir_fd=folder)
                        count += 1
        return count


def _content_digest(name: str, record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json([name, dict(record)], sort_keys=True).encode()).hexdigest()
