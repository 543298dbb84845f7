"""What a student is trained on: rows of arrays in batches of similar length, and texts that are altered a little.

An epoch goes through every row once. A row has one or more versions (as it is; with words masked or swapped), and each
epoch takes the next one: variety without a longer epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.modalities.text import Text
from edgekit.samples import Samples
from edgekit.source import Source
from edgekit.spec.errors import UsageError

_POOL = 50  # batches that are sorted by length together: long enough to be alike, short enough to be shuffled


@dataclass(frozen=True)
class Examples:
    """Rows in one or more versions.

    Attributes:
        versions: ``[version][row]``: input name to array, e.g. ``input_ids: int64 [sequence]``; the first version is the row as it is.
        pads: value that fills short rows, by input; inputs without one must be of one shape.
        labels: ``int64 [rows]``, or ``float32 [rows, labels]`` for other heads.
        labelled: bool ``[rows]``: whose label counts.
    """

    versions: Sequence[Sequence[Mapping[str, np.ndarray]]]
    pads: Mapping[str, float]
    labels: np.ndarray
    labelled: np.ndarray

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.versions[0])

    def flat(self) -> list[Mapping[str, np.ndarray]]:
        """All versions of all rows, version by version."""
        return [row for version in self.versions for row in version]

    def epoch(self, number: int) -> np.ndarray:
        """Which of :meth:`flat` an epoch takes: every row once, neighbours in different versions."""
        rows = np.arange(len(self))
        return rows + (number + rows) % len(self.versions) * len(self)

    def feeds(self, indices: Sequence[int]) -> dict[str, Any]:
        """Tensors of some of :meth:`flat`, padded at the end to the longest."""
        return feeds([self.versions[i // len(self)][i % len(self)] for i in indices], self.pads)


def inputs(samples: Samples) -> list[Text]:
    """The texts of a sample set."""
    return [row.inputs for row in samples.rows]


def token_rows(source: Source, texts: Sequence[Text]) -> list[dict[str, np.ndarray]]:
    """Texts as a model's own tokenizer gives them: input name to ``int64 [sequence]``."""
    return [{name: np.array(values, np.int64) for name, values in row.items()} for row in source.token_ids(texts)]


def feeds(rows: Sequence[Mapping[str, np.ndarray]], pads: Mapping[str, float]) -> dict[str, Any]:
    """Tensors ``[batch, ...]`` of rows, padded at the end to the longest.

    Raises:
        UsageError: when an input without a pad value has rows of several shapes.
    """
    import torch

    made = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if name in pads:
            padded = np.full((len(arrays), max(len(a) for a in arrays), *arrays[0].shape[1:]), pads[name], arrays[0].dtype)
            for place, array in zip(padded, arrays, strict=True):
                place[: len(array)] = array
        elif len({a.shape for a in arrays}) == 1:
            padded = np.stack(arrays)
        else:
            raise UsageError(f"The rows of '{name}' are of several shapes, and no value was given to pad them with. Give pads={{'{name}': ...}}.")
        made[name] = torch.from_numpy(padded)
    return made


def lengths(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Of the first dimension of each row's first input."""
    return np.array([len(next(iter(row.values()))) for row in rows], np.int64)


def batches(chosen: np.ndarray, sizes: np.ndarray, batch: int, seed: int) -> list[list[int]]:
    """Batches of similar length in random order, each index once; as many as ``ceil(len(chosen) / batch)``.

    Args:
        chosen: indices.
        sizes: length of each row that an index may name.
        batch: rows of a batch; the last one that is cut may have fewer.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(chosen)
    made: list[list[int]] = []
    for start in range(0, len(order), _POOL * batch):
        pool = order[start : start + _POOL * batch]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        made += [pool[i : i + batch].tolist() for i in range(0, len(pool), batch)]
    return [made[i] for i in random.permutation(len(made))]


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
