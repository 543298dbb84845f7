"""Loops: each module is one way to run the graphs of a model on rows. The manifest names the loop of a bundle.

``single`` is one forward pass. A task of an installed package can bring its own loop (entry points ``edgekit.loops``).
"""

from __future__ import annotations

from edgekit.spec.errors import FormatError, UsageError
from edgekit.spec.protocols import Loop
from edgekit.spec.registry import Registry

__all__ = ["get"]

_LOOPS: Registry[Loop] = Registry(__name__, "loop", group="edgekit.loops")


def get(name: str) -> Loop:
    """Return the module of a loop.

    Args:
        name: Name of a module in ``runtime/loops/``, or of an entry point.

    Raises:
        FormatError: If neither this version nor an installed package has the loop, or the package cannot be imported.
    """
    try:
        return _LOOPS.get(name)
    except UsageError as problem:
        if name in _LOOPS.known():
            raise FormatError(
                f"The loop '{name}' of the bundle cannot be used. {problem}", code="loop-broken"
            ) from problem
        raise FormatError(
            f"The bundle needs a loop that is not installed. {problem} "
            "Install a newer EdgeKit, or the package of the bundle's task.",
            code="loop-unknown",
        ) from problem
