"""Samples in a fixed order: JSON, CSV or TSV with named columns, a folder of files, or a ``calibration/*.toml`` that names them.

Inputs stay in memory: neither they nor pieces of them go into an error, a log, a cache or a bundle. A place in a file
is named by its line.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.modalities.text import UNBOUND
from edgekit.samples import _folder, _json, _tables
from edgekit.samples._decode import GZIP, text_of
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError, near
from edgekit.spec.parsing import parse, to_json
from edgekit.spec.paths import takes_paths
from edgekit.spec.protocols import Input, Modality, Task
from edgekit.spec.target import read_toml

__all__ = [
    "LABEL",
    "LONGEST_VALUE",
    "MOST_VALUES",
    "NO_VALUE",
    "SEVERAL",
    "Recipe",
    "Sample",
    "Samples",
    "choose_columns",
    "parse_columns",
    "read",
    "read_records",
    "shipped",
]

LABEL = "label"
"""Role of the column of the right answers; the other roles are the modality's."""

MOST_VALUES = 50
"""Different values that a column of slices may have."""

LONGEST_VALUE = 40
"""Characters of such a value: what is longer is text, and a report has none."""

NO_VALUE = "(none)"
"""The slice of rows that have no value in the column."""

SEVERAL = "|"
"""Between the columns of ``label=toxic|threat``, each of 0 and 1 for the label that it is named after."""

_SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_FILE_TYPES = f"{', '.join(_SUFFIXES)}, each also with {GZIP}, or .toml"


@dataclass(frozen=True)
class Sample:
    """One row.

    Attributes:
        input: as a session takes it.
        label: as it stands in the file, or None.
        slices: column to value, of the columns that were asked for as slices; what a report may say of the row.
        empty: the row has a cell for the label, and it is empty: where a row may have several labels, it has none of them.
        others: column to value, of the columns that play no role: each may be a label's column of 0 and 1. Empty where the label's column was named.
        content: what the input is told from others by, see ``Modality.content``, where it was read from a file for that; None elsewhere.
    """

    input: Input
    label: object = None
    slices: Mapping[str, str] = field(default_factory=dict)
    empty: bool = field(default=False, compare=False)
    others: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Samples:
    """Rows of one file or folder.

    Attributes:
        rows: in the order of the file, or of the names in a folder.
        where: the file or folder, for messages.
        digest: sha256 of the file and of what was chosen from it, in hex.
    """

    rows: tuple[Sample, ...] = field(repr=False)
    where: str
    digest: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def inputs(self) -> list[Input]:
        """Of all rows."""
        return [row.input for row in self.rows]

    def contents(self, modality: Modality) -> list[bytes]:
        """What each input is told from others by, see ``Modality.content``; a file is not read again for it."""
        return [modality.content(row.input) if row.content is None else row.content for row in self.rows]

    def evaluation(self, task: Task) -> Evaluation:
        """The rows as a task scores them.

        Raises:
            SamplesError: when a row has no label or one that the model does not know, or an input that a session would not read as it stands.
        """
        truth = task.parse_truth(self.rows, self.where)
        task.modality.check(self.inputs, self.where)
        return Evaluation(
            task, self.inputs, truth.values, [row.content for row in self.rows if row.content is not None], truth.notes
        )

    def take(self, count: int, seed: int) -> Samples:
        """Chooses ``count`` rows at random, in the order of the file; all of them where there are no more.

        Raises:
            UsageError: for a count below 1.
        """
        if count < 1:
            raise UsageError(
                f"{count} rows of {self.where} were asked for, expected at least 1.", code="rows-out-of-range"
            )
        if count >= len(self.rows):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.rows)), count))
        digest = hashlib.sha256(f"{self.digest} {count} {seed}".encode()).hexdigest()
        return Samples(tuple(self.rows[i] for i in chosen), self.where, digest)


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


