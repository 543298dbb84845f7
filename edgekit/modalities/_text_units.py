"""Words of a text, and texts with one word occluded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.modalities._text_encoder import Text

_WORD = re.compile(r"\S+")
_MASK = re.compile(r"[\[<({|]+mask[\]>)}|]+", re.IGNORECASE)


def words(text: Text) -> tuple[str, ...]:
    """Return the words (separated by white space) of a text or of both texts of a pair."""
    return tuple(word for part in parts_of(text) for word in _WORD.findall(part))


def parts_of(text: Text) -> tuple[str, ...]:
    """Return a text, or both texts of a pair, as a tuple."""
    return text if isinstance(text, tuple) else (text,)


def occlude_words(text: Text, filler: str) -> Iterator[Text]:
    """Yield the text once for each of its words, with that word replaced.

    All other characters stay, since some models have tokens for spaces.

    Args:
        text: Text or pair.
        filler: Replacement of the word. If it is empty, the white space on one side of the word is removed too.
    """
    if isinstance(text, str):
        yield from _occlude(text, filler)
        return
    first, second = text
    for occluded in _occlude(first, filler):
        yield occluded, second
    for occluded in _occlude(second, filler):
        yield first, occluded


def _occlude(text: str, filler: str) -> Iterator[str]:
    spans = [word.span() for word in _WORD.finditer(text)]
    for index, (start, end) in enumerate(spans):
        if not filler and index + 1 < len(spans):
            end = spans[index + 1][0]
        elif not filler and index:
            start = spans[index - 1][1]
        yield text[:start] + filler + text[end:]


def mask_token(tokenizer_json: str) -> str:
    """Return the text that the tokenizer encodes as its mask token.

    Args:
        tokenizer_json: Content of a ``tokenizer.json``.

    Returns:
        Mask token as written in a text, e.g. ``[MASK]`` or ``<mask>``. Without a mask token, the unknown token if it is
        an added token (the tokenizer splits other texts into pieces), else an empty string.
    """
    data = json.loads(tokenizer_json)
    # Special tokens come first: an added ordinary word must not be taken for the mask if the tokenizer has one.
    added_tokens = sorted(data.get("added_tokens") or [], key=_special_first)
    added = [str(token["content"]) for token in added_tokens]
    for token in added:
        if _MASK.fullmatch(token):
            return token
    unknown = _unknown_token(data["model"])
    return unknown if unknown in added else ""


def _special_first(token: dict[str, Any]) -> tuple[bool, int]:
    return not token.get("special"), token["id"]


def _unknown_token(model: dict[str, Any]) -> Any:
    if model.get("unk_id") is not None:
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")
