"""A smaller vocabulary: tokens that the samples do not use are removed from the tokenizer and the embedding table.

The kept tokens are those of the encoded samples, all special and added tokens, and those without which some text could
no longer be encoded. Words that the samples do not contain are split into smaller tokens and never become unknown.

Texts of the samples encode exactly as before, because everything that the tokenizer needs for them is kept: the longest
matches of WordPiece, all merges that lead to a token of BPE, the most probable pieces of Unigram.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import samples as samples_module
from edgekit import source
from edgekit.compress._tokenizer_json import kept_ids, token_names, tokenizer_with
from edgekit.compress.folders import check_output, place, save
from edgekit.modalities.text import Text
from edgekit.source import Source, processors_of
from edgekit.source.processors.text import NOUN as _NOUN
from edgekit.source.processors.text import tokenizer_json, wrap_tokenizer
from edgekit.spec.errors import ModelError, UsageError
from edgekit.spec.options import TrimVocabOptions
from edgekit.spec.parsing import plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import FilePath, SampleSource

__all__ = ["DISCLOSES", "Trimmed", "read_tokens", "trim_source", "trim_vocab"]

DISCLOSES = (
    "A vocabulary made from samples discloses which words they contain to everyone with access to the bundle or the "
    "build cache."
)
"""Note on a vocabulary that was made from samples."""

_TOKEN_IDS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "mask_token_id",
    "unk_token_id",
)
"""Names of the token ids in a model's config."""


@dataclass(frozen=True)
class Trimmed:
    """A model with a smaller vocabulary.

    Attributes:
        path: Hugging Face folder.
        before: Size of the vocabulary before, in tokens.
        after: Size of the vocabulary after, in tokens.
        tokens_before: Mean number of tokens per text over the ``measured`` texts, with the original vocabulary.
        tokens_after: Mean number of tokens per text with the smaller vocabulary.
        measured: Number of these texts: those of ``eval`` if it was passed, else the samples; 0 for a list of tokens
            only.
        discloses: Whether samples decided which tokens are kept.
    """

    path: Path
    before: int
    after: int
    tokens_before: float
    tokens_after: float
    measured: int
    discloses: bool

    def text(self) -> str:
        """Return the result as one or two sentences."""
        summary = f"Vocabulary {self.before:,} -> {self.after:,} tokens"
        if self.measured:
            increase = self.tokens_after / self.tokens_before - 1
            summary += (
                f"; {self.tokens_before:.2f} -> {self.tokens_after:.2f} tokens per text ({increase:+.1%} over "
                f"{self.measured:,} texts)"
            )
        return f"{summary}. {DISCLOSES}" if self.discloses else f"{summary}."

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {**plain(self), "path": str(self.path)}


@takes_paths("model", "tokens", "out")
def trim_vocab(
    model: FilePath,
    *,
    samples: SampleSource | Sequence[SampleSource] = (),
    tokens: FilePath | None = None,
    out: FilePath,
    eval: SampleSource | None = None,
    options: TrimVocabOptions | None = None,
    progress: Progress = silent,
) -> Trimmed:
    """Write a copy of a model that has only the tokens of samples or of a list, as an ordinary Hugging Face folder.

    Args:
        model: Local Hugging Face folder or a hub id.
        samples: Samples like those that the model will be used on, one source or several; labels are not needed.
        tokens: File with tokens to keep, one per line, as in the tokenizer's vocabulary; with or without ``samples``.
        out: Folder of the smaller model; it appears complete or not at all.
        eval: Other samples on which the tokens per text are counted before and after.
        options: Options; None for the defaults.
        progress: Function that is called after each step.

    Raises:
        EdgekitError: If model, samples, list or disk are at fault; the subclass says which. Nothing is left at ``out``.
    """
    chosen = options or TrimVocabOptions()
    sources = samples_module.collect_all(samples)
    measured = None if eval is None else samples_module.collect(eval, "eval")
    destination = Path(os.path.abspath(out))
    check_output(destination, chosen.force)
    origin = source.read(os.fspath(model), chosen.revision)
    _check_has_tokenizer(origin)
    roles = {role: name for role, name in chosen.columns.items() if role != "label"}
    texts = [text for one in sources for text in samples_module.read(one, roles, modality=origin.modality).inputs]
    other_texts = None if measured is None else samples_module.read(measured, roles, modality=origin.modality).inputs
    listed_tokens = None if tokens is None else read_tokens(Path(tokens))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        result = trim_source(origin, texts, listed_tokens, other_texts, Path(scratch) / "model", progress)
        return replace(result, path=place(result.path, destination, chosen.force))


