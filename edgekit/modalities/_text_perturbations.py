"""Disturbed texts: what happens to texts between people and a model. Each function is deterministic by the generator it is given.

A function returns a text as it is where it finds nothing to disturb (no letter, no case, no punctuation to remove and no word to end with some).
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.modalities._text_encoder import Text

LETTERS_A_CHANGE = 10
"""Of the kinds that change letters, one change in so many of them, and at least one: about one in every other English word."""

ZERO_WIDTH_SPACE = "\u200b"

_ROWS = (
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
)  # of a US keyboard; each row lies about half a key to the right of the one above
_WORD = re.compile(r"(\s*)(\S+)")

# Of one shape in most fonts: confusables of Unicode's UTS 39. Cyrillic but for capital N and Z, which are Greek.
_ALIKE = dict(
    zip(
        "aceopsxyijhABCEHIKMNOPSTXZ",
        "\u0430\u0441\u0435\u043e\u0440\u0455\u0445\u0443\u0456\u0458\u04bb\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u039d\u041e\u0420\u0405\u0422\u0425\u0396",
        strict=True,
    )
)


def _neighbours() -> dict[str, str]:
    """Keys beside each key of the letters: left and right, and the two that touch it above and below."""
    place = {key: (row, column) for row, keys in enumerate(_ROWS) for column, key in enumerate(keys)}
    touching = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
    at = {where: key for key, where in place.items()}
    return {
        key: "".join(at[r + y, c + x] for y, x in touching if (r + y, c + x) in at) for key, (r, c) in place.items()
    }


NEIGHBOURS: Mapping[str, str] = _neighbours()
"""Lower-case letter to the letters on the keys beside it."""


def typos(text: str, draw: random.Random) -> str:
    """Slips of a typist: a key beside the right one, a letter left out, or two letters swapped.

    Source: Belinkov Y. and Bisk Y., Synthetic and Natural Noise Both Break Neural Machine Translation (ICLR 2018), section 3.3, whose noise is
    swaps and neighbouring keys.
    """
    characters = list(text)
    for i in _spread([i for i, c in enumerate(text) if c.isalpha()], draw):
        following = text[i + 1] if text[i + 1 : i + 2].isalpha() else ""
        slips = [_beside(text[i], draw)] if text[i].lower() in NEIGHBOURS else []
        if following or text[i - 1 : i].isalpha():  # else the word would be gone
            slips.append("")
        if following not in ("", text[i]):
            slips.append(following + text[i])
        if slips:
            slip = draw.choice(slips)
            if len(slip) == 2:
                characters[i + 1] = ""
            characters[i] = slip
    return "".join(characters)


def case(text: str, _draw: random.Random) -> str:
    """Everything in capitals, as people shout. An uncased model cannot tell."""
    return text.upper()


def punctuation(text: str, _draw: random.Random) -> str:
    """Without any punctuation; with a full stop at its end where there is none.

    Source: the invariance test of Ribeiro M. T. et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList (ACL 2020).
    """
    if not any(_is_mark(c) for c in text):
        end = len(text.rstrip())
        return text[:end] + "." + text[end:] if end else text

    def bare(word: re.Match[str]) -> str:
        # A word of nothing but punctuation takes the space before it along: two spaces would be a disturbance of another kind.
        left = "".join(c for c in word[2] if not _is_mark(c))
        return word[1] + left if left else ""

    without = _WORD.sub(bare, text)
    return without if text[:1].isspace() else without.lstrip()


def homoglyphs(text: str, draw: random.Random) -> str:
    """Some Latin letters as Cyrillic or Greek ones of the same shape: people read the same, a tokenizer does not.

    Source: Boucher N. et al., Bad Characters: Imperceptible NLP Attacks (IEEE S&P 2022), section IV. There an attacker searches for the letters that
    hurt most; here they are drawn, so a model may be weaker against somebody who means it harm than this says.
    """
    characters = list(text)
    for i in _spread([i for i, c in enumerate(text) if c in _ALIKE], draw):
        characters[i] = _ALIKE[text[i]]
    return "".join(characters)


def invisible(text: str, draw: random.Random) -> str:
    """Zero-width spaces inside words: nothing to see, and another text.

    Source: as :func:`homoglyphs`.
    """
    characters = list(text)
    for i in _spread([i for i, c in enumerate(text[:-1]) if c.isalpha() and text[i + 1].isalpha()], draw):
        characters[i] += ZERO_WIDTH_SPACE
    return "".join(characters)


def truncation(text: str, _draw: random.Random) -> str:
    """Without its last third of words, rounded down. It may cut what the label rests on: a drop need not be the model's fault."""
    ends = [word.end() for word in _WORD.finditer(text)]
    cut = len(ends) // 3
    return text[: ends[-cut - 1]] if cut else text


KINDS: Mapping[str, Callable[[str, random.Random], str]] = {
    "typos": typos,
    "case": case,
    "punctuation": punctuation,
    "homoglyphs": homoglyphs,
    "invisible": invisible,
    "truncation": truncation,
}
"""Name to what it does to a text."""


def disturb(name: str, text: Text, draw: random.Random) -> Text | None:
    """Disturbs a text, or both of a pair.

    Args:
        name: one of ``KINDS``.
        text: what to disturb.
        draw: decides where it is disturbed.

    Returns:
        The disturbed text; None where this kind cannot change it, or would leave nothing of it (or of one of a pair).
    """
    parts = text if isinstance(text, tuple) else (text,)
    made = tuple(KINDS[name](part, draw) for part in parts)
    if made == parts or any(part.strip() and not now.strip() for part, now in zip(parts, made, strict=True)):
        return None
    return (made[0], made[1]) if isinstance(text, tuple) else made[0]


def _spread(places: list[int], draw: random.Random) -> list[int]:
    """One of each ten places in a row, at random; of fewer than ten one. Never the last of the ten, so that a swap stays inside its ten."""
    tens = [places[start : start + LETTERS_A_CHANGE] for start in range(0, len(places), LETTERS_A_CHANGE)]
    if len(tens) > 1 and len(tens[-1]) < LETTERS_A_CHANGE:
        tens.pop()
    return [draw.choice(ten[:-1] or ten) for ten in tens]


def _beside(letter: str, draw: random.Random) -> str:
    """A letter beside this one, in its case."""
    other = draw.choice(NEIGHBOURS[letter.lower()])
    return other.upper() if letter.isupper() else other


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
