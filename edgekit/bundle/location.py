"""Paths at which no bundle lies: a mistake of the caller, unlike a damaged bundle."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import signature
from edgekit.spec.errors import UsageError

__all__ = ["check_path"]

_MANIFEST = "manifest.json"
_ZIP = b"PK\x03\x04"  # begin of a packed bundle
_PARTS = ("graphs", "assets", signature.FILE)  # a folder with one of these is a damaged bundle


def check_path(folder: Path) -> None:
    """Refuse a path at which no bundle lies.

    Raises:
        UsageError: For a path that does not exist, a file, a packed bundle, or a folder that holds nothing of a bundle.
    """
    if folder.is_dir():
        if not (folder / _MANIFEST).exists() and not any((folder / name).exists() for name in _PARTS):
            raise UsageError(
                f"{folder} is not a bundle: it has no {_MANIFEST}. Give the folder that 'edgekit build MODEL -o FOLDER' wrote.",
                code="bundle-other-folder",
            )
        return
    if _is_packed(folder):
        raise UsageError(
            f"{folder} is a packed bundle, expected a folder. Unpack it: edgekit pack --unpack {folder} -o {folder.stem}",
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
