"""May this bundle be put here?

Asked where a bundle is installed or replaced (``unpack``, ``deploy``, ``build --force``), never when it is loaded: a device must not stop because a
day has passed.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.trust import MANIFEST
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.identity import today, version_key
from edgekit.spec.manifest import Manifest, loads

__all__ = ["check_install", "check_replaced", "check_successor", "title"]


def check_install(manifest: Manifest, where: str | Path) -> tuple[str, ...]:
    """Refuses a bundle that has expired.

    Args:
        manifest: of the bundle.
        where: what it comes from, for messages.

    Returns:
        What to know: a clock that cannot be right, by which a day cannot be told.

    Raises:
        IntegrityError: when its last day is over.
    """
    day = today()
    if manifest.built and day < manifest.built[:10]:
        said = f"This machine's clock says {day}, and the bundle was built on {manifest.built[:10]}"
        return (
            (f"{said}: whether it has expired ({manifest.expires}) was not checked. Set the clock.",)
            if manifest.expires
            else (f"{said}. Set the clock.",)
        )
    if manifest.expires and day > manifest.expires:
        raise IntegrityError(
            f"{where} expired: it was to be installed until {manifest.expires}, today is {day}. Get a newer one from its maker.",
            code="bundle-expired",
        )
    return ()


def check_replaced(out: Path, name: str, version: str, allow_downgrade: bool) -> None:
    """Refuses to put a bundle in the place of one of another name, or of a newer one of its name.

    Args:
        out: the place; anything may be there, or nothing.
        name: of the bundle that is to come.
        version: of the same.
        allow_downgrade: replace it all the same.

    Raises:
        UsageError: with both names and versions.
    """
    try:
        there = loads((out / MANIFEST).read_text("utf-8"), str(out))
    except (OSError, ValueError, IntegrityError):
        return  # what is no bundle, or too damaged to say what it is, states no version
    if not allow_downgrade:
        check_successor(str(out), (there.name, there.version), (name, version))


def check_successor(where: str, there: tuple[str, str], new: tuple[str, str]) -> None:
    """Refuses a bundle that is no successor of the one that is there.

    Args:
        where: the place, for messages.
        there: name and version of the bundle there; whatever replaces one without a name.
        new: name and version of the bundle that is to come.

    Raises:
        UsageError: with both names and versions.
    """
    less = new[0] == there[0] and version_key(new[1]) < version_key(there[1])
    if there[0] and (new[0] != there[0] or less):
        raise UsageError(
            f"{where} holds {title(*there)}, and {title(*new)} is {'older' if less else 'another bundle'}. "
            "Give another place, or allow it: --allow-downgrade (allow_downgrade=True).",
            code="install-downgrade",
        )


def title(name: str, version: str) -> str:
    """A bundle by name and version, e.g. ``intents 1.4``."""
    return f"{name or 'a bundle without a name'}{f' {version}' if version else ''}"
