"""Values of tokens and of words: what a model gives for each token, and what a word has of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.modalities.words import STARTS, WINDOWS
from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Arrays

OUTPUT = "logits"
"""Name of the graph output that holds a value for each token and label."""


def of_rows(rows: Sequence[Arrays]) -> list[np.ndarray]:
    """:func:`first_tokens` of each row.

    Raises:
        UsageError: for outputs that have not a value for each token, with the number of the first such row.
    """
    return [first_tokens(row, f" in row {place}") for place, row in enumerate(rows, 1)]


def first_tokens(row: Arrays, place: str = "") -> np.ndarray:
    """Values of the first token of each word, float64 ``[words, labels]``; of each token where nothing says which begin words.

    Args:
        row: outputs of a model.
        place: of the row, for the message.

    Raises:
        UsageError: for outputs that have not a value for each token.
    """
    values = np.asarray(row[OUTPUT], np.float64)
    if STARTS not in row:
        return values
    words, windows = np.asarray(row[STARTS]), np.asarray(row.get(WINDOWS, [len(values)]))
    if words.shape != (len(values),) or windows.ndim != 1 or windows.sum() != len(values):
        raise UsageError(
            f"The outputs{place} have values of {len(values)} tokens, '{STARTS}' is of {words.size} and '{WINDOWS}' of {windows.sum()}, expected as many. "
            "Give the values of all tokens of all windows, not of words, and none cut off.",
            code="rows-differ",
        )
    starts = np.flatnonzero(words >= 0)
    if len(windows) > 1:
        # Of a word that is in two windows the token with more text on its scarcer side; of equals the first.
        ends = np.cumsum(windows)
        window = np.searchsorted(ends, starts, side="right")
        around = np.minimum(starts - (ends - windows)[window], ends[window] - 1 - starts)
        starts = starts[np.lexsort((starts, -around, words[starts]))]
        starts = starts[np.unique(words[starts], return_index=True)[1]]
    return values[starts]


def probabilities(values: np.ndarray) -> np.ndarray:
    """Softmax of each row: float64 ``[n, labels]``."""
    x = values.astype(np.float64)
    x = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def leads(values: np.ndarray) -> np.ndarray:
    """Lead of the largest value of each row over the next one: float64 ``[n]``; infinite where there is but one."""
    if values.shape[1] < 2:
        return np.full(len(values), np.inf)
    top = np.sort(values, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])
