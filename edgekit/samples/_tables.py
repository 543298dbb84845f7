"""CSV and TSV to records: which delimiter, whether quotes are syntax, and every row of the width of the header.

A ``.csv`` is RFC 4180: commas, cells that hold a comma, a quote or a line break in quotes, quotes inside doubled. A ``.tsv`` has tabs, with the
same quoting (as pandas writes it) or with none at all (as GLUE has it). Another delimiter is taken where only that one gives the columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.samples._decode import lines_of
from edgekit.spec.errors import SamplesError

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_QUOTE = '"'
_CELL = re.compile(r'(?:"[^"]*(?:""[^"]*)*"|[^"\t\r\n]*)(?:\t|\r\n?|\n|\Z)')
"""A cell of a TSV with its end, where quotes are syntax."""
_SPREADSHEET = re.compile(r"sep=([,;\t|])(?=[\r\n])")
"""The first line by which a spreadsheet names its delimiter."""

Row = tuple[int, list[str]]
"""A record with the line, from 1, that it begins in."""


@dataclass(frozen=True)
class _Read:
    """A file by one dialect.

    Attributes:
        rows: up to the first that cannot be; the header first.
        fault: what is wrong with the next one, with its line; empty where all could be read.
    """

    rows: list[Row]
    fault: str

    @property
    def whole(self) -> bool:
        """Whether every row could be read and has the width of the header."""
        return not self.fault and _odd(self.rows) is None

    @property
    def until(self) -> int:
        """The line of the first row that is at fault."""
        odd = _odd(self.rows)
        return odd[0] if odd is not None else self.rows[-1][0] + 1 if self.rows else 0


def records(
    text: str, file: Path, kind: str, wanted: Collection[str], roles: Collection[str]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows of a table.

    Args:
        text: of the file.
        file: for messages.
        kind: ``csv`` or ``tsv``.
        wanted: columns that are asked for by name.
        roles: names that a column may have by itself.

    Yields:
        The line, and column to cell; cells of columns without a name are left out.

    Raises:
        SamplesError: naming the line of a row that is shorter or longer than the header or malformed; for a column that is there twice, and
            for a file that two dialects read differently.
    """
    csv.field_size_limit(2**31 - 1)
    if (told := _SPREADSHEET.match(text)) is not None:
        delimiter, text = (
            told[1],
            text[told.end(1) :],
        )  # what is left of the line is an empty one, so lines keep their numbers
    else:
        delimiter = _delimiter(text, file, kind, wanted, roles)
    read = _quoted(text, delimiter)
    if kind == "tsv" and delimiter == "\t" and _QUOTE in text:
        read = _by_either(text, file, read)
    if not read.rows:
        if read.fault:
            raise SamplesError(f"{file}, {read.fault}. Correct the line.", code="samples-csv")
        return
    header = [name.strip() for name in read.rows[0][1]]
    _check_header(header, file)
    for line, cells in read.rows[1:]:
        if len(cells) != len(header):
            raise SamplesError(_width(file, line, len(cells), len(header), delimiter), code="samples-csv-width")
        yield line, {name: cell for name, cell in zip(header, cells, strict=True) if name}
    if read.fault:
        raise SamplesError(f"{file}, {read.fault}. Correct the line.", code="samples-csv")


def _check_header(header: Sequence[str], file: Path) -> None:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(header, 1):
        places.setdefault(name, []).append(place)
    for name, at in places.items():
        if name and len(at) > 1:  # columns without a name, as spreadsheets leave them at the right, cannot be asked for
            # A table without a header has its first row here, and a text must not be printed: a name is short, and no sentence.
            shown = f"'{name}'" if len(name) <= 40 and len(name.split()) <= 4 else f"of {len(name)} characters"
            raise SamplesError(
                f"The header of {file} has the column {shown} {len(at)} times (columns {', '.join(map(str, at))}), expected each once: which one counts "
                "would be a guess. Rename or remove the others.",
                code="samples-column-twice",
            )


def _width(file: Path, line: int, cells: int, columns: int, delimiter: str) -> str:
    what = f"{file}, line {line} has {'more' if cells > columns else 'fewer'} cells than the header has columns ({cells}, {columns})"
    if cells > columns:
        return f"{what}. Quote cells that hold {_NAMES[delimiter]}."
    return f"{what}. Give every row all cells, empty ones too, or quote a cell that goes over several lines."


