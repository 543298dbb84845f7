"""Perturbations of texts that keep the correct answer. Each function is deterministic for a given random generator.

A function returns the text unchanged if it has nothing to change, e.g. no letter or no punctuation.
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
"""Number of letters for each changed letter (at least one is changed): about one change in every other English word."""

ZERO_WIDTH_SPACE = "\u200b"

# Letter keys of a US keyboard. Each row lies about half a key to the right of the one above.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"(\s*)(\S+)")

# Letters with the same shape in most fonts: confusables of Unicode's UTS 39. All are Cyrillic except capital N and Z,
# which are Greek.
_ALIKE = dict(
    zip(
        "aceopsxyijhABCEHIKMNOPSTXZ",
        "\u0430\u0441\u0435\u043e\u0440\u0455\u0445\u0443\u0456\u0458\u04bb\u0410\u0412"
        "\u0421\u0415\u041d\u0406\u041a\u041c\u039d\u041e\u0420\u0405\u0422\u0425\u0396",
        strict=True,
    )
)


def _neighbours() -> dict[str, str]:
    """Return the adjacent keys of each letter key: left, right, two above and two below."""
    offsets = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
    keys = {(r, c): key for r, row in enumerate(_ROWS) for c, key in enumerate(row)}
    result = {}
    for (row, column), key in keys.items():
        adjacent = [keys.get((row + dy, column + dx), "") for dy, dx in offsets]
        result[key] = "".join(adjacent)
    return result


NEIGHBOURS: Mapping[str, str] = _neighbours()
"""Lower-case letter to the letters on the adjacent keys."""


def typos(text: str, draw: random.Random) -> str:
    """Return the text with typing errors: an adjacent key, an omitted letter, or two swapped letters.

    Source: Belinkov Y. and Bisk Y., Synthetic and Natural Noise Both Break Neural Machine Translation (ICLR 2018),
    section 3.3, whose noise is swaps and adjacent keys.
    """
    characters = list(text)
    letters = [i for i, c in enumerate(text) if c.isalpha()]
    for i in _sample_spread(letters, draw):
        following = text[i + 1] if text[i + 1 : i + 2].isalpha() else ""
        slips = [_adjacent_letter(text[i], draw)] if text[i].lower() in NEIGHBOURS else []
        # A word of one letter is not removed.
        if following or text[i - 1 : i].isalpha():
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
    """Return the text in capital letters. An uncased model sees no change."""
    return text.upper()


def punctuation(text: str, _draw: random.Random) -> str:
    """Return the text without punctuation; a text without punctuation gets a full stop at its end.

    Source: the invariance test of Ribeiro M. T. et al., Beyond Accuracy: Behavioral Testing of NLP Models with
    CheckList (ACL 2020).
    """
    if not any(_is_punctuation(c) for c in text):
        end = len(text.rstrip())
        return text[:end] + "." + text[end:] if end else text

    def strip_punctuation(word: re.Match[str]) -> str:
        # The space before a word of punctuation is removed with it: two adjacent spaces would be another perturbation.
        rest = "".join(c for c in word[2] if not _is_punctuation(c))
        return word[1] + rest if rest else ""

    without = _WORD.sub(strip_punctuation, text)
    return without if text[:1].isspace() else without.lstrip()


def homoglyphs(text: str, draw: random.Random) -> str:
    """Return the text with some Latin letters replaced by Cyrillic or Greek letters of the same shape.

    Source: Boucher N. et al., Bad Characters: Imperceptible NLP Attacks (IEEE S&P 2022), section IV. There an attacker
    searches for the most harmful letters; here they are drawn at random, so a deliberate attack may do more harm.
    """
    characters = list(text)
    candidates = [i for i, c in enumerate(text) if c in _ALIKE]
    for i in _sample_spread(candidates, draw):
        characters[i] = _ALIKE[text[i]]
    return "".join(characters)


def invisible(text: str, draw: random.Random) -> str:
    """Return the text with zero-width spaces inside words.

    Source: see :func:`homoglyphs`.
    """
    characters = list(text)
    candidates = [i for i, c in enumerate(text[:-1]) if c.isalpha() and text[i + 1].isalpha()]
    for i in _sample_spread(candidates, draw):
        characters[i] += ZERO_WIDTH_SPACE
    return "".join(characters)


def truncation(text: str, _draw: random.Random) -> str:
    """Return the text without its last third of words (rounded down).

    The label may depend on the removed words, so a lower score need not be the model's fault.
    """
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
"""Name of each perturbation to its function."""


def disturb(name: str, text: Text, draw: random.Random) -> Text | None:
    """Perturb a text, or both texts of a pair.

    Args:
        name: Name of the perturbation, a key of ``KINDS``.
        text: Text or pair.
        draw: Random generator.

    Returns:
        The perturbed text; None if this perturbation changes nothing or would leave a text empty.
    """
    parts = text if isinstance(text, tuple) else (text,)
    changed = tuple(KINDS[name](part, draw) for part in parts)
    becomes_empty = any(part.strip() and not new.strip() for part, new in zip(parts, changed, strict=True))
    if changed == parts or becomes_empty:
        return None
    return (changed[0], changed[1]) if isinstance(text, tuple) else changed[0]


def _sample_spread(indices: list[int], draw: random.Random) -> list[int]:
    """Draw one of each ten consecutive indices; one of all if there are fewer than ten.

    The last of ten is never drawn, so that a swap with the next letter stays inside its ten.
    """
    tens = [indices[start : start + LETTERS_A_CHANGE] for start in range(0, len(indices), LETTERS_A_CHANGE)]
    if len(tens) > 1 and len(tens[-1]) < LETTERS_A_CHANGE:
        tens.pop()
    return [draw.choice(ten[:-1] or ten) for ten in tens]


def _adjacent_letter(letter: str, draw: random.Random) -> str:
    """Draw a letter on an adjacent key, in the same case."""
    other = draw.choice(NEIGHBOURS[letter.lower()])
    return other.upper() if letter.isupper() else other


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
