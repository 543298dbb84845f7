"""Entities from token probabilities, by the aggregation strategies of Transformers' token-classification pipeline.

The results equal those of Transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.modalities.words import Spans

STRATEGIES = ("none", "simple", "first", "average", "max")
IGNORED = "O"
"""Label of tokens outside every entity. It is left out of the result."""


@dataclass(frozen=True)
class Entity:
    """A labelled part of a text.

    Attributes:
        label: Name of the label. Grouped tokens have it without ``B-`` and ``I-``.
        score: Probability of the label, 0 to 1. Grouped tokens have the mean of their scores.
        start: Offset of the first character in the text. For an input of words, the text is the words joined by spaces.
        end: Offset behind the last character.
        text: Characters from ``start`` to ``end``.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Part:
    """A token, or the tokens of one word.

    Attributes:
        values: Probabilities of the labels, float64 ``[labels]``.
        start: Offset of the first character.
        end: Offset behind the last character.
        subword: Whether the token continues a word.
    """

    values: np.ndarray
    start: int
    end: int
    subword: bool


def extract_entities(
    probabilities: np.ndarray, spans: Spans, labels: Sequence[str], strategy: str
) -> tuple[Entity, ...]:
    """Return the entities of one input, in the order of the text.

    Args:
        probabilities: Label probabilities of each token, float64 ``[sequence, labels]``.
        spans: Positions of the tokens in the text.
        labels: Label names, in the model's order.
        strategy: Aggregation strategy, one of ``STRATEGIES``. ``none`` keeps each token. ``simple`` merges adjacent
            tokens of one kind. ``first``, ``average`` and ``max`` do the same after giving all tokens of a word one
            label: that of its first token, of the mean of their probabilities, or of the most certain token.
    """
    entities: list[Entity] = []
    start = 0
    for size in spans.windows:
        parts = []
        for index in range(start, start + size):
            span = spans.tokens[index]
            if span is not None:
                parts.append(_Part(probabilities[index], *span, spans.subword[index]))
        entities += [e for e in _window_entities(parts, spans.text, labels, strategy) if e.label != IGNORED]
        start += size
    if len(spans.windows) > 1:
        entities = _drop_overlaps(entities)
    return tuple(entities)


def _window_entities(parts: Sequence[_Part], text: str, labels: Sequence[str], strategy: str) -> list[Entity]:
    if strategy in ("first", "average", "max"):
        parts = [_merge_word(group, strategy) for group in _group_words(parts)]
    singles = []
    for part in parts:
        label = labels[int(part.values.argmax())]
        singles.append(_entity(label, float(part.values.max()), part.start, part.end, text))
    return singles if strategy == "none" else _merge_adjacent(singles, text)


def _group_words(parts: Sequence[_Part]) -> list[list[_Part]]:
    groups: list[list[_Part]] = []
    for part in parts:
        if groups and part.subword:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _merge_word(group: Sequence[_Part], strategy: str) -> _Part:
    if strategy == "first":
        values = group[0].values
    elif strategy == "max":
        values = max(group, key=lambda part: float(part.values.max())).values
    else:
        values = np.mean([part.values for part in group], axis=0)
    return _Part(values, group[0].start, group[-1].end, False)


def _merge_adjacent(singles: Sequence[Entity], text: str) -> list[Entity]:
    """Merge adjacent entities of one kind; a ``B-`` label begins a new one."""
    groups: list[list[Entity]] = []
    for single in singles:
        begins, kind = _split_prefix(single.label)
        if groups and kind == _split_prefix(groups[-1][-1].label)[1] and not begins:
            groups[-1].append(single)
        else:
            groups.append([single])
    merged = []
    for group in groups:
        # As in Transformers, the name of a group is what follows the first dash, whatever the prefix is.
        label = group[0].label.split("-", 1)[-1]
        score = float(np.mean([entity.score for entity in group]))
        merged.append(_entity(label, score, group[0].start, group[-1].end, text))
    return merged


def _split_prefix(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and the label without ``B-`` or ``I-``."""
    kind = label[2:] if label.startswith(("B-", "I-")) else label
    return label.startswith("B-"), kind


def _drop_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Drop entities that overlap a longer one, or an equally long one with a higher score.

    Overlaps come from windows that share tokens.
    """
    result: list[Entity] = []
    for entity in sorted(entities, key=lambda e: e.start):
        last = result[-1] if result else None
        if last is None or not last.start <= entity.start < last.end:
            result.append(entity)
        elif (entity.end - entity.start, entity.score) > (last.end - last.start, last.score):
            result[-1] = entity
    return result


def _entity(label: str, score: float, start: int, end: int, text: str) -> Entity:
    return Entity(label, score, start, end, text[start:end])
