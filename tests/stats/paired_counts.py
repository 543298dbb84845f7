"""Comparisons with given counts of discordant rows, for several test files."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from edgekit.stats.paired import proportions


def compare_counts(losses, gains, rows):
    """Return the comparison with these counts; the concordant rows are half right, half wrong."""
    reference = np.arange(rows) % 2 == 0
    candidate = reference.copy()
    reference[: losses + gains] = [True] * losses + [False] * gains
    candidate[: losses + gains] = [False] * losses + [True] * gains
    return proportions(reference, candidate)


@st.composite
def counts(draw, most=300):
    rows = draw(st.integers(1, most))
    losses = draw(st.integers(0, rows))
    return losses, draw(st.integers(0, rows - losses)), rows
