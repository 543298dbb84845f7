"""Owners and modes of a bundle's folder, which decide who may change the bundle."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgekit.spec.errors import IntegrityError

__all__ = ["check_owners"]

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_owners(bundle: Path) -> None:
    """Refuses a folder that somebody else than this user and root may write, in whole or in part.

    As ssh asks of its keys, every folder up to the root counts, since who may rename one may put another in its place. A folder with the sticky bit
    (``/tmp``) may be above it: there nobody renames what belongs to another.

    Args:
        bundle: its folder.

    Raises:
        IntegrityError: with the file or folder, who owns it and its mode.
    """
    folder = Path(os.path.realpath(bundle))
    _check_owner(folder, inside=True)
    for above in folder.parents:
        _check_owner(above, inside=False)
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _check_owner(Path(root) / name, inside=True)


def _check_owner(path: Path, *, inside: bool) -> None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return  # whoever reads it next says so
    except OSError as problem:
        raise IntegrityError(
            f"{path} cannot be looked at ({problem.strerror}), so who may write it is not known. Check its permissions.",
            code="bundle-unreadable",
        ) from problem
    remedy = "With trust, a bundle lies where this user and root alone may write."
    if there.st_uid not in (0, os.geteuid()):
        raise IntegrityError(
            f"{path} belongs to user {there.st_uid}, expected user {os.geteuid()} or root. {remedy} Copy the bundle elsewhere, or run: chown",
            code="bundle-owner",
        )
    if stat.S_ISLNK(there.st_mode):
        return  # has no mode of its own; a bundle that holds one is refused
    if there.st_mode & _OTHERS and not (not inside and there.st_mode & stat.S_ISVTX):
        mode = f"{stat.S_IMODE(there.st_mode):04o}"
        raise IntegrityError(
            f"{path} may be written by others (mode {mode}). {remedy} Run: chmod {'-R ' if inside else ''}go-w {path}",
            code="bundle-writable",
        )
