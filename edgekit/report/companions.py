"""Companions of the task's score: mean absolute error for numbers, and recall of each label for unbalanced labels.

They detect losses that the score cannot see. Pearson's r of ``x / 2 + 2`` equals that of ``x``, so the mean absolute
error is reported too, in standard deviations of the labels. If one row in a hundred has a certain label, a model that
never answers it again loses only 0.01 of accuracy, so the recall of each label is reported too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.spec.protocols import Arrays, HasLabels, HasNumbers, Task
from edgekit.spec.report import Recall
from edgekit.stats.holm import holm
from edgekit.stats.paired import CONFIDENCE

__all__ = [
    "ERROR_OF_DROP",
    "RECALL_OF_DROP",
    "UNBALANCED",
    "Error",
    "error",
    "holds",
    "lost",
    "of_rows",
    "recalls",
    "rows_of_items",
]

UNBALANCED = 2.0
"""Ratio of the most frequent to the rarest label from which labels are unbalanced."""

ERROR_OF_DROP = 2.0
"""Growth of the error, in standard deviations, that a build allows per unit of its ``accuracy_drop``.

At a drop of 0.01 it is 0.02, the margin of a check.
"""

RECALL_OF_DROP = 5.0
"""Loss of a recall that a build allows per unit of its ``accuracy_drop``; at 0.01 it is 0.05, the margin of a check."""

_ALPHA = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Error:
    """Paired comparison of the mean absolute errors of two models.

    All values but ``deviation`` are in standard deviations of the labels.

    Attributes:
        before, after: Mean absolute errors of the two models, averaged over the outputs.
        low, high: Ends of the 90 % interval of ``after - before``.
        deviation: Standard deviation of the labels; the mean over several outputs.
    """

    before: float
    after: float
    low: float
    high: float
    deviation: float

    @property
    def growth(self) -> float:
        """Growth of the error: ``after - before``."""
        return self.after - self.before


def error(task: Task, before: Sequence[Arrays], after: Sequence[Arrays], truth: Sequence[Any]) -> Error | None:
    """Compare the errors of two models that answer with numbers, by Student's t of the differences per row.

    Args:
        task: Task of both models.
        before: Outputs of the baseline or the reference, one mapping per row.
        after: Outputs of the candidate, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``; the inputs of the rows differ.

    Returns:
        The comparison; None if answers are not numbers, there are less than two rows, or all labels of an output are
        equal.
    """
    if not isinstance(task, HasNumbers) or len(truth) < 2:
        return None
    labels, answers_before = task.number_matrix(before, truth)
    _, answers_after = task.number_matrix(after, truth)
    if (labels.std(axis=0) == 0).any():
        return None
    from scipy.stats import t  # scipy is not installed on devices, and slow to import.

    deviation = labels.std(axis=0, ddof=1)
    errors_before = (np.abs(answers_before - labels) / deviation).mean(axis=1)
    errors_after = (np.abs(answers_after - labels) / deviation).mean(axis=1)
    growth = errors_after - errors_before
    half_width = float(t.ppf(1 - _ALPHA, len(growth) - 1)) * float(growth.std(ddof=1)) / math.sqrt(len(growth))
    middle = float(growth.mean())
    return Error(
        before=float(errors_before.mean()),
        after=float(errors_after.mean()),
        low=middle - half_width,
        high=middle + half_width,
        deviation=float(deviation.mean()),
    )


def rows_of_items(task: HasLabels, outputs: Sequence[Arrays], truth: Sequence[Any]) -> np.ndarray | None:
    """Return the row of each item that a task labels, e.g. of each word.

    Args:
        task: Task that labels the items.
        outputs: Outputs of a model to the rows, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``.

    Returns:
        Positions of rows, int64 ``[items]``, ascending; None if each row is one item.
    """
    if len(task.label_matrix(outputs, truth)[0]) == len(truth):
        return None
    sizes = [len(task.label_matrix([row], [label])[0]) for row, label in zip(outputs, truth, strict=True)]
    return np.repeat(np.arange(len(sizes)), sizes)


def recalls(
    task: Task, before: Sequence[Arrays], after: Sequence[Arrays], truth: Sequence[Any], margin: float
) -> tuple[Recall, ...]:
    """Compare the recall of each label, if labels are unbalanced.

    The test of "a recall falls by no more than the margin" is exact: under this hypothesis, a row is lost with a
    probability of at most the margin plus the share of gained rows, so the p-value is a tail of the binomial
    distribution. Items of one row (words) are not independent. If rows have several items, the test is Student's t of
    the losses per row beyond the margin. The p-values are adjusted by Holm over the labels.

    Args:
        task: Task of both models.
        before: Outputs of the baseline or the reference, one mapping per row.
        after: Outputs of the candidate, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``; the inputs of the rows differ.
        margin: Largest allowed loss of a recall, 0 to 1.

    Returns:
        Recall of each label that occurs, in the model's order; empty if answers are not labels, the task or the rows
        have a single label, or labels are balanced.
    """
    if not isinstance(task, HasLabels) or len(task.labels) < 2:
        return ()
    labels, answers_before = task.label_matrix(before, truth)
    answers_after = task.label_matrix(after, truth)[1]
    counts = labels.sum(axis=0)
    present = np.flatnonzero(counts)
    if len(present) < 2 or counts[present].max() < UNBALANCED * counts[present].min():
        return ()
    owners = rows_of_items(task, before, truth)
    results = []
    p_values = []
    for column in present.tolist():
        items = labels[:, column]
        hits_before = answers_before[items, column]
        hits_after = answers_after[items, column]
        change = hits_before.astype(int) - hits_after.astype(int)
        if owners is None:
            p_values.append(_exact_p_value(change, margin))
        else:
            p_values.append(_p_value_by_row(change, owners[items], margin))
        result = Recall(
            label=task.labels[column],
            rows=len(change),
            before=float(hits_before.mean()),
            after=float(hits_after.mean()),
            losses=int((change > 0).sum()),
            gains=int((change < 0).sum()),
            p_holm=math.nan,  # It depends on the other labels.
        )
        results.append(result)
    return tuple(replace(result, p_holm=p_holm) for result, p_holm in zip(results, holm(p_values), strict=True))


def _exact_p_value(change: np.ndarray, margin: float) -> float:
    """Return the p-value of "the recall falls by no more than the margin", for rows with one item each.

    Args:
        change: Change of each item, int64 ``[items]``: 1 is a loss, -1 a gain.
        margin: Largest allowed loss of the recall, 0 to 1.
    """
    from scipy.stats import binom  # scipy is not installed on devices, and slow to import.

    losses = int((change > 0).sum())
    gains = int((change < 0).sum())
    count = len(change)
    if losses <= gains:
        return 1.0
    return float(binom.sf(losses - 1, count, min(margin + gains / count, 1.0)))


def _p_value_by_row(change: np.ndarray, owners: np.ndarray, margin: float) -> float:
    """Return the same p-value for rows with several items: one-sided Student's t of the losses per row.

    Args:
        change: Change of each item, int64 ``[items]``: 1 is a loss, -1 a gain.
        owners: Row of each item, int64 ``[items]``.
        margin: Largest allowed loss of the recall, 0 to 1.
    """
    from scipy.stats import t  # scipy is not installed on devices, and slow to import.

    _, places = np.unique(owners, return_inverse=True)
    excess = np.bincount(places, change - margin)
    row_count = len(excess)
    if excess.sum() <= 0:
        return 1.0
    deviation = float(excess.std(ddof=1)) if row_count > 1 else 0.0
    if not deviation:
        return _exact_p_value(change, margin)
    return float(t.sf(excess.mean() / (deviation / math.sqrt(row_count)), row_count - 1))


def lost(results: tuple[Recall, ...]) -> Recall | None:
    """Return the label with the largest significant loss of recall beyond the margin; None if there is none."""
    significant = [result for result in results if result.p_holm <= _ALPHA]
    return max(significant, key=lambda result: result.before - result.after, default=None)


def of_rows(
    task: Task, reference: Sequence[Arrays], candidate: Sequence[Arrays], truth: Sequence[Any], limit: float | None
) -> tuple[Error | None, str]:
    """Compare both companions for a candidate of a build.

    Args:
        task: Task of the model.
        reference: Outputs of the torch model, one mapping per row.
        candidate: Outputs of the candidate, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``; the inputs of the rows differ.
        limit: Accuracy drop of the budget, in the score's unit; None for no limit.

    Returns:
        The errors (None if they are not defined), and a text on the label with a significant loss of recall (empty if
        there is none).
    """
    recall = None
    if limit is not None:
        recall = lost(recalls(task, reference, candidate, truth, min(RECALL_OF_DROP * limit, 1.0)))
    text = ""
    if recall is not None:
        text = f"recall of '{recall.label}' {recall.before:.3f} to {recall.after:.3f} on {recall.rows} rows"
    return error(task, reference, candidate, truth), text


def holds(errors: Error | None, recall: str, limit: float | None, strict: bool) -> bool:
    """Return whether both companions are within a build's budget.

    Args:
        errors: Errors from :func:`of_rows`; None if they are not defined.
        recall: Text on a lost recall from :func:`of_rows`; empty if there is none.
        limit: Accuracy drop of the budget, in the score's unit; None for no limit.
        strict: True to require that the upper end of the error's interval is within the budget, not only the estimate.
    """
    if limit is None:
        return True
    if recall:
        return False
    if errors is None:
        return True
    growth = errors.high if strict else errors.growth
    return growth <= ERROR_OF_DROP * limit + 1e-9
