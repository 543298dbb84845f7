"""Folders that only the current user may write, for files that are executed when loaded or that go into bundles.

Links are never followed. Every file is opened relative to the descriptor of the checked folder, so that another folder
cannot be substituted in between. Linux and macOS only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekit.spec.errors import IntegrityError

__all__ = ["CODE", "Damaged", "is_at", "lock_file", "open_file", "open_folder", "read", "read_hashed", "write"]

_CHUNK = 2**20
_GROUP_OR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Damaged(Exception):
    """The content of a file or folder differs from what was written. The message is a clause."""


CODE = "It contains native code that is executed when loaded."
"""Reason for the check of a folder with compiled code."""


@contextlib.contextmanager
def open_folder(root: Path, make: bool = False, danger: str = CODE) -> Iterator[int]:
    """Open a folder after a check that only this user may write it.

    Args:
        root: Folder to open.
        make: Flag to create the folder, with mode 0700, if it does not exist.
        danger: Reason for the check as a sentence, for error messages.

    Yields:
        The descriptor of the folder.

    Raises:
        IntegrityError: If it is a link or not a folder, or another user owns it or may write it.
        OSError: If it does not exist or cannot be opened.
    """
    if make:
        # The parent may be the build cache, which only this user may write either.
        root.parent.mkdir(0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            root.mkdir(0o700)
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise IntegrityError(
            f"{root} is a link or not a folder. {danger} Remove it, or set EDGEKIT_CACHE to a folder of your own.",
            code="cache-folder",
        )
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        state = os.fstat(folder)
        if state.st_uid != os.geteuid():
            raise IntegrityError(
                f"{root} belongs to user {state.st_uid}, expected user {os.geteuid()}. {danger} "
                "Set EDGEKIT_CACHE to a folder of your own.",
                code="cache-owner",
            )
        if state.st_mode & _GROUP_OR_OTHERS:
            raise IntegrityError(
                f"{root} may be written by others (mode {stat.S_IMODE(state.st_mode):04o}, expected 0700). {danger} "
                "Remove the folder, which will be created again, or set EDGEKIT_CACHE to a folder of your own.",
                code="cache-writable",
            )
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def open_file(folder: int, name: str) -> Iterator[int]:
    """Open a file for reading.

    Args:
        folder: Descriptor of the folder.
        name: Name of the file.

    Yields:
        The descriptor of the file.

    Raises:
        Damaged: If it is a link or not a regular file, or another user owns it or may write it.
        OSError: If it does not exist or cannot be opened.
    """
    reason = f"{name} is not a regular file that only this user may write"
    try:
        # Without O_NONBLOCK, a pipe would wait for its writer.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise Damaged(reason) from problem
        raise
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & _GROUP_OR_OTHERS:
            raise Damaged(reason)
        yield handle
    finally:
        os.close(handle)


def read(folder: int, name: str) -> bytes:
    """Return the content of a file (:func:`open_file`).

    Args:
        folder: Descriptor of the folder.
        name: Name of the file.

    Raises:
        Damaged: If it is not a regular file that only this user may write.
        OSError: If it does not exist or cannot be opened.
    """
    with open_file(folder, name) as handle, open(handle, "rb", buffering=0, closefd=False) as stream:
        return stream.readall()


def read_hashed(handle: int, size: int) -> tuple[memoryview, str]:
    """Read a large file into read-only memory and hash this memory.

    The startup waits for this, so one chunk is hashed while the next one is read. The memory is a fresh mapping, which
    is not filled with zeros first.

    Args:
        handle: Descriptor of the file.
        size: Bytes to read from the beginning.

    Returns:
        The memory and its sha256 in hexadecimal.
    """
    content = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    position = 0
    digest = hashlib.sha256()
    with open(handle, "rb", buffering=0, closefd=False) as stream, ThreadPoolExecutor(1) as hasher:
        while count := stream.readinto(content[position : position + _CHUNK]):
            hasher.submit(digest.update, content[position : position + count])
            position += count
    return content.toreadonly(), digest.hexdigest()


def write(folder: int, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a new file, mode 0600, and wait until it is on the disk.

    Args:
        folder: Descriptor of the folder.
        name: Name of the file. It must not exist.
        pieces: Content in order.
    """
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with open(handle, "wb") as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def lock_file(folder: int, name: str, waiting: Callable[[], None] | None = None, block: bool = True) -> Iterator[None]:
    """Hold a lock file, which exists only while the lock is held.

    flock(2) belongs to the open file. It excludes threads as well as processes, and the kernel releases it when its
    holder dies.

    Args:
        folder: Descriptor of the folder.
        name: Name of the lock file.
        waiting: Function that is called once before a wait for another holder.
        block: Flag to wait for another holder.

    Raises:
        BlockingIOError: If another process or thread holds the lock and ``block`` is False.
        OSError: If the file cannot be created.
    """
    import fcntl

    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not block:
                    raise
                if waiting is not None:
                    waiting()
                    waiting = None
                fcntl.flock(handle, fcntl.LOCK_EX)
            # If the previous holder has removed this file, others lock a newer one, so this lock is void.
            if is_at(handle, name, folder):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                    fcntl.flock(
                        handle, fcntl.LOCK_UN
                    )  # A forked child has the file open too, so closing is not enough.
                return
        finally:
            os.close(handle)


def is_at(handle: int, name: str | Path, folder: int | None = None) -> bool:
    """Return whether an open file is still the file with this name.

    Args:
        handle: Descriptor of the open file.
        name: Name of the file, or its path if ``folder`` is None.
        folder: Descriptor of the folder.
    """
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return False
