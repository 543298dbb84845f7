"""Folders and files that appear, and replace others, in one step: whole or not at all, whenever the writer is killed.

What is written lies beside its place, as ``.NAME.new-XXXXXXXX``, and the writer holds a lock (flock(2)) on it until it is in place. The kernel
frees the lock when its holder dies, so the next writer knows what a killed one has left, and removes that alone; no process id is looked at.

A folder takes the place of another by ``renameat2(2)`` with RENAME_EXCHANGE (macOS: ``renamex_np`` with RENAME_SWAP). Where the file system has
no such call, the old one goes to ``.NAME.old-XXXXXXXX/bundle`` before the new one comes; :func:`recover` brings it back when a writer was
killed between the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgekit.cache.owner_only import is_at
from edgekit.spec.errors import BuildError, EdgekitError, UsageError

__all__ = [
    "check_free",
    "check_place",
    "disk_errors",
    "new_file",
    "new_folder",
    "put_file",
    "put_folder",
    "recover",
    "settle",
    "share",
    "sync",
    "sync_tree",
]

_ASIDE = "bundle"
_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # NFS: EBADF for a folder


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out``, mode 0700, locked; removed at the end with what is in it then.

    What killed writers left for the same place is removed before.

    Raises:
        OSError: when it cannot be made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    settle(out)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
        with _locked(folder, wait=True) as held:
            if held is False:
                continue  # another writer took it for a leftover before it was locked
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty file beside ``out``, mode 0600, locked, and a stream that writes it; removed at the end where it was not renamed.

    What killed writers left for the same place is removed before.

    Raises:
        OSError: when it cannot be made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    settle(out)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.new-", dir=out.parent)
        file = Path(name)
        with open(handle, "wb") as stream, _locked(file, wait=True) as held:
            if held is False:
                continue
            try:
                yield file, stream
            finally:
                file.unlink(missing_ok=True)
            return


def put_file(file: Path, stream: BinaryIO, out: Path) -> None:
    """Puts what :func:`new_file` gave, once it is on the disk, in the place of ``out``."""
    stream.flush()
    os.fsync(stream.fileno())
    os.replace(file, out)
    sync(out.parent)


def put_folder(folder: Path, out: Path, check: Callable[[], None]) -> None:
    """Puts what :func:`new_folder` gave in the place of ``out``, in one step.

    Args:
        folder: finished, and on the disk where it is to outlive a loss of power.
        out: its place; what is there goes, if ``check`` still lets it: someone else may have been faster.
        check: raises where ``out`` must not be replaced.
    """
    if os.path.lexists(out) or not _appear(folder, out):
        check()
        if not _exchange(folder, out):
            _replace(folder, out)
    sync(out.parent)


def settle(out: Path) -> None:
    """Brings back what a killed writer has put aside, and removes all else that killed writers left for this place."""
    recover(out, wait=False)
    for left in _beside(out, "new|old"):
        with _locked(left, wait=False) as held:
            if held is not True:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    left.unlink()


def recover(out: Path, *, wait: bool = True) -> None:
    """Brings back the folder that a writer was about to replace when it was killed, where there is nothing at ``out``.

    Args:
        out: the place.
        wait: let a writer that lives take its second step.
    """
    if os.path.lexists(out):
        return
    for aside in _beside(out, "old"):
        with _locked(aside, wait=wait) as held, contextlib.suppress(FileNotFoundError):
            if held is not False and not os.path.lexists(out):
                (aside / _ASIDE).rename(out)
                aside.rmdir()
                sync(out.parent)


def share(folder: Path) -> None:
    """Lets everybody read a folder and what is in it, and nobody else write it, whatever the umask."""
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o755)
        for name in files:
            os.chmod(Path(root) / name, 0o644)


def sync_tree(folder: Path) -> None:
    """Waits until all files and folders of a folder are on the disk."""
    for root, _, files in os.walk(folder):
        for name in (*files, "."):
            sync(Path(root) / name)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _appear(folder: Path, out: Path) -> bool:
    """Renames a folder to where nothing is; False where something is there by now."""
    try:
        folder.rename(out)
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _replace(folder: Path, out: Path) -> None:
    """In two steps, of which :func:`recover` undoes the first."""
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    with _locked(aside, wait=True):
        try:
            out.rename(aside / _ASIDE)
            folder.rename(out)
        except BaseException:  # an interrupt too: what is left aside goes with it
            if (aside / _ASIDE).exists() and not out.exists():
                (aside / _ASIDE).rename(out)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names; False where the system or the file system has no such call."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(_EXCHANGE))
        else:
            failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_EXCHANGE))
    except AttributeError:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in _NO_SUCH_CALL:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _beside(out: Path, kinds: str) -> list[Path]:
    """What writers of this place have beside it, of these kinds."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.({kinds})-[a-z0-9_]{{8}}")
    try:
        return sorted(out.parent / name for name in os.listdir(out.parent) if pattern.fullmatch(name))
    except OSError:
        return []


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Locks a file or folder as long as the block runs.

    Yields:
        True: it is locked, and still what is at ``path``. False: another holds it, or it is there no more. None: this file system has no locks.
    """
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        held: bool | None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = is_at(handle, path)
        except OSError as problem:
            held = None if problem.errno in _NO_LOCKS else False
        yield held
    finally:
        os.close(handle)


def check_free(out: Path, force: bool, what: str, is_one: Callable[[Path], bool]) -> None:
    """Refuses a place where something is, unless that is of what is written there and may be replaced.

    Args:
        out: the place.
        force: replace what is there.
        what: ``a bundle``, for messages.
        is_one: whether what is there is one; no link is asked about.

    Raises:
        UsageError: when it must not be replaced.
    """
    if not os.path.lexists(out):
        return
    if not force:
        raise UsageError(
            f"{out} exists, and nothing is written over. Give another -o, or --force to replace {what}.",
            code="output-exists",
        )
    if out.is_symlink() or not is_one(out):
        raise UsageError(
            f"{out} is not {what}, and --force replaces nothing else. Give another -o, or remove it yourself.",
            code="output-other-kind",
        )


def check_place(out: Path) -> None:
    """Refuses a place where no folder can be made, before any work is done.

    Raises:
        BuildError: when the nearest folder above is none, or may not be written.
    """
    above = next(p for p in out.parents if p.exists() or p == p.parent)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise BuildError(
            f"{out} cannot be made: {above} is not a folder that may be written. Give another -o.",
            code="output-not-writable",
        )


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns what a disk refuses into a BuildError with a remedy."""
    try:
        yield
    except EdgekitError:
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildError(
                f"The disk of {place} is full, and nothing was left behind there. Free space, or give another folder.",
                code="disk-full",
            ) from problem
        raise BuildError(
            f"{place} cannot be written: {problem.strerror or problem}. Check the path and its permissions; nothing was left behind.",
            code="output-not-writable",
        ) from problem
