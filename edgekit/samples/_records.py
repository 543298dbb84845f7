"""Records of a sample file or folder of any type: the position of each row, and its cell values by column."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgekit.samples import _folder, _json, _tables
from edgekit.samples._columns import LABEL, SEVERAL
from edgekit.samples._decode import can_stream, read_text, stream_lines
from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Modality

__all__ = ["iterate_records"]


def iterate_records(
    file: Path, kind: str, named: Mapping[str, str], slices: Sequence[str], modality: Modality
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of a file or folder, without creating inputs.

    Args:
        file: Path of the file or folder.
        kind: Type, as :func:`edgekit.samples._files.detect_type` returns it.
        named: Column name by role, as the caller named them.
        slices: Slice columns.
        modality: Modality of the samples.

    Yields:
        Position of the row, e.g. ``line 3``, and cell values by column.

    Raises:
        SamplesError: If the file is not readable as its type.
    """
    if kind == "folder":
        yield from _folder.read_records(file, modality.roles[0], LABEL)
        return
    if kind.startswith("json") and can_stream(file) and _json.has_row_per_line(stream_lines(file)):
        yield from _json.read_lines(stream_lines(file), file)
        return
    text = read_text(file)
    if kind.startswith("json"):
        yield from _json.read_records(text, file, kind == "jsonl", _make_row_check(named, file.parent, modality))
        return
    requested: list[str] = []
    for role, name in named.items():
        requested += name.split(SEVERAL) if role == LABEL else [name]
    roles = (*modality.roles, LABEL)
    for line, record in _tables.read_records(text, file, kind, (*requested, *slices), roles):
        yield f"line {line}", record


def _make_row_check(
    named: Mapping[str, str], folder: Path, modality: Modality
) -> Callable[[Mapping[str, object]], bool]:
    """Return a function that tells whether a JSON object of lists can be one row, rather than a table of columns.

    It can be a row only if the modality accepts its lists as an input, e.g. as the words of a sentence.

    Args:
        named: Column name by role, as the caller named them.
        folder: Folder of the sample file.
        modality: Modality of the samples.
    """

    def is_row(record: Mapping[str, object]) -> bool:
        columns = {role: record.get(named.get(role, role)) for role in modality.roles}
        with contextlib.suppress(SamplesError):
            modality.read(columns, folder)
            for role, column in columns.items():
                if not isinstance(column, list):
                    continue
                for part in column:
                    # A part of several words, or one with a list written into it, is an input itself: the object is a
                    # table of such inputs.
                    if isinstance(part, str) and (
                        " " in part.strip() or isinstance(modality.read({**columns, role: part}, folder), tuple)
                    ):
                        return False
            return True
        return False

    return is_row
