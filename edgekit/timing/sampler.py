"""Random order of the inputs for as long as a measurement runs."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Input

__all__ = ["InputSampler"]


class InputSampler:
    """An endless sequence of inputs: one random permutation of all inputs after the other.

    The same seed gives the same sequence.
    """

    def __init__(self, inputs: Sequence[Input], seed: int) -> None:
        """Store the inputs.

        Args:
            inputs: Inputs to sample from, at least one.
            seed: Random seed of the permutations.

        Raises:
            SamplesError: If ``inputs`` is empty.
        """
        if not inputs:
            raise SamplesError("There is no input to time. Give samples with at least one row.", code="samples-empty")
        self._inputs = list(inputs)
        self._random = random.Random(seed)
        self._queue: list[int] = []

    def next_rows(self, count: int) -> tuple[int, ...]:
        """Return the row numbers of the next ``count`` inputs, from 0."""
        while len(self._queue) < count:
            self._queue += self._random.sample(range(len(self._inputs)), len(self._inputs))
        rows = tuple(self._queue[:count])
        self._queue = self._queue[count:]
        return rows

    def inputs_at(self, rows: Sequence[int]) -> list[Input]:
        """Return the inputs with these row numbers."""
        return [self._inputs[row] for row in rows]

    def next_inputs(self, count: int) -> list[Input]:
        """Return the next ``count`` inputs."""
        return self.inputs_at(self.next_rows(count))
