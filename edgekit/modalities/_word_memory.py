"""The memory of words: token ids of words that were seen, so that a text of known words needs no tokenizer.

It is only for tokenizers with a rule (``_word_rules.py``), and a session uses it only if the build has compared it
with the tokenizer. Its size is bounded: 16,384 words of at most 32 characters and 32 ids, 3 MB for English and 10 MB at
most. When it is full it forgets all words and begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from edgekit.modalities._word_rules import BLANKS, find_rule

__all__ = ["WordMemory"]

_MOST_WORDS = 2**14
_LONGEST = 32  # Characters, and ids, of a word that is remembered.
# New words of a text that are encoded one by one. Each takes as long as some five words of a text encoded whole.
_MOST_NEW = 8
_ID = np.dtype(np.int64)
_UNBOUNDED = 2**32  # More than any id of the library.
_PROBE = "a b"
_LINE_WHITE_SPACE = "\n\t\r"  # White space to BERT beside the space; the other control characters are removed.


class _OutsideError(Exception):
    """A text that is left to the tokenizer, because of one of its words."""


class _Words(dict[str, bytes]):
    """Ids of words, as the bytes of int64 values.

    Threads share it without a lock: each operation of a dict is atomic, and a word has the same ids each time.
    """

    def __init__(self, encode: Callable[[str], bytes], most: int) -> None:
        super().__init__()
        self._encode = encode
        self._most = most

    def learn(self, word: str) -> bytes:
        """Return the ids of a word, and remember them unless the word is long."""
        ids = self._encode(word)
        if len(word) <= _LONGEST and len(ids) <= _LONGEST * _ID.itemsize:
            if len(self) >= self._most:
                self.clear()
            self[word] = ids
        return ids


class _Frame(NamedTuple):
    """What a tokenizer puts around the ids of a text.

    Attributes:
        before: Special tokens before the text.
        behind: Special tokens behind the text.
        types: Token types of the tokens before the text, of a token of the text, and of the tokens behind it.
    """

    before: list[int]
    behind: list[int]
    types: tuple[list[int], int, list[int]]


class WordMemory:
    """Token ids of texts, made of those of their words. It is thread-safe.

    Attributes:
        rule: Rule of the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, rule: str, frame: _Frame, rows: int) -> None:
        """Create an empty memory. Use :meth:`of`, which finds the arguments."""
        self.rule = rule
        self._tokenizer = tokenizer
        self._rows = rows
        self._before = np.array(frame.before, _ID).tobytes()
        self._behind = np.array(frame.behind, _ID).tobytes()
        self._types = frame.types
        self._has_types = any(frame.types[0]) or frame.types[1] != 0 or any(frame.types[2])
        self._added: frozenset[int] = frozenset()
        if rule == BLANKS:
            self._first = self._others = _Words(self._encode, _MOST_WORDS)
        else:
            # An added token may take the white space beside it, so a text with one is left to the tokenizer.
            self._added = frozenset(tokenizer.get_added_tokens_decoder())
            self._first = _Words(self._encode, _MOST_WORDS // 2)
            self._others = _Words(lambda word: self._encode(f" {word}"), _MOST_WORDS // 2)

    @classmethod
    def of(cls, tokenizer: Tokenizer, tables: Mapping[str, int]) -> WordMemory | None:
        """Return a memory for a tokenizer; None if it does not work word by word.

        Args:
            tokenizer: Tokenizer without padding.
            tables: Number of rows of the model's table by the name of its input. A text with ids outside is left to the
                tokenizer, so that all ids of the memory are inside.
        """
        rule = find_rule(tokenizer)
        if not rule:
            return None
        empty = tokenizer.encode("")
        whole = tokenizer.encode(_PROBE)
        bare = tokenizer.encode(_PROBE, add_special_tokens=False)
        start = next((i for i, special in enumerate(whole.special_tokens_mask) if not special), 0)
        end = start + len(bare.ids)
        types = set(whole.type_ids[start:end])
        # A template can do more than add tokens at both ends, e.g. repeat the text.
        is_frame = whole.ids == [*empty.ids[:start], *bare.ids, *empty.ids[start:]]
        if whole.overflowing or not is_frame or len(types) != 1:
            return None
        frame_types = (whole.type_ids[:start], types.pop(), whole.type_ids[end:])
        frame = _Frame(empty.ids[:start], empty.ids[start:], frame_types)
        rows = tables.get("input_ids", _UNBOUNDED)
        type_rows = tables.get("token_type_ids", _UNBOUNDED)
        if max(empty.ids, default=0) >= rows or max(whole.type_ids, default=0) >= type_rows:
            return None
        return cls(tokenizer, rule, frame, rows)

    def __len__(self) -> int:
        """Return the number of words that are remembered."""
        return len(self._first) if self.rule == BLANKS else len(self._first) + len(self._others)

    def ids(self, text: str, longest: int) -> np.ndarray | None:
        """Return the token ids of a text; None if only the tokenizer can give them.

        Args:
            text: Single text.
            longest: Number of tokens at which the tokenizer truncates.

        Returns:
            Ids with special tokens, int64 ``[sequence]``.
        """
        words = self._split(text, longest)
        if words is None:
            return None
        try:
            parts = self._look_up(words)
        except KeyError:
            try:
                parts = self._learn(words)
            except _OutsideError:
                return None
        ids = np.frombuffer(bytearray().join((self._before, *parts, self._behind)), _ID)
        return ids if len(ids) <= longest else None

    def types(self, length: int) -> np.ndarray:
        """Return the token types of a row: int64 ``[sequence]``.

        Args:
            length: Number of tokens, special tokens included.
        """
        if not self._has_types:
            return np.zeros(length, _ID)
        before, middle, behind = self._types
        count = length - len(before) - len(behind)
        return np.array([*before, *[middle] * count, *behind], _ID)

    def _split(self, text: str, longest: int) -> list[str] | None:
        """Return the words of a text; None if the rule does not hold for the text, or if they are too many."""
        if self.rule == BLANKS:
            if not text.isprintable():
                for char in _LINE_WHITE_SPACE:
                    text = text.replace(char, " ")
                if not text.isprintable():
                    return None
            words = text.split()
        elif text.isascii() and text.isprintable():
            # Two spaces in a row, and one at an end, give an empty word here, which is outside the rule.
            words = text.split(" ")
        else:
            return None
        return words if len(words) <= longest else None

    def _look_up(self, words: list[str]) -> list[bytes]:
        """Return the ids of words.

        Raises:
            KeyError: If a word is not known.
        """
        if self.rule == BLANKS:
            return list(map(self._first.__getitem__, words))
        return [self._first[words[0]], *map(self._others.__getitem__, words[1:])]

    def _learn(self, words: list[str]) -> list[bytes]:
        """Return the ids of words, and remember some that are new.

        Raises:
            _OutsideError: If the rule does not hold for a word, or so many words are new that the tokenizer is faster.
        """
        parts = []
        new = 0
        for index, word in enumerate(words):
            known = self._others if index else self._first
            ids = known.get(word)
            if ids is None:
                new += 1
                if new > _MOST_NEW:
                    raise _OutsideError
                ids = known.learn(word)
            parts.append(ids)
        return parts

    def _encode(self, word: str) -> bytes:
        """Return the ids of a word as bytes.

        Raises:
            _OutsideError: If the rule does not hold for the word.
        """
        encoding = self._tokenizer.encode(word, add_special_tokens=False)
        ids = encoding.ids
        is_inside = max(ids, default=0) < self._rows and self._added.isdisjoint(ids)
        if encoding.overflowing or not is_inside or not word.strip(" "):
            raise _OutsideError
        return np.array(ids, _ID).tobytes()
