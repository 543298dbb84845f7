"""Check of file owners and permissions, which decide who can change a bundle."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgekit.spec.errors import IntegrityError

__all__ = ["check_owners"]

_GROUP_OR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_owners(bundle: Path) -> None:
    """Refuse a bundle that any user besides this one and root can change, in whole or in part.

    All parent folders up to the root are checked too, as ssh does for its keys, because a user who can rename a parent
    folder can replace the bundle. A parent folder that others may write is accepted if it has the sticky bit
    (``/tmp``), because a user cannot rename the files of another user there.

    Args:
        bundle: Bundle folder.

    Raises:
        IntegrityError: If another user owns or may write a file or folder.
    """
    folder = Path(os.path.realpath(bundle))
    _check_owner(folder, is_inside=True)
    for parent in folder.parents:
        _check_owner(parent, is_inside=False)
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _check_owner(Path(root) / name, is_inside=True)


def _check_owner(path: Path, *, is_inside: bool) -> None:
    """Check one file or folder of the bundle (``is_inside``), or a parent folder."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return  # The next reader of the file reports it.
    except OSError as problem:
        raise IntegrityError(
            f"The owner and the permissions of {path} cannot be read ({problem.strerror}). Check its permissions.",
            code="bundle-unreadable",
        ) from problem
    rule = "With trusted keys, only this user and root may own or write a bundle."
    if state.st_uid not in (0, os.geteuid()):
        raise IntegrityError(
            f"{path} belongs to user {state.st_uid}, expected user {os.geteuid()} or root. {rule} "
            "Copy the bundle elsewhere, or run: chown",
            code="bundle-owner",
        )
    if stat.S_ISLNK(state.st_mode):
        return  # A link has no permissions of its own, and a bundle with a link is refused elsewhere.
    is_sticky_parent = not is_inside and bool(state.st_mode & stat.S_ISVTX)
    if state.st_mode & _GROUP_OR_OTHERS and not is_sticky_parent:
        mode = f"{stat.S_IMODE(state.st_mode):04o}"
        option = "-R " if is_inside else ""
        raise IntegrityError(
            f"{path} may be written by others (mode {mode}). {rule} Run: chmod {option}go-w {path}",
            code="bundle-writable",
        )
