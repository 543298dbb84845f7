"""What modalities of texts share: a tokenizer that may be missing, and its limit of characters."""

from __future__ import annotations

import sys
from typing import Generic, Protocol, TypeVar

from edgekit.modalities.limits import Limit
from edgekit.spec.errors import UsageError


class _Limited(Protocol):
    """An encoder that holds texts to a limit."""

    limit: Limit

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Sets the limit."""


Encoder = TypeVar("Encoder", bound=_Limited)


class Tokenized(Generic[Encoder]):
    """A modality whose inputs a tokenizer encodes."""

    def __init__(self, encoder: Encoder | None) -> None:
        """Keeps the model's tokenizer; without one nothing is encoded or held to a limit."""
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The model's tokenizer.

        Raises:
            UsageError: without one.
        """
        if self._encoder is None:
            raise UsageError(
                "Texts were to be encoded without a model's tokenizer. Load the task of a bundle first.",
                code="task-without-bundle",
            )
        return self._encoder

    @property
    def limit(self) -> Limit:
        """How long a text may be, and whether a longer one is cut; without a tokenizer as long as any."""
        return Limit(sys.maxsize) if self._encoder is None else self._encoder.limit

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Sets how long a text may be, see :class:`edgekit.spec.protocols.HasLimit`.

        Raises:
            InputError: when one of them is of another type or out of range.
        """
        self.encoder.set_limit(characters, truncate)
