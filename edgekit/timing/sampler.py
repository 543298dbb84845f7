"""Inputs for as long as something is timed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Input

__all__ = ["InputSampler"]


class InputSampler:
    """Inputs without end: all of them in a drawn order, then again in another. The same seed gives the same."""

    def __init__(self, inputs: Sequence[Input], seed: int) -> None:
        """Binds the inputs.

        Raises:
            SamplesError: when there is none.
        """
        if not inputs:
            raise SamplesError("There is no input to time. Give samples with at least one row.", code="samples-empty")
        self._inputs, self._random = list(inputs), random.Random(seed)
        self._order: list[int] = []

    def rows(self, count: int) -> tuple[int, ...]:
        """The next ones, by their place."""
        while len(self._order) < count:
            self._order += self._random.sample(range(len(self._inputs)), len(self._inputs))
        taken, self._order = self._order[:count], self._order[count:]
        return tuple(taken)

    def inputs(self, rows: Sequence[int]) -> list[Input]:
        """Those at these places."""
        return [self._inputs[row] for row in rows]

    def take(self, count: int) -> list[Input]:
        """The next ones."""
        return self.inputs(self.rows(count))
