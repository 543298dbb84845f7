"""The calls of a session that are at work: closing waits for them, and none begins afterwards."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

from edgekit.drivers.fork import ForkAware
from edgekit.spec.errors import EdgekitError

Method = TypeVar("Method", bound=Callable[..., Any])


class Calls(ForkAware):
    """Counts calls by thread. A context manager: a call is inside of it."""

    def __init__(self, free: Callable[[], None]) -> None:
        """Nothing is at work yet.

        Args:
            free: called once, when the session was closed and the last call has ended.
        """
        self._free = free
        self._closed = self._freed = False
        super().__init__()
        self.after_fork()

    def after_fork(self) -> None:
        """A forked child has none of the other threads: what they were at will never end there, and a lock that they held is held for ever."""
        self._change = threading.Condition()
        self._running: Counter[int] = Counter()

    def __enter__(self) -> None:
        """A call begins; one within another of the same thread also when the session was closed meanwhile.

        Raises:
            EdgekitError: when the session is closed.
        """
        me = threading.get_ident()
        with self._change:
            if self._closed and not self._running[me]:
                raise EdgekitError(
                    "This session is closed, so it cannot predict. Open the bundle again with edgekit.load(...).",
                    code="session-closed",
                )
            self._running[me] += 1

    def __exit__(self, *error: object) -> None:
        """A call ends."""
        me = threading.get_ident()
        with self._change:
            self._running[me] -= 1
            self._running = +self._running
            self._change.notify_all()
        if self._closed:
            self._end()

    def close(self) -> None:
        """Lets no further call begin and waits for those at work.

        Called within a call of the same thread, by a signal handler say, it does not wait for itself: the last call to end frees.
        """
        with self._change:
            self._closed = True
            while self._running and not self._running[threading.get_ident()]:
                self._change.wait()
        self._end()

    def _end(self) -> None:
        with self._change:  # held until all is free: that is what whoever closes waits for
            if not self._freed and not +self._running:
                self._freed = True
                self._free()


def counted(method: Method) -> Method:
    """Makes a method of a session one that its closing waits for."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with self._calls:
            return method(self, *arguments, **options)

    return cast(Method, call)
