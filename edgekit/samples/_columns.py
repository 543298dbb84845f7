"""Columns of samples: which plays which role, and which values of a column may stand in a report."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from edgekit.spec.errors import SamplesError, UsageError, near
from edgekit.spec.parsing import to_json

__all__ = [
    "LABEL",
    "LONGEST_VALUE",
    "MOST_VALUES",
    "NO_VALUE",
    "SEVERAL",
    "check_once",
    "check_role",
    "check_slices",
    "check_values",
    "columns_of",
    "parse_columns",
    "slice_value",
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


def check_role(role: str, roles: Sequence[str]) -> str:
    if role not in roles:
        raise UsageError(
            f"Unknown column role '{role}'.{near(role, roles)} Roles: {', '.join(roles)}.", code="role-unknown"
        )
    return role


def columns_of(
    first: Mapping[str, object], named: Mapping[str, str], where: str, roles: Sequence[str], said: bool
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
                    f"Samples {where} have no column '{part}' (for {role}).{near(part, first)} {shown}. Correct --columns.",
                    code="samples-no-column",
                )
    for role in roles:
        if role not in chosen and role in first:
            chosen[role] = role
    if roles[0] not in chosen:
        raise SamplesError(
            f"Samples {where} have no column '{roles[0]}'. {shown}. Name it: --columns {roles[0]}=COLUMN.",
            code="samples-no-column",
        )
    return chosen


def check_once(slices: Sequence[str]) -> None:
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


def check_slices(slices: Sequence[str], columns: Mapping[str, str], chosen: Mapping[str, str], where: str) -> None:
    for name in slices:
        if name not in columns:
            raise SamplesError(
                f"Samples {where} have no column '{name}' for slices.{near(name, columns)} Columns: {', '.join(columns)}. Correct the slices.",
                code="samples-no-column",
            )
        for role, column in chosen.items():
            if role != LABEL and column == name:
                raise UsageError(
                    f"Column '{name}' is the {role} of samples {where}, which reports do not hold. Slice by another column.",
                    code="slices-private",
                )


def slice_value(value: object, name: str, place: str) -> str:
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


def check_values(name: str, values: Sequence[str], where: str) -> None:
    """Refuse a column of slices with too many different values.

    Raises:
        SamplesError: for more than :data:`MOST_VALUES` of them.
    """
    if (different := len(set(values))) > MOST_VALUES:
        raise SamplesError(
            f"Samples {where} have {different} different values in column '{name}', expected at most {MOST_VALUES} for slices. Slice by a coarser column.",
            code="slices-too-many-samples",
        )
