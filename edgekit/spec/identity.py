"""Identity of a bundle: name, version, and last day of installation.

They are compared when a bundle is installed, never when it is loaded.
"""

from __future__ import annotations

import datetime
import re

from edgekit.spec.errors import UsageError

__all__ = ["check_date", "check_name", "check_version", "today", "version_key"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"\d{1,18}(\.\d{1,18}){0,7}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def check_name(name: str) -> str:
    """Check a name, and return it. The empty text is no name.

    Raises:
        UsageError: If it is not 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit.
    """
    if name and not _NAME.fullmatch(name):
        raise UsageError(
            f"The bundle's name is {name[:80]!r}, expected 1 to 64 ASCII letters, digits, '.', '-' or '_', "
            "the first a letter or digit.",
            code="bundle-name",
        )
    return name


def version_key(version: str) -> tuple[int, ...]:
    """Return the sort key of a version: its numbers, padded with zeros.

    So 1.2 equals 1.2.0, and is less than 1.10.

    Args:
        version: One to eight integers separated by dots; the empty text is less than every version.

    Raises:
        UsageError: If it is anything else.
    """
    if not version:
        return ()
    if not _VERSION.fullmatch(version):
        raise UsageError(
            f"The bundle's version is {version[:80]!r}, expected integers separated by dots, e.g. 1.4 or 2026.11.3.",
            code="bundle-version",
        )
    numbers = [int(part) for part in version.split(".")]
    return tuple(numbers + [0] * (8 - len(numbers)))


def check_version(version: str) -> str:
    """Check a version like :func:`version_key`, and return it. The empty text is no version."""
    version_key(version)
    return version


def check_date(date: str) -> str:
    """Check the last day, in UTC, on which a bundle may be installed, and return it. The empty text is no limit.

    Raises:
        UsageError: If it is not a date such as ``2027-06-30``.
    """
    if date:
        try:
            if not _DATE.fullmatch(date):
                raise ValueError(date)
            datetime.date.fromisoformat(date)
        except ValueError as problem:
            raise UsageError(
                f"The bundle expires on {date[:80]!r}, expected a date such as 2027-06-30.", code="bundle-expiry"
            ) from problem
    return date


def today() -> str:
    """Return the current day in UTC, e.g. ``2026-11-29``. Such texts sort by date."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
