"""Rows that share a value of a column, and whether one of those groups lost more than the whole shows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.samples import MOST_VALUES
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Arrays, HasLabels
from edgekit.spec.report import Slice
from edgekit.spec.subject import SliceScore
from edgekit.stats.holm import holm
from edgekit.stats.paired import Paired

__all__ = ["by_label", "by_length", "compare", "compare_scores", "score_slices"]

_SHORTEST_BUCKET = 16


def score_slices(
    evaluation: Evaluation, outputs: Sequence[Arrays], columns: Mapping[str, Sequence[str]]
) -> tuple[SliceScore, ...]:
    """Return the score of one model in each group of rows.

    Args:
        evaluation: Rows, whose first metric is the score.
        outputs: Outputs of the model, one entry a row.
        columns: Name to the value of each row.

    Returns:
        By column as given, then by value, as :func:`compare` orders them.
    """
    scores = []
    for column, values in columns.items():
        of_row = np.array(values, object)
        for value in sorted(set(values), key=_order):
            rows = np.flatnonzero(of_row == value).tolist()
            score = None
            with contextlib.suppress(SamplesError):  # not defined on these rows
                score = evaluation.take(rows).score([outputs[row] for row in rows])
            scores.append(SliceScore(column, value, len(rows), score))
    return tuple(scores)


def compare(
    given: Evaluation, before: Sequence[Arrays], after: Sequence[Arrays], columns: Mapping[str, Sequence[str]]
) -> tuple[Slice, ...]:
    """Compares two models in each group of rows.

    Args:
        given: the rows, whose first metric is compared.
        before: outputs of the baseline.
        after: of the candidate.
        columns: name to the value of each row.

    Returns:
        By column as given, then by value: numbers by size (``17-32`` before ``129-256``), then words. Their p-values are adjusted for
        all of them together.

    Raises:
        UsageError: for a column that has not one value a row, or more different ones than ``samples.MOST_VALUES``.
    """
    found = []
    for column, values in columns.items():
        if len(values) != len(given):
            raise UsageError(
                f"The column '{column}' has {len(values)} values for {len(given)} rows, expected one a row. Give that of the same samples.",
                code="rows-differ",
            )
        different = set(values)
        if len(different) > MOST_VALUES:
            raise UsageError(
                f"The column '{column}' has {len(different)} different values, expected at most {MOST_VALUES}. Slice by a coarser column.",
                code="slices-too-many",
            )
        of_row = np.array(values, object)
        found += [
            _slice(given, before, after, column, value, np.flatnonzero(of_row == value).tolist())
            for value in sorted(different, key=_order)
        ]
    tested = [i for i, s in enumerate(found) if s.p_value is not None]
    for i, p in zip(tested, holm([found[i].p_value or 0.0 for i in tested]), strict=True):
        found[i] = dataclasses.replace(found[i], p_holm=p)
    return tuple(found)


def by_length(sizes: Sequence[int]) -> list[str]:
    """The column ``length``: ``1-16``, ``17-32``, ``33-64`` and so on, each bucket up to the next power of two.

    Args:
        sizes: of each row, e.g. tokens, at least 1.
    """
    highest = [max(_SHORTEST_BUCKET, 1 << max(count - 1, 0).bit_length()) for count in sizes]
    return [f"{high // 2 + 1 if high > _SHORTEST_BUCKET else 1}-{high}" for high in highest]


def by_label(given: Evaluation, outputs: Sequence[Arrays]) -> list[str]:
    """The label column as a column of slices: the right label's name of each row.

    Args:
        given: the rows.
        outputs: of any model to them.

    Returns:
        Empty where a row has not exactly one label, or there are more labels than slices may have.
    """
    task = given.task
    if not isinstance(task, HasLabels) or not task.exclusive or len(task.labels) > MOST_VALUES:
        return []
    items, _ = task.label_matrix(outputs, given.truth)
    return task.describe_truth(given.truth) if len(items) == len(given) else []


def compare_scores(
    given: Evaluation, before: Sequence[Arrays], after: Sequence[Arrays]
) -> tuple[float | None, float | None, Paired | None]:
    """Both scores and their comparison; None for what is not defined on these rows, as Pearson's r of equal labels is not.

    Args:
        given: the rows, whose first metric is compared.
        before: outputs of the baseline.
        after: of the candidate.

    Raises:
        UsageError: when the outputs are not of these rows, or one is NaN.
    """
    compared = None
    with contextlib.suppress(SamplesError):
        compared = given.compare(after, before)
    try:
        first, second = given.score(before), given.score(after)
    except SamplesError:
        return None, None, None
    return (first, second, compared) if math.isfinite(first) and math.isfinite(second) else (None, None, None)


def _slice(
    given: Evaluation, before: Sequence[Arrays], after: Sequence[Arrays], column: str, value: str, rows: Sequence[int]
) -> Slice:
    if len(rows) == 1:
        return Slice(column, value, 1, said="1 row")
    metric = given.task.metrics[0]
    first, second, compared = compare_scores(given.take(rows), [before[i] for i in rows], [after[i] for i in rows])
    if first is None or second is None:
        return Slice(column, value, len(rows), said=f"{metric.name} is not defined on these rows")
    if compared is None:
        return Slice(
            column,
            value,
            len(rows),
            first,
            second,
            metric.drop(first, second),
            said="too few different labels for an interval",
        )
    return Slice(column, value, len(rows), first, second, compared.drop, compared.low, compared.high, compared.p_value)


def _order(value: str) -> tuple[float, str]:
    number = value.split("-")[0]
    return (int(number) if number.isdecimal() else math.inf), value
