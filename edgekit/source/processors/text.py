"""The processor of texts: a tokenizer of Transformers, and the settings of a text model that come from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.text import Text
from edgekit.source import _values
from edgekit.source.modules import entries
from edgekit.source.processors import _text_files, _tokenizer
from edgekit.source.processors._tokenizer import check_told, load, wrap_tokenizer
from edgekit.spec.errors import ModelError
from edgekit.spec.head import Shapes, Told
from edgekit.spec.parsing import to_json
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import TensorSpec

__all__ = [
    "MODEL_TYPES",
    "NOUN",
    "OPTIONS",
    "SAME_AS",
    "altered",
    "check_inputs",
    "check_names",
    "check_told",
    "dynamic_shapes",
    "encode",
    "example_feeds",
    "facts",
    "input_specs",
    "load",
    "same",
    "survey",
    "tokenizer_json",
    "wrap_tokenizer",
]

NOUN = "tokenizer"
OPTIONS = {
    "tokenizer": "Tokenizer to use if tokenizer.json and the one that Transformers builds differ: file or transformers."
}
MODEL_TYPES = {
    "albert": "ALBERT",
    "bert": "BERT",
    "deberta-v2": "DeBERTa-v2/v3",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
}
SAME_AS = {"camembert": "roberta", "xlm-roberta": "roberta"}
_FILLED = ("input_ids", "attention_mask", "token_type_ids")


def check_names(model_id: str, names: set[str]) -> None:
    """Check that a folder has a tokenizer; see :class:`edgekit.spec.head.Processors`."""
    # Without one, Transformers creates an empty vocabulary and reports nothing.
    if not any(n == "tokenizer.json" or n.startswith("vocab.") or n.endswith(".model") for n in names):
        raise ModelError(
            f"{model_id} has no tokenizer (tokenizer.json, vocab.txt or similar). "
            "Save the model's own tokenizer in the folder: tokenizer.save_pretrained(FOLDER).",
            code="tokenizer-missing",
        )


def survey(model_id: str, folder: Path, config: Mapping[str, Any], shapes: Shapes, options: Told) -> tuple[str, ...]:
    """Compare config, weights and tokenizer files; see :class:`edgekit.spec.head.Processors`."""
    notes = _text_files.check(model_id, folder, config, shapes)
    if "tokenizer" not in options:
        return notes
    chosen = "tokenizer.json as it is" if options["tokenizer"] == "file" else "Transformers"
    return (*notes, f"The tokenizer of {chosen} was used, as requested.")


def check_inputs(model_id: str, folder: Path, processor: Any, inputs: Sequence[Text]) -> None:
    """Compare tokenizer.json with the loaded tokenizer."""
    _tokenizer.check(model_id, folder, processor, inputs, "texts of the samples")


def same(processor: Any, other: Any) -> bool:
    """Return whether two tokenizers behave the same."""
    return processor is other or tokenizer_json(processor) == tokenizer_json(other)


def altered(processor: Any, inputs: Sequence[Text], *, mask: float, swap: float, crop: float, seed: int) -> list[Text]:
    """Return augmented texts: cut to a run of words, with words masked (or left out without a mask token) and swapped.

    TinyBERT's and XtremeDistil's augmentation does the same, apart from its language model (Tang et al., "Distilling
    Task-Specific Knowledge from BERT into Simple Neural Networks", arXiv 1903.12136, section 3.3, where a run of words
    is called n-gram sampling). See :class:`edgekit.spec.head.Alters`.
    """
    rng = np.random.default_rng(seed)

    def change(text: str) -> str:
        words = re.findall(r"\S+", text)
        if len(words) < 2:
            return text
        if rng.random() < crop:
            count = int(rng.integers(1, len(words) + 1))
            first = int(rng.integers(0, len(words) - count + 1))
            words = words[first : first + count]
        for index in np.flatnonzero(rng.random(len(words) - 1) < swap):
            words[index : index + 2] = reversed(words[index : index + 2])
        is_masked = rng.random(len(words)) < mask
        if is_masked.all():
            return " ".join(words)
        for index in np.flatnonzero(is_masked):
            words[index] = processor.mask_token or ""
        return " ".join(word for word in words if word)

    results: list[Text] = []
    for text in inputs:
        results.append((change(text[0]), change(text[1])) if isinstance(text, tuple) else change(text))
    return results


def tokenizer_json(tokenizer: Any) -> str:
    """Return the tokenizer's tokenizer.json without padding and truncation, which the runtime sets."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["padding"] = data["truncation"] = None
    return to_json(data, ensure_ascii=False)