def parse_columns(text: str) -> dict[str, str]:
    """Reads ``text=sentence,label=y``.

    Which roles there are is the modality's to say, when the file is read.

    Raises:
        UsageError: for a role that is there twice, or something without ``=``.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        role, equals, name = (p.strip() for p in part.partition("="))
        if not equals or not name or not role:
            raise UsageError(
                f"'{part}' in --columns is not ROLE=COLUMN. Write e.g. --columns text=sentence,label=y.",
                code="columns-syntax",
            )
        if role in columns:
            several = (
                f" For a label in several columns of 0 and 1 write label={columns[role]}{SEVERAL}{name}."
                if role == LABEL
                else ""
            )
            raise UsageError(
                f"--columns names {role} twice ('{columns[role]}' and '{name}'), expected once. Leave one out.{several}",
                code="columns-repeated",
            )
        columns[role] = name
    return columns


@takes_paths("path")
def read(
    path: str | Path, columns: Mapping[str, str] | None = None, slices: Sequence[str] = (), modality: Modality = UNBOUND
) -> Samples:
    """Reads samples.

    The digest is that of the data set, of the files that its rows name as well: which slices are asked for does not change it, so two reports on
    the same rows can be compared.

    Args:
        path: a JSON, CSV, TSV or calibration TOML file, the name of a sample set that EdgeKit ships, or a folder of files where inputs are such: each in a
            subfolder with the name of its label, or all without.
        columns: role to column name; by default each role's own name, all but the modality's first one where they are there. The label may be
            several columns, ``toxic|threat``, each of 0 and 1.
        slices: columns whose values go into :attr:`Sample.slices` and from there into reports.
        modality: what makes inputs of the columns; by default texts.

    Raises:
        SamplesError: when the file is missing, empty, not text, malformed, of another digest, can be read in two ways, has a column twice or
            lacks a named one; for a folder of another form; when a column of slices holds what may be text: more than ``MOST_VALUES`` values, or one of
            more than ``LONGEST_VALUE`` characters.
        UsageError: for an unknown role or file type, slices by the input itself, or a column of slices that is named twice.
    """
    file, roles = _locate(path, modality), (*modality.roles, LABEL)
    named = {_role(role, roles): name for role, name in (columns or {}).items()}
    if file.suffix.lower() == ".toml" and not file.is_dir():
        recipe = parse(Recipe, read_toml(file), f"calibration {file.name}")
        source = file.parent / recipe.file
        if source.suffix.lower() == ".toml":
            raise SamplesError(
                f"calibration {file.name} names the file '{recipe.file}', expected a JSON, CSV or TSV file. Correct it.",
                code="calibration-file",
            )
        samples = read(source, {**recipe.columns, **named}, slices, modality)
        found = f"sha256:{samples.digest if source.is_dir() else _file_digest(source)}"
        if recipe.digest and recipe.digest != found:
            remedy = "Restore the file, or put the new digest there."
            raise SamplesError(
                f"{source} has the digest {found}, {file.name} expects {recipe.digest}: the samples changed. {remedy}",
                code="calibration-digest",
            )
        return samples.take(recipe.count, recipe.seed) if recipe.count else samples
    suffix = Path(file.stem).suffix if file.suffix.lower() == GZIP else file.suffix
    kind = "folder" if file.is_dir() else _SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UsageError(
            f"Samples {file} end in '{suffix}', expected one of: {_FILE_TYPES}. Convert or rename the file.",
            code="samples-suffix",
        )
    _check_once(slices)
    records = list(_records(file, kind, named, slices, modality))
    if not records:
        raise SamplesError(
            f"Samples {file} have no rows, expected at least one. Give a file with samples.", code="samples-empty"
        )
    columns = {name: name for _, record in records for name in record}  # JSON rows need not all have the same keys
    chosen = _choose(
        columns, named, file, roles, said=kind in ("json", "jsonl", "folder") or any(role in columns for role in roles)
    )
    _check_slices(slices, columns, chosen, file)
    rows = tuple(
        _sample(record, chosen, LABEL not in named, slices, file, place, modality) for place, record in records
    )
    for name in slices:
        if (different := len({row.slices[name] for row in rows})) > MOST_VALUES:
            said = f"{different} different values in column '{name}', expected at most {MOST_VALUES} for slices"
            raise SamplesError(
                f"Samples {file} have {said}. Slice by a coarser column.", code="slices-too-many-samples"
            )
    parts: list[object] = [
        [record for _, record in records] if kind == "folder" else _file_digest(file),
        sorted(chosen.items()),
    ]
    if modality.reads_files:  # what a path names may change while the table stays
        rows = tuple(replace(row, content=modality.content(row.input)) for row in rows)
        parts.append([hashlib.sha256(row.content or b"").hexdigest() for row in rows])
    return Samples(rows, str(file), hashlib.sha256(to_json(parts).encode()).hexdigest())


def read_records(
    path: str | Path, columns: Mapping[str, str], modality: Modality
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the place of each row of a file and its columns, without making inputs of them.

    Args:
        path: JSON, CSV or TSV file, or a folder of files where inputs are such.
        columns: Role to column name.
        modality: Kind of input that the columns make.

    Raises:
        SamplesError: As :func:`read`.
        UsageError: For an unknown type of file.
    """
    file = _locate(path, modality)
    suffix = Path(file.stem).suffix if file.suffix.lower() == GZIP else file.suffix
    kind = "folder" if file.is_dir() else _SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UsageError(
            f"{file} ends in '{suffix}', expected one of: {', '.join(_SUFFIXES)}, each also with {GZIP}, or .parquet. "
            "Convert or rename the file.",
            code="samples-suffix",
        )
    return _records(file, kind, columns, (), modality)


