"""Texts that are altered a little, so that a student sees more than the rows there are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edgekit.modalities.text import Text


def altered(texts: Sequence[Text], mask: float, swap: float, crop: float, mask_token: str | None, seed: int) -> list[Text]:
    """Texts that are cut short, with some words masked and some neighbours swapped, against overfitting; the teacher says what they now mean.

    Word dropout of this kind is what TinyBERT's and XtremeDistil's augmentation does without a language model of its own
    (Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", arXiv 1903.12136, section 3.3, where a run
    of words is the n-gram sampling).

    Args:
        texts: of one text or a pair each.
        mask: share of words that become ``mask_token``, or go where the tokenizer has none.
        swap: share of words that change places with the next one.
        crop: share of texts of which a run of words alone is left, of any length.
        mask_token: of the tokenizer, or None.
        seed: of the choice.
    """
    random = np.random.default_rng(seed)

    def change(text: str) -> str:
        words = re.findall(r"\S+", text)
        if len(words) < 2:
            return text
        if random.random() < crop:
            count = int(random.integers(1, len(words) + 1))
            first = int(random.integers(0, len(words) - count + 1))
            words = words[first : first + count]
        for index in np.flatnonzero(random.random(len(words) - 1) < swap):
            words[index], words[index + 1] = words[index + 1], words[index]
        hidden = random.random(len(words)) < mask
        if hidden.all():
            return " ".join(words)
        left = [mask_token if gone else word for word, gone in zip(words, hidden, strict=True)]
        return " ".join(word for word in left if word is not None)

    return [tuple(change(part) for part in text) if isinstance(text, tuple) else change(text) for text in texts]  # type: ignore[misc]
