"""Records of CSV and TSV files: delimiter, quoting, and the check that every row is as wide as the header.

A ``.csv`` file follows RFC 4180: commas, quotes around cells that contain a comma, a quote or a line break, and doubled
quotes inside. A ``.tsv`` file has tabs, with the same quoting (as pandas writes it) or without any (as in GLUE).
Another delimiter is used only if it is the only one that yields the requested columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.samples._decode import split_lines
from edgekit.spec.errors import SamplesError

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_QUOTE = '"'
_CELL = re.compile(r'(?:"[^"]*(?:""[^"]*)*"|[^"\t\r\n]*)(?:\t|\r\n?|\n|\Z)')
"""A cell of a TSV with the tab or line end after it, if quotes are syntax."""

_SPREADSHEET = re.compile(r"sep=([,;\t|])(?=[\r\n])")
"""First line in which a spreadsheet program names its delimiter."""

_LONGEST_NAME = 40
"""Maximum length of a column name that a message quotes, in characters."""

_MOST_WORDS = 4
"""Maximum number of words of a column name that a message quotes."""

_LISTED = 3
"""Maximum number of lines that a message lists."""

Row = tuple[int, list[str]]
"""Number of the line, from 1, in which a record begins, and its cells."""


@dataclass(frozen=True)
class _Parsed:
    """A file as parsed in one dialect.

    Attributes:
        rows: Header and rows, up to the first row that cannot be parsed.
        fault: Reason why the next row cannot be parsed, with its line; empty if all rows were parsed.
    """

    rows: list[Row]
    fault: str

    @property
    def is_valid(self) -> bool:
        """Whether every row was parsed and is as wide as the header."""
        return not self.fault and _find_odd_row(self.rows) is None

    @property
    def faulty_line(self) -> int:
        """Line of the first faulty row; 0 if there are no rows."""
        odd_row = _find_odd_row(self.rows)
        if odd_row is not None:
            return odd_row[0]
        return self.rows[-1][0] + 1 if self.rows else 0


def read_records(
    text: str, file: Path, kind: str, requested: Collection[str], roles: Collection[str]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the rows of a table.

    Args:
        text: Text of the file.
        file: Path of the file, for messages.
        kind: ``csv`` or ``tsv``.
        requested: Columns that the caller named.
        roles: Column names that are used without being named.

    Yields:
        Line of the row, and cells by column. Cells of columns without a name are excluded.

    Raises:
        SamplesError: If a row is malformed, shorter or longer than the header; the message names its line. If a column
            occurs twice, or if two dialects read the file differently.
    """
    csv.field_size_limit(2**31 - 1)
    spreadsheet = _SPREADSHEET.match(text)
    if spreadsheet is not None:
        delimiter = spreadsheet[1]
        text = text[spreadsheet.end(1) :]  # An empty first line remains, so the line numbers stay correct.
    else:
        delimiter = _detect_delimiter(text, file, kind, requested, roles)
    table = _parse_quoted(text, delimiter)
    if kind == "tsv" and delimiter == "\t" and _QUOTE in text:
        table = _choose_quoting(text, file, table)
    if not table.rows:
        if table.fault:
            raise SamplesError(f"{file}, {table.fault}. Correct the line.", code="samples-csv")
        return
    header = [name.strip() for name in table.rows[0][1]]
    _check_header(header, file)
    for line, cells in table.rows[1:]:
        if len(cells) != len(header):
            message = _describe_width(file, line, len(cells), len(header), delimiter)
            raise SamplesError(message, code="samples-csv-width")
        yield line, {name: cell for name, cell in zip(header, cells, strict=True) if name}
    if table.fault:
        raise SamplesError(f"{file}, {table.fault}. Correct the line.", code="samples-csv")


