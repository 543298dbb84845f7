"""Ctrl-C, SIGTERM and a closed terminal end a verb in the same way: what was begun is removed, and nothing is left behind.

The exception that a handler raises can be lost: it comes up wherever the program happens to be, and a library that
catches everything there (an import with a fallback, a finalizer) drops it. So the request is also kept, and whatever
reports progress asks for it again.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_requested: list[int] = []


def install() -> None:
    """Takes over the signals."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _handle)


def check() -> None:
    """Ends the verb if a signal came and its exception was lost."""
    if _requested:
        _end(_requested[0])


def _handle(number: int, frame: FrameType | None) -> None:
    _requested.append(number)
    _end(number)


def _end(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
