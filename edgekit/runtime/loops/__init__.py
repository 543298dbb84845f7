"""A file is a way of driving graphs; the manifest names it. ``single``: one forward pass."""

from __future__ import annotations

from edgekit.spec.errors import FormatError
from edgekit.spec.protocols import Loop
from edgekit.spec.registry import Registry

__all__ = ["get"]

_LOOPS: Registry[Loop] = Registry(__name__, "loop")


def get(name: str) -> Loop:
    """The module of a loop.

    Raises:
        FormatError: for a loop that this version does not have.
    """
    if name not in (known := _LOOPS.names()):
        raise FormatError(f"The bundle is driven by the loop '{name}', this EdgeKit has: {', '.join(known)}. Install a newer EdgeKit.")
    return _LOOPS.get(name)
