"""Spans of words that labels mark by their prefix (``B-PER``, ``I-PER``, ``O``), as conlleval and the default mode of seqeval read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

OUTSIDE = "O"
_PREFIXES = ("B", "I", "E", "S")

Span = tuple[str, int, int]
"""Kind of a span, its first word and its last."""


def marks_spans(labels: Sequence[str]) -> bool:
    """Whether labels are ``O`` and kinds with a prefix, some of which begin a span or go on in it."""
    marked = [label for label in labels if label != OUTSIDE]
    return bool(marked) and all(len(label) > 2 and label[0] in _PREFIXES and label[1] == "-" for label in marked)


def spans(tags: Sequence[str]) -> list[Span]:
    """Spans of a sequence of labels.

    A span ends before a word of another kind, before ``B`` and ``S``, and behind ``E`` and ``S``. One that begins with ``I`` or ``E`` counts as well, as in
    the default mode of seqeval (Nakayama H., 2018; Tjong Kim Sang E., conlleval): so every sequence has spans, a valid one or not.
    """
    found: list[Span] = []
    before, kind, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        now, its_kind = _parts(tag)
        if before != OUTSIDE and (before in "ES" or now in (OUTSIDE, "B", "S") or its_kind != kind):
            found.append((kind, start, place - 1))
        if now != OUTSIDE and (now in "BS" or before in ("E", "S", OUTSIDE) or its_kind != kind):
            start = place
        before, kind = now, its_kind
    return found


def first_invalid(tags: Sequence[str], labels: Sequence[str]) -> int | None:
    """Place of the first label that cannot follow the one before: ``I`` or ``E`` of a kind that no span of this kind comes before.

    Args:
        tags: of a row.
        labels: of the model. Where a kind has no label that begins a span, ``I`` begins it.
    """
    begun = {kind for prefix, kind in map(_parts, labels) if prefix == "B"}
    before, last_kind = OUTSIDE, ""
    for place, tag in enumerate(tags):
        prefix, kind = _parts(tag)
        goes_on = prefix in ("I", "E") and kind in begun
        if goes_on and (before not in ("B", "I") or last_kind != kind):
            return place
        before, last_kind = prefix, kind
    return None


def in_words(tags: Sequence[str]) -> str:
    """Spans of a row, ``PER 0-1, LOC 5``, by the places of their words; ``O`` where there is none."""
    return ", ".join(_named(spans(tags))) or OUTSIDE


def _named(found: Sequence[Span]) -> Iterator[str]:
    for kind, start, end in found:
        yield f"{kind} {start}-{end}" if end > start else f"{kind} {start}"


def _parts(tag: str) -> tuple[str, str]:
    return (OUTSIDE, "") if tag == OUTSIDE else (tag[0], tag[2:])
