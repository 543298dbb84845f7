"""A file is a way of driving graphs; the manifest names it. ``single``: one forward pass."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from edgekit.spec.errors import FormatError
from edgekit.spec.protocols import Loop

__all__ = ["get"]


def get(name: str) -> Loop:
    """The module of a loop.

    Raises:
        FormatError: for a loop that this version does not have.
    """
    known = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in known:
        raise FormatError(f"The bundle is driven by the loop '{name}', this EdgeKit has: {', '.join(known)}. Install a newer EdgeKit.")
    return cast(Loop, importlib.import_module(f"{__name__}.{name}"))