def read_tokens(path: Path) -> list[str]:
    """Read the tokens of a file, one per line.

    Raises:
        UsageError: If the file cannot be read.
    """
    try:
        return [line for line in path.read_text("utf-8").split("\n") if line]
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(
            f"The list of tokens {path} cannot be read ({problem}). Give a UTF-8 text file with one token per line.",
            code="tokens-unreadable",
        ) from problem


def trim_source(
    origin: Source,
    texts: Sequence[Text],
    tokens: Sequence[str] | None,
    other_texts: Sequence[Text] | None,
    folder: Path,
    progress: Progress,
) -> Trimmed:
    """Write a copy of a loaded model that has only the tokens of texts or of a list.

    Args:
        origin: Model to trim.
        texts: Texts whose tokens are kept.
        tokens: Tokens to keep too; None without a list.
        other_texts: Texts on which the tokens per text are counted; None for ``texts``.
        folder: Folder to write; it must not exist.
        progress: Function that is called after each step.

    Raises:
        UsageError: If there are neither texts nor a list, or the list lacks special tokens or has unknown ones.
        ModelError: If the model has no tokenizer or one that cannot be trimmed, or the result does not encode as
            promised.
    """
    measured = texts if other_texts is None else other_texts
    if not texts and tokens is None:
        raise UsageError(
            "There are neither samples nor a list of tokens, so there is nothing to make a vocabulary from. Give "
            "samples, or tokens.",
            code="samples-missing",
        )
    _check_has_tokenizer(origin)
    data = json.loads(tokenizer_json(origin.processor))
    progress("vocabulary", 0, 3)
    tokens_before = _mean_tokens(origin, measured)
    special = {int(i) for i in origin.processor.all_special_ids}
    used = {int(i) for row in origin.encode(texts) for i in row["input_ids"]}
    if tokens is not None:
        used |= _listed_ids(data, tokens, special, origin.model_id)
    ids = kept_ids(data, used, special)
    smaller_data = tokenizer_with(data, ids)
    progress("vocabulary", 1, 3)
    _save(origin, smaller_data, ids, folder)
    progress("vocabulary", 2, 3)
    smaller = source.read(folder)
    _check_encoding(origin, smaller, texts, ids)
    tokens_after = _mean_tokens(smaller, measured)
    progress("vocabulary", 3, 3)
    return Trimmed(
        folder, len(token_names(data)), len(ids), tokens_before, tokens_after, len(measured), discloses=bool(texts)
    )


def _check_has_tokenizer(origin: Source) -> None:
    noun = processors_of(origin.task).NOUN
    if noun != _NOUN:
        raise ModelError(
            f"The inputs of {origin.model_id} are processed by its {noun}, and only a {_NOUN} has a vocabulary. Keep "
            "the model as it is.",
            code="vocabulary-none",
        )


def _listed_ids(data: Mapping[str, Any], tokens: Sequence[str], special: set[int], model_id: str) -> set[int]:
    """Return the ids of the tokens of a list.

    Raises:
        UsageError: If the list lacks special tokens, or has tokens that are not in the vocabulary.
    """
    names = token_names(data)
    ids = {name: i for i, name in names.items()}
    listed = set(tokens)
    missing = [names[i] for i in sorted(special & set(names)) if names[i] not in listed]
    if missing:
        raise UsageError(
            f"The list of tokens lacks special tokens that {model_id} was trained with: {', '.join(missing)}. Without "
            "them no text would encode as before. Add them.",
            code="tokens-special",
        )
    unknown = [token for token in tokens if token not in ids]
    if unknown:
        raise UsageError(
            f"{len(unknown)} tokens of the list are not in the vocabulary of {model_id}, e.g. {unknown[0]!r}. Remove "
            "them.",
            code="tokens-unknown",
        )
    return {ids[token] for token in tokens}


