"""The labels of a row's words: one label for each word, in the label column of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Labelled, Truth
from edgekit.tasks import _spans
from edgekit.tasks._label_reader import make_reader, parse_list_cell


def parse_word_labels(rows: Sequence[Labelled], names: Sequence[str], where: str, *, bio: bool) -> Truth:
    """Read the labels of words.

    Args:
        rows: Rows of a sample file. Labels are a list, a list written into a cell, or a text with spaces between
            labels.
        names: Label names of the model.
        where: Name of the file, for messages.
        bio: Whether the labels mark spans and must be valid BIO.

    Returns:
        Label indices of each row's words, int64 ``[words]``.

    Raises:
        SamplesError: If a row has no labels or is not split into words, has another number of labels than words, an
            unknown label, or a label that continues a span that did not begin.
    """
    cells = [_labels_of(row, where, number) for number, row in enumerate(rows, 1)]
    read, notes = make_reader([label for cell in cells for label in cell], names, where)
    values = []
    for index, cell in enumerate(cells):
        value = np.array([read(label, index) for label in cell], np.int64)
        values.append(value)
    if bio:
        for number, value in enumerate(values, 1):
            _check_bio([names[int(label)] for label in value], names, where, number)
    return Truth(values, tuple(notes))


def _check_bio(tags: Sequence[str], names: Sequence[str], where: str, row: int) -> None:
    index = _spans.first_invalid(tags, names)
    if index is None:
        return
    previous = f"'{tags[index - 1]}'" if index else "the beginning of the row"
    raise SamplesError(
        f"{where}, row {row}: the label of word {index + 1}, '{tags[index]}', follows {previous}, which begins no span "
        "of that kind. Labels are read as BIO: the first word of a span has B-. Convert them, or correct the row.",
        code="samples-label-bio",
        row=row,
        word=index + 1,
    )


def _labels_of(row: Labelled, where: str, number: int) -> Sequence[object]:
    """Return the unparsed labels of a row's words.

    Raises:
        SamplesError: If there are none, or their number differs from the number of words.
    """
    place = f"{where}, row {number}"
    if row.label is None:
        raise SamplesError(
            f"{place} has no labels, which scoring needs. Name the column: --columns label=NAME.",
            code="samples-no-label",
            row=number,
        )
    if not isinstance(row.input, tuple):
        raise SamplesError(
            f"{place} has a text that is not split into words, so its labels cannot be assigned to words. "
            "Give a list of words.",
            code="samples-no-words",
            row=number,
        )
    value = parse_list_cell(row.label)
    labels: Sequence[object]
    if isinstance(value, str):
        labels = value.split()
    elif isinstance(value, (list, tuple)):
        labels = list(value)
    else:
        labels = [value]
    if len(labels) != len(row.input):
        raise SamplesError(
            f"{place} has {len(labels)} labels for {len(row.input)} words, expected one for each word. "
            "Correct or remove the row.",
            code="samples-label-count",
            row=number,
        )
    return labels
