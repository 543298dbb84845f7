"""Ctrl-C, SIGTERM and a closed terminal end a verb in the same way: unfinished output is removed.

The exception of a signal handler can be lost: it is raised wherever the program happens to be, and a library that
catches everything there (an import with a fallback, a finalizer) drops it. So the request is stored too, and every
report of progress checks it.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

requested: list[int] = []


def install() -> None:
    """Install the handlers of the signals; a request of an earlier verb in this process is over."""
    requested.clear()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _handle)


def check() -> None:
    """End the verb if a signal came and its exception was lost."""
    if requested:
        _end(requested[0])


def _handle(number: int, frame: FrameType | None) -> None:
    requested.append(number)
    _end(number)


def _end(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
