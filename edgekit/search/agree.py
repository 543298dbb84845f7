"""Does an answer depend on its input alone? Answers to rows in lists beside those to the same rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.spec import rows
from edgekit.spec.agreement import Agreement
from edgekit.spec.protocols import Arrays, Task

__all__ = ["allowed", "compare", "lists"]

_FLOAT32, _LOWER = 1e-5, 5e-3
_ROWS_IN_ORDER, _ROWS_SHUFFLED = 2048, 512


def allowed(method: str) -> float:
    """Largest difference of an output value that is accepted, as a share of the spread of all: rounding of float32, or of lower precisions."""
    return _FLOAT32 if method == "float32" else _LOWER


def lists(count: int, batch: int, seed: int = 0) -> list[list[int]]:
    """Which rows are answered in which list: most of them as one list in their order, and some in another order.

    A session runs rows of one long list with those of their length. The other order has short lists of rows drawn at random, so that
    rows are padded to others of any length, too.

    Args:
        count: rows that there are.
        batch: rows of one call.
        seed: of the other order.
    """
    spread = [int(i) for i in np.linspace(0, count - 1, min(count, _ROWS_IN_ORDER)).round()]
    drawn = np.random.default_rng(seed).permutation(count)[:_ROWS_SHUFFLED].tolist()
    return [spread, *(drawn[start : start + batch] for start in range(0, len(drawn), batch))]


def compare(
    task: Task,
    alone: Sequence[Arrays],
    listed: Sequence[Arrays],
    order: Sequence[int],
    reference: Sequence[Arrays],
    method: str,
) -> Agreement:
    """Compares answers.

    Args:
        task: says which answers are the same, and which are decided.
        alone: outputs of each row, run one at a time.
        listed: outputs in lists.
        order: row that each entry of ``listed`` is of.
        reference: outputs of the torch model, one entry a row.
        method: quantization method.
    """
    limit = allowed(method)
    expected = [alone[i] for i in order]
    difference = rows.difference(listed, expected) / rows.spread(alone)
    decided = task.decided(reference, limit * rows.spread(reference))[np.asarray(order)]
    changed = int((~task.same_answer(listed, expected) & decided).sum())
    return Agreement(len(order), difference, changed, limit)