def choose_columns(
    record: Mapping[str, object], columns: Mapping[str, str], file: Path, modality: Modality
) -> dict[str, str]:
    """Return role to column name for the input of a row; the label is left out.

    Args:
        record: Row whose columns count.
        columns: Role to column name, where the caller names it.
        file: File of the row, for messages.
        modality: Kind of input that the columns make.

    Raises:
        SamplesError: When a column is missing.
        UsageError: For an unknown role.
    """
    roles = (*modality.roles, LABEL)
    named = {_role(role, roles): name for role, name in columns.items() if role != LABEL}
    is_named = file.suffix.lower() not in (".csv", ".tsv") or any(role in record for role in roles)
    chosen = _choose(record, named, file, roles, said=is_named)
    return {role: name for role, name in chosen.items() if role != LABEL}


def _records(
    file: Path, kind: str, named: Mapping[str, str], slices: Sequence[str], modality: Modality
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Rows with their places, whichever type the file is of."""
    if kind == "folder":
        yield from _folder.records(file, modality.roles[0], LABEL)
        return
    text, roles = text_of(file), (*modality.roles, LABEL)
    if kind.startswith("json"):

        def is_row(found: Mapping[str, object]) -> bool:
            with contextlib.suppress(SamplesError):
                columns = {role: found.get(named.get(role, role)) for role in modality.roles}
                modality.read(columns, file.parent)
                # What is several words, or a list that was written into a cell, is a row itself.
                parts = [
                    (role, part)
                    for role, column in columns.items()
                    if isinstance(column, list)
                    for part in column
                    if isinstance(part, str)
                ]
                return not any(
                    " " in part.strip() or isinstance(modality.read({**columns, role: part}, file.parent), tuple)
                    for role, part in parts
                )
            return False

        yield from _json.records(text, file, kind == "jsonl", is_row)
        return
    wanted = [part for role, name in named.items() for part in (name.split(SEVERAL) if role == LABEL else (name,))]
    for line, record in _tables.records(text, file, kind, (*wanted, *slices), roles):
        yield f"line {line}", record


def shipped() -> dict[str, Path]:
    """The sample sets that EdgeKit ships: name to TOML file, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "calibration", package.parent / "calibration")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def _locate(path: str | Path, modality: Modality) -> Path:
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


def _role(role: str, roles: Sequence[str]) -> str:
    if role not in roles:
        raise UsageError(
            f"Unknown column role '{role}'.{near(role, roles)} Roles: {', '.join(roles)}.", code="role-unknown"
        )
    return role


