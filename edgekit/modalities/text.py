"""The modality of texts and pairs of texts."""

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
from edgekit.modalities._text_units import mask_token, occlude_words, parts_of, words
from edgekit.modalities._tokenized import Tokenized
from edgekit.modalities.limits import check_rows
from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import Arrays

__all__ = ["UNBOUND", "Text", "TextEncoder", "TextModality", "check_ids", "fuzz_texts"]

_TEXT_FORM = "text"
_PAIR_FORM = "pair"
_MANY = 100  # Number of texts whose words are joined to a text of full length.
_PAIR = b"\xff"  # First byte of a pair's content. It does not occur in UTF-8, so no single text has the same content.
_CHARACTERS_A_TOKEN = (8, 24, 60)  # Lengths tried for a joined text; all are below the default limit of characters.


class TextModality(Tokenized[TextEncoder]):
    """Texts, or pairs of texts. Reading and perturbing them needs no tokenizer."""

    roles = ("text", "text_pair")
    reads_files = False

    def __init__(self, encoder: TextEncoder | None = None, longest: int = 0, *, pairs: bool = True) -> None:
        """Create the modality for a model.

        Args:
            encoder: Tokenizer of the model; without one nothing is encoded, generated to a length or limited.
            longest: Length of the longest row the model accepts, in tokens.
            pairs: Whether the model was trained on pairs, as far as known.
        """
        super().__init__(encoder)
        self._longest = longest
        self._pairs = pairs

    @property
    def remembers(self) -> bool:
        """Whether token ids of words are remembered; see :class:`edgekit.spec.protocols.Remembers`."""
        return self._encoder is not None and self._encoder.remembers_words

    def remember(self, on: bool) -> bool:
        """Remember token ids of words from now on, or stop it; return whether they are remembered now."""
        return self.encoder.remember_words(on)

    def read(self, columns: Mapping[str, object], folder: Path = Path()) -> Text:
        """Return the text or the pair of one row of a sample file.

        Args:
            columns: Cell values by role: ``text``, and ``text_pair`` for a pair.
            folder: Folder of the file; not used for texts.

        Raises:
            SamplesError: If a value is not text. The message continues a sentence that begins with the row, and never
                quotes the value.
        """
        for role, value in columns.items():
            if not isinstance(value, str):
                kind = "no value" if value is None else f"a {type(value).__name__}"
                raise SamplesError(
                    f"has {kind} for {role}, expected text. Correct or remove the row.", code="samples-text-type"
                )
            try:
                value.encode()
            except UnicodeEncodeError as problem:
                raise SamplesError(
                    f"contains a lone surrogate in {role}, which is not text. Correct or remove the row.",
                    code="samples-text-surrogate",
                ) from problem
        first = str(columns["text"])
        return (first, str(columns["text_pair"])) if "text_pair" in columns else first

    def check(self, inputs: Sequence[Text], where: str) -> None:
        """Check the rows of a file against a session's default limit of characters.

        Args:
            inputs: Texts, in the order of the file.
            where: Name of the file, for the message.

        Raises:
            SamplesError: If a row is longer; the message has the number of the first such row.
        """
        check_rows(inputs, self._longest, where)

    def content(self, value: Text) -> bytes:
        """Return the canonical bytes of an input.

        Returns:
            UTF-8 of a text. For a pair, the byte 0xFF, the length of the first text in bytes (8 bytes, big-endian) and
            both texts.
        """
        if isinstance(value, str):
            return value.encode()
        first, second = (part.encode() for part in value)
        return _PAIR + len(first).to_bytes(8, "big") + first + second

    def size(self, arrays: Arrays) -> int:
        """Return the number of tokens of a row."""
        return len(next(iter(arrays.values())))

    def generate(self, count: int, longest: int, seed: int = 0) -> list[Text]:
        """Return texts and pairs of many scripts; the first ones are empty or white space.

        Args:
            count: Number of texts, at least 1.
            longest: Minimum length of the last text, in tokens. It consists of the words of the other texts.
            seed: Random seed.
        """
        texts = short_texts(count - 1, seed, pairs=self._pairs)
        vocabulary = texts if count > _MANY else short_texts(_MANY, seed, pairs=False)
        return [*texts, self.join(vocabulary, longest)[0]]

    def join(self, inputs: Sequence[Text], longest: int) -> list[Text]:
        """Return the words of texts joined to one text, and to a pair if the model accepts pairs.

        Args:
            inputs: Texts or pairs that provide the words.
            longest: Minimum length of each result, in tokens.
        """
        vocabulary = [word for text in inputs for part in parts_of(text) for word in part.split()] or ["a"]
        # Some words have no tokens (control characters), so the number of words needed is not known in advance.
        counts = [2 * longest, *(characters * longest for characters in _CHARACTERS_A_TOKEN)]
        joined = ""
        for count in counts:
            joined = " ".join(itertools.islice(itertools.cycle(vocabulary), count))
            joined = joined[: _CHARACTERS_A_TOKEN[-1] * longest]
            if self._encoder is None or self.size(self._encoder([joined])[0].arrays) >= longest:
                break
        return [joined, (joined, joined)] if self._pairs else [joined]

    def cut(self, arrays: Arrays, longest: int) -> dict[str, np.ndarray]:
        """Return a row of at most ``longest`` tokens; like a tokenizer, it keeps the last token."""
        rows = {}
        for name, array in arrays.items():
            is_longer = len(array) > longest
            rows[name] = np.concatenate([array[: longest - 1], array[-1:]]) if is_longer else array
        return rows

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
        """Perturbations by name; see the functions of ``_text_perturbations``."""
        return {name: functools.partial(_text_perturbations.disturb, name) for name in _text_perturbations.KINDS}

    def occlude(self, value: Text, filler: str) -> tuple[Sequence[str], Iterable[Text]]:
        """Return the words (separated by white space) of a text or pair, and the text once with each word occluded.

        Args:
            value: Text or pair.
            filler: Replacement of a word. If it is empty, the white space on one side of the word is removed too.
        """
        return words(value), occlude_words(value, filler)

    def filler(self) -> str:
        """Return the text of the mask token, else of an unknown token that a text can contain, else an empty text."""
        return mask_token(self.encoder.to_json())

    def quote(self, value: Text) -> str:
        """Return the text, or both texts of a pair with a bar between them."""
        return value if isinstance(value, str) else " | ".join(value)


UNBOUND = TextModality()
"""The modality without a model: it reads, identifies, perturbs and quotes texts."""
