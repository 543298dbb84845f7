"""Checks before a bundle is installed or replaced: expiry date, name and version.

``unpack``, ``deploy`` and ``build --force`` run these checks. Loading a bundle does not, because a device must not stop
working on a certain day.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.trust import MANIFEST
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.identity import today, version_key
from edgekit.spec.manifest import Manifest, loads

__all__ = ["check_install", "check_replaced", "check_successor", "title"]


def check_install(manifest: Manifest, where: str | Path) -> tuple[str, ...]:
    """Refuse a bundle that has expired.

    Args:
        manifest: Manifest of the bundle.
        where: Source of the bundle, for error messages.

    Returns:
        Notes for the user: the clock of the machine is wrong, so that the expiry date cannot be checked.

    Raises:
        IntegrityError: If the expiry date has passed.
    """
    day = today()
    if manifest.built and day < manifest.built[:10]:
        note = f"This machine's clock says {day}, but the bundle was built on {manifest.built[:10]}"
        if manifest.expires:
            note += f", so the expiry date {manifest.expires} was not checked"
        return (f"{note}. Set the clock.",)
    if manifest.expires and day > manifest.expires:
        raise IntegrityError(
            f"{where} has expired: its last day of installation was {manifest.expires}, and today is {day}. "
            "Get a newer bundle from its maker.",
            code="bundle-expired",
        )
    return ()


def check_replaced(out: Path, name: str, version: str, allow_downgrade: bool) -> None:
    """Refuse to replace a bundle with one of another name or an older version.

    Args:
        out: Output path. Anything or nothing may be there.
        name: Name of the new bundle.
        version: Version of the new bundle.
        allow_downgrade: Flag to skip the check.

    Raises:
        UsageError: If the new bundle is not a successor.
    """
    try:
        current = loads((out / MANIFEST).read_text("utf-8"), str(out))
    except (OSError, ValueError, IntegrityError):
        return  # A path without a readable manifest has no version to compare with.
    if not allow_downgrade:
        check_successor(str(out), (current.name, current.version), (name, version))


def check_successor(where: str, current: tuple[str, str], new: tuple[str, str]) -> None:
    """Refuse a bundle that is not a successor of the current one.

    Args:
        where: Place of the current bundle, for error messages.
        current: Name and version of the current bundle. Any bundle may replace one without a name.
        new: Name and version of the new bundle.

    Raises:
        UsageError: If the name differs or the version is older.
    """
    current_name, current_version = current
    new_name, new_version = new
    is_older = new_name == current_name and version_key(new_version) < version_key(current_version)
    if current_name and (new_name != current_name or is_older):
        difference = "an older version" if is_older else "another bundle"
        raise UsageError(
            f"{where} contains {title(*current)}, but {title(*new)} is {difference}. "
            "Give another place, or allow it: --allow-downgrade (allow_downgrade=True).",
            code="install-downgrade",
        )


def title(name: str, version: str) -> str:
    """Return the name and version of a bundle, e.g. ``intents 1.4``."""
    text = name or "a bundle without a name"
    return f"{text} {version}" if version else text
