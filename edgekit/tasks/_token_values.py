"""Output values of tokens and words: a model gives values for tokens, and a word has those of its first token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.modalities.words import STARTS, WINDOWS
from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Arrays

OUTPUT = "logits"
"""Name of the graph output with a value for each token and label."""


def word_values_of_rows(rows: Sequence[Arrays]) -> list[np.ndarray]:
    """Return :func:`word_values` of each row.

    Raises:
        UsageError: If a row does not have one value for each token; the message has its number.
    """
    return [word_values(row, f" in row {number}") for number, row in enumerate(rows, 1)]


def word_values(row: Arrays, place: str = "") -> np.ndarray:
    """Return the values of each word's first token; of each token if the row does not say where words begin.

    Args:
        row: Outputs of the model for one row.
        place: Text that names the row in the error message.

    Returns:
        Array float64 ``[words, labels]``.

    Raises:
        UsageError: If the outputs do not have one value for each token.
    """
    values = np.asarray(row[OUTPUT], np.float64)
    if STARTS not in row:
        return values
    words = np.asarray(row[STARTS])
    windows = np.asarray(row.get(WINDOWS, [len(values)]))
    if words.shape != (len(values),) or windows.ndim != 1 or windows.sum() != len(values):
        raise UsageError(
            f"The outputs{place} have values of {len(values)} tokens, but '{STARTS}' has {words.size} and '{WINDOWS}' "
            f"adds up to {windows.sum()}; all three must be equal. "
            "Give the values of all tokens of all windows, with none cut off.",
            code="rows-differ",
        )
    starts = np.flatnonzero(words >= 0)
    if len(windows) > 1:
        # A word in two windows takes the token with more context on its shorter side; of equals, the first.
        ends = np.cumsum(windows)
        window = np.searchsorted(ends, starts, side="right")
        context = np.minimum(starts - (ends - windows)[window], ends[window] - 1 - starts)
        starts = starts[np.lexsort((starts, -context, words[starts]))]
        starts = starts[np.unique(words[starts], return_index=True)[1]]
    return values[starts]


def probabilities(values: np.ndarray) -> np.ndarray:
    """Return the softmax of each row: float64 ``[n, labels]``."""
    x = values.astype(np.float64)
    x = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def leads(values: np.ndarray) -> np.ndarray:
    """Return the difference of each row's two largest values: float64 ``[n]``; infinite with a single column."""
    if values.shape[1] < 2:
        return np.full(len(values), np.inf)
    top = np.sort(values, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])
