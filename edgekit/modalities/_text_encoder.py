"""Text to token ids on a device: the tokenizers library and numpy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgekit.modalities.limits import CHARACTERS_A_TOKEN, Fitter, Limit
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError, UsageError, near
from edgekit.spec.protocols import Encoded

Text = str | tuple[str, str]
"""One example: a text, or a pair of texts."""

_AT_ONCE = (
    2**20
)  # characters that are encoded in one go: what the tokenizers library keeps of the cut-off part takes some 100 bytes a character
_PROBE = "a b c d e f g h"


class TextEncoder:
    """Encodes texts exactly as the Hugging Face tokenizer that wrote ``tokenizer.json``. Safe to use from threads."""

    _FIELDS = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(
        self,
        path: Content,
        inputs: tuple[str, ...],
        max_length: int,
        truncation_side: str = "right",
        *,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        """Reads the tokenizer.

        Args:
            path: a ``tokenizer.json``.
            inputs: which of ``input_ids``, ``attention_mask``, ``token_type_ids`` the model is fed.
            max_length: tokens of the longest row, special tokens included.
            truncation_side: ``right`` or ``left``: which end of a longer text is cut off.
            tables: rows of the table that the ids of an input are looked up in, by input name, where that is known.

        Raises:
            IntegrityError: when the file is not one that the tokenizers library reads and can use, or the settings do not fit it.
        """
        remedy = "Build or copy the bundle again."
        if unknown := [name for name in inputs if name not in self._FIELDS]:
            raise IntegrityError(
                f"{path}: a tokenizer does not fill the input '{unknown[0]}'.{near(unknown[0], self._FIELDS)} {remedy}",
                code="bundle-assets",
            )
        if truncation_side not in ("left", "right"):
            raise IntegrityError(
                f"{path}: truncation_side is {truncation_side!r}, expected 'left' or 'right'. {remedy}",
                code="bundle-assets",
            )
        with typed(f"{path} cannot be read as a tokenizer"):
            self._tokenizer = Tokenizer.from_buffer(path.read_bytes())
        with typed(f"{path} cannot be used as a tokenizer"):
            self._tokenizer.no_padding()
            special = self._tokenizer.num_special_tokens_to_add(False)
            if not special < max_length < 2**31:  # with less the library would cut nothing at all
                raise IntegrityError(
                    f"{path}: rows have at most {max_length} tokens, expected more than the {special} special ones. {remedy}",
                    code="bundle-assets",
                )
            # The pair is shortened at its longer side first, as Transformers does with truncation=True.
            self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=truncation_side)
            self._tokenizer.encode(_PROBE)  # some files are read, and fail at the first text
            self._fitter = Fitter(self._tokenizer, left=truncation_side == "left")
        self._path = str(path)
        self._inputs = inputs
        self._tables = {name: rows for name, rows in (tables or {}).items() if name in inputs}
        self._max_length = max_length
        self.set_limit()

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Sets how long a text may be; by default ``CHARACTERS_A_TOKEN`` characters for each token of the longest row.

        Args:
            characters: most that a text may have, or each text of a pair, each run of white space counted as one.
            truncate: cut a longer text and mark it in place of refusing it, see :class:`Fitter`.

        Raises:
            InputError: when one of them is of another type or out of range.
        """
        self.limit = Limit(CHARACTERS_A_TOKEN * self._max_length if characters is None else characters, truncate)

    def __call__(self, texts: list[Text]) -> list[Encoded]:
        """Encodes each text or pair.

        Raises:
            InputError: for anything that is not a str or a tuple of two, that is not encodable as UTF-8, that is beyond ``limit``, or
                whose ids are beyond the model's tables.
            IntegrityError: when the tokenizers library fails at one of them.
        """
        with typed(f"{self._path} fails at what it was to encode"):
            fitted = [self._fit(text, index if len(texts) > 1 else None) for index, text in enumerate(texts)]
            if len(texts) == 1:
                text, cut = fitted[0]
                pair = text if isinstance(text, tuple) else (text, None)
                rows = [self._tokens(self._tokenizer.encode(pair[0], pair[1]), cut)]
            else:
                rows = [row for part in _parts(fitted) for row in self._encode(part)]
        for index, row in enumerate(rows):
            check_ids(row.arrays, self._tables, index if len(rows) > 1 else None)
        return rows

    def to_json(self) -> str:
        """The tokenizer as a ``tokenizer.json`` has it."""
        return self._tokenizer.to_str()

    def _encode(self, part: list[tuple[Text, bool]]) -> list[Encoded]:
        encodings = self._tokenizer.encode_batch([text for text, _ in part])
        return [self._tokens(encoding, cut) for encoding, (_, cut) in zip(encodings, part, strict=True)]

    def _fit(self, text: Text, index: int | None) -> tuple[Text, bool]:
        """A checked text or pair within the limit, and whether it was cut."""
        place = "" if index is None else f" at position {index}"
        _check_type(text, place)
        if isinstance(text, str):
            return self._fitter.fit(text, self.limit, place)
        first, second = (
            self._fitter.fit(part, self.limit, f"{place} ({name} of the pair)")
            for part, name in zip(text, ("first", "second"), strict=True)
        )
        return (first[0], second[0]), first[1] or second[1]

    def _tokens(self, encoding: Encoding, cut: bool) -> Encoded:
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        arrays = {name: np.array(columns[name], np.int64) for name in self._inputs}
        return Encoded(arrays, cut or bool(encoding.overflowing))


