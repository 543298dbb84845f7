"""The limit of characters of a text.

A tokenizer reads the whole text before it truncates, so a text without a limit takes unlimited time and memory: 1.6 GB
for 10 million characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from edgekit.spec.errors import InputError, SamplesError

__all__ = ["CHARACTERS_A_TOKEN", "Fitter", "Limit", "check_rows", "check_unicode"]

CHARACTERS_A_TOKEN = 64
"""Characters that the default limit allows for each token of the longest row. An English word has about 5."""

# Multiple of the limit that a text may have with all its white space, if the tokenizer does not collapse white space.
_KEPT_BLANKS = 4

# White space that BERT's normalizer replaces by a space. It removes the other white space characters (line tabulation,
# form feed, separators, NEL) as control characters.
_BLANK = r"[^\S\x0b\x0c\x1c-\x1f\x85]"
_RUN = re.compile(_BLANK * 2)
_OTHER = re.compile(r"[\S\x0b\x0c\x1c-\x1f\x85]")
_COLLAPSE = re.compile(f"({_BLANK}){_BLANK}+")
_NO_BLANKS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"  # The rest of Python's white space.
_CHUNK = 4096
_NEAR = 512  # Characters next to a cut, in which its word is looked for first.
_BLANKS = " \t\n\r\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Limit:
    """A limit of the characters of a text, or of each text of a pair.

    Attributes:
        characters: Largest number of characters; a run of white space counts as one.
        truncate: Whether a longer text is cut instead of refused.
    """

    characters: int
    truncate: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: If ``characters`` is not a whole number of at least 1, or ``truncate`` is not a bool.
        """
        if not isinstance(self.characters, int) or isinstance(self.characters, bool) or self.characters < 1:
            raise InputError(
                f"max_characters is {self.characters!r}, expected a whole number of at least 1. "
                f"Leave it out for the default of {CHARACTERS_A_TOKEN} per token.",
                code="limit-invalid",
            )
        if not isinstance(self.truncate, bool):
            raise InputError(f"truncate is {self.truncate!r}, expected True or False.", code="limit-invalid")