def _delimiter(text: str, file: Path, kind: str, wanted: Collection[str], roles: Collection[str]) -> str:
    """The suffix's own, unless only others give the columns that are asked for."""
    default = "," if kind == "csv" else "\t"
    headers = {
        d: {name.strip() for name in _header(text, d)} for d in (default, *(d for d in DELIMITERS if d != default))
    }
    asked = set(wanted)
    able = [
        d
        for d, names in headers.items()
        if asked <= names and (asked or names & set(roles)) and (d == default or len(names) > 1)
    ]
    if not able:
        able = [d for d, names in headers.items() if len(names) > 1 and _quoted(text, d).whole]
    elif len(able) > 1:  # e.g. a name that holds another delimiter
        able = [d for d in able if d == default or _quoted(text, d).whole] or able
    if default in able or not able:
        return default
    if len(able) > 1:
        raise SamplesError(
            f"{file} can be read with {' or with '.join(_NAMES[d] for d in able)} between its cells. Save it with {_NAMES[default]}, as the name says.",
            code="samples-csv-delimiter",
        )
    return able[0]


def _header(text: str, delimiter: str) -> list[str]:
    read = csv.reader(lines_of(text), delimiter=delimiter, strict=True)
    try:
        return next((cells for cells in read if cells), [])
    except csv.Error:
        return []


def _quoted(text: str, delimiter: str) -> _Read:
    """With quotes as syntax."""
    reader, rows, line = csv.reader(lines_of(text), delimiter=delimiter, strict=True), list[Row](), 1
    try:
        for cells in reader:
            if cells:  # else an empty line
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as problem:
        return _Read(rows, f"line {line} is not valid CSV ({problem})")
    return _Read(rows, "")


def _unquoted(text: str) -> _Read:
    """With tabs alone: a line is a row, and quotes are part of a text."""
    return _Read([(n, line.split("\t")) for n, raw in enumerate(lines_of(text), 1) if (line := raw.rstrip("\r\n"))], "")


def _odd(rows: Sequence[Row]) -> Row | None:
    """The first row that has not the header's width."""
    return next(((n, cells) for n, cells in rows if len(cells) != len(rows[0][1])), None) if rows else None


def _by_either(text: str, file: Path, quoted: _Read) -> _Read:
    """The one way of quoting by which a TSV can be read.

    A writer that quotes leaves no quote in a cell that is not in quotes, and doubles those inside. Where a cell shows otherwise, quotes are text.
    Where the file could be a writer's, they are syntax if nothing else gives rows of one width, the header is in quotes, or a cell has doubled ones.

    Raises:
        SamplesError: where it cannot be told.
    """
    bare, written = _unquoted(text), _as_written(text)
    if not bare.whole:
        return quoted if (quoted.whole and written) or quoted.until > bare.until else bare
    if not quoted.whole or not written:
        return bare
    cells = [(line, cell) for line, row in bare.rows for cell in row if cell.startswith(_QUOTE)]
    if any(map(_in_quotes, bare.rows[0][1])) or any(_in_quotes(cell) and _QUOTE * 2 in cell[1:-1] for _, cell in cells):
        return quoted
    shown = ", ".join(str(line) for line, _ in cells[:3]) + (" ..." if len(cells) > 3 else "")
    raise SamplesError(
        f"{file} has {len(cells)} cells that begin with a quote (line {shown}), and nothing shows whether quotes are part of the texts or were put around "
        "them. Where they are not part of them, rename the file so that it ends in .csv; where they are, save it as JSON Lines.",
        code="samples-csv-quotes",
    )


def _as_written(text: str) -> bool:
    """Whether a writer that quotes could have written it: every cell is in quotes, with those inside doubled, or has none."""
    place, found = 0, _CELL.match(text)
    while found is not None and found.end() > place:
        place = found.end()
        found = _CELL.match(text, place)
    return place == len(text)


def _in_quotes(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == _QUOTE and _QUOTE not in cell[1:-1].replace(_QUOTE * 2, "")
