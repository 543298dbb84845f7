"""Loops: each module is one way to run the graphs of a model on rows. The manifest names the loop of a bundle.

``single`` is one forward pass. A task of an installed package can bring its own loop (entry points ``edgekit.loops``).
"""

from __future__ import annotations

from pathlib import Path

from edgekit.spec.errors import FormatError, IntegrityError, UsageError
from edgekit.spec.manifest import Manifest
from edgekit.spec.protocols import Loop
from edgekit.spec.registry import Registry
from edgekit.spec.tensor import Signature

__all__ = ["find_signatures", "get"]

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


def find_signatures(manifest: Manifest, path: Path) -> dict[str, Signature]:
    """Return the signatures that the loop of a bundle needs, by name.

    Args:
        manifest: Manifest of the bundle.
        path: Folder of the bundle, for the message.

    Raises:
        IntegrityError: If the bundle lacks a signature.
        FormatError: If the loop is not installed.
    """
    available = {signature.name: signature for signature in manifest.signatures}
    required_names = get(manifest.loop).SIGNATURES
    missing_names = [name for name in required_names if name not in available]
    if missing_names:
        raise IntegrityError(
            f"{path} has no signature '{missing_names[0]}', which its loop '{manifest.loop}' needs. "
            "Build or copy the bundle again.",
            code="bundle-assets",
        )
    return {name: available[name] for name in required_names}
