"""Agreement of answers in lists with answers to single rows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Agreement"]


@dataclass(frozen=True)
class Agreement:
    """Difference between the answers in lists and those to the same rows alone, measured at build time.

    Attributes:
        rows: Number of answers in lists that were compared, over all orders of the list.
        difference: Largest difference of an output value, as a share of the range of all single-row outputs (at least
            1).
        labels: Number of answers with another label, without those whose margin in the torch model is below
            ``allowed``.
        allowed: Largest accepted difference, as a share.
    """

    rows: int
    difference: float
    labels: int
    allowed: float

    @property
    def is_within_limit(self) -> bool:
        """Whether the answers depend on their input alone, within the limit."""
        return self.difference <= self.allowed and self.labels == 0

    def text(self) -> str:
        """Return one sentence without a full stop."""
        return (
            f"{self.rows:,} answers in lists, in two orders, differ from those to the same rows alone by at most "
            f"{self.difference:.1g} of the output range (limit {self.allowed:g}); {self.labels} labels differ"
        )
