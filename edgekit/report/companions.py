"""What the task's score cannot see: numbers that moved together, and a label that hardly a row has.

Pearson's r of ``x / 2 + 2`` is that of ``x``, so the mean absolute error stands beside it, in units of the labels' standard deviation. The accuracy of a
set of which one row in a hundred has a label falls by 0.01 when that label is never answered again, so the recall of each label stands beside it
where labels are unbalanced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
"""Times the rows of the rarest label that the most frequent one has, from which on labels are unbalanced."""

ERROR_OF_DROP, RECALL_OF_DROP = 2.0, 5.0
"""A build allows an error that grows by as many standard deviations, and a recall that falls by as much, for each unit of its ``accuracy_drop``: at
0.01 these are 0.02 and 0.05, the margins of a check."""

_ALPHA = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Error:
    """Mean absolute error of two models on the same rows, paired.

    Attributes:
        before, after: in units of the labels' standard deviation, averaged over the outputs.
        low, high: 90 % interval of ``after - before``.
        deviation: the labels' standard deviation; of several outputs their mean.
    """

    before: float
    after: float
    low: float
    high: float
    deviation: float

    @property
    def growth(self) -> float:
        """``after - before``."""
        return self.after - self.before


def error(task: Task, before: Sequence[Arrays], after: Sequence[Arrays], truth: Sequence[Any]) -> Error | None:
    """Compares the errors of two models that answer numbers: Student's t of the rows' differences.

    Args:
        task: of both.
        before: outputs of the baseline or the reference, one row each.
        after: outputs of the candidate.
        truth: as ``task.parse_truth`` gives it; of rows with different inputs.

    Returns:
        None where answers are no numbers, for a single row, and where all labels of a number are equal.
    """
    if not isinstance(task, HasNumbers) or len(truth) < 2:
        return None
    right, was = task.number_matrix(before, truth)
    _, now = task.number_matrix(after, truth)
    if (right.std(axis=0) == 0).any():
        return None
    from scipy.stats import t  # not on a device, and slow to import

    deviation = right.std(axis=0, ddof=1)
    errors = [(np.abs(answers - right) / deviation).mean(axis=1) for answers in (was, now)]
    growth = errors[1] - errors[0]
    arm = float(t.ppf(1 - _ALPHA, len(growth) - 1)) * float(growth.std(ddof=1)) / math.sqrt(len(growth))
    middle = float(growth.mean())
    return Error(float(errors[0].mean()), float(errors[1].mean()), middle - arm, middle + arm, float(deviation.mean()))


def rows_of_items(task: HasLabels, outputs: Sequence[Arrays], truth: Sequence[Any]) -> np.ndarray | None:
    """The row of each item that a task labels: int64 ``[items]``, ascending; None where rows are the items.

    Args:
        task: whose items they are.
        outputs: of a model to these rows, one row each.
        truth: as ``task.parse_truth`` gives it.
    """
    if len(task.label_matrix(outputs, truth)[0]) == len(truth):
        return None
    sizes = [len(task.label_matrix([row], [right])[0]) for row, right in zip(outputs, truth, strict=True)]
    return np.repeat(np.arange(len(sizes)), sizes)


def recalls(
    task: Task, before: Sequence[Arrays], after: Sequence[Arrays], truth: Sequence[Any], margin: float
) -> tuple[Recall, ...]:
    """Compares the recall of each label, where labels are unbalanced.

    That a recall fell by more than the margin is tested exactly: were it the margin, every row would be lost with that probability and the share
    of rows that are won, and as many losses as seen, or more, have the probability of a binomial tail. Parts of a row (words) are lost together, so
    where rows have several items the rows are what varies: Student's t of the losses of each row beyond the margin. Over the labels the p-values
    are Holm's.

    Args:
        task: of both.
        before: outputs of the baseline or the reference, one row each.
        after: outputs of the candidate.
        truth: as ``task.parse_truth`` gives it; of rows with different inputs.
        margin: largest drop of a recall that is allowed, 0 to 1.

    Returns:
        The labels that a row has, in the model's order; none where answers are no labels, of one label, and where labels are balanced.
    """
    if not isinstance(task, HasLabels) or len(task.labels) < 2:
        return ()
    right, was = task.label_matrix(before, truth)
    now = task.label_matrix(after, truth)[1]
    counts = right.sum(axis=0)
    seen = np.flatnonzero(counts)
    if len(seen) < 2 or counts[seen].max() < UNBALANCED * counts[seen].min():
        return ()
    owners = rows_of_items(task, before, truth)
    found, p_values = [], []
    for j in seen.tolist():
        items = right[:, j]
        old, new = was[items, j], now[items, j]
        change = old.astype(int) - new.astype(int)
        p_values.append(_exact(change, margin) if owners is None else _by_rows(change, owners[items], margin))
        losses, gains = int((change > 0).sum()), int((change < 0).sum())
        found.append((task.labels[j], len(change), float(old.mean()), float(new.mean()), losses, gains))
    return tuple(Recall(*values, p_holm=p) for values, p in zip(found, holm(p_values), strict=True))


def _exact(change: np.ndarray, margin: float) -> float:
    """P-value of a recall that fell by no more than the margin, of items that are rows: 1 is a loss, -1 a gain."""
    from scipy.stats import binom  # not on a device, and slow to import

    losses, gains, n = int((change > 0).sum()), int((change < 0).sum()), len(change)
    return float(binom.sf(losses - 1, n, min(margin + gains / n, 1.0))) if losses > gains else 1.0


def _by_rows(change: np.ndarray, owners: np.ndarray, margin: float) -> float:
    """The same where rows have several items: one-sided Student's t of each row's losses beyond the margin."""
    from scipy.stats import t  # not on a device, and slow to import

    _, places = np.unique(owners, return_inverse=True)
    beyond = np.bincount(places, change - margin)
    rows, spread = len(beyond), float(beyond.std(ddof=1)) if len(beyond) > 1 else 0.0
    if beyond.sum() <= 0:
        return 1.0
    return float(t.sf(beyond.mean() / (spread / math.sqrt(rows)), rows - 1)) if spread else _exact(change, margin)


def lost(found: tuple[Recall, ...]) -> Recall | None:
    """The label whose recall surely fell by more than the margin, the one that lost most; None where there is none."""
    return max((r for r in found if r.p_holm <= _ALPHA), key=lambda r: r.before - r.after, default=None)


def of_rows(
    task: Task, reference: Sequence[Arrays], candidate: Sequence[Arrays], truth: Sequence[Any], limit: float | None
) -> tuple[Error | None, str]:
    """Both companions of a candidate of a build.

    Args:
        task: of the model.
        reference: outputs, one row each.
        candidate: outputs, one row each.
        truth: as ``task.parse_truth`` gives it; of rows with different inputs.
        limit: the budget's accuracy drop; None for no limit.

    Returns:
        The errors, and the label whose recall surely fell by more than the limit allows, in words.
    """
    found = (
        None if limit is None else lost(recalls(task, reference, candidate, truth, min(RECALL_OF_DROP * limit, 1.0)))
    )
    said = (
        ""
        if found is None
        else f"recall of '{found.label}' {found.before:.3f} to {found.after:.3f} on {found.rows} rows"
    )
    return error(task, reference, candidate, truth), said


def holds(found: Error | None, recall: str, limit: float | None, strict: bool) -> bool:
    """Whether both are within what a build's budget allows.

    Args:
        found: the errors of numbers.
        recall: from :func:`of_rows`.
        limit: the budget's accuracy drop; None for no limit.
        strict: the upper end of the error's interval counts, not only what was seen.
    """
    if limit is None:
        return True
    return not recall and (found is None or (found.high if strict else found.growth) <= ERROR_OF_DROP * limit + 1e-9)
