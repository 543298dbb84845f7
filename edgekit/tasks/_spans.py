"""Spans of words from prefixed labels (``B-PER``, ``I-PER``, ``O``), as conlleval and seqeval's default mode do it."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
_PREFIXES = ("B", "I", "E", "S")

Span = tuple[str, int, int]
"""Kind of a span, index of its first word and of its last word."""


def marks_spans(labels: Sequence[str]) -> bool:
    """Return whether every label except ``O`` has a prefix B, I, E or S, and there is at least one such label."""
    marked = [label for label in labels if label != OUTSIDE]
    return bool(marked) and all(len(label) > 2 and label[0] in _PREFIXES and label[1] == "-" for label in marked)


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sequence of labels.

    A span ends before a word of another kind, before ``B`` and ``S``, and behind ``E`` and ``S``. A span may begin with
    ``I`` or ``E``, as in the default mode of seqeval (Nakayama H., 2018; Tjong Kim Sang E., conlleval). So every
    sequence has a reading, whether it is valid or not.
    """
    result: list[Span] = []
    previous = OUTSIDE
    previous_kind = ""
    start = 0
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = _split_tag(tag)
        kind_changes = kind != previous_kind
        if previous != OUTSIDE and (previous in "ES" or prefix in (OUTSIDE, "B", "S") or kind_changes):
            result.append((previous_kind, start, index - 1))
        if prefix != OUTSIDE and (prefix in "BS" or previous in ("E", "S", OUTSIDE) or kind_changes):
            start = index
        previous = prefix
        previous_kind = kind
    return result


def first_invalid(tags: Sequence[str], labels: Sequence[str]) -> int | None:
    """Return the index of the first label that cannot follow its predecessor, or None.

    Such a label is an ``I`` or ``E`` that no ``B`` or ``I`` of its kind precedes.

    Args:
        tags: Labels of a row's words.
        labels: Labels of the model. If a kind has no ``B`` label, its ``I`` may begin a span.
    """
    kinds_with_begin = {kind for prefix, kind in map(_split_tag, labels) if prefix == "B"}
    previous = OUTSIDE
    previous_kind = ""
    for index, tag in enumerate(tags):
        prefix, kind = _split_tag(tag)
        continues = prefix in ("I", "E") and kind in kinds_with_begin
        if continues and (previous not in ("B", "I") or previous_kind != kind):
            return index
        previous = prefix
        previous_kind = kind
    return None


def in_words(tags: Sequence[str]) -> str:
    """Return the spans of a row by word index, e.g. ``PER 0-1, LOC 5``; ``O`` if there is none."""
    names = []
    for kind, start, end in spans(tags):
        names.append(f"{kind} {start}-{end}" if end > start else f"{kind} {start}")
    return ", ".join(names) or OUTSIDE


def _split_tag(tag: str) -> tuple[str, str]:
    return (OUTSIDE, "") if tag == OUTSIDE else (tag[0], tag[2:])
