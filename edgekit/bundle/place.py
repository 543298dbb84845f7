"""Atomic creation and replacement of folders and files: complete or not at all, even if the writer is killed.

New content is written beside its destination, as ``.NAME.new-XXXXXXXX``. The writer holds a lock (flock(2)) on it until
it is in place. The kernel releases the lock when the writer dies, so the next writer can detect and remove the files of
a killed one. No process ids are used.

A folder replaces another one by ``renameat2(2)`` with RENAME_EXCHANGE (macOS: ``renamex_np`` with RENAME_SWAP). Where
the file system lacks this call, the old folder is moved aside to ``.NAME.old-XXXXXXXX/bundle`` before the new one is
renamed. If a writer is killed between the two steps, :func:`recover` restores the old folder.
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
"""Name of the old folder inside the folder that it is moved aside to."""
_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS.
_NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # NFS: EBADF for a folder.


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Create an empty, locked folder beside ``out``, mode 0700. It is removed on exit if it was not moved.

    Files of killed writers for the same destination are removed first.

    Args:
        out: Destination.

    Yields:
        The new folder.

    Raises:
        OSError: If the folder cannot be created.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    settle(out)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
        with _lock(folder, wait=True) as is_locked:
            if is_locked is False:
                continue  # Another writer removed the folder before it was locked.
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Create an empty, locked file beside ``out``, mode 0600. It is removed on exit if it was not moved.

    Files of killed writers for the same destination are removed first.

    Args:
        out: Destination.

    Yields:
        The new file and a stream that writes to it.

    Raises:
        OSError: If the file cannot be created.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    settle(out)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.new-", dir=out.parent)
        file = Path(name)
        with open(handle, "wb") as stream, _lock(file, wait=True) as is_locked:
            if is_locked is False:
                continue  # Another writer removed the file before it was locked.
            try:
                yield file, stream
            finally:
                file.unlink(missing_ok=True)
            return


def put_file(file: Path, stream: BinaryIO, out: Path) -> None:
    """Sync a file of :func:`new_file` to the disk and move it to ``out``."""
    stream.flush()
    os.fsync(stream.fileno())
    os.replace(file, out)
    sync(out.parent)


def put_folder(folder: Path, out: Path, check: Callable[[], None]) -> None:
    """Move a folder of :func:`new_folder` to ``out`` in one step.

    Args:
        folder: Finished folder. It should be synced if it must survive a power failure.
        out: Destination. An existing one is replaced.
        check: Function that raises if ``out`` must not be replaced. It is called before the replacement, because
            another process may have created ``out`` in the meantime.
    """
    if os.path.lexists(out) or not _rename_to_free(folder, out):
        check()
        if not _exchange(folder, out):
            _replace_in_two_steps(folder, out)
    sync(out.parent)


def settle(out: Path) -> None:
    """Restore a folder that a killed writer moved aside, and remove all other files of killed writers for ``out``."""
    recover(out, wait=False)
    for path in _files_beside(out, "new|old"):
        with _lock(path, wait=False) as is_locked:
            if is_locked is not True:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def recover(out: Path, *, wait: bool = True) -> None:
    """Restore the folder that a writer had moved aside when it was killed. Nothing is done if ``out`` exists.

    Args:
        out: Destination.
        wait: Flag to wait for a writer that is still running.
    """
    if os.path.lexists(out):
        return
    for aside in _files_beside(out, "old"):
        with _lock(aside, wait=wait) as is_locked, contextlib.suppress(FileNotFoundError):
            if is_locked is not False and not os.path.lexists(out):
                (aside / _ASIDE).rename(out)
                aside.rmdir()
                sync(out.parent)


def share(folder: Path) -> None:
    """Make a folder and its content readable by everyone and writable by the owner only, whatever the umask."""
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o755)
        for name in files:
            os.chmod(Path(root) / name, 0o644)


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders of a folder are on the disk."""
    for root, _, files in os.walk(folder):
        for name in (*files, "."):
            sync(Path(root) / name)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename_to_free(folder: Path, out: Path) -> bool:
    """Rename a folder to a name that is not in use. Return False if it is in use by now."""
    try:
        folder.rename(out)
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _replace_in_two_steps(folder: Path, out: Path) -> None:
    """Replace a folder in two steps. :func:`recover` can undo the first one."""
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    with _lock(aside, wait=True):
        try:
            out.rename(aside / _ASIDE)
            folder.rename(out)
        except BaseException:  # An interrupt also restores the old folder, which is removed with ``aside`` otherwise.
            if (aside / _ASIDE).exists() and not out.exists():
                (aside / _ASIDE).rename(out)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names. Return False if the system or the file system has no such call."""
    library = ctypes.CDLL(None, use_errno=True)
    one_name = os.fsencode(one)
    other_name = os.fsencode(other)
    try:
        if sys.platform == "darwin":
            status = library.renamex_np(one_name, other_name, ctypes.c_uint(_EXCHANGE))
        else:
            status = library.renameat2(_AT_FDCWD, one_name, _AT_FDCWD, other_name, ctypes.c_uint(_EXCHANGE))
    except AttributeError:
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_SUCH_CALL:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _files_beside(out: Path, kinds: str) -> list[Path]:
    """Return the files and folders that writers of ``out`` have created beside it.

    Args:
        out: Destination.
        kinds: ``new``, ``old`` or ``new|old``.
    """
    pattern = re.compile(rf"\.{re.escape(out.name)}\.({kinds})-[a-z0-9_]{{8}}")
    try:
        return sorted(out.parent / name for name in os.listdir(out.parent) if pattern.fullmatch(name))
    except OSError:
        return []


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Lock a file or folder while the block runs.

    Args:
        path: File or folder.
        wait: Flag to wait for another holder of the lock.

    Yields:
        True if it is locked and still at ``path``, False if another process holds the lock or it is gone, None if the
        file system has no locks.
    """
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        is_locked: bool | None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_locked = is_at(handle, path)
        except OSError as problem:
            is_locked = None if problem.errno in _NO_LOCKS else False
        yield is_locked
    finally:
        os.close(handle)


