"""Outputs of a model's graphs, by which the search scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit import quantize
from edgekit.spec.protocols import Arrays
from edgekit.spec.rows import finite

__all__ = ["LOW_FLOATS", "Outputs"]

LOW_FLOATS = ("float16", "bfloat16")
"""Float types of 16 bits."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of graphs for scoring.

    Attributes:
        rows: Outputs of the evaluation rows.
        long: Outputs of the rows of :func:`edgekit.search.stand_in.long_rows`. Empty unless the stand-in ran.
    """

    rows: Sequence[Arrays]
    long: Sequence[Arrays] = ()

    @property
    def finite(self) -> bool:
        """Whether all outputs are finite."""
        return bool(finite(self.rows).all() and finite(self.long).all())

    def not_finite_reason(self, method: str) -> str:
        """Return why the graphs cannot be used, as text for a table, or an empty string if all outputs are finite.

        Args:
            method: Quantization method of the graphs.
        """
        if self.finite:
            return ""
        precisions = quantize.get(method).PRECISIONS
        types = " and ".join(name for name in LOW_FLOATS if name in precisions) or "its own"
        return (
            f"refused: in {types} arithmetic {_count_not_finite(self.rows)} evaluation rows and "
            f"{_count_not_finite(self.long)} generated rows of up to full length are NaN or infinite"
        )


def _count_not_finite(rows: Sequence[Arrays]) -> str:
    return f"{int((~finite(rows)).sum())} of {len(rows)}"
