"""Floor 3: samples in a fixed order: JSONL, CSV or TSV with named columns, or a ``calibration/*.toml`` that names them.

Texts stay in memory: neither they nor pieces of them go into an error, a log, a cache or a bundle. A place in a file
is named by its line.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.spec.errors import SamplesError, UsageError, near
from edgekit.spec.parsing import parse
from edgekit.spec.target import read_toml

ROLES = ("text", "text_pair", "label")
MOST_VALUES = 50
"""Different values that a column of slices may have."""

LONGEST_VALUE = 40
"""Characters of such a value: what is longer is text, and a report has none."""

NO_VALUE = "(none)"
"""The slice of rows that have no value in the column."""

_SUFFIXES = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


@dataclass(frozen=True)
class Sample:
    """One row.

    Attributes:
        text: what is classified.
        text_pair: the second text of a pair, or None.
        label: as it stands in the file, or None.
        slices: column to value, of the columns that were asked for as slices; what a report may say of the row.
    """

    text: str
    text_pair: str | None = None
    label: object = None
    slices: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> str | tuple[str, str]:
        """As a session takes it."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


@dataclass(frozen=True)
class Samples:
    """Rows of one file.

    Attributes:
        rows: in the order of the file.
        where: the file, for messages.
        digest: sha256 of the file and of what was chosen from it, in hex.
    """

    rows: tuple[Sample, ...]
    where: str
    digest: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def labels(self) -> list[object]:
        """The label column.

        Raises:
            SamplesError: when a row has none.
        """
        for index, row in enumerate(self.rows):
            if row.label is None:
                raise SamplesError(f"{self.where}, row {index + 1} has no label, which scoring needs. Name the column: --columns label=NAME.")
        return [row.label for row in self.rows]

    def take(self, count: int, seed: int) -> Samples:
        """Chooses ``count`` rows at random, in the order of the file; all of them where there are no more.

        Raises:
            UsageError: for a count below 1.
        """
        if count < 1:
            raise UsageError(f"{count} rows of {self.where} were asked for, expected at least 1.")
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
        columns: role (``text``, ``text_pair``, ``label``) to column name.
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

    Raises:
        UsageError: for a role that does not exist, or something without ``=``.
    """
    columns = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        role, equals, name = (p.strip() for p in part.partition("="))
        if not equals or not name:
            raise UsageError(f"'{part}' in --columns is not ROLE=COLUMN. Write e.g. --columns text=sentence,label=y.")
        columns[_role(role)] = name
    return columns


def read(path: str | Path, columns: Mapping[str, str] | None = None, slices: Sequence[str] = ()) -> Samples:
    """Reads samples.

    The digest is that of the data set: which slices are asked for does not change it, so two reports on the same rows can be compared.

    Args:
        path: a JSONL, CSV, TSV or calibration TOML file, or the name of a sample set that EdgeKit ships.
        columns: role to column name; by default each role's own name, ``text_pair`` and ``label`` where they are there.
        slices: columns whose values go into :attr:`Sample.slices` and from there into reports.

    Raises:
        SamplesError: when the file is missing, empty, not UTF-8, malformed, of another digest, or lacks a named column; when a column of
            slices holds what may be text: more than ``MOST_VALUES`` values, or one of more than ``LONGEST_VALUE`` characters.
        UsageError: for an unknown role or file type, or slices by the text itself.
    """
    file = _locate(path)
    named = {_role(role): name for role, name in (columns or {}).items()}
    if file.suffix.lower() == ".toml":
        recipe = parse(Recipe, read_toml(file), f"calibration {file.name}")
        source = file.parent / recipe.file
        if source.suffix.lower() == ".toml":
            raise SamplesError(f"calibration {file.name} names the file '{recipe.file}', expected a JSONL, CSV or TSV file. Correct it.")
        samples = read(source, {**recipe.columns, **named}, slices)
        found = f"sha256:{_file_digest(source)}"
        if recipe.digest and recipe.digest != found:
            remedy = "Restore the file, or put the new digest there."
            raise SamplesError(f"{source} has the digest {found}, {file.name} expects {recipe.digest}: the samples changed. {remedy}")
        return samples.take(recipe.count, recipe.seed) if recipe.count else samples
    kind = _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise UsageError(f"Samples {file} end in '{file.suffix}', expected one of: {', '.join(_SUFFIXES)}, .toml. Convert or rename the file.")
    records = list(_jsonl(file) if kind == "jsonl" else _table(file, "," if kind == "csv" else "\t"))
    if not records:
        raise SamplesError(f"Samples {file} have no rows, expected at least one. Give a file with samples.")
    columns = {name: name for _, record in records for name in record}  # JSONL rows need not all have the same keys
    chosen = _choose(columns, named, file, said=kind == "jsonl" or any(role in columns for role in ROLES))
    _check_slices(slices, columns, chosen, file)
    rows = tuple(_sample(record, chosen, slices, f"{file}, line {line}") for line, record in records)
    for name in slices:
        if (different := len({row.slices[name] for row in rows})) > MOST_VALUES:
            said = f"{different} different values in column '{name}', expected at most {MOST_VALUES} for slices"
            raise SamplesError(f"Samples {file} have {said}. Slice by a coarser column.")
    digest = hashlib.sha256(json.dumps([_file_digest(file), sorted(chosen.items())]).encode()).hexdigest()
    return Samples(rows, str(file), digest)


def shipped() -> dict[str, Path]:
    """The sample sets that EdgeKit ships: name to TOML file, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    folders = (package / "calibration", package.parent / "calibration")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def _locate(path: str | Path) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    known = shipped()
    if str(path) in known:
        return known[str(path)]
    what = "is a folder" if file.is_dir() else "does not exist"
    raise SamplesError(
        f"Samples {file} {what}, expected a JSONL, CSV, TSV or calibration TOML file, "
        f"or the name of a shipped set ({', '.join(known)}).{near(str(path), known)} Correct the path."
    )


