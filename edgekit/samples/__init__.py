"""Samples in a fixed order: JSON, CSV or TSV with named columns, a folder of files, a ``calibration/*.toml`` that names them, or rows in memory.

Inputs stay in memory: neither they nor pieces of them go into an error, a log, a cache or a bundle. A place in a file
is named by its line.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgekit.modalities.text import UNBOUND
from edgekit.samples import _folder, _json, _tables
from edgekit.samples._columns import (
    LABEL,
    LONGEST_VALUE,
    MOST_VALUES,
    NO_VALUE,
    SEVERAL,
    check_once,
    check_role,
    check_slices,
    check_values,
    columns_of,
    parse_columns,
    slice_value,
)
from edgekit.samples._decode import GZIP, text_of
from edgekit.samples._files import FILE_TYPES, SUFFIXES, Recipe, file_digest, locate, shipped
from edgekit.samples._header import is_header
from edgekit.samples._memory import RowTable, collect, collect_all, rows_digest
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.parsing import parse, to_json
from edgekit.spec.paths import takes_paths
from edgekit.spec.protocols import Input, Modality, Task
from edgekit.spec.sources import FilePath, SampleSource, TakesRows
from edgekit.spec.target import read_toml

__all__ = [
    "LABEL",
    "LONGEST_VALUE",
    "MOST_VALUES",
    "NO_VALUE",
    "SEVERAL",
    "Recipe",
    "RowTable",
    "Sample",
    "Samples",
    "choose_columns",
    "collect",
    "collect_all",
    "parse_columns",
    "read",
    "read_records",
    "shipped",
]


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


@takes_paths()
def read(
    source: SampleSource,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] = (),
    modality: Modality = UNBOUND,
) -> Samples:
    """Reads samples.

    The digest is that of the data set, of the files that its rows name as well: which slices are asked for does not change it, so two reports on
    the same rows can be compared.

    Args:
        source: A JSON, CSV, TSV or calibration TOML file, the name of a sample set that EdgeKit ships, a folder of files where inputs are such (each in a
            subfolder with the name of its label, or all without), or rows in memory: mappings of column to value, of a list, a ``datasets.Dataset``, a
            data frame or a generator.
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
    given, roles = collect(source), (*modality.roles, LABEL)
    named = {check_role(role, roles): name for role, name in (columns or {}).items()}
    if isinstance(given, RowTable):
        check_once(slices)
        return _of_table(given, named, slices, modality)
    file = locate(given, modality)
    if file.suffix.lower() == ".toml" and not file.is_dir():
        return _of_recipe(file, named, slices, modality)
    suffix = Path(file.stem).suffix if file.suffix.lower() == GZIP else file.suffix
    kind = "folder" if file.is_dir() else SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UsageError(
            f"Samples {file} end in '{suffix}', expected one of: {FILE_TYPES}. Convert or rename the file.",
            code="samples-suffix",
        )
    check_once(slices)
    records = list(_records(file, kind, named, slices, modality))
    folder = file if kind == "folder" else file.parent
    labelled = kind in ("json", "jsonl", "folder")
    rows, chosen = _read_rows(
        records, _Reader(str(file), named, tuple(slices), partial(modality.read, folder=folder), labelled), modality
    )
    parts: list[object] = [
        [record for _, record in records] if kind == "folder" else file_digest(file),
        sorted(chosen.items()),
    ]
    if modality.reads_files:  # what a path names may change while the table stays
        rows = tuple(replace(row, content=modality.content(row.input)) for row in rows)
        parts.append([hashlib.sha256(row.content or b"").hexdigest() for row in rows])
    return Samples(rows, str(file), hashlib.sha256(to_json(parts).encode()).hexdigest())


def _of_recipe(file: Path, named: Mapping[str, str], slices: Sequence[str], modality: Modality) -> Samples:
    """Read the samples that a calibration TOML names."""
    recipe = parse(Recipe, read_toml(file), f"calibration {file.name}")
    source = file.parent / recipe.file
    if source.suffix.lower() == ".toml":
        raise SamplesError(
            f"calibration {file.name} names the file '{recipe.file}', expected a JSON, CSV or TSV file. Correct it.",
            code="calibration-file",
        )
    samples = read(source, {**recipe.columns, **named}, slices, modality)
    digest = f"sha256:{samples.digest if source.is_dir() else file_digest(source)}"
    if recipe.digest and recipe.digest != digest:
        remedy = "Restore the file, or put the new digest there."
        raise SamplesError(
            f"{source} has the digest {digest}, {file.name} expects {recipe.digest}: the samples changed. {remedy}",
            code="calibration-digest",
        )
    return samples.take(recipe.count, recipe.seed) if recipe.count else samples


