"""The processor of texts or words: a tokenizer of Transformers that encodes long inputs in windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.words import STARTS, UNBOUND, WINDOWS, Words
from edgekit.source.processors import text
from edgekit.source.processors.text import (
    MODEL_TYPES,
    NOUN,
    OPTIONS,
    SAME_AS,
    check_names,
    check_told,
    load,
    same,
    survey,
)
from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays

__all__ = [
    "MODEL_TYPES",
    "NOUN",
    "OPTIONS",
    "SAME_AS",
    "check_inputs",
    "check_names",
    "check_told",
    "encode",
    "load",
    "same",
    "survey",
]


def check_inputs(model_id: str, folder: Path, processor: Any, inputs: Sequence[Words]) -> None:
    """Compare tokenizer.json with the loaded tokenizer; words are joined to a text."""
    texts = [UNBOUND.quote(value) for value in inputs]
    text.check_inputs(model_id, folder, processor, texts)


def encode(settings: Any, tokenizer: Any, inputs: Sequence[Words]) -> list[Arrays]:
    """Return the tokens of each text or of its words in windows, as :class:`edgekit.modalities.words.WordEncoder` does.

    Args:
        settings: Settings with ``inputs``, ``max_length`` and ``stride``.
        tokenizer: Tokenizer of Transformers.
        inputs: Texts or words.

    Raises:
        InputError: If the tokenizer has no token for a word.
    """
    step = settings.max_length - tokenizer.num_special_tokens_to_add(pair=False) - settings.stride
    rows: list[Arrays] = []
    for value in inputs:
        is_split = not isinstance(value, str)
        batch = [list(value) if is_split else value]
        encoded = tokenizer(
            batch,
            is_split_into_words=is_split,
            truncation=True,
            max_length=settings.max_length,
            stride=settings.stride,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        whole = tokenizer(
            batch,
            is_split_into_words=is_split,
            add_special_tokens=False,
            truncation=False,
            verbose=False,
        )
        word_ids = whole.word_ids(0)
        missing = set(range(len(value))).difference(word_ids) if is_split else set()
        if missing:
            raise InputError(
                f"The tokenizer has no token for word {min(missing) + 1} of a row, so it cannot get a label. "
                "Leave the word out.",
                code="word-without-token",
            )
        row = {}
        for name in settings.inputs:
            row[name] = np.concatenate([np.array(ids, np.int64) for ids in encoded[name]])
        row[STARTS] = np.array(_starts(word_ids, encoded["special_tokens_mask"], step), np.int64)
        row[WINDOWS] = np.array([len(ids) for ids in encoded["input_ids"]], np.int64)
        rows.append(row)
    return rows


def _starts(words: Sequence[int | None], special: Sequence[Sequence[int]], step: int) -> list[int]:
    """Return the index of the word that each token begins, -1 for other tokens, for all windows.

    Args:
        words: Word id of each token of the whole input, without special tokens.
        special: Mask of the special tokens, for each window.
        step: Distance between the first tokens of adjacent windows.
    """
    order: dict[int, int] = {}
    whole_starts = []
    for word in words:
        if word is None or word in order:
            whole_starts.append(-1)
        else:
            order[word] = len(order)
            whole_starts.append(order[word])
    starts = []
    for window, masks in enumerate(special):
        tokens = iter(whole_starts[window * step :])
        for mask in masks:
            starts.append(-1 if mask else next(tokens))
    return starts