def check_ids(arrays: Mapping[str, np.ndarray], tables: Mapping[str, int], index: int | None) -> None:
    """Refuses ids that a model has no row for: backends answer such from memory that is not the table's, or fail the whole list.

    Args:
        arrays: input name to ids, of any shape.
        tables: rows of each input's table.
        index: of the text in its list, for the message; None where there is but one.

    Raises:
        InputError: with the first such id.
    """
    for name, rows in tables.items():
        ids = arrays[name]
        if ids.size and (int(ids.max()) >= rows or int(ids.min()) < 0):
            wrong = int(ids[(ids >= rows) | (ids < 0)].flat[0])
            place = "" if index is None else f" at position {index}"
            raise InputError(
                f"Input{place} has the id {wrong} in {name}, and the model's table has {rows} rows (0 to {rows - 1}). "
                "A pair of texts goes only into a model that was trained on pairs; a token that was added needs a row that was trained.",
                code="text-id-outside",
            )


def _parts(fitted: list[tuple[Text, bool]]) -> Iterator[list[tuple[Text, bool]]]:
    """A list in pieces of at most ``_AT_ONCE`` characters, but of one text at least."""
    part: list[tuple[Text, bool]] = []
    characters = 0
    for text, cut in fitted:
        length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if part and characters + length > _AT_ONCE:
            yield part
            part, characters = [], 0
        part.append((text, cut))
        characters += length
    if part:
        yield part


@contextlib.contextmanager
def typed(what: str) -> Iterator[None]:
    """Makes an error of the tokenizers library one of a bundle. It raises bare ``Exception``, and its panics are no ``Exception`` at all.

    Raises:
        IntegrityError: with ``what``, and only the kind of a panic: its words may quote the text.
    """
    try:
        yield
    except (UsageError, IntegrityError):
        raise
    except BaseException as problem:
        panic = type(problem).__name__ == "PanicException"
        if not panic and not isinstance(problem, Exception):
            raise
        raise IntegrityError(
            f"{what} ({'the tokenizers library panicked' if panic else problem}). Build or copy the bundle again.",
            code="bundle-assets",
        ) from problem


def _check_type(text: object, place: str) -> None:
    if isinstance(text, str) or (isinstance(text, tuple) and len(text) == 2 and all(isinstance(p, str) for p in text)):
        return
    got = type(text).__name__
    if isinstance(text, tuple):
        got = (
            f"a tuple of {len(text)}"
            if len(text) != 2
            else "a tuple of " + " and ".join(type(p).__name__ for p in text)
        )
    raise InputError(
        f"Input{place} is {got}, expected a str, or a tuple of two str for a pair of texts. Pass text, or a list of texts.",
        code="input-type",
    )
