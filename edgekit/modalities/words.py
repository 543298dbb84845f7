"""The modality of texts, and of texts that are split into words, encoded in windows.

The words of an input are a tuple, because a list means several inputs.
"""

from __future__ import annotations

import ast
import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities import _text_perturbations
from edgekit.modalities._text_generated import fuzz_texts
from edgekit.modalities._text_units import mask_token, occlude_words, parts_of, words
from edgekit.modalities._tokenized import Tokenized
from edgekit.modalities._word_encoder import STARTS, WINDOWS, Spans, WordEncoder, Words
from edgekit.spec import cells
from edgekit.spec.errors import InputError, SamplesError
from edgekit.spec.protocols import Arrays

__all__ = ["STARTS", "UNBOUND", "WINDOWS", "Spans", "WordEncoder", "Words", "WordsModality"]

_PERTURBATIONS = ("typos", "case", "homoglyphs", "invisible")  # These keep the number of words.
_BORDER = "\n"  # Separator of words that are perturbed together. No perturbation changes it.
_SPLIT = b"\xfe"  # First byte of the content of words. It does not occur in UTF-8, so no text has the same content.


class WordsModality(Tokenized[WordEncoder]):
    """Texts or words. Reading and perturbing them needs no tokenizer."""

    roles = ("words",)
    reads_files = False

    def __init__(self, encoder: WordEncoder | None = None, longest: int = 0) -> None:
        """Create the modality for a model.

        Args:
            encoder: Tokenizer of the model; without one nothing is encoded, generated to a length or limited.
            longest: Length of the longest window the model accepts, in tokens.
        """
        super().__init__(encoder)
        self._longest = longest

    def read(self, columns: Mapping[str, object], folder: Path = Path()) -> Words:
        """Return the words or the text of one row of a sample file.

        Args:
            columns: Cell value by role: ``words`` is a list of words, a list written as JSON or Python, or a text.
            folder: Folder of the file; not used for words.

        Raises:
            SamplesError: If the value is neither. The message continues a sentence that begins with the row, and never
                quotes the value.
        """
        value = _parse_list(columns["words"])
        is_list = isinstance(value, (list, tuple))
        parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise SamplesError(
                f"has {_kind_of_words(value)} for words, expected a list of words, or a text. "
                "Correct or remove the row.",
                code="samples-words-type",
            )
        try:
            for part in parts:
                part.encode()
        except UnicodeEncodeError as problem:
            raise SamplesError(
                "contains a lone surrogate in words, which is not text. Correct or remove the row.",
                code="samples-text-surrogate",
            ) from problem
        return tuple(parts) if is_list else str(value)

    def check(self, inputs: Sequence[Words], where: str) -> None:
        """Check that a session can encode the rows of a file.

        Args:
            inputs: Texts or words, in the order of the file.
            where: Name of the file, for the message.

        Raises:
            SamplesError: If a row exceeds the limit of characters, or has a word without tokens, which cannot get a
                label. The message has the number of the first such row.
        """
        for number, value in enumerate(inputs, 1):
            try:
                self.encoder([value])
            except InputError as problem:
                raise SamplesError(
                    f"{where}, row {number} cannot be used: {problem}", code="samples-words", row=number
                ) from problem

    def content(self, value: Words) -> bytes:
        """Return the canonical bytes of an input.

        Returns:
            UTF-8 of a text. For words, the byte 0xFE, and for each word its length in bytes (4 bytes, big-endian) and
            its UTF-8.
        """
        if isinstance(value, str):
            return value.encode()
        parts = [word.encode() for word in value]
        return _SPLIT + b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    def size(self, arrays: Arrays) -> int:
        """Return the number of tokens of a row's longest window."""
        return int(max(arrays[WINDOWS])) if WINDOWS in arrays else len(next(iter(arrays.values())))

    def generate(self, count: int, longest: int, seed: int = 0) -> list[Words]:
        """Return texts of many scripts, every second one split into words; each fits into one window.

        Args:
            count: Number of inputs, at least 1.
            longest: Approximate length of the last input, in tokens.
            seed: Random seed.
        """
        short = max(2, min(longest, 64) // 2)
        texts = [text for text in fuzz_texts(short, 2 * count, seed) if isinstance(text, str) and self._fits(text)]
        inputs: list[Words] = []
        for index, text in enumerate(itertools.islice(itertools.cycle(texts), count - 1)):
            inputs.append(self._split(text) if index % 2 else text)
        vocabulary = fuzz_texts(short, 200, seed + 1)[6:206]
        return [*inputs, *self.join(vocabulary, longest)[:1]]

    def join(self, inputs: Sequence[Any], longest: int) -> list[Words]:
        """Return the words of inputs joined to one input: as words, and as a text.

        Args:
            inputs: Texts or words that provide the words.
            longest: Length of each result, in tokens; a little less if more would need another window.
        """
        words_of_inputs = [word for value in inputs for part in parts_of(value) for word in part.split()]
        vocabulary = list(dict.fromkeys(words_of_inputs))
        if self._encoder is not None:
            vocabulary = [word for word in vocabulary if self._count_tokens([word])]
        vocabulary = vocabulary or ["a"]
        many = list(itertools.islice(itertools.cycle(vocabulary), longest))
        if self._encoder is None:
            return [tuple(many), " ".join(many)]
        chosen = many[: self._fewest_words(many, longest)]
        while len(chosen) > 1 and not self._fits(tuple(chosen)):
            chosen.pop()
        shortest = min(vocabulary, key=lambda word: self._count_tokens([word]))
        while self._count_tokens(chosen) < longest and self._fits((*chosen, shortest)):
            chosen.append(shortest)
        as_words = tuple(chosen)
        least = min(longest, self._longest_window(as_words))
        results: list[Words] = [as_words, " ".join(chosen)]
        return [value for value in results if self._fits(value) and self._longest_window(value) >= least]

    def _fewest_words(self, candidates: Sequence[str], tokens: int) -> int:
        """Return how many of the first words have at least ``tokens`` tokens, by bisection; at most all words."""
        low = 1
        high = len(candidates)
        while low < high:
            middle = (low + high) // 2
            if self._count_tokens(candidates[:middle]) >= tokens:
                high = middle
            else:
                low = middle + 1
        return low

    def cut(self, arrays: Arrays, longest: int) -> dict[str, np.ndarray]:
        """Return the first window of a row, cut to ``longest`` tokens; like a tokenizer, it keeps the last token."""
        size = int(arrays[WINDOWS][0]) if WINDOWS in arrays else len(next(iter(arrays.values())))
        row = {}
        for name, array in arrays.items():
            if name == WINDOWS:
                continue
            is_longer = size > longest
            row[name] = np.concatenate([array[: longest - 1], array[size - 1 : size]]) if is_longer else array[:size]
        if WINDOWS in arrays:
            row[WINDOWS] = np.array([min(size, longest)], np.int64)
        return row

    @property
    def perturbations(self) -> Mapping[str, Callable[[Words, random.Random], Words | None]]:
        """Perturbations of letters by name; see the functions of ``_text_perturbations``. The number of words stays."""
        return {name: partial(_disturb, name) for name in _PERTURBATIONS}

    def occlude(self, value: Words, filler: str) -> tuple[Sequence[str], Iterable[Words]]:
        """Return the words, and the input once with each word occluded.

        Args:
            value: Words, or a text whose words are separated by white space.
            filler: Replacement of a word; empty to leave the word out.
        """
        if isinstance(value, str):
            return words(value), occlude_words(value, filler)
        replacement = (filler,) if filler else ()
        return value, ((*value[:i], *replacement, *value[i + 1 :]) for i in range(len(value)))

    def filler(self) -> str:
        """Return the text of the mask token, else of an unknown token that a text can contain, else an empty text."""
        return mask_token(self.encoder.to_json())

    def quote(self, value: Words) -> str:
        """Return the text, or the words joined by spaces."""
        return value if isinstance(value, str) else " ".join(value)

    def _count_tokens(self, parts: Sequence[str]) -> int:
        """Return the number of tokens of words in all windows; 0 if a word has none."""
        try:
            return len(self.encoder([tuple(parts)])[0].arrays[STARTS])
        except InputError:
            return 0

    def _split(self, text: str) -> Words:
        """Return the words of a text that have tokens; the text itself if none has, or without a tokenizer."""
        if self._encoder is None:
            return text
        return tuple(word for word in text.split() if self._count_tokens([word])) or text

    def _fits(self, value: Words) -> bool:
        """Return whether an input fits into one window."""
        return self._encoder is None or len(self.encoder([value])[0].arrays[WINDOWS]) == 1

    def _longest_window(self, value: Words) -> int:
        return self.size(self.encoder([value])[0].arrays)


def _kind_of_words(value: object) -> str:
    """Return what a cell that is not words contains, for a message."""
    if value is None:
        return "no value"
    if not isinstance(value, (list, tuple)):
        return f"a {type(value).__name__}"
    kinds = {type(part).__name__ for part in value if not isinstance(part, str)}
    return f"a list with {', '.join(sorted(kinds))}" if kinds else "an empty list"


def _parse_list(value: object) -> object:
    """Return the list that is written into a cell; any other value unchanged.

    Raises:
        SamplesError: If the list lacks commas or words.
    """
    if not isinstance(value, str) or len(value.strip()) > cells.LONGEST:
        return value
    text = value.strip()
    if not text.startswith("[") or not text.endswith("]"):
        return value
    text = cells.strip_numpy_types(text)
    numpy_list = cells.parse_numpy_list(text)
    if numpy_list is not None:
        return numpy_list
    try:
        parsed: object = json.loads(text)
    except (ValueError, MemoryError, RecursionError):
        parsed = _parse_python_list(text)
    if isinstance(parsed, list) and parsed and all(isinstance(part, str) for part in parsed):
        return parsed
    return value


def _parse_python_list(text: str) -> object:
    """Return the value of a Python literal; None if the text is none.

    Raises:
        SamplesError: If a comma is missing, which would join two words to one.
    """
    try:
        parsed: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parsed = None
    if cells.lacks_comma(text):
        raise SamplesError(
            "has a list of words with a missing comma, or with words left out ('...'). Write the list as JSON.",
            code="samples-words-type",
        )
    return parsed


def _disturb(name: str, value: Words, draw: random.Random) -> Words | None:
    if isinstance(value, str):
        changed_text = _text_perturbations.disturb(name, value, draw)
        return changed_text if isinstance(changed_text, str) else None
    changed = _text_perturbations.disturb(name, _BORDER.join(value), draw)
    parts = tuple(changed.split(_BORDER)) if isinstance(changed, str) else ()
    return parts if len(parts) == len(value) and all(parts) else None


UNBOUND = WordsModality()
"""The modality without a model: it reads, identifies, perturbs and quotes texts and words."""
