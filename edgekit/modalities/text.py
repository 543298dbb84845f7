"""Texts and pairs of texts: how they are read, encoded, measured, generated and disturbed."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.modalities import _text_perturbations
from edgekit.modalities._text_encoder import Text, TextEncoder, check_ids
from edgekit.modalities._text_generated import fuzz_texts, short_texts
from edgekit.modalities._text_units import erased, mask_token, words
from edgekit.modalities._tokenized import Tokenized
from edgekit.modalities.limits import check_rows
from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Arrays

__all__ = ["UNBOUND", "Text", "TextEncoder", "TextModality", "check_ids", "fuzz_texts"]

_TEXT_FORM = "text"
_PAIR_FORM = "pair"
_MANY = 100  # texts whose words make one of full length
_PAIR = b"\xff"  # no UTF-8 text holds this byte, so no single text has the content of a pair
_CHARACTERS_A_TOKEN = (8, 24, 60)  # of generated texts; no more than the default limit of characters


class TextModality(Tokenized[TextEncoder]):
    """Texts, or pairs of texts. What only reads or disturbs them needs no tokenizer."""

    roles = ("text", "text_pair")
    reads_files = False

    def __init__(self, encoder: TextEncoder | None = None, longest: int = 0, *, pairs: bool = True) -> None:
        """Binds the modality to a model.

        Args:
            encoder: the model's tokenizer; without one nothing is encoded, generated to a length or held to a limit.
            longest: tokens of the longest row that the model takes.
            pairs: whether the model was trained on pairs, as far as is known.
        """
        super().__init__(encoder)
        self._longest, self._pairs = longest, pairs

    def read(self, columns: Mapping[str, object], folder: Path = Path()) -> Text:
        """Makes the text or the pair of one row of a sample file.

        Args:
            columns: ``text`` and maybe ``text_pair`` to the value of the cell.
            folder: of the file; texts stand in it.

        Raises:
            SamplesError: for a value that is no text; the message begins behind the place, and never quotes the value.
        """
        for role, value in columns.items():
            if not isinstance(value, str):
                what = "no value" if value is None else f"a {type(value).__name__}"
                raise SamplesError(
                    f"has {what} for {role}, expected text. Correct or remove the row.", code="samples-text-type"
                )
            try:
                value.encode()
            except UnicodeEncodeError as problem:
                raise SamplesError(
                    f"holds a lone surrogate in {role}, which is not text. Correct or remove the row.",
                    code="samples-text-surrogate",
                ) from problem
        first = str(columns["text"])
        return (first, str(columns["text_pair"])) if "text_pair" in columns else first

    def check(self, inputs: Sequence[Text], where: str) -> None:
        """Holds the rows of a file to the limit of characters that a session has by default.

        Args:
            inputs: in the order of the file.
            where: the file, for the message.

        Raises:
            SamplesError: with the number of the first row that is longer.
        """
        check_rows(inputs, self._longest, where)

    def content(self, value: Text) -> bytes:
        """UTF-8 of a text; of a pair the byte 0xFF, the length of the first text in bytes (8 bytes, big-endian) and both texts."""
        if isinstance(value, str):
            return value.encode()
        first, second = (part.encode() for part in value)
        return _PAIR + len(first).to_bytes(8, "big") + first + second

    def size(self, arrays: Arrays) -> int:
        """Tokens of a row."""
        return len(next(iter(arrays.values())))

    def generate(self, count: int, longest: int, seed: int = 0) -> list[Text]:
        """Texts and pairs of many scripts, the first ones empty or of blanks.

        Args:
            count: at least 1.
            longest: tokens that the last text has, or more; they are those of the others, one after the other.
            seed: of the draws.
        """
        some = short_texts(count - 1, seed, pairs=self._pairs)
        return [*some, self.join(some if count > _MANY else short_texts(_MANY, seed, pairs=False), longest)[0]]

    def join(self, inputs: Sequence[Text], longest: int) -> list[Text]:
        """The words of texts, one after the other: as one text, and as a pair where the model takes pairs.

        Args:
            inputs: whose words they are.
            longest: tokens that each has, or more.
        """
        words = [
            word for text in inputs for part in ([text] if isinstance(text, str) else text) for word in part.split()
        ] or ["a"]
        for count in (
            2 * longest,
            *(characters * longest for characters in _CHARACTERS_A_TOKEN),
        ):  # some words are no tokens: control characters
            joined = " ".join(itertools.islice(itertools.cycle(words), count))[: _CHARACTERS_A_TOKEN[-1] * longest]
            if self._encoder is None or self.size(self._encoder([joined])[0].arrays) >= longest:
                break
        return [joined, (joined, joined)] if self._pairs else [joined]

    def cut(self, arrays: Arrays, longest: int) -> dict[str, np.ndarray]:
        """A row of at most so many tokens: as a tokenizer cuts, it keeps the last one."""
        return {
            name: array if len(array) <= longest else np.concatenate([array[: longest - 1], array[-1:]])
            for name, array in arrays.items()
        }

    def form(self, value: Text) -> str:
        """Return ``text`` for a text and ``pair`` for a tuple; empty for anything else."""
        if isinstance(value, str):
            return _TEXT_FORM
        return _PAIR_FORM if isinstance(value, tuple) else ""

    def form_warning(self, form: str) -> str:
        """Return a warning for a pair where the model was built on single texts, or the other way round.

        Args:
            form: Form of the input.
        """
        if form == _PAIR_FORM:
            return (
                "A tuple is one pair of texts, and this model was built on single texts. "
                "Pass a list for several texts: session([first, second])."
            )
        return (
            "This model was built on pairs of texts, and the input is a single text. "
            "Pass a tuple of two texts: session((text, text_pair))."
        )

    @property
    def perturbations(self) -> Mapping[str, Callable[[Text, random.Random], Text | None]]:
        """Name to a disturbance, see the functions of ``_text_perturbations``."""
        return {name: functools.partial(_text_perturbations.disturb, name) for name in _text_perturbations.KINDS}

    def occlude(self, value: Text, filler: str) -> tuple[Sequence[str], Iterable[Text]]:
        """Words, which are what whitespace separates, of both texts of a pair; and the text once without each of them.

        Args:
            value: a text or a pair.
            filler: in a word's place; with an empty one a space beside the word goes too.
        """
        return words(value), erased(value, filler)

    def filler(self) -> str:
        """The mask token as it is written in a text; without one the unknown token where a text can hold it, else empty."""
        return mask_token(self.encoder.to_json())

    def quote(self, value: Text) -> str:
        """The text; both texts of a pair with a bar between them."""
        return value if isinstance(value, str) else " | ".join(value)


UNBOUND = TextModality()
"""The modality without a model: it reads, identifies, disturbs and quotes."""
