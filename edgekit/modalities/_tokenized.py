"""The common part of modalities of texts: an optional tokenizer and its limit of characters."""

from __future__ import annotations

import sys
from typing import Generic, Protocol, TypeVar

from edgekit.modalities.limits import Limit
from edgekit.spec.errors import UsageError


class _Limited(Protocol):
    """An encoder with a limit of characters."""

    limit: Limit

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit."""


Encoder = TypeVar("Encoder", bound=_Limited)


class Tokenized(Generic[Encoder]):
    """A modality whose inputs are encoded by a tokenizer."""

    def __init__(self, encoder: Encoder | None) -> None:
        """Create the modality with a model's tokenizer, or without one and then without encoding and limit."""
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The model's tokenizer.

        Raises:
            UsageError: If there is none.
        """
        if self._encoder is None:
            raise UsageError(
                "Texts cannot be encoded without a model's tokenizer. Load the task of a bundle first.",
                code="task-without-bundle",
            )
        return self._encoder

    @property
    def limit(self) -> Limit:
        """Limit of characters, and whether longer texts are cut; unlimited without a tokenizer."""
        return Limit(sys.maxsize) if self._encoder is None else self._encoder.limit

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit of characters; see :class:`edgekit.spec.protocols.HasLimit`.

        Raises:
            InputError: If a value has another type or is out of range.
        """
        self.encoder.set_limit(characters, truncate)