def _of_table(table: RowTable, named: Mapping[str, str], slices: Sequence[str], modality: Modality) -> Samples:
    """Read rows in memory; their digest is that of their content."""
    read_input = modality.read_row if isinstance(modality, TakesRows) else partial(modality.read, folder=Path.cwd())
    records = list(table.records())
    rows, chosen = _read_rows(records, _Reader(table.where, named, tuple(slices), read_input, True), modality)
    contents = [modality.content(row.input) for row in rows]
    if modality.reads_files:
        rows = tuple(replace(row, content=content) for row, content in zip(rows, contents, strict=True))
    inputs = {name for role, name in chosen.items() if role != LABEL}
    others = [{name: value for name, value in record.items() if name not in inputs} for _, record in records]
    return Samples(rows, table.where, rows_digest(list(zip(contents, others, strict=True)), chosen))


@dataclass(frozen=True)
class _Reader:
    """How the records of one source become rows.

    Attributes:
        where: Name of the source, for messages.
        named: Role to column name, as the caller named them.
        slices: Columns of slices.
        read_input: Function from role to value, of one row, to its input.
        has_names: Whether the first record certainly has column names; the first line of a table may be a row.
    """

    where: str
    named: Mapping[str, str]
    slices: tuple[str, ...]
    read_input: Callable[[Mapping[str, object]], Input]
    has_names: bool


def _read_rows(
    records: Sequence[tuple[str, Mapping[str, object]]], reader: _Reader, modality: Modality
) -> tuple[tuple[Sample, ...], dict[str, str]]:
    """Return the rows of records, and role to column name as they were read.

    Raises:
        SamplesError: for no record, a column that is missing, and a row that is no sample.
    """
    where, slices = reader.where, reader.slices
    if not records:
        raise SamplesError(
            f"Samples {where} have no rows, expected at least one. Give a file with samples.", code="samples-empty"
        )
    roles = (*modality.roles, LABEL)
    columns = {name: name for _, record in records for name in record}  # JSON rows need not all have the same keys
    has_names = reader.has_names or any(role in columns for role in roles)
    has_names = has_names or is_header(columns, (record for _, record in records))
    chosen = columns_of(columns, reader.named, where, roles, has_names)
    check_slices(slices, columns, chosen, where)
    rows = tuple(_sample(record, chosen, reader, place) for place, record in records)
    for name in slices:
        check_values(name, [row.slices[name] for row in rows], where)
    return rows, chosen


def read_records(
    path: FilePath, columns: Mapping[str, str], modality: Modality
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
    file = locate(path, modality)
    suffix = Path(file.stem).suffix if file.suffix.lower() == GZIP else file.suffix
    kind = "folder" if file.is_dir() else SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UsageError(
            f"{file} ends in '{suffix}', expected one of: {', '.join(SUFFIXES)}, each also with {GZIP}, or .parquet. "
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
    named = {check_role(role, roles): name for role, name in columns.items() if role != LABEL}
    is_named = file.suffix.lower() not in (".csv", ".tsv") or any(role in record for role in roles)
    chosen = columns_of(record, named, str(file), roles, is_named)
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


def _sample(record: Mapping[str, object], chosen: Mapping[str, str], reader: _Reader, place: str) -> Sample:
    """Return one record as a sample."""
    where, label, empty = reader.where, None, False
    if (name := chosen.get(LABEL)) is not None:
        label = record.get(name)
        if name not in record and SEVERAL in name:
            label = {column: record.get(column) for column in name.split(SEVERAL)}
        empty = isinstance(label, str) and not label.strip()
        label = None if empty else label
    columns = {role: name for role, name in chosen.items() if role != LABEL}
    try:
        value = reader.read_input({role: record.get(name) for role, name in columns.items()})
    except SamplesError as problem:
        # The modality knows roles; whoever wrote the file knows its columns.
        named = ", ".join(f"column '{name}' is the {role}" for role, name in columns.items() if name != role)
        raise SamplesError(
            f"{where}, {place} {problem}{f' ({named})' if named else ''}", code="samples-row"
        ) from problem
    others = dict[str, object]()
    if LABEL not in reader.named:
        others = {name: other for name, other in record.items() if name not in chosen.values()}
    slices = {name: slice_value(record.get(name), name, f"{where}, {place}") for name in reader.slices}
    return Sample(value, label, slices, empty, others)
