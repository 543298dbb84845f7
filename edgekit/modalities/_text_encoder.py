"""Encoding of texts to token ids on a device, with the tokenizers library and numpy."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import cast

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgekit.modalities._word_memory import WordMemory
from edgekit.modalities.limits import CHARACTERS_A_TOKEN, Fitter, Limit
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError, UsageError, near
from edgekit.spec.protocols import Encoded

_LOG = logging.getLogger(__name__)

Text = str | tuple[str, str]
"""One example: a text, or a pair of texts."""

# Characters that are encoded in one call. The tokenizers library keeps about 100 bytes for each character it cuts off.
_AT_ONCE = 2**20
_ID = np.dtype(np.int64)
_UNBOUNDED = 2**32  # More than any id of the library.
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
        remembers_words: bool = False,
    ) -> None:
        """Read the tokenizer.

        Args:
            path: Path of a ``tokenizer.json``.
            inputs: Names of the model's inputs, from ``input_ids``, ``attention_mask`` and ``token_type_ids``.
            max_length: Length of the longest row in tokens, special tokens included.
            truncation_side: Side where a longer text is cut, ``right`` or ``left``.
            tables: Number of rows of the embedding table behind each input of ids, where it is known.
            remembers_words: Whether ids of words are remembered, if the tokenizer works word by word.

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
            probe = self._tokenizer.encode(_PROBE)
            # Token types come from the template around a text, so they do not depend on the text.
            self._has_types = any(probe.type_ids)
            self._fitter = Fitter(self._tokenizer, left=truncation_side == "left")
        self._path = str(path)
        self._inputs = inputs
        self._tables = {name: rows for name, rows in (tables or {}).items() if name in inputs}
        self._rows = self._tables.get("input_ids", _UNBOUNDED)
        self._type_rows = self._tables.get("token_type_ids", _UNBOUNDED)
        self._max_length = max_length
        self._translation = translate_tokenizer_errors(f"{path} cannot encode a text")
        self._memory: WordMemory | None = None
        if not self.remember_words(remembers_words) and remembers_words:
            _LOG.warning("%s: words are not remembered, because this tokenizer does not work word by word", path)
        self.set_limit()

    @property
    def remembers_words(self) -> bool:
        """Whether ids of words are remembered."""
        return self._memory is not None

    def remember_words(self, on: bool) -> bool:
        """Remember ids of words from now on, or stop it and forget them.

        Args:
            on: Whether to remember.

        Returns:
            Whether ids of words are remembered now: no, if the tokenizer does not work word by word.
        """
        self._memory = None
        if on:
            with translate_tokenizer_errors(f"{self._path} cannot be used as a tokenizer"):
                self._memory = WordMemory.of(self._tokenizer, self._tables)
        return self._memory is not None

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
        with self._translation:
            if len(texts) == 1:
                text, cut = self._fit(texts[0], None)
                return [self._recall(text, cut) or self._make_row(text, cut, self._encode(text), None)]
            fitted = [self._fit(text, index) for index, text in enumerate(texts)]
            rows = [self._recall(*text) for text in fitted]
            missing = [index for index, row in enumerate(rows) if row is None]
            encodings = self._encode_all([fitted[index][0] for index in missing])
            for index, encoding in zip(missing, encodings, strict=True):
                rows[index] = self._make_row(*fitted[index], encoding, index)
        return cast("list[Encoded]", rows)

    def to_json(self) -> str:
        """Return the tokenizer in the format of ``tokenizer.json``."""
        return self._tokenizer.to_str()

    def _recall(self, text: Text, cut: bool) -> Encoded | None:
        """Return the row of a text whose words give its ids; None for all others."""
        memory = self._memory
        if memory is None or not isinstance(text, str):
            return None
        ids = memory.ids(text, self._max_length)
        if ids is None:
            return None
        arrays = {}
        for name in self._inputs:
            if name == "input_ids":
                arrays[name] = ids
            elif name == "attention_mask":
                arrays[name] = _ones(len(ids))
            else:
                arrays[name] = memory.types(len(ids))
        return Encoded(arrays, cut)

    def _encode(self, text: Text) -> Encoding:
        return self._tokenizer.encode(*text) if isinstance(text, tuple) else self._tokenizer.encode(text)

    def _encode_all(self, texts: Sequence[Text]) -> list[Encoding]:
        """Return the encoding of each text by the tokenizer."""
        if len(texts) == 1:
            return [self._encode(texts[0])]
        encodings = []
        for batch in _batches(texts):
            encodings += self._tokenizer.encode_batch(batch)
        return encodings

    def _fit(self, text: Text, index: int | None) -> tuple[Text, bool]:
        """Return the checked text or pair within the limit, and whether it was cut."""
        place = "" if index is None else f" at position {index}"
        if isinstance(text, str):
            return self._fitter.fit(text, self.limit, place)
        _check_pair(text, place)
        first, first_cut = self._fitter.fit(text[0], self.limit, f"{place} (first of the pair)")
        second, second_cut = self._fitter.fit(text[1], self.limit, f"{place} (second of the pair)")
        return (first, second), first_cut or second_cut

    def _make_row(self, text: Text, cut: bool, encoding: Encoding, index: int | None) -> Encoded:
        """Return the row of an encoding.

        Ids of remembered words were checked when they were remembered; all others are checked here.
        """
        ids = encoding.ids
        has_types = self._has_types or isinstance(text, tuple)
        types = encoding.type_ids if has_types else ()
        arrays = {}
        for name in self._inputs:
            if name == "input_ids":
                arrays[name] = np.array(ids, _ID)
            elif name == "attention_mask":
                # Nothing is padded here, so every token counts.
                arrays[name] = _ones(len(ids))
            else:
                arrays[name] = np.array(types, _ID) if has_types else np.zeros(len(ids), _ID)
        # The library has no negative ids.
        if max(ids, default=0) >= self._rows or max(types, default=0) >= self._type_rows:
            check_ids(arrays, self._tables, index)
        return Encoded(arrays, cut or bool(encoding.overflowing))


