"""Rows that share a value of a column, and whether one of those groups lost more than the whole shows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.samples import MOST_VALUES, NO_VALUE
from edgekit.samples.evaluation import paired
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.report import Slice
from edgekit.stats.holm import holm
from edgekit.stats.paired import Paired
from edgekit.tasks.text_classification import TextClassification

_SHORTEST_BUCKET = 16


def compare(task: TextClassification, before: np.ndarray, after: np.ndarray, truth: np.ndarray, columns: Mapping[str, Sequence[str]]) -> tuple[Slice, ...]:
    """Compares two models in each group of rows.

    Args:
        task: whose score is compared.
        before: float32 ``[rows, labels]``, logits of the baseline.
        after: float32 ``[rows, labels]``, of the candidate.
        truth: as ``task.parse_labels`` gives it.
        columns: name to the value of each row.

    Returns:
        By column as given, then by value: numbers by size (``17-32`` before ``129-256``), then words. Their p-values are adjusted for
        all of them together.

    Raises:
        UsageError: for a column that has not one value a row, or more different ones than ``samples.MOST_VALUES``.
    """
    found = []
    for column, values in columns.items():
        if len(values) != len(truth):
            raise UsageError(f"The column '{column}' has {len(values)} values for {len(truth)} rows, expected one a row. Give that of the same samples.")
        different = set(values)
        if len(different) > MOST_VALUES:
            raise UsageError(f"The column '{column}' has {len(different)} different values, expected at most {MOST_VALUES}. Slice by a coarser column.")
        of_row = np.array(values, object)
        found += [_slice(task, before, after, truth, column, value, np.flatnonzero(of_row == value)) for value in sorted(different, key=_order)]
    tested = [i for i, s in enumerate(found) if s.p_value is not None]
    for i, p in zip(tested, holm([found[i].p_value or 0.0 for i in tested]), strict=True):
        found[i] = dataclasses.replace(found[i], p_holm=p)
    return tuple(found)


def by_length(tokens: Sequence[int]) -> list[str]:
    """The column ``length``: ``1-16``, ``17-32``, ``33-64`` and so on, each bucket up to the next power of two.

    Args:
        tokens: of each row, at least 1.
    """
    highest = [max(_SHORTEST_BUCKET, 1 << max(count - 1, 0).bit_length()) for count in tokens]
    return [f"{high // 2 + 1 if high > _SHORTEST_BUCKET else 1}-{high}" for high in highest]


def by_label(task: TextClassification, truth: np.ndarray) -> list[str]:
    """The label column as a column of slices: the right label's name, several joined by ``|``.

    Args:
        task: of a single-label or a multi-label head.
        truth: as ``task.parse_labels`` gives it.

    Raises:
        UsageError: for regression, whose labels are numbers.
    """
    if task.settings.problem_type == "regression":
        raise UsageError("The labels of a regression head are numbers, which make no slices. Slice by another column.")
    return named(task, truth)


def named(task: TextClassification, truth: np.ndarray) -> list[str]:
    """The right answer of each row in words: a label, several joined by ``|``, or numbers.

    Args:
        task: whose labels they are.
        truth: as ``task.parse_labels`` gives it.
    """
    names = task.settings.labels
    if task.settings.problem_type == "single_label_classification":
        return [names[index] for index in truth.tolist()]
    if task.settings.problem_type == "multi_label_classification":
        return ["|".join(name for name, given in zip(names, row, strict=True) if given) or NO_VALUE for row in truth.tolist()]
    return ["|".join(f"{number:.6g}" for number in row) for row in truth.tolist()]


def scored(task: TextClassification, before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> tuple[float | None, float | None, Paired | None]:
    """Both scores and their comparison; None for what is not defined on these rows, as Pearson's r of equal labels is not.

    Args:
        task: whose score is compared.
        before: float32 ``[rows, labels]``, logits of the baseline.
        after: float32 ``[rows, labels]``, of the candidate.
        truth: as ``task.parse_labels`` gives it.

    Raises:
        UsageError: when the three are not of the same rows and labels, or a logit is NaN.
    """
    compared = None
    with contextlib.suppress(SamplesError):
        compared = paired(task, after, before, truth)
    try:
        first, second = task.score(before, truth), task.score(after, truth)
    except SamplesError:
        return None, None, None
    return (first, second, compared) if math.isfinite(first) and math.isfinite(second) else (None, None, None)


def _slice(task: TextClassification, before: np.ndarray, after: np.ndarray, truth: np.ndarray, column: str, value: str, rows: np.ndarray) -> Slice:
    if len(rows) == 1:
        return Slice(column, value, 1, said="1 row")
    first, second, compared = scored(task, before[rows], after[rows], truth[rows])
    if first is None or second is None:
        return Slice(column, value, len(rows), said=f"{task.score_name} is not defined on these rows")
    if compared is None:
        return Slice(column, value, len(rows), first, second, first - second, said="too few different labels for an interval")
    return Slice(column, value, len(rows), first, second, compared.drop, compared.low, compared.high, compared.p_value)


def _order(value: str) -> tuple[float, str]:
    number = value.split("-")[0]
    return (int(number) if number.isdecimal() else math.inf), value
