"""Files of samples: which exist, which types are read, and where the shipped ones are."""

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
FILE_TYPES = f"{', '.join(SUFFIXES)}, each also with {GZIP}, or .toml"


def shipped() -> dict[str, Path]:
    """The sample sets that EdgeKit ships: name to TOML file, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "calibration", package.parent / "calibration")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def locate(path: str | os.PathLike[str], modality: Modality) -> Path:
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


def file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """A ``calibration/*.toml``.

    Attributes:
        name: of the sample set.
        file: path relative to the TOML file.
        description: for people.
        columns: role (of the modality, or ``label``) to column name.
        count: rows to choose; 0 means all.
        seed: of the choice.
        digest: ``sha256:HEX`` of the file; refused when the file is another.
    """

    name: str
    file: str
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    seed: int = 0
    digest: str = ""
