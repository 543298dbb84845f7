"""Test whether an answer depends only on its own input: outputs of rows in lists against those of single rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.spec import rows
from edgekit.spec.agreement import Agreement
from edgekit.spec.protocols import Arrays, Task

__all__ = ["allowed", "compare", "lists"]

_FLOAT32_LIMIT = 1e-5
_LOW_PRECISION_LIMIT = 5e-3
_ROWS_IN_ORDER = 2048
_ROWS_SHUFFLED = 512


def allowed(method: str) -> float:
    """Return the largest accepted difference of an output value, as a share of the spread of all values.

    It covers the rounding of float32, or of lower precisions.

    Args:
        method: Name of the quantization method.
    """
    return _FLOAT32_LIMIT if method == "float32" else _LOW_PRECISION_LIMIT


def lists(count: int, batch: int, seed: int = 0) -> list[list[int]]:
    """Return which rows are predicted in which list: one long list in the original order, and short shuffled lists.

    A session batches the rows of a long list with rows of similar length. The short lists hold random rows, so that
    rows are also padded to very different lengths.

    Args:
        count: Number of rows.
        batch: Rows per call, and per short list.
        seed: Random seed for the shuffled lists.

    Returns:
        Row indices of each list. The first list has at most 2,048 rows, the others have at most 512 in total.
    """
    spread = [int(i) for i in np.linspace(0, count - 1, min(count, _ROWS_IN_ORDER)).round()]
    shuffled = np.random.default_rng(seed).permutation(count)[:_ROWS_SHUFFLED].tolist()
    return [spread, *(shuffled[start : start + batch] for start in range(0, len(shuffled), batch))]


def compare(
    task: Task,
    alone: Sequence[Arrays],
    listed: Sequence[Arrays],
    order: Sequence[int],
    reference: Sequence[Arrays],
    method: str,
) -> Agreement:
    """Compare the outputs of rows in lists with the outputs of the same rows alone.

    Args:
        task: Task that decides which answers are equal, and which are clear enough to count.
        alone: Outputs of each row, run one at a time.
        listed: Outputs of rows in lists.
        order: Row index of each entry of ``listed``.
        reference: Outputs of the torch model, one entry per row.
        method: Name of the quantization method.
    """
    limit = allowed(method)
    expected = [alone[i] for i in order]
    difference = rows.difference(listed, expected) / rows.spread(alone)
    decided = task.decided(reference, limit * rows.spread(reference))[np.asarray(order)]
    changed = int((~task.same_answer(listed, expected) & decided).sum())
    return Agreement(len(order), difference, changed, limit)
