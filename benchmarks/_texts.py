"""Texts of the benchmarks: rows of a file, their lengths in tokens, texts of a wanted length, bursts of them."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from _rounds import Burst

WARM = 3
"""Inputs before a burst that are not timed."""
_RARE_WORDS = 200
"""Words that may be left out in search of one that fits."""

Length = Callable[[str], int]
"""Function from a text to its number of tokens, special ones included."""


def read_rows(file: Path, limit: int | None = None) -> tuple[list[str], list[str]]:
    """Return the texts and labels of a JSONL file."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()][:limit]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def token_counter(model: Path) -> Length:
    """Return a function that counts the tokens of a text as the model's tokenizer makes them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def texts_of_length(texts: Sequence[str], tokens: int, count: int, length: Length) -> list[str]:
    """Return texts of exactly so many tokens, put together from the words of other texts in their order.

    The words are used one after the other, from the beginning again where they do not suffice, so that texts differ.

    Raises:
        ValueError: If no words fill a text.
    """
    words = itertools.cycle([word for text in texts for word in text.split()])
    return [_fill(words, tokens, length) for _ in range(count)]


def _fill(words: Iterator[str], tokens: int, length: Length) -> str:
    text = ""
    skipped = 0
    while length(text) < tokens:
        longer = f"{text} {next(words)}".strip()
        if length(longer) <= tokens:
            text = longer
        else:
            skipped += 1
            if skipped > _RARE_WORDS:
                raise ValueError(f"no word fits into a text of {tokens} tokens after {text!r}")
    if length(text) > tokens:
        raise ValueError(f"an empty text already has more than {tokens} tokens")
    return text


def mixed_bursts(texts: Sequence[str], others: Sequence[str], size: int, length: Length) -> list[Burst]:
    """Return bursts of texts in their order, with other texts before each."""
    warm = itertools.cycle(others)
    bursts = []
    for start in range(0, len(texts), size):
        part = tuple(texts[start : start + size])
        before = tuple(itertools.islice(warm, WARM))
        bursts.append(Burst("mixed", part, before, tuple(map(length, part))))
    return bursts


def single_bursts(texts: Sequence[str], others: Sequence[str], size: int, length: Length) -> list[Burst]:
    """Return bursts of the same texts in which all have one length, with other texts of that length before each."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for text in texts:
        by_length[length(text)].append(text)
    bursts = []
    for tokens, group in sorted(by_length.items()):
        parts = [tuple(group[start : start + size]) for start in range(0, len(group), size)]
        warm = texts_of_length(others, tokens, WARM * len(parts), length)
        for index, part in enumerate(parts):
            before = tuple(warm[WARM * index : WARM * (index + 1)])
            bursts.append(Burst("single", part, before, (tokens,) * len(part)))
    return bursts


def fixed_bursts(
    texts: Sequence[str], others: Sequence[str], tokens: int, count: int, size: int, length: Length
) -> list[Burst]:
    """Return bursts of texts that are put together to one length. The stream is named after it."""
    timed = texts_of_length(texts, tokens, count, length)
    warm = tuple(texts_of_length(others, tokens, WARM, length))
    parts = [tuple(timed[start : start + size]) for start in range(0, count, size)]
    return [Burst(str(tokens), part, warm, (tokens,) * len(part)) for part in parts]
