"""Sample files on disk: lookup by path or name, supported file types, and the fields of a calibration TOML."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.samples._decode import GZIP
from edgekit.spec.errors import SamplesError, near
from edgekit.spec.protocols import Modality

SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
"""Type of a file by its suffix."""

FILE_TYPES = f"{', '.join(SUFFIXES)}, each also with {GZIP}, or .toml"

_BLOCK = 1 << 20  # bytes


def shipped() -> dict[str, Path]:
    """Return the sample sets that EdgeKit ships, as a dict of name to TOML file.

    The files are in the installed package, or beside it in a checkout.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package / "calibration", package.parent / "calibration")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def locate(path: str | os.PathLike[str], modality: Modality) -> Path:
    """Return the file or folder of a path, or the TOML file of a shipped sample set.

    Args:
        path: Path, or name of a shipped sample set.
        modality: Modality of the samples. A folder is accepted only if its inputs are files.

    Raises:
        SamplesError: If no such file or sample set exists.
    """
    file = Path(path)
    if file.is_file() or (file.is_dir() and modality.reads_files):
        return file
    known = shipped()
    if str(path) in known:
        return known[str(path)]
    what = f"is a folder, and the column '{modality.roles[0]}' holds no files" if file.is_dir() else "does not exist"
    raise SamplesError(
        f"Samples {file} {what}, expected a JSON, CSV, TSV or calibration TOML file, "
        f"or the name of a shipped set ({', '.join(known)}).{near(str(path), known)} Correct the path.",
        code="samples-not-found",
    )


def detect_type(file: Path) -> str | None:
    """Return ``folder``, or the type of a file by its suffix, see :data:`SUFFIXES`; None if the suffix is unknown."""
    if file.is_dir():
        return "folder"
    return SUFFIXES.get(get_suffix(file).lower())


def get_suffix(file: Path) -> str:
    """Return the suffix of a file name, e.g. ``.csv``, without a ``.gz`` that follows it."""
    return Path(file.stem).suffix if file.suffix.lower() == GZIP else file.suffix


def hash_file(file: Path) -> str:
    """Return the sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class CalibrationFile:
    """Content of a ``calibration/*.toml``.

    Attributes:
        name: Name of the sample set.
        file: Path of the sample file, relative to the TOML file.
        description: Description for readers.
        columns: Column name by role (of the modality, or ``label``).
        count: Number of rows to draw at random; 0 means all.
        seed: Random seed of the draw.
        digest: Expected ``sha256:HEX`` of the sample file. A file with another digest is refused. Empty: no check.
    """

    name: str
    file: str
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    seed: int = 0
    digest: str = ""
