"""A file is a way of driving graphs; the manifest names it. ``single``: one forward pass. A task of an installed package may bring its own."""

from __future__ import annotations

from edgekit.spec.errors import FormatError, UsageError
from edgekit.spec.protocols import Loop
from edgekit.spec.registry import Registry

__all__ = ["get"]

_LOOPS: Registry[Loop] = Registry(__name__, "loop", group="edgekit.loops")


def get(name: str) -> Loop:
    """The module of a loop.

    Raises:
        FormatError: for a loop that neither this version nor an installed package has, or whose package does not serve.
    """
    try:
        return _LOOPS.get(name)
    except UsageError as problem:
        if name in _LOOPS.known():
            raise FormatError(
                f"The loop that drives the bundle does not serve. {problem}", code="loop-broken"
            ) from problem
        raise FormatError(
            f"The bundle is driven by a loop that is not here. {problem} Install a newer EdgeKit, or the package of its task.",
            code="loop-unknown",
        ) from problem
