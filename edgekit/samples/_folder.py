"""Folders as labelled samples: one subfolder per label, e.g. ``DIR/cat/0001.jpg``.

The layout is that of torchvision's ``ImageFolder`` and of the ``imagefolder`` loader of datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.spec.errors import SamplesError


def read_records(folder: Path, role: str, label: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of a folder, sorted by subfolder name and then by file name; hidden files are skipped.

    Args:
        folder: Folder of unlabelled files, or of one subfolder per label.
        role: Name of the column with the path of a file, relative to the folder.
        label: Name of the column with the name of the subfolder.

    Yields:
        Position of the row, which names no file, and cell values by column.

    Raises:
        SamplesError: If the folder cannot be read, has no file, mixes files and subfolders, or has nested subfolders.
    """
    files, folders = _list_folder(folder)
    if files and folders:
        raise SamplesError(
            f"Samples {folder} have {len(files)} file(s) beside {len(folders)} subfolder(s), "
            "expected all files in subfolders named after their labels, or no subfolder. Move or remove the files.",
            code="samples-folder",
        )
    for number, name in enumerate(files, 1):
        yield f"file {number} (by name)", {role: name}
    for name in folders:
        inside, nested = _list_folder(folder / name)
        if nested or not inside:
            problem = f"{len(nested)} folder(s), expected only files" if nested else "no file, expected at least one"
            raise SamplesError(
                f"Samples {folder}: the subfolder '{name}' has {problem}. "
                "Give the folder whose subfolders are the labels.",
                code="samples-folder",
            )
        for number, file in enumerate(inside, 1):
            yield f"file {number} (by name) of '{name}'", {role: f"{name}/{file}", label: name}


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files and of the subfolders of a folder, both sorted."""
    try:
        visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as problem:
        raise SamplesError(
            f"Samples {folder} cannot be read: {problem.strerror}. Check the path and its permissions.",
            code="samples-unreadable",
        ) from problem
    files = []
    folders = []
    for entry in sorted(visible, key=lambda entry: entry.name):
        if entry.is_dir():
            folders.append(entry.name)
        else:
            files.append(entry.name)
    return files, folders
