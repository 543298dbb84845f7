"""Slices: rows that share a value of a column, and whether a slice loses more accuracy than all rows together."""

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
from edgekit.spec.rows import take
from edgekit.spec.subject import SliceScore
from edgekit.stats.holm import holm
from edgekit.stats.paired import Paired

__all__ = ["by_label", "by_length", "compare", "compare_scores", "score_slices"]

_SHORTEST_BUCKET = 16


def score_slices(
    evaluation: Evaluation, outputs: Sequence[Arrays], columns: Mapping[str, Sequence[str]]
) -> tuple[SliceScore, ...]:
    """Return the score of one model on each slice.

    Args:
        evaluation: Rows, whose first metric is the score.
        outputs: Outputs of the model, one entry per row.
        columns: Value of each row, by column name.

    Returns:
        Scores in the order of the columns, then of the values, as :func:`compare` orders them.
    """
    scores = []
    for column, values in columns.items():
        value_of_row = np.array(values, object)
        for value in sorted(set(values), key=_sort_key):
            rows = np.flatnonzero(value_of_row == value).tolist()
            score = None
            with contextlib.suppress(SamplesError):  # The score is not defined on these rows.
                score = evaluation.take(rows).score(take(outputs, rows))
            scores.append(SliceScore(column, value, len(rows), score))
    return tuple(scores)


def compare(
    evaluation: Evaluation, before: Sequence[Arrays], after: Sequence[Arrays], columns: Mapping[str, Sequence[str]]
) -> tuple[Slice, ...]:
    """Compare two models on each slice.

    Args:
        evaluation: Rows, whose first metric is compared.
        before: Outputs of the baseline, one entry per row.
        after: Outputs of the candidate, one entry per row.
        columns: Value of each row, by column name.

    Returns:
        Slices in the order of the columns, then of the values: numbers by size (``17-32`` before ``129-256``), then
        words. The p-values are adjusted over all slices together.

    Raises:
        UsageError: If a column does not have one value per row, or more than ``samples.MOST_VALUES`` different ones.
    """
    slices = []
    for column, values in columns.items():
        if len(values) != len(evaluation):
            raise UsageError(
                f"The column '{column}' has {len(values)} values for {len(evaluation)} rows, expected one per row. "
                "Give the column of the same samples.",
                code="rows-differ",
            )
        different = set(values)
        if len(different) > MOST_VALUES:
            raise UsageError(
                f"The column '{column}' has {len(different)} different values, expected at most {MOST_VALUES}. "
                "Slice by a coarser column.",
                code="slices-too-many",
            )
        value_of_row = np.array(values, object)
        for value in sorted(different, key=_sort_key):
            rows = np.flatnonzero(value_of_row == value).tolist()
            slices.append(_compare_slice(evaluation, before, after, column, value, rows))
    tested = [i for i, part in enumerate(slices) if part.p_value is not None]
    adjusted = holm([slices[i].p_value or 0.0 for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        slices[i] = dataclasses.replace(slices[i], p_holm=p)
    return tuple(slices)


def by_length(sizes: Sequence[int]) -> list[str]:
    """Return the column ``length``: ``1-16``, ``17-32``, ``33-64`` and so on, buckets up to the next power of two.

    Args:
        sizes: Size of each row, e.g. in tokens, at least 1.
    """
    buckets = []
    for size in sizes:
        high = max(_SHORTEST_BUCKET, 1 << max(size - 1, 0).bit_length())
        low = high // 2 + 1 if high > _SHORTEST_BUCKET else 1
        buckets.append(f"{low}-{high}")
    return buckets


def by_label(evaluation: Evaluation, outputs: Sequence[Arrays]) -> list[str]:
    """Return the column ``label``: the name of the true label of each row.

    Args:
        evaluation: Labelled rows.
        outputs: Outputs of any model for these rows.

    Returns:
        Name of the true label per row. The list is empty if a row does not have exactly one label, or there are more
        labels than a column may have values.
    """
    task = evaluation.task
    if not isinstance(task, HasLabels) or not task.exclusive or len(task.labels) > MOST_VALUES:
        return []
    items, _ = task.label_matrix(outputs, evaluation.truth)
    return task.describe_truth(evaluation.truth) if len(items) == len(evaluation) else []


def compare_scores(
    evaluation: Evaluation, before: Sequence[Arrays], after: Sequence[Arrays]
) -> tuple[float | None, float | None, Paired | None]:
    """Return both scores and their comparison.

    Args:
        evaluation: Rows, whose first metric is compared.
        before: Outputs of the baseline, one entry per row.
        after: Outputs of the candidate, one entry per row.

    Returns:
        Score before, score after, and comparison. A value is None if it is not defined on these rows, e.g. Pearson's r
        of equal labels.

    Raises:
        UsageError: If the outputs do not belong to these rows, or one is NaN.
    """
    comparison = None
    with contextlib.suppress(SamplesError):
        comparison = evaluation.compare(after, before)
    try:
        first = evaluation.score(before)
        second = evaluation.score(after)
    except SamplesError:
        return None, None, None
    if not math.isfinite(first) or not math.isfinite(second):
        return None, None, None
    return first, second, comparison


def _compare_slice(
    evaluation: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    column: str,
    value: str,
    rows: Sequence[int],
) -> Slice:
    count = len(rows)
    if count == 1:
        return Slice(column, value, 1, said="1 row")
    metric = evaluation.task.metrics[0]
    slice_before = take(before, rows)
    slice_after = take(after, rows)
    first, second, comparison = compare_scores(evaluation.take(rows), slice_before, slice_after)
    if first is None or second is None:
        return Slice(column, value, count, said=f"{metric.name} is not defined on these rows")
    if comparison is None:
        reason = "too few different labels for an interval"
        return Slice(column, value, count, first, second, metric.drop(first, second), said=reason)
    return Slice(
        column,
        value,
        count,
        first,
        second,
        comparison.drop,
        comparison.low,
        comparison.high,
        comparison.p_value,
    )


def _sort_key(value: str) -> tuple[float, str]:
    number = value.split("-")[0]
    return (int(number) if number.isdecimal() else math.inf), value
