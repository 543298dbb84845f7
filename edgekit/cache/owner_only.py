"""A folder that belongs to one user alone, for what is run as code when it is loaded or goes into bundles.

Links are never followed, and every file is reached from a handle of the folder that was checked, so another folder cannot be put in its
place in between. Linux and macOS.
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
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Damaged(Exception):
    """What a folder holds is not what was put there; the text is the end of a sentence."""


CODE = "It holds native code that is run when it is loaded."


@contextlib.contextmanager
def open_folder(root: Path, make: bool = False, danger: str = CODE) -> Iterator[int]:
    """A handle of a folder, after it was found to be of this user alone.

    Args:
        root: the folder.
        make: make it, with mode 0700, where it is not there.
        danger: a sentence that says what a folder of others could do.

    Raises:
        IntegrityError: when it is a link or no folder, is another user's, or may be written by others.
        OSError: when it is not there or cannot be opened.
    """
    if make:
        root.parent.mkdir(
            0o700, parents=True, exist_ok=True
        )  # it may be the build cache, which is one user's alone too
        with contextlib.suppress(FileExistsError):
            root.mkdir(0o700)
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise IntegrityError(
            f"{root} is a link or not a folder. {danger} Remove it, or set EDGEKIT_CACHE to a folder of your own.",
            code="cache-folder",
        )
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            whose = f"user {found.st_uid}, expected user {os.geteuid()}"
            raise IntegrityError(
                f"{root} belongs to {whose}. {danger} Set EDGEKIT_CACHE to a folder of your own.", code="cache-owner"
            )
        if found.st_mode & _OTHERS:
            mode = f"mode {stat.S_IMODE(found.st_mode):04o}, expected 0700"
            remedy = "Remove the folder, which is made again, or set EDGEKIT_CACHE to one of your own."
            raise IntegrityError(f"{root} may be written by others ({mode}). {danger} {remedy}", code="cache-writable")
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def open_file(folder: int, name: str) -> Iterator[int]:
    """A handle to read a file with.

    Raises:
        Damaged: when it is a link, no plain file, another user's, or may be written by others.
        OSError: when it is not there or cannot be opened.
    """
    other = f"{name} is a link or not a plain file of this user that nobody else may write"
    try:
        handle = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder
        )  # a pipe would wait for its writer
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise Damaged(other) from problem
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
            raise Damaged(other)
        yield handle
    finally:
        os.close(handle)


def read(folder: int, name: str) -> bytes:
    """A file's content; raises as :func:`open_file`."""
    with open_file(folder, name) as handle, open(handle, "rb", buffering=0, closefd=False) as stream:
        return stream.readall()


def read_hashed(handle: int, size: int) -> tuple[memoryview, str]:
    """The first ``size`` bytes of a large file in memory of their own, read-only, and the sha256 of that memory in hex.

    A start waits for this, so they are hashed while the rest is read, and the memory is fresh pages, which nobody fills with zeros before.
    """
    content, done, digest = (
        memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)),
        0,
        hashlib.sha256(),
    )
    with open(handle, "rb", buffering=0, closefd=False) as stream, ThreadPoolExecutor(1) as hasher:
        while count := stream.readinto(content[done : done + _CHUNK]):
            hasher.submit(digest.update, content[done : done + count])
            done += count
    return content.toreadonly(), digest.hexdigest()


def write(folder: int, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a new file, mode 0600, and waits until it is on the disk."""
    with open(
        os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder), "wb"
    ) as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def lock_file(folder: int, name: str, waiting: Callable[[], None] | None = None, block: bool = True) -> Iterator[None]:
    """Holds a lock file, which is there only as long as it is held.

    flock(2) goes with the open file: it excludes threads as well as processes, and the kernel frees it when its holder dies.

    Args:
        folder: handle of its folder.
        name: of the file.
        waiting: called once when another holds it, before waiting for that one.
        block: wait for another.

    Raises:
        BlockingIOError: when another holds it and ``block`` is not given.
        OSError: when the file cannot be made.
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
            if is_at(handle, name, folder):  # else its last holder removed it, and others hold a newer one
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                    fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child has the file open too
                return
        finally:
            os.close(handle)


def is_at(handle: int, name: str | Path, folder: int | None = None) -> bool:
    """Whether what was opened is still what has this name, in a folder or as a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return False
