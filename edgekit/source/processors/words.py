"""Texts, or words, with a tokenizer of Transformers: what is longer than the model is encoded in windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.words import STARTS, WINDOWS, Words
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
    """Compares tokenizer.json as it lies in the folder with the tokenizer that counts; of words on the text that they make."""
    text.check_inputs(
        model_id, folder, processor, [value if isinstance(value, str) else " ".join(value) for value in inputs]
    )


def encode(settings: Any, tokenizer: Any, inputs: Sequence[Words]) -> list[Arrays]:
    """What the tokenizer makes of each text, or of its words, in windows: rows as :class:`edgekit.modalities.words.WordEncoder` makes them.

    Args:
        settings: with ``inputs``, ``max_length`` and ``stride``.
        tokenizer: of Transformers.
        inputs: texts or words.

    Raises:
        InputError: for a word that makes no token.
    """
    rows: list[Arrays] = []
    for value in inputs:
        split = not isinstance(value, str)
        encoded = tokenizer(
            [list(value) if split else value],
            is_split_into_words=split,
            truncation=True,
            max_length=settings.max_length,
            stride=settings.stride,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        sizes = [len(ids) for ids in encoded["input_ids"]]
        row = {name: np.concatenate([np.array(ids, np.int64) for ids in encoded[name]]) for name in settings.inputs}
        whole = tokenizer(
            [list(value) if split else value],
            is_split_into_words=split,
            add_special_tokens=False,
            truncation=False,
            verbose=False,
        )
        step = settings.max_length - tokenizer.num_special_tokens_to_add(pair=False) - settings.stride
        of_whole = whole.word_ids(0)
        if split and (lost := set(range(len(value))).difference(of_whole)):
            raise InputError(
                f"A word, number {min(lost) + 1} of its row, makes no token of this model, so it would have no label. Leave it out.",
                code="word-without-token",
            )
        starts = _starts(of_whole, encoded["special_tokens_mask"], step)
        rows.append({**row, STARTS: np.array(starts, np.int64), WINDOWS: np.array(sizes, np.int64)})
    return rows


def _starts(words: Sequence[int | None], special: Sequence[Sequence[int]], step: int) -> list[int]:
    """Place of the word that each token begins, -1 for other tokens, in all windows.

    Args:
        words: of each token of the whole input, without special tokens.
        special: of each window, which tokens are special.
        step: tokens from the begin of a window to that of the next.
    """
    begun: dict[int, int] = {}
    of_whole = []
    for word in words:
        new = word is not None and word not in begun
        if new and word is not None:
            begun[word] = len(begun)
        of_whole.append(begun[word] if new and word is not None else -1)
    starts = []
    for window, masks in enumerate(special):
        tokens = iter(of_whole[window * step :])
        starts += [-1 if mask else next(tokens) for mask in masks]
    return starts
