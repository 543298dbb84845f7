"""Samples in a fixed order, from a file, a folder or memory.

A source is a JSON, CSV or TSV file with named columns, a folder of files, a ``calibration/*.toml`` that names one of
these, or rows in memory.

Inputs stay in memory: no input, nor a part of one, is written to an error, a log, a cache or a bundle. Messages name
the line of a row instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgekit.modalities.text import UNBOUND
from edgekit.samples._columns import (
    LABEL,
    LONGEST_VALUE,
    MOST_VALUES,
    NO_VALUE,
    SEVERAL,
    check_no_repeats,
    check_role,
    check_slices,
    check_values,
    format_slice_value,
    parse_columns,
    resolve_columns,
)
from edgekit.samples._decode import GZIP
from edgekit.samples._files import (
    FILE_TYPES,
    SUFFIXES,
    CalibrationFile,
    detect_type,
    get_suffix,
    hash_file,
    locate,
    shipped,
)
from edgekit.samples._header import is_header
from edgekit.samples._memory import RowTable, collect, collect_all, hash_rows
from edgekit.samples._records import iterate_records
from edgekit.samples._rows import Sample, Samples
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.parsing import parse, to_json
from edgekit.spec.paths import takes_paths
from edgekit.spec.protocols import Input, Modality
from edgekit.spec.sources import FilePath, SampleSource, TakesRows
from edgekit.spec.target import read_toml

__all__ = [
    "LABEL",
    "LONGEST_VALUE",
    "MOST_VALUES",
    "NO_VALUE",
    "SEVERAL",
    "CalibrationFile",
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


@takes_paths()
def read(
    source: SampleSource,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] = (),
    modality: Modality = UNBOUND,
) -> Samples:
    """Read samples from a file, a folder, a shipped sample set or rows in memory.

    The digest covers the sample file, the files that its rows name, and the choice of columns. It does not depend on
    ``slices``, so two reports on the same rows are comparable.

    Args:
        source: Path of a JSON, CSV, TSV or calibration TOML file; or name of a sample set that EdgeKit ships; or
            folder of files, if inputs are files (all in subfolders named after their labels, or all unlabelled); or
            rows in memory: mappings of column to value from a list, a ``datasets.Dataset``, a data frame or a
            generator.
        columns: Column name by role. Default: the column with the name of the role; only the modality's first role is
            required. The label may be several columns, e.g. ``toxic|threat``, each of 0 and 1.
        slices: Columns whose values go into :attr:`Sample.slices` and from there into reports.
        modality: Modality that creates inputs from the columns. Default: text.

    Raises:
        SamplesError: If the file is missing, empty, malformed or not text; has another digest than expected; can be
            read in two ways; has a column twice or lacks a named one. If a folder has another layout. If a slice
            column may hold text: more than ``MOST_VALUES`` different values, or one of more than ``LONGEST_VALUE``
            characters.
        UsageError: If a role or the file type is unknown, a slice column is an input, or one is named twice.
    """
    collected = collect(source)
    roles = (*modality.roles, LABEL)
    named = {check_role(role, roles): name for role, name in (columns or {}).items()}
    if isinstance(collected, RowTable):
        check_no_repeats(slices)
        return _read_table(collected, named, slices, modality)
    file = locate(collected, modality)
    if file.suffix.lower() == ".toml" and not file.is_dir():
        return _read_recipe(file, named, slices, modality)
    kind = detect_type(file)
    if kind is None:
        raise UsageError(
            f"Samples {file} end in '{get_suffix(file)}', expected one of: {FILE_TYPES}. Convert or rename the file.",
            code="samples-suffix",
        )
    check_no_repeats(slices)
    records = list(iterate_records(file, kind, named, slices, modality))
    folder = file if kind == "folder" else file.parent
    has_names = kind in ("json", "jsonl", "folder")
    reader = _Reader(str(file), named, tuple(slices), partial(modality.read, folder=folder), has_names)
    rows, chosen = _read_rows(records, reader, modality)
    file_names = [record for _, record in records]
    parts: list[object] = [file_names if kind == "folder" else hash_file(file), sorted(chosen.items())]
    if modality.reads_files:
        # The files that rows name may change while the table stays the same.
        rows = tuple(replace(row, content=modality.content(row.input)) for row in rows)
        parts.append([hashlib.sha256(row.content or b"").hexdigest() for row in rows])
    return Samples(rows, str(file), hashlib.sha256(to_json(parts).encode()).hexdigest())


def _read_recipe(file: Path, named: Mapping[str, str], slices: Sequence[str], modality: Modality) -> Samples:
    """Return the samples that a calibration TOML names."""
    recipe = parse(CalibrationFile, read_toml(file), f"calibration {file.name}")
    source = file.parent / recipe.file
    if source.suffix.lower() == ".toml":
        raise SamplesError(
            f"calibration {file.name} names the file '{recipe.file}', expected a JSON, CSV or TSV file. Correct it.",
            code="calibration-file",
        )
    samples = read(source, {**recipe.columns, **named}, slices, modality)
    digest = f"sha256:{samples.digest if source.is_dir() else hash_file(source)}"
    if recipe.digest and recipe.digest != digest:
        raise SamplesError(
            f"{source} has the digest {digest}, {file.name} expects {recipe.digest}: the samples changed. "
            f"Restore the file, or write the new digest to {file.name}.",
            code="calibration-digest",
        )
    return samples.take(recipe.count, recipe.seed) if recipe.count else samples


def _read_table(table: RowTable, named: Mapping[str, str], slices: Sequence[str], modality: Modality) -> Samples:
    """Return rows in memory as samples; their digest is that of their content."""
    read_input = modality.read_row if isinstance(modality, TakesRows) else partial(modality.read, folder=Path.cwd())
    records = list(table.records())
    rows, chosen = _read_rows(records, _Reader(table.where, named, tuple(slices), read_input, True), modality)
    contents = [modality.content(row.input) for row in rows]
    if modality.reads_files:
        rows = tuple(replace(row, content=content) for row, content in zip(rows, contents, strict=True))
    inputs = {name for role, name in chosen.items() if role != LABEL}
    others = []
    for _, record in records:
        others.append({name: value for name, value in record.items() if name not in inputs})
    return Samples(rows, table.where, hash_rows(list(zip(contents, others, strict=True)), chosen))


@dataclass(frozen=True)
class _Reader:
    """Options for reading the records of one source as rows.

    Attributes:
        where: Name of the source, for messages.
        named: Column name by role, as the caller named them.
        slices: Slice columns.
        read_input: Function from the cell values of a row, by role, to its input.
        has_names: Whether the keys of the records are certainly column names. The first line of a table may be a row.
    """

    where: str
    named: Mapping[str, str]
    slices: tuple[str, ...]
    read_input: Callable[[Mapping[str, object]], Input]
    has_names: bool


def _read_rows(
    records: Sequence[tuple[str, Mapping[str, object]]], reader: _Reader, modality: Modality
) -> tuple[tuple[Sample, ...], dict[str, str]]:
    """Return the rows of records, and the resolved column name by role.

    Raises:
        SamplesError: If there is no record, a column is missing, or a record is not a sample.
    """
    where = reader.where
    if not records:
        raise SamplesError(
            f"Samples {where} have no rows, expected at least one. Give a file with samples.", code="samples-empty"
        )
    roles = (*modality.roles, LABEL)
    columns = {name: name for _, record in records for name in record}  # JSON rows need not all have the same keys.
    has_names = reader.has_names or any(role in columns for role in roles)
    has_names = has_names or is_header(columns, (record for _, record in records))
    chosen = resolve_columns(columns, reader.named, where, roles, has_names)
    check_slices(reader.slices, columns, chosen, where)
    rows = tuple(_read_sample(record, chosen, reader, place) for place, record in records)
    for name in reader.slices:
        check_values(name, [row.slices[name] for row in rows], where)
    return rows, chosen


def _read_sample(record: Mapping[str, object], chosen: Mapping[str, str], reader: _Reader, place: str) -> Sample:
    """Return one record as a sample.

    Args:
        record: Cell values by column.
        chosen: Resolved column name by role.
        reader: Options of the source.
        place: Position of the record, for messages.

    Raises:
        SamplesError: If the record is not a sample.
    """
    label: object = None
    empty = False
    label_column = chosen.get(LABEL)
    if label_column is not None:
        label = record.get(label_column)
        if label_column not in record and SEVERAL in label_column:
            label = {column: record.get(column) for column in label_column.split(SEVERAL)}
        empty = isinstance(label, str) and not label.strip()
        label = None if empty else label
    columns = {role: name for role, name in chosen.items() if role != LABEL}
    try:
        value = reader.read_input({role: record.get(name) for role, name in columns.items()})
    except SamplesError as problem:
        # The message of the modality names the role, so add the name of the column.
        renamed = ", ".join(f"column '{name}' is the {role}" for role, name in columns.items() if name != role)
        suffix = f" ({renamed})" if renamed else ""
        raise SamplesError(f"{reader.where}, {place} {problem}{suffix}", code="samples-row") from problem
    others: dict[str, object] = {}
    if LABEL not in reader.named:
        others = {name: other for name, other in record.items() if name not in chosen.values()}
    position = f"{reader.where}, {place}"
    slices = {name: format_slice_value(record.get(name), name, position) for name in reader.slices}
    return Sample(value, label, slices, empty, others)


def read_records(
    path: FilePath, columns: Mapping[str, str], modality: Modality
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Return an iterator over the rows of a file, without creating inputs: their positions and cell values by column.

    Args:
        path: Path of a JSON, CSV or TSV file, or of a folder of files if inputs are files.
        columns: Column name by role.
        modality: Modality of the samples.

    Raises:
        SamplesError: If the file is missing or malformed; see :func:`read`.
        UsageError: If the file type is unknown.
    """
    file = locate(path, modality)
    kind = detect_type(file)
    if kind is None:
        raise UsageError(
            f"{file} ends in '{get_suffix(file)}', expected one of: {', '.join(SUFFIXES)}, each also with {GZIP}, or "
            ".parquet. Convert or rename the file.",
            code="samples-suffix",
        )
    return iterate_records(file, kind, columns, (), modality)


def choose_columns(
    record: Mapping[str, object], columns: Mapping[str, str], file: Path, modality: Modality
) -> dict[str, str]:
    """Return the column name of each input role; the label is excluded.

    Args:
        record: First row, as cell values by column.
        columns: Column name by role, as the caller named them.
        file: Path of the file, for messages.
        modality: Modality of the samples.

    Raises:
        SamplesError: If a column is missing.
        UsageError: If a role is unknown.
    """
    roles = (*modality.roles, LABEL)
    named = {check_role(role, roles): name for role, name in columns.items() if role != LABEL}
    has_header = file.suffix.lower() not in (".csv", ".tsv") or any(role in record for role in roles)
    chosen = resolve_columns(record, named, str(file), roles, has_header)
    return {role: name for role, name in chosen.items() if role != LABEL}