def _role(role: str) -> str:
    if role not in ROLES:
        raise UsageError(f"Unknown column role '{role}'.{near(role, ROLES)} Roles: {', '.join(ROLES)}.")
    return role


def _choose(first: Mapping[str, object], named: Mapping[str, str], file: Path, said: bool) -> dict[str, str]:
    """Which column plays which role. ``said``: columns may be named in an error; a table without a header has a text there."""
    chosen = dict(named)
    said = said or any(name in first for name in named.values())
    shown = f"Columns: {', '.join(first)}" if said else f"Its first line has {len(first)} cell(s) and may not be a header, which it needs"
    for role, name in named.items():
        if name not in first:
            raise SamplesError(f"Samples {file} have no column '{name}' (for {role}).{near(name, first)} {shown}. Correct --columns.")
    for role in ROLES:
        if role not in chosen and role in first:
            chosen[role] = role
    if "text" not in chosen:
        raise SamplesError(f"Samples {file} have no column 'text'. {shown}. Name it: --columns text=COLUMN.")
    return chosen


def _check_slices(slices: Sequence[str], columns: Mapping[str, str], chosen: Mapping[str, str], file: Path) -> None:
    if isinstance(slices, str):
        raise UsageError(f"The slices are one text ('{slices}'), expected a list of columns. Write e.g. slices=['{slices}'].")
    for name in slices:
        if name not in columns:
            raise SamplesError(f"Samples {file} have no column '{name}' for slices.{near(name, columns)} Columns: {', '.join(columns)}. Correct the slices.")
        for role in ("text", "text_pair"):
            if chosen.get(role) == name:
                raise UsageError(f"Column '{name}' is the {role} of samples {file}, which reports do not hold. Slice by another column.")


def _slice(value: object, name: str, place: str) -> str:
    """The value of a row in a column of slices."""
    parts = value if isinstance(value, list) else [value]  # a list of labels is one value, as in a|b
    said = "|".join("" if p is None else json.dumps(p) if isinstance(p, bool) else str(p) for p in parts).strip()
    what = ""
    if any(isinstance(p, (list, dict)) for p in parts):
        what = "a list or an object"
    elif len(said) > LONGEST_VALUE:
        what = f"{len(said)} characters"
    elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in said):
        what = "a line break or another control character"
    if what:
        remedy = "Values of slices stand in reports, where text must not. Slice by another column, or correct the row."
        raise SamplesError(f"{place} has {what} in column '{name}', expected a value of at most {LONGEST_VALUE} characters for slices. {remedy}")
    return said or NO_VALUE


def _sample(record: Mapping[str, object], chosen: Mapping[str, str], slices: Sequence[str], place: str) -> Sample:
    values: dict[str, object] = {}
    for role, name in chosen.items():
        value = record.get(name)
        if role == "label":
            values[role] = None if value == "" else value
            continue
        if not isinstance(value, str):
            what = "no value" if value is None else f"a {type(value).__name__}"
            raise SamplesError(f"{place} has {what} in column '{name}' ({role}), expected text. Correct or remove the row.")
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise SamplesError(f"{place} holds a lone surrogate in column '{name}', which is not text. Correct or remove the row.") from problem
        values[role] = value
    return Sample(**values, slices={name: _slice(record.get(name), name, place) for name in slices})  # type: ignore[arg-type]


def _text(file: Path) -> Iterator[str]:
    """Lines of a UTF-8 file (a byte-order mark at its start is skipped)."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            yield from stream
        except UnicodeDecodeError as problem:
            remedy = f"Convert the file, e.g.: iconv -f latin1 -t utf-8 {file.name}"
            raise SamplesError(f"{file}, line {_first_bad_line(file)} is not UTF-8 ({problem.reason}). {remedy}") from problem


def _first_bad_line(file: Path) -> int:
    """Python decodes a file in blocks, so its error comes up to a block before the line that is at fault."""
    with file.open("rb") as stream:
        for line, data in enumerate(stream, 1):
            try:
                data.decode()
            except UnicodeDecodeError:
                return line
    return 0


def _jsonl(file: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, text in enumerate(_text(file), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as problem:
            reason = problem.msg if isinstance(problem, json.JSONDecodeError) else "nested too deeply"
            raise SamplesError(f"{file}, line {line} is not valid JSON ({reason}), expected one object a line. Correct the line.") from problem
        if not isinstance(record, dict):
            raise SamplesError(f"{file}, line {line} is a {type(record).__name__}, expected an object such as {{\"text\": ..., \"label\": ...}}.")
        yield line, record


def _table(file: Path, delimiter: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(_text(file), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE, strict=True)
    try:
        for record in reader:
            if None in record:
                raise SamplesError(f"{file}, line {reader.line_num} has more cells than the header has columns. Quote cells that hold a '{delimiter}'.")
            yield reader.line_num, record
    except csv.Error as problem:
        raise SamplesError(f"{file}, line {reader.reader.line_num} is not valid CSV ({problem}). Correct the line.") from problem


def _file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
