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


def recalls(task: Task, before: Sequence[Arrays], after: Sequence[Arrays], truth: Sequence[Any], margin: float) -> tuple[Recall, ...]:
    """Compares the recall of each label, where labels are unbalanced.

    That a recall fell by more than the margin is tested exactly: were it the margin, every row would be lost with that probability and the share
    of rows that are won, and as many losses as seen, or more, have the probability of a binomial tail. Over the labels the p-values are
    Holm's.

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
    from scipy.stats import binom  # not on a device, and slow to import

    right, was = task.label_matrix(before, truth)
    given = (was, task.label_matrix(after, truth)[1])
    rows = right.sum(axis=0)
    seen = np.flatnonzero(rows)
    if len(seen) < 2 or rows[seen].max() < UNBALANCED * rows[seen].min():
        return ()
    found, p_values = [], []
    for j in seen.tolist():
        old, new = (g[right[:, j], j] for g in given)
        losses, gains, n = int((old & ~new).sum()), int((~old & new).sum()), int(rows[j])
        chance = min(margin + gains / n, 1.0)
        p_values.append(float(binom.sf(losses - 1, n, chance)) if losses > gains else 1.0)
        found.append((task.labels[j], n, float(old.mean()), float(new.mean()), losses, gains))
    return tuple(Recall(*values, p_holm=p) for values, p in zip(found, holm(p_values), strict=True))


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
    found = None if limit is None else lost(recalls(task, reference, candidate, truth, min(RECALL_OF_DROP * limit, 1.0)))
    said = "" if found is None else f"recall of '{found.label}' {found.before:.3f} to {found.after:.3f} on {found.rows} rows"
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
