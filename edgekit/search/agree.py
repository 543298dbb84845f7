"""Does an answer depend on its input alone? Answers to rows in lists beside those to the same rows alone."""

from __future__ import annotations

import numpy as np

from edgekit.spec.agreement import Agreement
from edgekit.tasks.text_classification import TextClassification

_FLOAT32, _LOWER = 1e-5, 5e-3
_ROWS_IN_ORDER, _ROWS_SHUFFLED = 2048, 512


def allowed(method: str) -> float:
    """Largest difference of a logit that is accepted, as a share of the spread of all logits: rounding of float32, or of lower precisions."""
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


def compare(task: TextClassification, alone: np.ndarray, listed: np.ndarray, order: np.ndarray, reference: np.ndarray, method: str) -> Agreement:
    """Compares answers.

    Args:
        task: knows labels and their margins.
        alone: float32 ``[rows, labels]``, one row at a time.
        listed: float32 ``[answers, labels]``, in lists.
        order: ``int64 [answers]``, which row each is the answer to.
        reference: the torch model's: float32 ``[rows, labels]``.
        method: quantization method.
    """
    limit = allowed(method)
    difference = float(np.abs(listed - alone[order]).max()) / max(1.0, float(np.ptp(alone)))
    clear = task.margins(reference) >= limit * max(1.0, float(np.ptp(reference)))
    labels = int((task.differs(listed, alone[order]) & clear[order]).sum())
    return Agreement(len(order), difference, labels, limit)