def _check_header(header: Sequence[str], file: Path) -> None:
    """Check that no column name occurs twice.

    Columns without a name, as spreadsheet programs leave them at the right, are ignored.

    Raises:
        SamplesError: If a column name occurs twice.
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(header, 1):
        positions.setdefault(name, []).append(position)
    for name, columns in positions.items():
        if name and len(columns) > 1:
            # If the file has no header, this is the first row, and rows must not appear in messages: only what looks
            # like a column name is quoted.
            is_name = len(name) <= _LONGEST_NAME and len(name.split()) <= _MOST_WORDS
            label = f"'{name}'" if is_name else f"of {len(name)} characters"
            raise SamplesError(
                f"The header of {file} has the column {label} {len(columns)} times (columns "
                f"{', '.join(map(str, columns))}), expected each column once. Rename or remove the others.",
                code="samples-column-twice",
            )


def _describe_width(file: Path, line: int, cells: int, columns: int, delimiter: str) -> str:
    """Return the message for a row with more or fewer cells than the header has columns."""
    comparison = "more" if cells > columns else "fewer"
    problem = f"{file}, line {line} has {comparison} cells than the header has columns ({cells}, {columns})"
    if cells > columns:
        return f"{problem}. Quote cells that contain {_NAMES[delimiter]}."
    return (
        f"{problem}. Each row needs as many cells as the header, including empty ones. Quote a cell with a line break."
    )


def _detect_delimiter(text: str, file: Path, kind: str, requested: Collection[str], roles: Collection[str]) -> str:
    """Return the default delimiter of the file type, unless only another one yields the requested columns.

    Raises:
        SamplesError: If several other delimiters yield the requested columns.
    """
    default = "," if kind == "csv" else "\t"
    others = [delimiter for delimiter in DELIMITERS if delimiter != default]
    headers: dict[str, set[str]] = {}
    for delimiter in (default, *others):
        headers[delimiter] = {name.strip() for name in _read_header(text, delimiter)}
    candidates = []
    for delimiter, names in headers.items():
        has_columns = names.issuperset(requested) and (requested or not names.isdisjoint(roles))
        if has_columns and (delimiter == default or len(names) > 1):
            candidates.append(delimiter)
    if not candidates:
        several = [delimiter for delimiter, names in headers.items() if len(names) > 1]
        candidates = [delimiter for delimiter in several if _parse_quoted(text, delimiter).is_valid]
    elif len(candidates) > 1:
        # A column name may contain another delimiter, so a header alone does not decide.
        valid = [d for d in candidates if d == default or _parse_quoted(text, d).is_valid]
        candidates = valid or candidates
    if default in candidates or not candidates:
        return default
    if len(candidates) > 1:
        names_of_candidates = " or with ".join(_NAMES[delimiter] for delimiter in candidates)
        raise SamplesError(
            f"{file} can be read with {names_of_candidates} between its cells, expected {_NAMES[default]} for this "
            f"file name. Save it with {_NAMES[default]}.",
            code="samples-csv-delimiter",
        )
    return candidates[0]


def _read_header(text: str, delimiter: str) -> list[str]:
    """Return the cells of the first line that is not empty; none if it is malformed."""
    reader = csv.reader(split_lines(text), delimiter=delimiter, strict=True)
    try:
        return next((cells for cells in reader if cells), [])
    except csv.Error:
        return []


def _parse_quoted(text: str, delimiter: str) -> _Parsed:
    """Parse a table in which quotes are syntax."""
    reader = csv.reader(split_lines(text), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    line = 1
    try:
        for cells in reader:
            if cells:  # An empty line has no cells and is no row.
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as problem:
        return _Parsed(rows, f"line {line} is not valid CSV ({problem})")
    return _Parsed(rows, "")


def _parse_unquoted(text: str) -> _Parsed:
    """Parse a TSV in which a line is a row, and quotes are part of the text."""
    rows = []
    for number, line in enumerate(split_lines(text), 1):
        content = line.rstrip("\r\n")
        if content:
            rows.append((number, content.split("\t")))
    return _Parsed(rows, "")


def _find_odd_row(rows: Sequence[Row]) -> Row | None:
    """Return the first row that is not as wide as the header, or None."""
    return next((row for row in rows if len(row[1]) != len(rows[0][1])), None)


def _choose_quoting(text: str, file: Path, quoted: _Parsed) -> _Parsed:
    """Return a TSV as parsed with or without quoting, whichever is the only correct one.

    A writer that quotes cells puts a cell with quotes into quotes, and doubles the quotes inside. Any cell that breaks
    this rule shows that quotes are text. Otherwise quotes are syntax in any of three
    cases: only that yields rows of one width, a header cell is quoted, or a quoted cell has doubled quotes.

    Args:
        text: Text of the file.
        file: Path of the file, for messages.
        quoted: File as parsed with quotes as syntax.

    Raises:
        SamplesError: If both ways are possible.
    """
    unquoted = _parse_unquoted(text)
    follows_rules = _has_valid_quotes(text)
    if not unquoted.is_valid:
        if (quoted.is_valid and follows_rules) or quoted.faulty_line > unquoted.faulty_line:
            return quoted
        return unquoted
    if not quoted.is_valid or not follows_rules:
        return unquoted
    cells = [(line, cell) for line, row in unquoted.rows for cell in row if cell.startswith(_QUOTE)]
    if any(map(_is_quoted, unquoted.rows[0][1])):
        return quoted
    if any(_is_quoted(cell) and _QUOTE * 2 in cell[1:-1] for _, cell in cells):
        return quoted
    lines = ", ".join(str(line) for line, _ in cells[:_LISTED])
    if len(cells) > _LISTED:
        lines += " ..."
    raise SamplesError(
        f"{file} has {len(cells)} cells that begin with a quote (line {lines}), and nothing shows whether quotes are "
        "part of the texts. If they are not, rename the file so that it ends in .csv. If they are, save it as JSON "
        "Lines.",
        code="samples-csv-quotes",
    )


def _has_valid_quotes(text: str) -> bool:
    """Return whether a writer that quotes cells can have written the text.

    Every cell is then in quotes, with those inside doubled, or contains no quote.
    """
    position = 0
    cell = _CELL.match(text)
    while cell is not None and cell.end() > position:
        position = cell.end()
        cell = _CELL.match(text, position)
    return position == len(text)


def _is_quoted(cell: str) -> bool:
    """Return whether a cell is in quotes, with those inside doubled."""
    return len(cell) > 1 and cell[0] == cell[-1] == _QUOTE and _QUOTE not in cell[1:-1].replace(_QUOTE * 2, "")
