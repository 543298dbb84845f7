"""How long a text may be: a tokenizer reads all of it before it cuts, so a text without a limit costs time and memory without one (10 M characters: 1.6 GB)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from edgekit.spec.errors import InputError, SamplesError

__all__ = ["CHARACTERS_A_TOKEN", "Fitter", "Limit", "check_rows", "check_unicode"]

CHARACTERS_A_TOKEN = 64
"""Characters that the default limit has for each token of the longest row. A word of English has some 5."""

_KEPT_BLANKS = 4  # so many times the limit, white space and all, where the tokenizer does not collapse it

# White space that the normalizer of BERT takes for a space. The others (line tabulation, form feed, separators, NEL) it removes as control characters.
_BLANK = r"[^\S\x0b\x0c\x1c-\x1f\x85]"
_RUN = re.compile(_BLANK * 2)
_OTHER = re.compile(r"[\S\x0b\x0c\x1c-\x1f\x85]")
_COLLAPSE = re.compile(f"({_BLANK}){_BLANK}+")
_BLANKS = " \t\n\r\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Limit:
    """A limit of the characters of each text; of a pair, of each of its two.

    Attributes:
        characters: most that a text may have, each run of white space counted as one.
        truncate: cut a longer text in place of refusing it.
    """

    characters: int
    truncate: bool = False

    def __post_init__(self) -> None:
        """Checks the number.

        Raises:
            InputError: when it is not a whole number of at least 1, or ``truncate`` is no truth value.
        """
        if not isinstance(self.characters, int) or isinstance(self.characters, bool) or self.characters < 1:
            raise InputError(
                f"max_characters is {self.characters!r}, expected a whole number of at least 1. Leave it out for {CHARACTERS_A_TOKEN} a token.",
                code="limit-invalid",
            )
        if not isinstance(self.truncate, bool):
            raise InputError(f"truncate is {self.truncate!r}, expected True or False.", code="limit-invalid")


class Fitter:
    """Holds texts to a limit before a tokenizer reads them.

    A text within the limit is answered as it is. One beyond it is refused, or cut: at the border of a pre-token (what the tokenizer would never join with
    what follows), or of white space where the tokenizer has no such borders, or anywhere in a word that alone is beyond the limit. The token ids of a cut
    text are those of the whole one when what is left of it fills the model's longest row and the tokenizer decides word by word. They can differ when it
    does not: a text that begins with much that makes no token, one endless word, a tokenizer that looks at the whole text, a text that is read from its
    end (``truncation_side`` is ``left``) by a tokenizer that treats the first word in its own way. So a cut text is always marked as truncated.
    """

    def __init__(self, tokenizer: Tokenizer, left: bool) -> None:
        """Asks the tokenizer whether it tells two blanks from one.

        Args:
            tokenizer: whose input is limited.
            left: it reads the end of a text that is too long, not its beginning.
        """
        self._tokenizer, self._left = tokenizer, left
        probe = "".join(f"{blank} {blank} a{blank}{blank}b" for blank in _BLANKS) + _BLANKS
        self._collapses = tokenizer.encode(probe).ids == tokenizer.encode(_COLLAPSE.sub(r"\1", probe)).ids

    def fit(self, text: str, limit: Limit, place: str) -> tuple[str, bool]:
        """A text that may go to the tokenizer, and whether it was cut.

        White space beyond the limit is collapsed where the tokenizer does so itself; else a text may have four times the limit with all of it.

        Args:
            text: of any length.
            limit: that holds.
            place: of the text among the inputs, for the message.

        Raises:
            InputError: for a text that is longer, where it is not to be cut, or one that is not encodable as UTF-8.
        """
        if len(text) <= limit.characters:
            check_unicode(text, place)
            return text, False
        read = text[::-1] if self._left else text
        end = _end(read, limit.characters)
        end = end if self._collapses else min(end, _KEPT_BLANKS * limit.characters)
        if end < len(read) and not limit.truncate:
            raise InputError(
                f"Input{place} has more than {limit.characters} characters, the limit here (each run of white space counts as one). "
                "Shorten it; or load the bundle with truncate=True to have it cut, or with a larger max_characters.",
                code="text-too-long",
            )
        cut = end < len(read)
        kept = read[: end + cut]  # with the next character, which tells whether a word is cut
        kept = kept[::-1] if self._left else kept
        kept = _COLLAPSE.sub(r"\1", kept) if self._collapses else kept
        check_unicode(kept, place)
        return (self._whole_words(kept), True) if cut else (kept, False)

    def _whole_words(self, text: str) -> str:
        """Leaves out the character at the cut and the rest of its word; where the text is a single one, it stays."""
        first = self._tokenizer.encode(text, add_special_tokens=False)
        words: dict[int, tuple[int, int]] = {}
        for piece in (first, *first.overflowing):
            for word, (start, end) in zip(piece.word_ids, piece.offsets, strict=True):
                if word is not None:
                    low, high = words.get(word, (start, end))
                    words[word] = (min(low, start), max(high, end))
        if self._left:
            border = max((end for start, end in words.values() if start < 1), default=1)
            if border >= len(text):
                blank = re.search(_BLANK, text)
                border = blank.end() if blank else 1
            return text[border:]
        border = min((start for start, end in words.values() if end >= len(text)), default=len(text) - 1)
        return text[: border or max((m.start() for m in re.finditer(_BLANK, text)), default=len(text) - 1)]


def check_rows(texts: Sequence[str | tuple[str, str]], max_length: int, where: str) -> None:
    """Holds the rows of a file to the default limit: a row that a session would not read as it stands says nothing about it.

    Args:
        texts: texts or pairs, in the order of the file.
        max_length: tokens of the model's longest row.
        where: the file, for the message.

    Raises:
        SamplesError: with the number of the first row that is longer.
    """
    most = CHARACTERS_A_TOKEN * max_length
    for row, text in enumerate(texts, 1):
        if any(
            len(part) > most and _end(part, most) < len(part) for part in (text if isinstance(text, tuple) else (text,))
        ):
            raise SamplesError(
                f"{where}, row {row} has more than {most} characters (each run of white space counts as one), and a session refuses such a text: "
                f"the model reads {max_length} tokens. Shorten the row, or leave it out.",
                code="samples-text-too-long",
            )


def _end(text: str, characters: int) -> int:
    """Index behind so many first characters of a text, each run of white space counted as one; its length where it has no more."""
    end, position = characters, 0
    while end < len(text):
        run = _RUN.search(text, position, end + 1)
        if run is None:
            return end
        behind = _OTHER.search(text, run.end())
        position = len(text) if behind is None else behind.start()
        end += position - run.start() - 1
    return len(text)


def check_unicode(text: str, place: str) -> None:
    """Refuses a text that UTF-8 cannot encode.

    Args:
        text: to look at.
        place: of the text among the inputs, for the message.

    Raises:
        InputError: for a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise InputError(
            f"Input{place} holds a lone surrogate (character {problem.start}), which is not text. "
            "Decode the bytes with errors='replace' before you pass them.",
            code="text-surrogate",
        ) from problem