def _mean_tokens(origin: Source, texts: Sequence[Text]) -> float:
    """Return the mean number of tokens per text; 0 without texts."""
    if not texts:
        return 0.0
    return float(np.mean([len(row["input_ids"]) for row in origin.encode(texts)]))


def _save(origin: Source, data: Mapping[str, Any], ids: Sequence[int], folder: Path) -> None:
    """Write the model with the rows of some tokens in its embedding table.

    Args:
        origin: Model to copy.
        data: Content of the smaller ``tokenizer.json``.
        ids: Old ids of the kept tokens, in the order of the new ids.
        folder: Folder to write.
    """
    import torch

    module = copy.deepcopy(origin.module)
    table = module.get_input_embeddings()
    new_ids = {old: new for new, old in enumerate(ids)}
    pad = new_ids[int(origin.processor.pad_token_id)]
    smaller = torch.nn.Embedding(len(ids), table.embedding_dim, padding_idx=None if table.padding_idx is None else pad)
    with torch.no_grad():
        smaller.weight.copy_(table.weight[torch.tensor(ids)])
    module.set_input_embeddings(smaller)
    module.config.vocab_size = len(ids)
    for name in _TOKEN_IDS:
        if getattr(module.config, name, None) in new_ids:
            setattr(module.config, name, new_ids[getattr(module.config, name)])
    tokenizer = wrap_tokenizer(origin.processor, data)
    record = {"step": "vocabulary", "model": origin.model_id, "revision": origin.revision, "tokens": len(ids)}
    save(module, tokenizer, folder, record)


def _check_encoding(origin: Source, smaller: Source, texts: Sequence[Text], ids: Sequence[int]) -> None:
    """Check that the texts encode as before, and that no token of the old vocabulary becomes unknown.

    Args:
        origin: Model before.
        smaller: Model after.
        texts: Texts of the samples.
        ids: Old ids of the kept tokens, in the order of the new ids.

    Raises:
        ModelError: If a check fails.
    """
    for before, after in zip(origin.encode(texts), smaller.encode(texts), strict=True):
        if before["input_ids"].tolist() != [ids[i] for i in after["input_ids"]]:
            raise ModelError(
                f"With the smaller vocabulary, the tokenizer of {origin.model_id} encodes a text of the samples "
                "differently. Keep its vocabulary as it is.",
                code="vocabulary-changes",
            )
    if origin.settings.max_length != smaller.settings.max_length:
        raise ModelError(
            f"{origin.model_id} counts positions from the id of its padding token, which changes with this vocabulary. "
            "Keep its vocabulary as it is.",
            code="vocabulary-positions",
        )
    words = _token_texts(json.loads(tokenizer_json(origin.processor)))
    unknown_before = origin.processor.unk_token_id
    unknown_after = smaller.processor.unk_token_id
    newly_unknown = 0
    for old_ids, new_ids in zip(_encode_words(origin, words), _encode_words(smaller, words), strict=True):
        newly_unknown += unknown_after in new_ids and unknown_before not in old_ids
    if unknown_before is not None and newly_unknown:
        raise ModelError(
            f"With the smaller vocabulary, {newly_unknown} tokens of {origin.model_id} would encode as unknown. Keep "
            "its vocabulary as it is.",
            code="vocabulary-changes",
        )


def _token_texts(data: Mapping[str, Any]) -> list[str]:
    """Return every token of a vocabulary as a text."""
    prefix = data["model"].get("continuing_subword_prefix") or ""
    names = token_names(data).values()
    if prefix:
        return [name.removeprefix(prefix) for name in names]
    return [name.replace("\u2581", " ") for name in names]


def _encode_words(origin: Source, words: Iterable[str]) -> list[list[int]]:
    """Return the ids of each word, without special tokens."""
    encodings = origin.processor.backend_tokenizer.encode_batch(list(words), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
