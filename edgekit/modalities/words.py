"""Texts, or texts that are split into words: how they are read, encoded in windows, measured, generated and disturbed.

The words of an input are a tuple, because a list is several inputs.
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
from edgekit.modalities._text_units import erased, mask_token, words
from edgekit.modalities._tokenized import Tokenized
from edgekit.modalities._word_encoder import STARTS, WINDOWS, Spans, WordEncoder, Words
from edgekit.spec import cells
from edgekit.spec.errors import InputError, SamplesError
from edgekit.spec.protocols import Arrays

__all__ = ["STARTS", "UNBOUND", "WINDOWS", "Spans", "WordEncoder", "Words", "WordsModality"]

_PERTURBATIONS = ("typos", "case", "homoglyphs", "invisible")  # those that leave the number of words as it is
_BORDER = "\n"  # between words that are disturbed together: no disturbance touches it
_SPLIT = b"\xfe"  # no UTF-8 text holds this byte, so no text has the content of words


class WordsModality(Tokenized[WordEncoder]):
    """Texts or words. What only reads or disturbs them needs no tokenizer."""

    roles = ("words",)
    reads_files = False

    def __init__(self, encoder: WordEncoder | None = None, longest: int = 0) -> None:
        """Binds the modality to a model.

        Args:
            encoder: the model's tokenizer; without one nothing is encoded, generated to a length or held to a limit.
            longest: tokens of the longest window that the model takes.
        """
        super().__init__(encoder)
        self._longest = longest

    def read(self, columns: Mapping[str, object], folder: Path = Path()) -> Words:
        """Makes the words or the text of one row of a sample file.

        Args:
            columns: ``words`` to a list of words, also one that is written into a cell as JSON or Python write it; or to a text.
            folder: of the file; words stand in it.

        Raises:
            SamplesError: for a value that is neither; the message begins behind the place, and never quotes the value.
        """
        value = _list_of(columns["words"])
        parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        if not parts or not all(isinstance(part, str) for part in parts):
            kinds = {type(part).__name__ for part in parts if not isinstance(part, str)}
            what = (
                "no value"
                if value is None
                else f"a list with {', '.join(sorted(kinds))}"
                if kinds and parts is value
                else f"a {type(value).__name__}"
            )
            raise SamplesError(
                f"has {what if parts else 'an empty list'} for words, expected a list of words, or a text. Correct or remove the row.",
                code="samples-words-type",
            )
        try:
            for part in parts:
                part.encode()
        except UnicodeEncodeError as problem:
            raise SamplesError(
                "holds a lone surrogate in words, which is not text. Correct or remove the row.",
                code="samples-text-surrogate",
            ) from problem
        return tuple(parts) if parts is value else str(value)

    def check(self, inputs: Sequence[Words], where: str) -> None:
        """Encodes the rows of a file: refuses one beyond the limit of characters, or with a word that makes no token and so would have no label.

        Args:
            inputs: in the order of the file.
            where: the file, for the message.

        Raises:
            SamplesError: with the number of the first such row.
        """
        for row, value in enumerate(inputs, 1):
            try:
                self.encoder([value])
            except InputError as problem:
                raise SamplesError(f"{where}, row {row} cannot be taken: {problem}", code="samples-words") from problem

    def content(self, value: Words) -> bytes:
        """UTF-8 of a text; of words the byte 0xFE, and of each its length in bytes (4 bytes, big-endian) and its UTF-8."""
        if isinstance(value, str):
            return value.encode()
        parts = [word.encode() for word in value]
        return _SPLIT + b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    def size(self, arrays: Arrays) -> int:
        """Tokens of the longest window of a row."""
        return int(max(arrays[WINDOWS])) if WINDOWS in arrays else len(next(iter(arrays.values())))

    def generate(self, count: int, longest: int, seed: int = 0) -> list[Words]:
        """Texts of many scripts, every other one split into words; each fits into one window.

        Args:
            count: at least 1.
            longest: tokens that the last one has, or few more or less.
            seed: of the draws.
        """
        short = max(2, min(longest, 64) // 2)
        texts = [text for text in fuzz_texts(short, 2 * count, seed) if isinstance(text, str) and self._fits(text)]
        made = [
            self._split(text) if i % 2 else text
            for i, text in enumerate(itertools.islice(itertools.cycle(texts), count - 1))
        ]
        return [*made, *self.join(fuzz_texts(short, 200, seed + 1)[6:206], longest)[:1]]

    def join(self, inputs: Sequence[Any], longest: int) -> list[Words]:
        """The words of inputs, one after the other: split into words, and as a text.

        Args:
            inputs: whose words they are.
            longest: tokens that each has, or few less where more would be another window.
        """
        parts = [w for value in inputs for p in ((value,) if isinstance(value, str) else value) for w in p.split()]
        parts = [word for word in dict.fromkeys(parts) if self._encoder is None or self._tokens([word])] or ["a"]
        many = list(itertools.islice(itertools.cycle(parts), longest))
        if self._encoder is None:
            return [tuple(many), " ".join(many)]
        low, high = 1, len(many)
        while low < high:  # the fewest words that are long enough
            middle = (low + high) // 2
            low, high = (low, middle) if self._tokens(many[:middle]) >= longest else (middle + 1, high)
        chosen = many[:low]
        while len(chosen) > 1 and not self._fits(tuple(chosen)):
            chosen.pop()
        least = min(parts, key=lambda word: self._tokens([word]))
        while self._tokens(chosen) < longest and self._fits((*chosen, least)):
            chosen.append(least)
        found: list[Words] = [tuple(chosen), " ".join(chosen)]
        return [
            value
            for value in found
            if self._fits(value) and self._longest_of(value) >= min(longest, self._longest_of(found[0]))
        ]

    def cut(self, arrays: Arrays, longest: int) -> dict[str, np.ndarray]:
        """The first window of a row, of at most so many tokens: as a tokenizer cuts, it keeps the last one."""
        size = int(arrays[WINDOWS][0]) if WINDOWS in arrays else len(next(iter(arrays.values())))
        kept = {
            n: a[:size] if size <= longest else np.concatenate([a[: longest - 1], a[size - 1 : size]])
            for n, a in arrays.items()
            if n != WINDOWS
        }
        return {**kept, WINDOWS: np.array([min(size, longest)], np.int64)} if WINDOWS in arrays else kept

    @property
    def perturbations(self) -> Mapping[str, Callable[[Words, random.Random], Words | None]]:
        """Name to a disturbance of letters, see the functions of ``_text_perturbations``; words stay as many as they are."""
        return {name: partial(_disturb, name) for name in _PERTURBATIONS}

    def occlude(self, value: Words, filler: str) -> tuple[Sequence[str], Iterable[Words]]:
        """Words, and the input once without each of them.

        Args:
            value: words; or a text, whose words are what whitespace separates.
            filler: in a word's place; an empty one leaves the word out.
        """
        if isinstance(value, str):
            return words(value), erased(value, filler)
        return value, ((*value[:i], *([filler] if filler else []), *value[i + 1 :]) for i in range(len(value)))

    def filler(self) -> str:
        """The mask token as it is written in a text; without one the unknown token where a text can hold it, else empty."""
        return mask_token(self.encoder.to_json())

    def quote(self, value: Words) -> str:
        """The text; words with a space between them."""
        return value if isinstance(value, str) else " ".join(value)

    def _tokens(self, parts: Sequence[str]) -> int:
        """Tokens of words in all windows; 0 where one makes none."""
        try:
            return len(self.encoder([tuple(parts)])[0].arrays[STARTS])
        except InputError:
            return 0

    def _split(self, text: str) -> Words:
        """The words of a text that make tokens; the text where none does, or nothing can be encoded."""
        return (
            (tuple(word for word in text.split() if self._tokens([word])) or text)
            if self._encoder is not None
            else text
        )

    def _fits(self, value: Words) -> bool:
        """Whether an input is one window."""
        return self._encoder is None or len(self.encoder([value])[0].arrays[WINDOWS]) == 1

    def _longest_of(self, value: Words) -> int:
        return self.size(self.encoder([value])[0].arrays)


def _list_of(value: object) -> object:
    """A list that was written into a cell; any other value as it is.

    Raises:
        SamplesError: for a list that lacks commas or words.
    """
    if (
        not isinstance(value, str)
        or not (text := value.strip()).startswith("[")
        or not text.endswith("]")
        or len(text) > cells.LONGEST
    ):
        return value
    text = cells.strip_numpy_types(text)
    if (found := cells.parse_numpy_list(text)) is not None:
        return found
    read: object = None
    for reader in (json.loads, ast.literal_eval):
        try:
            read = reader(text)
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if reader is ast.literal_eval and cells.lacks_comma(text):
        raise SamplesError(
            "has a list of words that lacks a comma between two of them, or words themselves ('...'). Write the list as JSON.",
            code="samples-words-type",
        )
    return read if isinstance(read, list) and read and all(isinstance(part, str) for part in read) else value


def _disturb(name: str, value: Words, draw: random.Random) -> Words | None:
    if isinstance(value, str):
        changed = _text_perturbations.disturb(name, value, draw)
        return changed if isinstance(changed, str) else None
    made = _text_perturbations.disturb(name, _BORDER.join(value), draw)
    parts = tuple(made.split(_BORDER)) if isinstance(made, str) else ()
    return parts if len(parts) == len(value) and all(parts) else None


UNBOUND = WordsModality()
"""The modality without a model: it reads, identifies, disturbs and quotes."""
