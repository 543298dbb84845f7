"""Words of texts, and what may stand in the place of one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.modalities._text_encoder import Text

_WORD = re.compile(r"\S+")
_MASK = re.compile(r"[\[<({|]+mask[\]>)}|]+", re.IGNORECASE)


def words(text: Text) -> tuple[str, ...]:
    """What whitespace separates, of both texts of a pair."""
    return tuple(word for part in (text if isinstance(text, tuple) else (text,)) for word in _WORD.findall(part))


def erased(text: Text, put: str) -> Iterator[Text]:
    """The text once for each of its words, with ``put`` in its place; with an empty ``put`` a space beside the word goes too.

    The rest stays to the letter: spaces are tokens to some models.
    """
    first, second = text if isinstance(text, tuple) else (text, None)
    yield from (one if second is None else (one, second) for one in _erased(first, put))
    yield from ((first, one) for one in _erased(second or "", put))


def _erased(text: str, put: str) -> Iterator[str]:
    spans = [word.span() for word in _WORD.finditer(text)]
    for n, (start, end) in enumerate(spans):
        if not put and n + 1 < len(spans):
            end = spans[n + 1][0]
        elif not put and n:
            start = spans[n - 1][1]
        yield text[:start] + put + text[end:]


def mask_token(tokenizer_json: str) -> str:
    """What to write into a text so that the tokenizer puts its mask token there.

    Args:
        tokenizer_json: content of a ``tokenizer.json``.

    Returns:
        The mask token as it is written (``[MASK]``, ``<mask>``); where there is none the unknown token, and where that is not one that a text can hold
        either (one that is in the vocabulary but not among the added tokens is cut into pieces) an empty string.
    """
    data = json.loads(tokenizer_json)
    # Special ones first: a word that somebody added does not become the mask while the tokenizer has one.
    added = [
        str(t["content"]) for t in sorted(data.get("added_tokens") or [], key=lambda t: (not t.get("special"), t["id"]))
    ]
    model = data["model"]
    unknown = model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else model.get("unk_token")
    return next((t for t in added if _MASK.fullmatch(t)), unknown if unknown in added else "")