def _choose(
    first: Mapping[str, object], named: Mapping[str, str], file: Path, roles: Sequence[str], said: bool
) -> dict[str, str]:
    """Which column plays which role. ``said``: columns may be named in an error; a table without a header has a text there."""
    chosen = dict(named)
    said = said or any(name in first for name in named.values())
    shown = (
        f"Columns: {', '.join(first)}"
        if said
        else f"Its first line has {len(first)} cell(s) and may not be a header, which it needs"
    )
    for role, name in named.items():
        for part in (name,) if name in first or role != LABEL else name.split(SEVERAL):
            if part not in first:
                raise SamplesError(
                    f"Samples {file} have no column '{part}' (for {role}).{near(part, first)} {shown}. Correct --columns.",
                    code="samples-no-column",
                )
    for role in roles:
        if role not in chosen and role in first:
            chosen[role] = role
    if roles[0] not in chosen:
        raise SamplesError(
            f"Samples {file} have no column '{roles[0]}'. {shown}. Name it: --columns {roles[0]}=COLUMN.",
            code="samples-no-column",
        )
    return chosen


def _check_once(slices: Sequence[str]) -> None:
    if isinstance(slices, str):
        raise UsageError(
            f"The slices are one text ('{slices}'), expected a list of columns. Write e.g. slices=['{slices}'].",
            code="slices-type",
        )
    if len(set(slices)) < len(slices):
        raise UsageError(
            f"The column '{max(slices, key=list(slices).count)}' is named twice for slices, expected once. Leave one out.",
            code="slices-repeated",
        )


def _check_slices(slices: Sequence[str], columns: Mapping[str, str], chosen: Mapping[str, str], file: Path) -> None:
    for name in slices:
        if name not in columns:
            raise SamplesError(
                f"Samples {file} have no column '{name}' for slices.{near(name, columns)} Columns: {', '.join(columns)}. Correct the slices.",
                code="samples-no-column",
            )
        for role, column in chosen.items():
            if role != LABEL and column == name:
                raise UsageError(
                    f"Column '{name}' is the {role} of samples {file}, which reports do not hold. Slice by another column.",
                    code="slices-private",
                )


def _slice(value: object, name: str, place: str) -> str:
    """The value of a row in a column of slices."""
    parts = value if isinstance(value, list) else [value]  # a list of labels is one value, as in a|b
    said = "|".join("" if p is None else to_json(p) if isinstance(p, bool) else str(p) for p in parts).strip()
    what = ""
    if any(isinstance(p, (list, dict)) for p in parts):
        what = "a list or an object"
    elif len(said) > LONGEST_VALUE:
        what = f"{len(said)} characters"
    elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in said):
        what = "a line break or another control character"
    if what:
        remedy = "Values of slices stand in reports, where text must not. Slice by another column, or correct the row."
        raise SamplesError(
            f"{place} has {what} in column '{name}', expected a value of at most {LONGEST_VALUE} characters for slices. {remedy}",
            code="slices-value",
        )
    return said or NO_VALUE


def _sample(
    record: Mapping[str, object],
    chosen: Mapping[str, str],
    with_others: bool,
    slices: Sequence[str],
    file: Path,
    place: str,
    modality: Modality,
) -> Sample:
    label, empty, others = None, False, dict[str, object]()
    if (name := chosen.get(LABEL)) is not None:
        label = record.get(name)
        if name not in record and SEVERAL in name:
            label = {column: record.get(column) for column in name.split(SEVERAL)}
        empty = isinstance(label, str) and not label.strip()
        label = None if empty else label
    columns = {role: name for role, name in chosen.items() if role != LABEL}
    try:
        value = modality.read(
            {role: record.get(name) for role, name in columns.items()}, file if file.is_dir() else file.parent
        )
    except SamplesError as problem:
        # The modality knows roles; whoever wrote the file knows its columns.
        named = ", ".join(f"column '{name}' is the {role}" for role, name in columns.items() if name != role)
        raise SamplesError(
            f"{file}, {place} {problem}{f' ({named})' if named else ''}", code="samples-row"
        ) from problem
    if with_others:
        others = {name: other for name, other in record.items() if name not in chosen.values()}
    return Sample(
        value, label, {name: _slice(record.get(name), name, f"{file}, {place}") for name in slices}, empty, others
    )


def _file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
