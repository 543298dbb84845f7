"""Whether an answer depends on its input alone, as it was measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Agreement"]


@dataclass(frozen=True)
class Agreement:
    """How far answers in lists are from those to the same rows alone, measured where a bundle was built.

    Attributes:
        rows: answers in lists that were compared, those of all orders together.
        difference: largest difference of an output value, as a share of the spread of all outputs alone (at least 1).
        labels: answers with another label, those left out where the torch model's own margin is below ``allowed``.
        allowed: largest difference that is accepted, a share too.
    """

    rows: int
    difference: float
    labels: int
    allowed: float

    @property
    def is_within_limit(self) -> bool:
        """Whether an answer depends on its input alone, as far as was measured."""
        return self.difference <= self.allowed and self.labels == 0

    def text(self) -> str:
        """In a sentence without its end."""
        how = f"by at most {self.difference:.1g} of the outputs' spread (allowed {self.allowed:g}), {self.labels} of them by their label"
        return f"{self.rows:,} answers in lists, in two orders, differ from those to the same rows alone {how}"
