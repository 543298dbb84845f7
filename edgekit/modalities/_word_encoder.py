"""Texts, and texts that are split into words, to token ids in windows: nothing that is longer than a model is cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from edgekit.modalities._text_encoder import TextEncoder, check_ids, typed
from edgekit.modalities.limits import CHARACTERS_A_TOKEN, Limit, check_unicode
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError
from edgekit.spec.protocols import Encoded

Words = str | tuple[str, ...]
"""One example: a text, or the words of one."""

WINDOWS, STARTS = "windows", "words"
_ROWS_OF_TEXT = 8  # longest rows of the model that a text may be as long as by default, in characters
_DELIMITER = " "


@dataclass(frozen=True)
class Spans:
    """What the tokens of an input are parts of.

    Attributes:
        text: the text; words joined by a space.
        windows: tokens of each window.
        tokens: first character of each token and the one behind its last; None for a special token. In all windows, one after the other.
        subword: whether each token continues a word, by the rule of Transformers.
        words: first character of each word and the one behind its last.
    """

    text: str
    windows: tuple[int, ...]
    tokens: tuple[tuple[int, int] | None, ...]
    subword: tuple[bool, ...]
    words: tuple[tuple[int, int], ...]


class WordEncoder(TextEncoder):
    """Encodes as the Hugging Face tokenizer that wrote ``tokenizer.json`` does with ``return_overflowing_tokens``. Safe to use from threads."""

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
        """Reads the tokenizer.

        Args:
            path: a ``tokenizer.json``.
            inputs: inputs of the graph that are filled.
            max_length: tokens of the longest window, special tokens included.
            stride: tokens that a window shares with the next.
            unknown: id of the token that stands for what is not in the vocabulary; None where there is none.
            tables: rows of the table that the ids of an input are looked up in, by input name, where that is known.

        Raises:
            IntegrityError: when the file is not one that the tokenizers library reads and can use, or the settings do not fit it.
        """
        super().__init__(path, inputs, max_length, tables=tables)
        special = self._tokenizer.num_special_tokens_to_add(False)
        if not 0 <= stride < max_length - special:
            raise IntegrityError(
                f"{path}: windows of {max_length} tokens share {stride}, expected 0 to {max_length - special - 1}. Build the bundle again.",
                code="bundle-assets",
            )
        with typed(f"{path} cannot be used as a tokenizer"):
            self._tokenizer.enable_truncation(max_length, stride=stride, strategy="longest_first", direction="right")
        self._step, self._unknown = max_length - special - stride, unknown
        self._prefixed = bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Sets how long a text may be; by default so many characters as eight of the model's longest rows.

        Args:
            characters: most that a text may have, each run of white space counted as one; of words, with a space between them.
            truncate: cut a longer text and mark it in place of refusing it.

        Raises:
            InputError: when one of them is of another type or out of range.
        """
        self.limit = Limit(
            _ROWS_OF_TEXT * CHARACTERS_A_TOKEN * self._max_length if characters is None else characters, truncate
        )

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Encodes each text, or the words of one, in windows.

        Returns:
            For each an :class:`Encoded` with the windows one after the other: every input as int64 ``[sequence]``; ``words``, int64 ``[sequence]``, with the
            place of the word that a token begins and -1 for other tokens; ``windows``, int64 ``[windows]``, with their sizes. Its context is :class:`Spans`.

        Raises:
            InputError: for anything that is not a str or a tuple of str, that is not encodable as UTF-8, that is beyond ``limit``, a word that makes no
                token, or ids that are beyond the model's tables.
            IntegrityError: when the tokenizers library fails at one of them.
        """
        places = [f" at position {i}" if len(values) > 1 else "" for i in range(len(values))]
        with typed(f"{self._path} fails at what it was to encode"):
            fitted = [self._fit_words(value, place) for value, place in zip(values, places, strict=True)]
            encodings = self._encode_all([value for value, _ in fitted])
            rows = [
                self._row(value, cut, e, place)
                for (value, cut), e, place in zip(fitted, encodings, places, strict=True)
            ]
        for index, row in enumerate(rows):
            check_ids(row.arrays, self._tables, index if len(rows) > 1 else None)
        return rows

    def _fit_words(self, value: object, place: str) -> tuple[Words, bool]:
        """A checked text, or checked words, within the limit, and whether it was cut."""
        if isinstance(value, str):
            return self._fitter.fit(value, self.limit, place)
        if not isinstance(value, tuple) or not all(isinstance(word, str) for word in value):
            what = "a tuple of other things than str" if isinstance(value, tuple) else f"a {type(value).__name__}"
            raise InputError(
                f"Input{place} is {what}, expected a str, or a tuple of str for a text that is split into words. Pass one, or a list of them.",
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
                f"Input{place} has more than {self.limit.characters} characters, the limit here. "
                "Shorten it; or load the bundle with truncate=True to have it cut, or with a larger max_characters.",
                code="text-too-long",
            )
        return value[:within], within < len(value)

    def _encode_all(self, values: Sequence[Words]) -> list[Encoding]:
        encodings: list[Any] = [None] * len(values)
        for split in (False, True):
            chosen = [i for i, value in enumerate(values) if isinstance(value, tuple) == split]
            inputs: list[Any] = [list(values[i]) if split else values[i] for i in chosen]
            if len(chosen) == 1:
                made = [self._tokenizer.encode(inputs[0], is_pretokenized=split)]
            else:
                made = self._tokenizer.encode_batch(inputs, is_pretokenized=split) if chosen else []
            for i, encoding in zip(chosen, made, strict=True):
                encodings[i] = encoding
        return encodings

    def _row(self, value: Words, cut: bool, encoding: Encoding, place: str) -> Encoded:
        pieces = [encoding, *encoding.overflowing]
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        arrays = {
            name: np.array([n for piece in pieces for n in getattr(piece, columns[name])], np.int64)
            for name in self._inputs
        }
        # Of a token in two windows the place in the text is the same: windows are a step apart.
        at = [place for k, piece in enumerate(pieces) for place in _places(piece.special_tokens_mask, k * self._step)]
        ids = [word for piece in pieces for word in piece.word_ids]
        first: dict[int, int] = {}
        for word, where in zip(ids, at, strict=True):
            if word is not None and where is not None:
                first[word] = min(where, first.get(word, where))
        if isinstance(value, tuple) and len(first) < len(value):
            lost = next(i for i in range(len(value)) if i not in first)
            raise InputError(
                f"Input{place} has a word, number {lost + 1}, that makes no token of this model, so it would have no label. Leave it out.",
                code="word-without-token",
            )
        order = {word: i for i, word in enumerate(sorted(first, key=first.__getitem__))}
        starts = [
            order[w] if w is not None and a is not None and first[w] == a else -1 for w, a in zip(ids, at, strict=True)
        ]
        sizes = tuple(len(piece.ids) for piece in pieces)
        arrays[STARTS], arrays[WINDOWS] = np.array(starts, np.int64), np.array(sizes, np.int64)
        once = 1 + max((where for where in at if where is not None), default=-1) + sum(encoding.special_tokens_mask)
        return Encoded(arrays, cut, self._spans(value, pieces, ids, order), once if len(pieces) > 1 else None)

    def _spans(
        self, value: Words, pieces: Sequence[Encoding], ids: Sequence[int | None], order: Mapping[int, int]
    ) -> Spans:
        split = isinstance(value, tuple)
        text = _DELIMITER.join(value) if isinstance(value, tuple) else value
        begins = [0]
        for part in value if isinstance(value, tuple) else ():
            begins.append(begins[-1] + len(part) + len(_DELIMITER))
        tokens: list[tuple[int, int] | None] = []
        subword, words = list[bool](), [(len(text), 0)] * len(order)
        special = [mask for piece in pieces for mask in piece.special_tokens_mask]
        offsets = [span for piece in pieces for span in piece.offsets]
        names = [token for piece in pieces for token in piece.tokens]
        numbers = [number for piece in pieces for number in piece.ids]
        for place, word in enumerate(ids):
            if special[place]:
                tokens.append(None)
                subword.append(False)
                continue
            shift = begins[word] if split and word is not None else 0
            start, end = (int(n) + shift for n in offsets[place])
            tokens.append((start, end))
            subword.append(self._continues(text, start, end, names[place], numbers[place]))
            if word is not None:
                low, high = words[order[word]]
                words[order[word]] = (min(low, start), max(high, end))
        return Spans(
            text,
            tuple(len(piece.ids) for piece in pieces),
            tuple(tokens),
            tuple(subword),
            tuple(_stripped(text, *span) for span in words),
        )

    def _continues(self, text: str, start: int, end: int, token: str, id: int) -> bool:
        """Whether a token continues a word, as ``TokenClassificationPipeline.gather_pre_entities`` decides it."""
        if id == self._unknown:
            return False
        if self._prefixed:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]


def _places(special: Sequence[int], start: int) -> list[int | None]:
    """Places of the tokens of a window among all tokens of a text; None for special ones."""
    places: list[int | None] = []
    for mask in special:
        places.append(None if mask else start)
        start += not mask
    return places


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the white space that some tokenizers count in."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