class Fitter:
    """Applies a limit to texts before a tokenizer reads them.

    A text within the limit is returned unchanged. A longer text is refused or cut: at the border of a pre-token (a part
    that the tokenizer never joins with the next one), or at white space if the tokenizer has no pre-tokens, or inside a
    word that exceeds the limit by itself.

    A cut text has the token ids of the whole text if the rest still fills the model's longest row and the tokenizer
    works word by word. The ids can differ for texts that begin with many characters without tokens, for endless words,
    for tokenizers that normalize the whole text, and for tokenizers that treat the first word specially when
    ``truncation_side`` is ``left``. So a cut text is always marked as truncated.
    """

    def __init__(self, tokenizer: Tokenizer, left: bool) -> None:
        """Test whether the tokenizer collapses white space.

        Args:
            tokenizer: Tokenizer whose input is limited.
            left: Whether the tokenizer keeps the end of a long text instead of its beginning.
        """
        self._tokenizer = tokenizer
        self._left = left
        probe = "".join(f"{space} {space} a{space}{space}b" for space in _BLANKS) + _BLANKS
        self._collapses = tokenizer.encode(probe).ids == tokenizer.encode(_COLLAPSE.sub(r"\1", probe)).ids

    def fit(self, text: str, limit: Limit, place: str) -> tuple[str, bool]:
        """Return the text for the tokenizer, and whether it was cut.

        White space beyond the limit is collapsed if the tokenizer collapses it too; otherwise the text may have four
        times the limit including all white space.

        Args:
            text: Text of any length.
            limit: Limit of characters.
            place: Position of the text among the inputs, for the message.

        Raises:
            InputError: If the text is longer and must not be cut, or cannot be encoded as UTF-8.
        """
        if len(text) <= limit.characters:
            check_unicode(text, place)
            return text, False
        part, cut = self._take(text, limit.characters)
        if cut and not limit.truncate:
            raise InputError(
                f"Input{place} has more than {limit.characters} characters, the limit here (each run of white space "
                "counts as one). Shorten it, or load the bundle with truncate=True to have it cut, or with a larger "
                "max_characters.",
                code="text-too-long",
            )
        check_unicode(part, place)
        return (self._drop_cut_word(part), True) if cut else (part, False)

    def _take(self, text: str, characters: int) -> tuple[str, bool]:
        """Return the part of a text that is read, and whether it is cut.

        A part that is cut has one character more, at the cut: it shows whether a word is cut. No more of the text is
        looked at than that needs.
        """
        if self._collapses:
            part = _take_collapsed(text, characters, self._left)
            cut = len(part) > characters
            if cut:
                part = part[-characters - 1 :] if self._left else part[: characters + 1]
            return part, cut
        most = _KEPT_BLANKS * characters
        near = text[-most - 1 :][::-1] if self._left else text[: most + 1]
        end = min(_end(near, characters), most)
        cut = end < len(near)
        part = near[: end + cut]
        return (part[::-1] if self._left else part), cut

    def _drop_cut_word(self, text: str) -> str:
        """Remove the character at the cut and the rest of its word, unless the text is a single word.

        Words end at white space, so the characters between the cut and a near white space tell where its word begins.
        """
        if self._left:
            last = _last_blank(text[:_NEAR])
            return text[self._end_of_first(text if last is None else text[: last + 1]) :]
        near = max(0, len(text) - _NEAR)
        space = re.search(_BLANK, text[near:])
        start = near + space.start() if near and space else 0
        return text[: start + self._start_of_last(text[start:])]

    def _start_of_last(self, text: str) -> int:
        """Return the index of the first character of the last word; the last blank if there are no words."""
        words = self._words(text)
        at_cut = {word for word, _, end in words if end >= len(text)}
        border = min((start for word, start, _ in words if word in at_cut), default=len(text) - 1)
        if border:
            return border
        space = _last_blank(text)
        return len(text) - 1 if space is None else space

    def _end_of_first(self, text: str) -> int:
        """Return the index behind the first word; behind the first blank if there are no words."""
        words = self._words(text)
        at_cut = {word for word, start, _ in words if start < 1}
        border = max((end for word, _, end in words if word in at_cut), default=1)
        if border < len(text):
            return border
        space = re.search(_BLANK, text)
        return space.end() if space else 1

    def _words(self, text: str) -> list[tuple[int, int, int]]:
        """Return the index of each token's word, and the token's first character and its end."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = []
        for piece in (encoding, *encoding.overflowing):
            for word, (start, end) in zip(piece.word_ids, piece.offsets, strict=True):
                if word is not None:
                    words.append((word, start, end))
        return words


def check_rows(texts: Sequence[str | tuple[str, str]], max_length: int, where: str) -> None:
    """Check the rows of a file against the default limit.

    A session would refuse a longer row, so a result on that row would say nothing about the session.

    Args:
        texts: Texts or pairs, in the order of the file.
        max_length: Length of the model's longest row, in tokens.
        where: Name of the file, for the message.

    Raises:
        SamplesError: If a row is longer; the message has the number of the first such row.
    """
    limit = CHARACTERS_A_TOKEN * max_length
    for number, text in enumerate(texts, 1):
        parts = text if isinstance(text, tuple) else (text,)
        if any(len(part) > limit and len(_take_collapsed(part, limit)) > limit for part in parts):
            raise SamplesError(
                f"{where}, row {number} has more than {limit} characters (each run of white space counts as one), "
                f"which a session refuses: the model reads {max_length} tokens. Shorten or remove the row.",
                code="samples-text-too-long",
                row=number,
            )


def _take_collapsed(text: str, characters: int, left: bool = False) -> str:
    """Return the beginning of a text, each run of white space collapsed to one character of the run.

    Args:
        text: Text of any length.
        characters: Number of characters after which no more of the text is looked at.
        left: Whether the end of the text is returned instead of its beginning.

    Returns:
        The whole text, collapsed, if it has at most that many characters; otherwise more characters than that.
    """
    pieces = []
    count = 0
    blank_chunk = ""
    is_behind_blank = False
    for start in range(0, len(text), _CHUNK):
        stop = len(text) - start
        chunk = text[max(0, stop - _CHUNK) : stop] if left else text[start : start + _CHUNK]
        # Millions of equal blanks are compared with the chunk before, which is faster than to look at each one.
        if is_behind_blank and chunk == blank_chunk:
            continue
        piece = _collapse(chunk)
        if len(piece) == 1 and len(chunk) == _CHUNK:
            blank_chunk = chunk
        if is_behind_blank and _is_blank(piece[-1] if left else piece[0]):
            piece = piece[:-1] if left else piece[1:]
        if piece:
            pieces.append(piece)
            count += len(piece)
            is_behind_blank = _is_blank(piece[0] if left else piece[-1])
        if count > characters:
            break
    return "".join(reversed(pieces) if left else pieces)


def _collapse(chunk: str) -> str:
    """Return a text with each run of white space collapsed to its first character."""
    pieces = []
    position = 0
    while run := _RUN.search(chunk, position):
        pieces.append(chunk[position : run.start() + 1])
        position = _skip_blanks(chunk, run.end())
    return "".join([*pieces, chunk[position:]]) if pieces else chunk


def _skip_blanks(text: str, start: int) -> int:
    """Return the index of the first character from ``start`` on that is no blank; the length of the text without one.

    The methods of str are 30 times as fast as a regular expression, but strip other white space too.
    """
    rest = text[start:]
    stop = start + len(rest) - len(rest.lstrip())
    if stop > start and any(char in text[start:stop] for char in _NO_BLANKS):
        match = _OTHER.search(text, start)
        return len(text) if match is None else match.start()
    return stop


def _last_blank(text: str) -> int | None:
    """Return the index of the last white space; None without one."""
    return max((match.start() for match in re.finditer(_BLANK, text)), default=None)


def _is_blank(char: str) -> bool:
    return char.isspace() and char not in _NO_BLANKS


def _end(text: str, characters: int) -> int:
    """Return the index behind the first ``characters`` characters, with each run of white space counted as one.

    The result is the text's length if it has no more.
    """
    end = characters
    position = 0
    while end < len(text):
        run = _RUN.search(text, position, end + 1)
        if run is None:
            return end
        behind = _OTHER.search(text, run.end())
        position = len(text) if behind is None else behind.start()
        end += position - run.start() - 1
    return len(text)


def check_unicode(text: str, place: str) -> None:
    """Check that UTF-8 can encode a text.

    Args:
        text: Text to check.
        place: Position of the text among the inputs, for the message.

    Raises:
        InputError: If the text has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise InputError(
            f"Input{place} contains a lone surrogate (character {problem.start}), which is not text. "
            "Decode the bytes with errors='replace' first.",
            code="text-surrogate",
        ) from problem
