"""Files of a text model that say the same thing twice: which one counts is said, or the build stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.source.processors import _tokenizer
from edgekit.spec.errors import ModelError

OFFSET_POSITIONS = ("roberta", "mpnet")
"""Positions of these count from padding_idx + 1, so that their table holds fewer usable ones than it has rows."""

UNLIMITED = 10**6
"""More tokens than any model takes: what a tokenizer says that does not know the length."""

# Tables, by the ends of their names, and the key of the config that says how many rows they have.
_ROWS = (
    ((".word_embeddings.weight", ".tok_embeddings.weight"), "vocab_size"),
    ((".position_embeddings.weight",), "max_position_embeddings"),
    ((".token_type_embeddings.weight",), "type_vocab_size"),
)


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that the table of positions holds, by the config; None where it does not say it."""
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or not rows:
        return None
    return rows - (int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in OFFSET_POSITIONS else 0)


def check(
    model_id: str, folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Compares config, weights and tokenizer files.

    Args:
        model_id: for messages.
        folder: of the model.
        config: config.json.
        shapes: of the weights, by their names in the model.

    Returns:
        A sentence for each thing that two files say differently and of which one counts.

    Raises:
        ModelError: where none can count.
    """
    _check_shapes(model_id, config, shapes)
    _tokenizer.check_files(model_id, folder)
    return (*_lengths(folder, config), *_pads(folder, config))


def _check_shapes(model_id: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        for ends, key in _ROWS:
            rows = config.get(key)
            if name.endswith(ends) and shape and isinstance(rows, int) and rows and shape[0] != rows:
                raise ModelError(
                    f"{model_id}: config.json has {key} {rows}, and the weight {name} has {shape[0]} rows. Save the "
                    "model again with the config that belongs to it.",
                    code="model-config-weights",
                )


def _lengths(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Which of several lengths counts: the shorter of what tokenizer_config.json and config.json say."""
    says = _tokenizer.read_object(folder / "tokenizer_config.json").get("model_max_length")
    by_tokenizer = int(says) if isinstance(says, (int, float)) and 0 < says <= UNLIMITED else None
    by_model = positions(config)
    counts = min((n for n in (by_tokenizer, by_model) if n is not None), default=None)
    notes = []
    if by_tokenizer is not None and by_model is not None and by_tokenizer != by_model:
        notes.append(
            f"tokenizer_config.json says {by_tokenizer:,} tokens (model_max_length), config.json {by_model:,} "
            f"positions: {counts:,} count."
        )
    others = (
        ("tokenizer.json (truncation)", _tokenizer.truncation(folder)),
        (
            "sentence_bert_config.json (max_seq_length)",
            _tokenizer.read_object(folder / "sentence_bert_config.json").get("max_seq_length"),
        ),
    )
    notes += [
        f"{where} says {n:,} tokens: {counts:,} count."
        for where, n in others
        if isinstance(n, int) and counts is not None and n != counts
    ]
    return notes


def _pads(folder: Path, config: Mapping[str, Any]) -> list[str]:
    fills, named = _tokenizer.pad_id(folder), config.get("pad_token_id")
    if not isinstance(named, int) or fills is None or fills == named:
        return []
    return [
        f"config.json has the pad_token_id {named}, the tokenizer fills short rows with {fills}: the tokenizer's "
        "counts, behind the attention mask."
    ]