def facts(model_id: str, module: Any, tokenizer: Any) -> dict[str, Any]:
    """Return the settings of a text task that come from module and tokenizer.

    Returns:
        Dictionary with ``max_length``, ``inputs``, ``pads``, ``truncation_side`` and ``tables``.

    Raises:
        ModelError: If the tokenizer cannot be used without Transformers, or does not fit the module.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"The tokenizer of {model_id} has no tokenizer.json form, which the runtime needs. Convert it once: "
            "AutoTokenizer.from_pretrained(MODEL, use_fast=True).save_pretrained(MODEL).",
            code="tokenizer-no-json",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"The tokenizer of {model_id} has no padding token, which batches need. "
            "Set pad_token and save the tokenizer again.",
            code="tokenizer-no-padding",
        )
    inputs = tuple(name for name in tokenizer.model_input_names if name in _FILLED)
    pads = {
        "input_ids": int(tokenizer.pad_token_id),
        "attention_mask": 0,
        "token_type_ids": int(getattr(tokenizer, "pad_token_type_id", 0)),
    }
    tables = _values.tables(module)
    _values.check_tables(model_id, tokenizer, tables, pads, inputs)
    input_pads = {name: pads[name] for name in inputs}
    input_tables = {name: tables[name] for name in inputs if name in tables}
    return {
        "max_length": _max_length(getattr(module, "config", None), tokenizer),
        "inputs": inputs,
        "pads": input_pads,
        "truncation_side": getattr(tokenizer, "truncation_side", "right"),
        "tables": input_tables,
    }


def input_specs(settings: Any) -> tuple[TensorSpec, ...]:
    """Return the input specs of a text model, from settings with ``inputs`` and ``pads``."""
    return tuple(TensorSpec(name, "int64", ("batch", "sequence"), settings.pads[name]) for name in settings.inputs)


def encode(settings: Any, tokenizer: Any, texts: Sequence[Text]) -> list[Arrays]:
    """Return the tokens of each text or pair, truncated at the model's length: input name to ``int64 [sequence]``."""
    rows: list[Arrays] = []
    for text in texts:
        # Lists of one, as in training: otherwise Transformers treats a pair with an empty second text as no pair.
        parts = text if isinstance(text, tuple) else (text,)
        columns = [[part] for part in parts]
        encoded = tokenizer(*columns, truncation=True, max_length=settings.max_length)
        rows.append({name: np.array(encoded[name][0], np.int64) for name in settings.inputs})
    return rows


def example_feeds(settings: Any, tokenizer: Any) -> tuple[Any, ...]:
    """Return two example rows for tracing, one padded from the middle on: ``int64 [2, sequence]`` for each input."""
    import torch

    length = min(12, settings.max_length)
    ids = torch.full((2, length), settings.pads["input_ids"])
    candidates = range(min(len(tokenizer), 2000))
    token_ids = [i for i in candidates if i not in tokenizer.all_special_ids][: 2 * length]
    ids.view(-1)[: len(token_ids)] = torch.tensor(token_ids)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(feeds[n] for n in settings.inputs)


def dynamic_shapes(settings: Any) -> tuple[Any, ...]:
    """Return dynamic batch and sequence axes for each input."""
    import torch

    axes = {
        0: torch.export.Dim("batch", min=1, max=2**20),
        1: torch.export.Dim("sequence", min=1, max=settings.max_length),
    }
    return tuple(axes for _ in settings.inputs)


def _max_length(config: Any, tokenizer: Any) -> int:
    # A config's dict lacks names that its class maps to others (GPT-2's n_positions) or sets, so attributes are read.
    names = ("max_position_embeddings", "model_type", "pad_token_id")
    attributes = {name: getattr(config, name) for name in names if hasattr(config, name)}
    limit = _text_files.positions({**entries(config), **attributes})
    if limit is None:
        limit = _text_files.UNLIMITED + 1
    length = min(int(tokenizer.model_max_length), limit)
    if length > _text_files.UNLIMITED:
        raise ModelError(
            "The maximum length of the model is unknown: neither the tokenizer (model_max_length) nor the config "
            "(max_position_embeddings) has it. Set one of them.",
            code="model-max-length",
        )
    return length
