"""Encoding of texts to token ids on a device, with the tokenizers library and numpy."""

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

# Characters that are encoded in one call. The tokenizers library keeps about 100 bytes for each character it cuts off.
_AT_ONCE = 2**20
_PROBE = "a b c d e f g h"
_REMEDY = "Build or copy the bundle again."


class TextEncoder:
    """Encodes texts exactly as the Hugging Face tokenizer that wrote ``tokenizer.json``. It is thread-safe."""

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
        """Read the tokenizer.

        Args:
            path: Path of a ``tokenizer.json``.
            inputs: Names of the model's inputs, from ``input_ids``, ``attention_mask`` and ``token_type_ids``.
            max_length: Length of the longest row in tokens, special tokens included.
            truncation_side: Side where a longer text is cut, ``right`` or ``left``.
            tables: Number of rows of the embedding table behind each input of ids, where it is known.

        Raises:
            IntegrityError: If the tokenizers library cannot read or use the file, or the settings do not fit it.
        """
        unknown = [name for name in inputs if name not in self._FIELDS]
        if unknown:
            raise IntegrityError(
                f"{path}: a tokenizer has no output for the input '{unknown[0]}'.{near(unknown[0], self._FIELDS)} "
                f"{_REMEDY}",
                code="bundle-assets",
            )
        if truncation_side not in ("left", "right"):
            raise IntegrityError(
                f"{path}: truncation_side is {truncation_side!r}, expected 'left' or 'right'. {_REMEDY}",
                code="bundle-assets",
            )
        with translate_tokenizer_errors(f"{path} cannot be read as a tokenizer"):
            self._tokenizer = Tokenizer.from_buffer(path.read_bytes())
        with translate_tokenizer_errors(f"{path} cannot be used as a tokenizer"):
            self._tokenizer.no_padding()
            special = self._tokenizer.num_special_tokens_to_add(False)
            # With a smaller max_length the library would not truncate at all.
            if not special < max_length < 2**31:
                raise IntegrityError(
                    f"{path}: rows have at most {max_length} tokens, expected more than the {special} special tokens. "
                    f"{_REMEDY}",
                    code="bundle-assets",
                )
            # The longer text of a pair is cut first, as Transformers does with truncation=True.
            self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=truncation_side)
            # Some invalid files load without an error and fail at the first text.
            self._tokenizer.encode(_PROBE)
            self._fitter = Fitter(self._tokenizer, left=truncation_side == "left")
        self._path = str(path)
        self._inputs = inputs
        self._tables = {name: rows for name, rows in (tables or {}).items() if name in inputs}
        self._max_length = max_length
        self.set_limit()

    def set_limit(self, characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit of characters of a text.

        Args:
            characters: Largest number of characters of a text, or of each text of a pair; a run of white space counts
                as one. The default is ``CHARACTERS_A_TOKEN`` for each token of the longest row.
            truncate: Whether a longer text is cut and marked instead of refused, see :class:`Fitter`.

        Raises:
            InputError: If a value has another type or is out of range.
        """
        if characters is None:
            characters = CHARACTERS_A_TOKEN * self._max_length
        self.limit = Limit(characters, truncate)

    def __call__(self, texts: list[Text]) -> list[Encoded]:
        """Encode each text or pair.

        Raises:
            InputError: If an input is not a str or a tuple of two, cannot be encoded as UTF-8, exceeds ``limit``, or
                has ids outside the model's tables.
            IntegrityError: If the tokenizers library fails.
        """
        with translate_tokenizer_errors(f"{self._path} cannot encode a text"):
            if len(texts) == 1:
                fitted = [self._fit(texts[0], None)]
                text, cut = fitted[0]
                pair = text if isinstance(text, tuple) else (text, None)
                rows = [self._make_row(self._tokenizer.encode(pair[0], pair[1]), cut)]
            else:
                fitted = [self._fit(text, index) for index, text in enumerate(texts)]
                rows = [row for batch in _batches(fitted) for row in self._encode(batch)]
        for index, row in enumerate(rows):
            check_ids(row.arrays, self._tables, index if len(rows) > 1 else None)
        return rows

    def to_json(self) -> str:
        """Return the tokenizer in the format of ``tokenizer.json``."""
        return self._tokenizer.to_str()

    def _encode(self, batch: list[tuple[Text, bool]]) -> list[Encoded]:
        encodings = self._tokenizer.encode_batch([text for text, _ in batch])
        return [self._make_row(encoding, cut) for encoding, (_, cut) in zip(encodings, batch, strict=True)]

    def _fit(self, text: Text, index: int | None) -> tuple[Text, bool]:
        """Return the checked text or pair within the limit, and whether it was cut."""
        place = "" if index is None else f" at position {index}"
        _check_type(text, place)
        if isinstance(text, str):
            return self._fitter.fit(text, self.limit, place)
        first, first_cut = self._fitter.fit(text[0], self.limit, f"{place} (first of the pair)")
        second, second_cut = self._fitter.fit(text[1], self.limit, f"{place} (second of the pair)")
        return (first, second), first_cut or second_cut

    def _make_row(self, encoding: Encoding, cut: bool) -> Encoded:
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        arrays = {name: np.array(columns[name], np.int64) for name in self._inputs}
        return Encoded(arrays, cut or bool(encoding.overflowing))


def check_ids(arrays: Mapping[str, np.ndarray], tables: Mapping[str, int], index: int | None) -> None:
    """Check that all ids are inside the model's tables.

    For other ids, backends read memory outside the table or fail for the whole list.

    Args:
        arrays: Ids of any shape, by input name.
        tables: Number of rows of the embedding table, by input name.
        index: Index of the text in its list, for the message; None for a single text.

    Raises:
        InputError: If an id is outside; the message has the first such id.
    """
    for name, rows in tables.items():
        ids = arrays[name]
        if ids.size and (int(ids.max()) >= rows or int(ids.min()) < 0):
            wrong = int(ids[(ids >= rows) | (ids < 0)].flat[0])
            place = "" if index is None else f" at position {index}"
            raise InputError(
                f"Input{place} has the id {wrong} in {name}, but the model's table has {rows} rows (0 to {rows - 1}). "
                "Pass a pair of texts only to a model trained on pairs, and added tokens only to a model trained with "
                "them.",
                code="text-id-outside",
            )


def _batches(fitted: list[tuple[Text, bool]]) -> Iterator[list[tuple[Text, bool]]]:
    """Yield batches of at most ``_AT_ONCE`` characters and at least one text."""
    batch: list[tuple[Text, bool]] = []
    characters = 0
    for text, cut in fitted:
        length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if batch and characters + length > _AT_ONCE:
            yield batch
            batch = []
            characters = 0
        batch.append((text, cut))
        characters += length
    if batch:
        yield batch


@contextlib.contextmanager
def translate_tokenizer_errors(problem: str) -> Iterator[None]:
    """Translate errors of the tokenizers library into IntegrityError.

    The library raises bare ``Exception``, and its panics are no ``Exception`` at all.

    Args:
        problem: Beginning of the message.

    Raises:
        IntegrityError: If the library fails. The text of a panic is left out, since it may quote the input.
    """
    try:
        yield
    except (UsageError, IntegrityError):
        raise
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"
        if not is_panic and not isinstance(error, Exception):
            raise
        reason = "the tokenizers library panicked" if is_panic else error
        raise IntegrityError(f"{problem} ({reason}). {_REMEDY}", code="bundle-assets") from error


def _check_type(text: object, place: str) -> None:
    if isinstance(text, str):
        return
    kind = type(text).__name__
    if isinstance(text, tuple):
        if len(text) == 2 and all(isinstance(part, str) for part in text):
            return
        kind = f"a tuple of {len(text)}"
        if len(text) == 2:
            kind = "a tuple of " + " and ".join(type(part).__name__ for part in text)
    raise InputError(
        f"Input{place} is {kind}, expected a str, or a tuple of two str for a pair of texts. "
        "Pass a text, or a list of texts.",
        code="input-type",
    )
