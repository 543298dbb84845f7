"""How a long step tells how far it is: a function that the caller gives. The library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with the step's name, units done and units in all (0 where that is not known). With an empty name there is nothing
to show: it asks whether to go on. It may raise to end the work."""


def silent(step: str, done: int, total: int) -> None:
    """Tells nobody."""
