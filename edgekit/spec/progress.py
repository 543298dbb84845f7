"""Progress callback of long steps. The library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Function that is called with the name of the step, the units done and the total (0 if it is not known).

A call with an empty name shows nothing: it only lets the function raise an error, which stops the work.
"""


def silent(step: str, done: int, total: int) -> None:
    """Ignore progress."""
