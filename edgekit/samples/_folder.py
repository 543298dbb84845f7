"""A folder of files with a subfolder for each label, ``DIR/cat/0001.jpg``, as torchvision's ``ImageFolder`` and ``imagefolder`` of datasets have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.spec.errors import SamplesError


def records(folder: Path, role: str, label: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Rows of a folder, by the names of subfolders and then of files; what begins with a point is hidden and left out.

    Args:
        folder: whose files are rows without a label, or whose subfolders are labels.
        role: column of a file's path.
        label: column of the name of its subfolder.

    Yields:
        The place, which names no file, and column to value.

    Raises:
        SamplesError: for a folder that cannot be read or has no file, for files beside subfolders, and for folders in subfolders.
    """
    files, folders = _listed(folder)
    if files and folders:
        raise SamplesError(
            f"Samples {folder} have {len(files)} file(s) beside {len(folders)} subfolder(s), expected all in subfolders with the names of their labels, or no "
            "subfolder. Move or remove the files.",
            code="samples-folder",
        )
    for place, name in enumerate(files, 1):
        yield f"file {place} (by name)", {role: name}
    for name in folders:
        inside, deeper = _listed(folder / name)
        if deeper or not inside:
            what = (
                f"{len(deeper)} folder(s), expected files alone" if deeper else "no file, expected those of its label"
            )
            raise SamplesError(
                f"Samples {folder}: the subfolder '{name}' has {what}. Give the folder whose subfolders are the labels.",
                code="samples-folder",
            )
        for place, file in enumerate(inside, 1):
            yield f"file {place} (by name) of '{name}'", {role: f"{name}/{file}", label: name}


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, sorted."""
    try:
        found = sorted(
            (entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError as problem:
        raise SamplesError(
            f"Samples {folder} cannot be read: {problem.strerror}. Check the path and its permissions.",
            code="samples-unreadable",
        ) from problem
    return [entry.name for entry in found if not entry.is_dir()], [entry.name for entry in found if entry.is_dir()]
