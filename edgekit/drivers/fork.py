"""Forked processes: fork(2) copies the memory of a process and none of its threads, and the libraries of the backends wait for theirs.

What was loaded before a fork stays as it is in the child: destroying it there would join threads that do not exist, and wait for ever, at a ``del`` or when
the child ends. (OpenVINO 2026.4 and ONNX Runtime 1.32 both do.) So a child holds a reference to it that is never given back.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from edgekit.spec.errors import BackendError

__all__ = ["ForkAware", "fork_error"]


_kept: weakref.WeakSet[ForkAware] = weakref.WeakSet()


class ForkAware:
    """What a forked child never destroys, and which can tell that it is in one.

    Attributes:
        process: that it was made in.
        inherited: whether this is a fork of that process; its number alone would not tell, for numbers come again.
    """

    def __init__(self) -> None:
        """Belongs to this process."""
        self.process, self.inherited = os.getpid(), False
        _kept.add(self)

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""


def fork_error(what: str, process: int) -> BackendError:
    """The error for something of OpenVINO that was made in another process."""
    return BackendError(
        f"{what} in process {process}, and this is process {os.getpid()}, a fork of it: the threads that OpenVINO waits for exist there alone, so a call here "
        "could wait for ever. Load the bundle in the child, and nothing on OpenVINO before the fork (gunicorn: without preload_app, or in post_fork); or start "
        "processes with multiprocessing.get_context('spawn'); or load it with backend='onnxruntime', which a forked child may use.",
        code="process-forked",
    )


def _in_the_child() -> None:
    for thing in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        thing.inherited = True
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
