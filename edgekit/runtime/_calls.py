"""Counter of a session's running calls. Closing waits for them, and no call begins afterwards."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from edgekit.drivers.fork import ForkAware
from edgekit.spec.errors import EdgekitError

Method = TypeVar("Method", bound=Callable[..., Any])


class Calls(ForkAware):
    """Running calls by thread. A context manager: each call runs inside it."""

    def __init__(self, free: Callable[[], None]) -> None:
        """Create a counter without running calls.

        Args:
            free: Function that frees the resources. It is called once, when the session was closed and the last call
                has ended.
        """
        self._free = free
        self._closed = False
        self._freed = False
        super().__init__()
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the running calls, and replace the lock.

        A forked child has no other threads: their calls never end there, and a lock that they hold is never released.
        """
        # A signal handler may close the session inside a call of the same thread, so the lock is reentrant.
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._running: dict[int, int] = {}

    def __enter__(self) -> None:
        """Begin a call. A call nested in another one of the same thread may begin even if the session was closed.

        Raises:
            EdgekitError: If the session is closed.
        """
        thread = threading.get_ident()
        with self._lock:
            count = self._running.get(thread, 0)
            if self._closed and not count:
                raise EdgekitError(
                    "This session is closed, so it cannot predict. Open the bundle again with edgekit.load(...).",
                    code="session-closed",
                )
            self._running[thread] = count + 1

    def __exit__(self, *error: object) -> None:
        """End a call."""
        thread = threading.get_ident()
        with self._lock:
            # A child that was forked inside a call has forgotten the call.
            count = self._running.pop(thread, 1)
            if count > 1:
                self._running[thread] = count - 1
        if self._closed:
            self._free_if_idle()

    def close(self) -> None:
        """Let no further call begin, and wait for the running ones.

        If the same thread is inside a call (e.g. in a signal handler), it does not wait: the last call to end frees the
        resources.
        """
        with self._change:
            self._closed = True
            while self._running and threading.get_ident() not in self._running:
                self._change.wait()
        self._free_if_idle()

    def _free_if_idle(self) -> None:
        # The lock is held until everything is free, so that a concurrent close() returns only then.
        with self._change:
            self._change.notify_all()
            if not self._freed and not self._running:
                self._freed = True
                self._free()


def counted(method: Method) -> Method:
    """Decorate a method of a session so that closing the session waits for its calls."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with self._calls:
            return method(self, *arguments, **options)

    return cast(Method, call)
