"""Text to token ids on a device: the tokenizers library and numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgekit.spec.errors import InputError, IntegrityError

Text = str | tuple[str, str]
"""One example: a text, or a pair of texts."""


@dataclass(frozen=True)
class Tokens:
    """One encoded example.

    Attributes:
        arrays: input name to ``int64 [sequence]``.
        truncated: whether the text was longer than the model takes, so that its end was cut off.
    """

    arrays: dict[str, np.ndarray]
    truncated: bool

    def __len__(self) -> int:
        """Number of tokens."""
        return len(next(iter(self.arrays.values())))


class TextEncoder:
    """Encodes texts exactly as the Hugging Face tokenizer that wrote ``tokenizer.json``. Safe to use from threads."""

    _FIELDS = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, path: Path, inputs: tuple[str, ...], max_length: int, truncation_side: str = "right") -> None:
        """Reads the tokenizer.

        Args:
            path: a ``tokenizer.json``.
            inputs: which of ``input_ids``, ``attention_mask``, ``token_type_ids`` the model is fed.
            max_length: tokens of the longest row, special tokens included.
            truncation_side: ``right`` or ``left``: which end of a longer text is cut off.

        Raises:
            IntegrityError: when the file is not one that the tokenizers library reads.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises bare Exception
            raise IntegrityError(f"{path} cannot be read as a tokenizer ({problem}). Build or copy the bundle again.") from problem
        self._tokenizer.no_padding()
        # The pair is shortened at its longer side first, as Transformers does with truncation=True.
        self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=truncation_side)
        self._inputs = inputs

    def __call__(self, texts: list[Text]) -> list[Tokens]:
        """Encodes each text or pair.

        Raises:
            InputError: for anything that is not a str or a tuple of two, or that is not encodable as UTF-8.
        """
        for index, text in enumerate(texts):
            _check(text, index if len(texts) > 1 else None)
        if len(texts) == 1:
            text = texts[0]
            pair = text if isinstance(text, tuple) else (text, None)
            encodings = [self._tokenizer.encode(pair[0], pair[1])]
        else:
            encodings = self._tokenizer.encode_batch(texts)
        return [self._tokens(e) for e in encodings]

    def _tokens(self, encoding: Encoding) -> Tokens:
        columns = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        arrays = {name: np.array(columns[name], np.int64) for name in self._inputs}
        return Tokens(arrays, bool(encoding.overflowing))


def _check(text: object, index: int | None) -> None:
    place = "" if index is None else f" at position {index}"
    parts = text if isinstance(text, tuple) else (text,)
    if (isinstance(text, tuple) and len(text) != 2) or not all(isinstance(p, str) for p in parts):
        got = f"a tuple of {len(text)}" if isinstance(text, tuple) and len(text) != 2 else f"{type(text).__name__}"
        if isinstance(text, tuple) and len(text) == 2:
            got = "a tuple of " + " and ".join(type(p).__name__ for p in text)
        raise InputError(f"Input{place} is {got}, expected a str, or a tuple of two str for a pair of texts. Pass text, or a list of texts.")
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as problem:
            raise InputError(
                f"Input{place} holds a lone surrogate (character {problem.start}), which is not text. "
                "Decode the bytes with errors='replace' before you pass them."
            ) from problem