def check_free(out: Path, force: bool, what: str, is_one: Callable[[Path], bool]) -> None:
    """Refuse an output path that is in use, unless it may be replaced.

    Args:
        out: Output path.
        force: Flag to replace an existing output of the same kind.
        what: Kind of the output with its article, for error messages, e.g. ``a bundle``.
        is_one: Predicate for a path of this kind. It is not called for a link.

    Raises:
        UsageError: If the path must not be replaced.
    """
    if not os.path.lexists(out):
        return
    if not force:
        raise UsageError(
            f"{out} exists and is not overwritten. Give another -o, or --force to replace {what}.",
            code="output-exists",
        )
    if out.is_symlink() or not is_one(out):
        raise UsageError(
            f"{out} is not {what}, and --force replaces nothing else. Give another -o, or remove it yourself.",
            code="output-other-kind",
        )


def check_place(out: Path) -> None:
    """Refuse an output path where no folder can be created, before any work is done.

    Raises:
        BuildError: If the nearest existing parent is not a writable folder.
    """
    parent = next(p for p in out.parents if p.exists() or p == p.parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BuildError(
            f"{out} cannot be created, because {parent} is not a writable folder. Give another -o.",
            code="output-not-writable",
        )


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Convert errors of the disk to a BuildError that says what to do.

    Args:
        place: Output path, for error messages.
    """
    try:
        yield
    except EdgekitError:
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildError(
                f"The disk of {place} is full. No partial output was left there. Free space, or give another folder.",
                code="disk-full",
            ) from problem
        raise BuildError(
            f"{place} cannot be written: {problem.strerror or problem}. No partial output was left there. "
            "Check the path and its permissions.",
            code="output-not-writable",
        ) from problem
