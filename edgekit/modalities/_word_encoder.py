"""Encoding of texts, and of texts that are split into words, to token ids in windows; nothing is cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from edgekit.modalities._text_encoder import TextEncoder, check_ids, translate_tokenizer_errors
from edgekit.modalities.limits import CHARACTERS_A_TOKEN, Limit, check_unicode
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError
from edgekit.spec.protocols import Encoded

Words = str | tuple[str, ...]
"""One example: a text, or the words of one."""

WINDOWS = "windows"
"""Name of the array with the number of tokens of each window."""

STARTS = "words"
"""Name of the array with the index of the word that each token begins, -1 for other tokens."""

_ROWS_OF_TEXT = 8  # The default limit of characters is that of so many longest rows.
_DELIMITER = " "
_COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class Spans:
    """Positions of an input's tokens and words in its text.

    Attributes:
        text: Text of the input; words are joined by spaces.
        windows: Number of tokens of each window.
        tokens: Offsets of the first character and behind the last character of each token, of all windows one after the
            other; None for a special token.
        subword: Whether each token continues a word, by the rule of Transformers.
        words: Offsets of the first character and behind the last character of each word.
    """

    text: str
    windows: tuple[int, ...]
    tokens: tuple[tuple[int, int] | None, ...]
    subword: tuple[bool, ...]
    words: tuple[tuple[int, int], ...]


class WordEncoder(TextEncoder):
    """Encodes as the Hugging Face tokenizer does with ``return_overflowing_tokens``. It is thread-safe."""

    def __init__(
        self,
        path: Content,
        inputs: tuple[str, ...],
        max_length: int,
        stride: int,
        *,
        unknown: int | None = None,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        """Read the tokenizer.

        Args:
            path: Path of a ``tokenizer.json``.
            inputs: Names of the graph inputs that are filled.
            max_length: Length of the longest window in tokens, special tokens included.
            stride: Overlap of adjacent windows, in tokens.
            unknown: Token id of the unknown token; None if the vocabulary has none.
            tables: Number of rows of the embedding table behind each input of ids, where it is known.

        Raises:
            IntegrityError: If the tokenizers library cannot read or use the file, or the settings do not fit it.
        """
        super().__init__(path, inputs, max_length, tables=tables)
        special = self._tokenizer.num_special_tokens_to_add(False)
        if not 0 <= stride < max_length - special:
            raise IntegrityError(
                f"{path}: windows of {max_length} tokens overlap by {stride}, expected 0 to "
                f"{max_length - special - 1}. Build the bundle again.",
                code="bundle-assets",
            )
        with translate_tokenizer_errors(f"{path} cannot be used as a tokenizer"):
            self._tokenizer.enable_truncation(max_length, stride=stride, strategy="longest_first", direction="right")
        self._step = max_length - special - stride
        self._unknown = unknown
        self._has_prefix = bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit of characters of a text.

        Args:
            characters: Largest number of characters; a run of white space counts as one, and words count with a space
                between them. The default is that of eight of the model's longest rows.
            truncate: Whether a longer text is cut and marked instead of refused.

        Raises:
            InputError: If a value has another type or is out of range.
        """
        if characters is None:
            characters = _ROWS_OF_TEXT * CHARACTERS_A_TOKEN * self._max_length
        self.limit = Limit(characters, truncate)

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Encode each text, or the words of one, in windows.

        Returns:
            List of :class:`Encoded` with the windows one after the other. The arrays are every input as int64
            ``[sequence]``; ``words``, int64 ``[sequence]``, with the index of the word that a token begins and -1 for
            other tokens; ``windows``, int64 ``[windows]``, with their sizes. The context is :class:`Spans`.

        Raises:
            InputError: If an input is not a str or a tuple of str, cannot be encoded as UTF-8, exceeds ``limit``, or
                has a word without tokens or ids outside the model's tables.
            IntegrityError: If the tokenizers library fails.
        """
        places = [""] * len(values)
        if len(values) > 1:
            places = [f" at position {i}" for i in range(len(values))]
        with translate_tokenizer_errors(f"{self._path} cannot encode a text"):
            fitted = [self._fit_words(value, place) for value, place in zip(values, places, strict=True)]
            encodings = self._encode_all([value for value, _ in fitted])
            rows = []
            for (value, cut), encoding, place in zip(fitted, encodings, places, strict=True):
                rows.append(self._make_words_row(value, cut, encoding, place))
        for index, row in enumerate(rows):
            check_ids(row.arrays, self._tables, index if len(rows) > 1 else None)
        return rows

    def _fit_words(self, value: object, place: str) -> tuple[Words, bool]:
        """Return the checked text or words within the limit, and whether they were cut."""
        if isinstance(value, str):
            return self._fitter.fit(value, self.limit, place)
        if not isinstance(value, tuple) or not all(isinstance(word, str) for word in value):
            kind = "a tuple with other items than str" if isinstance(value, tuple) else f"a {type(value).__name__}"
            raise InputError(
                f"Input{place} is {kind}, expected a str, or a tuple of str for a text that is split into words. "
                "Pass one, or a list of them.",
                code="input-type",
            )
        if not value:
            raise InputError(
                f"Input{place} is a tuple without words, expected at least one. Leave it out, or pass an empty text.",
                code="words-empty",
            )
        for word in value:
            check_unicode(word, place)
        ends = np.cumsum([len(word) + len(_DELIMITER) for word in value]) - len(_DELIMITER)
        within = int(np.searchsorted(ends, self.limit.characters, side="right"))
        if within < len(value) and not self.limit.truncate:
            raise InputError(
                f"Input{place} has more than {self.limit.characters} characters, the limit here. Shorten it, or load "
                "the bundle with truncate=True to have it cut, or with a larger max_characters.",
                code="text-too-long",
            )
        return value[:within], within < len(value)

    def _encode_all(self, values: Sequence[Words]) -> list[Encoding]:
        encodings: list[Any] = [None] * len(values)
        for is_split in (False, True):
            indices = [i for i, value in enumerate(values) if isinstance(value, tuple) == is_split]
            inputs: list[Any] = [values[i] for i in indices]
            if is_split:
                inputs = [list(value) for value in inputs]
            if not inputs:
                continue
            if len(inputs) == 1:
                results = [self._tokenizer.encode(inputs[0], is_pretokenized=is_split)]
            else:
                results = self._tokenizer.encode_batch(inputs, is_pretokenized=is_split)
            for i, encoding in zip(indices, results, strict=True):
                encodings[i] = encoding
        return encodings

    def _make_words_row(self, value: Words, cut: bool, encoding: Encoding, place: str) -> Encoded:
        pieces = [encoding, *encoding.overflowing]
        arrays = {}
        for name in self._inputs:
            numbers = [number for piece in pieces for number in getattr(piece, _COLUMNS[name])]
            arrays[name] = np.array(numbers, np.int64)
        # A token in two windows has the same position in the text: windows begin one step apart.
        positions: list[int | None] = []
        for index, piece in enumerate(pieces):
            positions += _positions(piece.special_tokens_mask, index * self._step)
        word_ids = [word for piece in pieces for word in piece.word_ids]
        first: dict[int, int] = {}
        for word, position in zip(word_ids, positions, strict=True):
            if word is not None and position is not None:
                first[word] = min(position, first.get(word, position))
        if isinstance(value, tuple) and len(first) < len(value):
            number = 1 + next(i for i in range(len(value)) if i not in first)
            raise InputError(
                f"Input{place} has a word, number {number}, for which the tokenizer has no token, so it cannot get a "
                "label. Leave it out.",
                code="word-without-token",
            )
        order = {word: i for i, word in enumerate(sorted(first, key=first.__getitem__))}
        starts = []
        for word, position in zip(word_ids, positions, strict=True):
            begins = word is not None and position is not None and first[word] == position
            starts.append(order[word] if begins and word is not None else -1)
        arrays[STARTS] = np.array(starts, np.int64)
        arrays[WINDOWS] = np.array([len(piece.ids) for piece in pieces], np.int64)
        spans = self._spans(value, pieces, word_ids, order)
        if len(pieces) == 1:
            return Encoded(arrays, cut, spans, None)
        last = max((position for position in positions if position is not None), default=-1)
        return Encoded(arrays, cut, spans, last + 1 + sum(encoding.special_tokens_mask))

    def _spans(
        self, value: Words, pieces: Sequence[Encoding], word_ids: Sequence[int | None], order: Mapping[int, int]
    ) -> Spans:
        parts = value if isinstance(value, tuple) else ()
        text = _DELIMITER.join(value) if isinstance(value, tuple) else value
        word_offsets = [0]
        for part in parts:
            word_offsets.append(word_offsets[-1] + len(part) + len(_DELIMITER))
        tokens: list[tuple[int, int] | None] = []
        subword = list[bool]()
        words = [(len(text), 0)] * len(order)
        special = [mask for piece in pieces for mask in piece.special_tokens_mask]
        offsets = [span for piece in pieces for span in piece.offsets]
        names = [token for piece in pieces for token in piece.tokens]
        ids = [number for piece in pieces for number in piece.ids]
        for index, word in enumerate(word_ids):
            if special[index]:
                tokens.append(None)
                subword.append(False)
                continue
            # The tokenizer counts the characters of each given word from 0.
            shift = word_offsets[word] if isinstance(value, tuple) and word is not None else 0
            start, end = (int(offset) + shift for offset in offsets[index])
            tokens.append((start, end))
            subword.append(self._is_subword(text, start, end, names[index], ids[index]))
            if word is not None:
                low, high = words[order[word]]
                words[order[word]] = (min(low, start), max(high, end))
        windows = tuple(len(piece.ids) for piece in pieces)
        word_spans = tuple(_strip_span(text, *span) for span in words)
        return Spans(text, windows, tuple(tokens), tuple(subword), word_spans)

    def _is_subword(self, text: str, start: int, end: int, token: str, token_id: int) -> bool:
        """Return whether a token continues a word, by the rule of Transformers' ``gather_pre_entities``."""
        if token_id == self._unknown:
            return False
        if self._has_prefix:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]


def _positions(special: Sequence[int], start: int) -> list[int | None]:
    """Return the position of each token of a window among all tokens of the text; None for special tokens."""
    positions: list[int | None] = []
    for mask in special:
        positions.append(None if mask else start)
        start += not mask
    return positions


def _strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without outer white space, which some tokenizers include."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
