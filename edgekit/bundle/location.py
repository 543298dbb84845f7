"""Check for a path without a bundle, which is a mistake of the caller and not a damaged bundle."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import signature
from edgekit.spec.errors import UsageError

__all__ = ["check_path"]

_MANIFEST = "manifest.json"
_ZIP = b"PK\x03\x04"
"""First bytes of a packed bundle."""
_PARTS = ("graphs", "assets", signature.FILE)
"""Parts of a bundle. A folder with one of these and without a manifest is a damaged bundle."""


def check_path(folder: Path) -> None:
    """Refuse a path without a bundle.

    Args:
        folder: Path to check.

    Raises:
        UsageError: If the path does not exist, is a file or a packed bundle, or contains no part of a bundle.
    """
    if folder.is_dir():
        if not (folder / _MANIFEST).exists() and not any((folder / name).exists() for name in _PARTS):
            raise UsageError(
                f"{folder} is not a bundle: it has no {_MANIFEST}. "
                "Give the folder that 'edgekit build MODEL -o FOLDER' wrote.",
                code="bundle-other-folder",
            )
        return
    if _is_packed(folder):
        raise UsageError(
            f"{folder} is a packed bundle, expected a folder. "
            f"Unpack it: edgekit pack --unpack {folder} -o {folder.stem}",
            code="bundle-packed",
        )
    what = "is not a folder" if folder.exists() else "does not exist"
    raise UsageError(
        f"Bundle {folder} {what}, expected a folder with a {_MANIFEST}. "
        "Correct the path, or make a bundle: edgekit build MODEL -o FOLDER",
        code="bundle-not-found",
    )


def _is_packed(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(_ZIP)) == _ZIP
