"""Texts for as long as something is timed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgekit.modalities.text import Text
from edgekit.spec.errors import SamplesError


class Draw:
    """Texts without end: all of them in a drawn order, then again in another. The same seed gives the same."""

    def __init__(self, texts: Sequence[Text], seed: int) -> None:
        """Binds the texts.

        Raises:
            SamplesError: when there is none.
        """
        if not texts:
            raise SamplesError("There is no text to time. Give samples with at least one row.")
        self._texts, self._random = list(texts), random.Random(seed)
        self._order: list[int] = []

    def rows(self, count: int) -> tuple[int, ...]:
        """The next ones, by their place."""
        while len(self._order) < count:
            self._order += self._random.sample(range(len(self._texts)), len(self._texts))
        taken, self._order = self._order[:count], self._order[count:]
        return tuple(taken)

    def texts(self, rows: Sequence[int]) -> list[Text]:
        """Those at these places."""
        return [self._texts[row] for row in rows]

    def take(self, count: int) -> list[Text]:
        """The next ones."""
        return self.texts(self.rows(count))
