"""Values that several files of a text model contain: a note says which one is used, or the model is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.source.processors import _tokenizer
from edgekit.spec.errors import ModelError

OFFSET_POSITIONS = ("roberta", "mpnet")
"""Model types whose positions begin at padding_idx + 1, so that their table has fewer usable rows than rows."""

UNLIMITED = 10**6
"""More tokens than any model accepts; a tokenizer without a known length has a larger number."""

# Tables, by the ends of their names, and the key of the config with their number of rows.
_ROWS = (
    ((".word_embeddings.weight", ".tok_embeddings.weight"), "vocab_size"),
    ((".position_embeddings.weight",), "max_position_embeddings"),
    ((".token_type_embeddings.weight",), "type_vocab_size"),
)


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the number of usable positions by a config; None if it has none."""
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or not rows:
        return None
    if config.get("model_type") in OFFSET_POSITIONS:
        return rows - int(config.get("pad_token_id", 1)) - 1
    return rows


def check(
    model_id: str, folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Compare config, weights and tokenizer files.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model.
        config: Entries of config.json.
        shapes: Shapes of the weights, by their names in the model.

    Returns:
        Notes about values that differ between two files and which one is used.

    Raises:
        ModelError: If none can be used.
    """
    _check_shapes(model_id, config, shapes)
    _tokenizer.check_files(model_id, folder)
    return (*_length_notes(folder, config), *_padding_notes(folder, config))


def _check_shapes(model_id: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        for ends, key in _ROWS:
            rows = config.get(key)
            if name.endswith(ends) and shape and isinstance(rows, int) and rows and shape[0] != rows:
                raise ModelError(
                    f"{model_id}: config.json has {key} {rows}, but the weight {name} has {shape[0]} rows. "
                    "Save the model again with the config that belongs to it.",
                    code="model-config-weights",
                )


def _length_notes(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Return notes about different lengths; the smaller of tokenizer_config.json and config.json is used."""
    length = _tokenizer.read_object(folder / "tokenizer_config.json").get("model_max_length")
    by_tokenizer = int(length) if isinstance(length, (int, float)) and 0 < length <= UNLIMITED else None
    by_model = positions(config)
    used = min((n for n in (by_tokenizer, by_model) if n is not None), default=None)
    if used is None:
        return []
    notes = []
    if by_tokenizer is not None and by_model is not None and by_tokenizer != by_model:
        notes.append(
            f"tokenizer_config.json has {by_tokenizer:,} tokens (model_max_length), config.json has {by_model:,} "
            f"positions: {used:,} was used."
        )
    sentence_config = _tokenizer.read_object(folder / "sentence_bert_config.json")
    others = {
        "tokenizer.json (truncation)": _tokenizer.truncation(folder),
        "sentence_bert_config.json (max_seq_length)": sentence_config.get("max_seq_length"),
    }
    for place, number in others.items():
        if isinstance(number, int) and number != used:
            notes.append(f"{place} has {number:,} tokens: {used:,} was used.")
    return notes


def _padding_notes(folder: Path, config: Mapping[str, Any]) -> list[str]:
    by_tokenizer = _tokenizer.pad_id(folder)
    by_config = config.get("pad_token_id")
    if not isinstance(by_config, int) or by_tokenizer is None or by_tokenizer == by_config:
        return []
    return [
        f"config.json has the pad_token_id {by_config}, but the tokenizer pads with {by_tokenizer}: the tokenizer's "
        "was used; the attention mask hides it."
    ]
