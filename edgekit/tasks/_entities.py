"""From probabilities of tokens to entities, by the aggregation strategies of Transformers' token-classification pipeline (release 5.23)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.modalities.words import Spans

STRATEGIES = ("none", "simple", "first", "average", "max")
IGNORED = "O"
"""The label whose entities are left out."""


@dataclass(frozen=True)
class Entity:
    """A labelled part of a text.

    Attributes:
        label: the label; of grouped tokens without ``B-`` and ``I-``.
        score: its probability, 0 to 1; of grouped tokens the mean.
        start: place of its first character in the text; in words that were joined by a space, where words were given.
        end: place behind its last character.
        text: the characters there.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Part:
    """A token, or a word of several.

    Attributes:
        values: probabilities of its labels, float64 ``[labels]``.
        start: its first character.
        end: the one behind its last.
        subword: whether it continues a word.
    """

    values: np.ndarray
    start: int
    end: int
    subword: bool


def entities(probabilities: np.ndarray, spans: Spans, labels: Sequence[str], strategy: str) -> tuple[Entity, ...]:
    """Entities of an input, by their places in the text.

    Args:
        probabilities: of each token, float64 ``[sequence, labels]``.
        spans: of the tokens.
        labels: names, in the model's order.
        strategy: one of ``STRATEGIES``. ``none``: each token; ``simple``: adjacent tokens of one kind; ``first``, ``average``, ``max``: likewise, with one
            label for all tokens of a word: that of its first token, of the mean of their probabilities, or of the surest token.
    """
    found: list[Entity] = []
    start = 0
    for size in spans.windows:
        parts = [
            _Part(probabilities[place], *span, spans.subword[place])
            for place in range(start, start + size)
            if (span := spans.tokens[place]) is not None
        ]
        found += [e for e in _of_window(parts, spans.text, labels, strategy) if e.label != IGNORED]
        start += size
    return tuple(_once(found) if len(spans.windows) > 1 else found)


def _of_window(parts: Sequence[_Part], text: str, labels: Sequence[str], strategy: str) -> list[Entity]:
    if strategy in ("first", "average", "max"):
        parts = [_word(group, strategy) for group in _groups_of_words(parts)]
    single = [
        _entity(labels[int(part.values.argmax())], float(part.values.max()), part.start, part.end, text)
        for part in parts
    ]
    return single if strategy == "none" else _grouped(single, text)


def _groups_of_words(parts: Sequence[_Part]) -> list[list[_Part]]:
    groups: list[list[_Part]] = []
    for part in parts:
        if groups and part.subword:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _word(group: Sequence[_Part], strategy: str) -> _Part:
    if strategy == "first":
        values = group[0].values
    elif strategy == "max":
        values = max(group, key=lambda part: float(part.values.max())).values
    else:
        values = np.mean([part.values for part in group], axis=0)
    return _Part(values, group[0].start, group[-1].end, False)


def _grouped(single: Sequence[Entity], text: str) -> list[Entity]:
    """Adjacent entities of one kind as one; ``B-`` begins another."""
    groups: list[list[Entity]] = []
    for one in single:
        begins, kind = _prefix(one.label)
        if groups and kind == _prefix(groups[-1][-1].label)[1] and not begins:
            groups[-1].append(one)
        else:
            groups.append([one])
    # The name is what follows the first dash, whatever comes before it.
    return [
        _entity(g[0].label.split("-", 1)[-1], float(np.mean([e.score for e in g])), g[0].start, g[-1].end, text)
        for g in groups
    ]


def _prefix(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and the kind of it."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _once(found: Sequence[Entity]) -> list[Entity]:
    """Of entities that overlap, as those of two windows do, the longer one; of equally long ones the surer."""
    kept: list[Entity] = []
    for entity in sorted(found, key=lambda e: e.start):
        last = kept[-1] if kept else None
        if last is None or not last.start <= entity.start < last.end:
            kept.append(entity)
        elif (entity.end - entity.start, entity.score) > (last.end - last.start, last.score):
            kept[-1] = entity
    return kept


def _entity(label: str, score: float, start: int, end: int, text: str) -> Entity:
    return Entity(label, score, start, end, text[start:end])