def _ones(length: int) -> np.ndarray:
    """Return ones: int64 ``[length]``. It takes a fifth of the time of ``numpy.ones`` for a short row."""
    array = np.empty(length, _ID)
    array.fill(1)
    return array


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
        # As unsigned numbers, negative ids are the largest: one pass instead of two.
        unsigned = ids.view(np.uint64) if ids.dtype == np.int64 else ids
        if ids.size and (int(unsigned.max()) >= rows or (unsigned is ids and int(ids.min()) < 0)):
            wrong = int(ids[(ids >= rows) | (ids < 0)].flat[0])
            place = "" if index is None else f" at position {index}"
            raise InputError(
                f"Input{place} has the id {wrong} in {name}, but the model's table has {rows} rows (0 to {rows - 1}). "
                "Pass a pair of texts only to a model trained on pairs, and added tokens only to a model trained with "
                "them.",
                code="text-id-outside",
            )


def _batches(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """Yield batches of at most ``_AT_ONCE`` characters and at least one text."""
    batch: list[Text] = []
    characters = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if batch and characters + length > _AT_ONCE:
            yield batch
            batch = []
            characters = 0
        batch.append(text)
        characters += length
    if batch:
        yield batch


class translate_tokenizer_errors:
    """Context manager that translates errors of the tokenizers library into IntegrityError.

    The library raises bare ``Exception``, and its panics are no ``Exception`` at all. It has no state, so one object
    serves all calls.
    """

    def __init__(self, problem: str) -> None:
        """Create the context manager.

        Args:
            problem: Beginning of the message.
        """
        self._problem = problem

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Translate an error.

        Raises:
            IntegrityError: If the library failed. The text of a panic is left out, since it may quote the input.
        """
        if error is None or isinstance(error, (UsageError, IntegrityError)):
            return
        is_panic = kind is not None and kind.__name__ == "PanicException"
        if not is_panic and not isinstance(error, Exception):
            return
        reason = "the tokenizers library panicked" if is_panic else error
        raise IntegrityError(f"{self._problem} ({reason}). {_REMEDY}", code="bundle-assets") from error


def _check_pair(text: object, place: str) -> None:
    """Raise InputError for a value that is neither a text nor a pair of texts."""
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
