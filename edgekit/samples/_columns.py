"""Columns of samples: the role of each column, and the values of a column that a report may contain."""

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
    "check_no_repeats",
    "check_role",
    "check_slices",
    "check_values",
    "format_slice_value",
    "parse_columns",
    "resolve_columns",
]

LABEL = "label"
"""Role of the label column; the modality defines the other roles."""

MOST_VALUES = 50
"""Maximum number of different values of a slice column."""

LONGEST_VALUE = 40
"""Maximum length of a slice value, in characters. A longer value is text, and a report contains no text of samples."""

NO_VALUE = "(none)"
"""Slice of the rows without a value in the column."""

SEVERAL = "|"
"""Separator of several label columns, e.g. ``label=toxic|threat``. Each column is 0 or 1 for the label of its name."""


def parse_columns(text: str) -> dict[str, str]:
    """Parse a column mapping such as ``text=sentence,label=y``.

    Roles are not checked here, because they depend on the modality.

    Returns:
        Column name by role.

    Raises:
        UsageError: If a part is not ``ROLE=COLUMN``, or a role occurs twice.
    """
    columns: dict[str, str] = {}
    parts = (part.strip() for part in text.split(","))
    for part in filter(None, parts):
        role, equals, name = (p.strip() for p in part.partition("="))
        if not equals or not name or not role:
            raise UsageError(
                f"'{part}' in --columns is not ROLE=COLUMN. Write e.g. --columns text=sentence,label=y.",
                code="columns-syntax",
            )
        if role in columns:
            hint = ""
            if role == LABEL:
                hint = f" For a label in several columns of 0 and 1 write label={columns[role]}{SEVERAL}{name}."
            raise UsageError(
                f"--columns names {role} twice ('{columns[role]}' and '{name}'), expected once. "
                f"Remove one of them.{hint}",
                code="columns-repeated",
            )
        columns[role] = name
    return columns


def check_role(role: str, roles: Sequence[str]) -> str:
    """Return a role if it is one of the roles.

    Raises:
        UsageError: If it is not.
    """
    if role not in roles:
        raise UsageError(
            f"Unknown column role '{role}'.{near(role, roles)} Roles: {', '.join(roles)}.", code="role-unknown"
        )
    return role


def resolve_columns(
    first: Mapping[str, object], named: Mapping[str, str], where: str, roles: Sequence[str], has_header: bool
) -> dict[str, str]:
    """Return the column name of each role. A role without a named column takes the column of the same name, if any.

    Args:
        first: Mapping whose keys are the column names, e.g. the first row.
        named: Column name by role, as the caller named them.
        where: Name of the samples, for messages.
        roles: All roles, the required one first.
        has_header: Whether the column names are certainly no data. If not, an error does not quote them, because the
            first line of a table without a header is private text.

    Raises:
        SamplesError: If a named column or the column of the required role is missing.
    """
    resolved = dict(named)
    if has_header or any(name in first for name in named.values()):
        hint = f"Columns: {', '.join(first)}"
    else:
        hint = f"Its first line has {len(first)} cell(s) and may not be a header, which it needs"
    for role, name in named.items():
        parts = [name]
        if role == LABEL and name not in first:
            parts = name.split(SEVERAL)
        for part in parts:
            if part not in first:
                raise SamplesError(
                    f"Samples {where} have no column '{part}' (for {role}).{near(part, first)} {hint}. "
                    "Correct --columns.",
                    code="samples-no-column",
                )
    for role in roles:
        if role not in resolved and role in first:
            resolved[role] = role
    if roles[0] not in resolved:
        raise SamplesError(
            f"Samples {where} have no column '{roles[0]}'. {hint}. Name it: --columns {roles[0]}=COLUMN.",
            code="samples-no-column",
        )
    return resolved


def check_no_repeats(slices: Sequence[str]) -> None:
    """Check that the slice columns are a list in which each column occurs once.

    Raises:
        UsageError: If they are not.
    """
    if isinstance(slices, str):
        raise UsageError(
            f"The slices are one text ('{slices}'), expected a list of columns. Write e.g. slices=['{slices}'].",
            code="slices-type",
        )
    if len(set(slices)) < len(slices):
        repeated = max(slices, key=list(slices).count)
        raise UsageError(
            f"The column '{repeated}' is named twice for slices, expected once. Remove one of them.",
            code="slices-repeated",
        )


def check_slices(slices: Sequence[str], columns: Mapping[str, str], chosen: Mapping[str, str], where: str) -> None:
    """Check that each slice column exists and is not an input.

    Args:
        slices: Slice columns.
        columns: Mapping whose keys are all column names.
        chosen: Column name by role.
        where: Name of the samples, for messages.

    Raises:
        SamplesError: If a column is missing.
        UsageError: If a column is an input, whose values must not appear in reports.
    """
    for name in slices:
        if name not in columns:
            raise SamplesError(
                f"Samples {where} have no column '{name}' for slices.{near(name, columns)} "
                f"Columns: {', '.join(columns)}. Correct the slices.",
                code="samples-no-column",
            )
        for role, column in chosen.items():
            if role != LABEL and column == name:
                raise UsageError(
                    f"Column '{name}' is the {role} of samples {where}, and reports must not contain it. "
                    "Slice by another column.",
                    code="slices-private",
                )


def format_slice_value(value: object, name: str, place: str) -> str:
    """Return the value of a row in a slice column as text, e.g. ``a|b`` for a list of labels.

    Args:
        value: Cell of the row.
        name: Slice column.
        place: Position of the row, for messages.

    Raises:
        SamplesError: If the value may be text of a sample.
    """
    parts = value if isinstance(value, list) else [value]
    text = "|".join(_format_part(part) for part in parts).strip()
    problem = ""
    if any(isinstance(part, (list, dict)) for part in parts):
        problem = "a list or an object"
    elif len(text) > LONGEST_VALUE:
        problem = f"{len(text)} characters"
    elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        problem = "a line break or another control character"
    if problem:
        raise SamplesError(
            f"{place} has {problem} in column '{name}', expected a value of at most {LONGEST_VALUE} characters for "
            "slices, because reports contain the values. Slice by another column, or correct the row.",
            code="slices-value",
        )
    return text or NO_VALUE


def _format_part(part: object) -> str:
    """Return one value of a cell as text: empty for None, ``true`` or ``false`` for a bool."""
    if part is None:
        return ""
    return to_json(part) if isinstance(part, bool) else str(part)


def check_values(name: str, values: Sequence[str], where: str) -> None:
    """Check that a slice column has at most :data:`MOST_VALUES` different values.

    Raises:
        SamplesError: If it has more.
    """
    different = len(set(values))
    if different > MOST_VALUES:
        raise SamplesError(
            f"Samples {where} have {different} different values in column '{name}', expected at most {MOST_VALUES} "
            "for slices. Slice by a coarser column.",
            code="slices-too-many-samples",
        )
