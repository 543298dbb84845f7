"""Fork awareness: fork(2) copies memory but no threads, and the libraries of the backends wait for their threads.

An object that was loaded before a fork must not be destroyed in the child: its destructor would join threads that do
not exist and hang, at a ``del`` or at the end of the child (both OpenVINO 2026.4 and ONNX Runtime 1.32 do). The child
therefore holds a reference to it that is never released.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from edgekit.spec.errors import BackendError

__all__ = ["ForkAware", "fork_error"]


_instances: weakref.WeakSet[ForkAware] = weakref.WeakSet()


class ForkAware:
    """Base of objects that a forked child never destroys, and that know whether they are in a forked child.

    Attributes:
        process: Id of the process that created the object.
        inherited: True if this process is a fork of that one. The process id alone does not tell, because ids are
            reused.
    """

    def __init__(self) -> None:
        """Register the object for this process."""
        self.process = os.getpid()
        self.inherited = False
        _instances.add(self)

    def after_fork(self) -> None:
        """React to a fork. It is called in the child before any other code runs there."""


def fork_error(event: str, process: int) -> BackendError:
    """Return the error for the use of an OpenVINO object of another process.

    Args:
        event: Beginning of the sentence, e.g. ``OpenVINO was started``.
        process: Id of the process in which it happened.
    """
    return BackendError(
        f"{event} in process {process}, and this is process {os.getpid()}, a fork of it without OpenVINO's threads, "
        "so a call could hang. Load the bundle in the child, and nothing on OpenVINO before the fork (gunicorn: "
        "without preload_app, or in post_fork). Or start processes with multiprocessing.get_context('spawn'), or use "
        "backend='onnxruntime', which works in a forked child.",
        code="process-forked",
    )


def _mark_inherited() -> None:
    """Hold every registered object for ever and mark it as inherited."""
    for instance in list(_instances):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(instance))
        instance.inherited = True
        instance.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_inherited)
