"""A smaller vocabulary: tokens that the samples do not use go, from the tokenizer and from the embedding table together.

What is kept is what encoding the samples gives, all special and added tokens, and whatever is needed so that any text that could
be encoded before still can be: unseen words are split finer and never become unknown. Texts of the samples encode exactly as before,
because what the tokenizer did to them is still there: the longest matches of WordPiece, all merges on the way to a token of BPE, the
most probable pieces of Unigram.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import samples as samples_module
from edgekit import source
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

_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id")
DISCLOSES = (
    "A vocabulary made from samples discloses which words they contain to whoever has the bundle or the build cache."
)


@dataclass(frozen=True)
class Trimmed:
    """A model with a smaller vocabulary.

    Attributes:
        path: an ordinary Hugging Face folder.
        before: tokens of the vocabulary.
        after: tokens that are left.
        tokens_before: of a text, on average over ``measured`` texts.
        tokens_after: the same with the smaller vocabulary.
        measured: texts that were counted: those of the evaluation file where there is one, else the samples; 0 where only tokens were given.
        discloses: samples decided what stays.
    """

    path: Path
    before: int
    after: int
    tokens_before: float
    tokens_after: float
    measured: int
    discloses: bool

    def text(self) -> str:
        """In two sentences."""
        said = f"Vocabulary {self.before:,} -> {self.after:,} tokens"
        if self.measured:
            more = self.tokens_after / self.tokens_before - 1
            said += f"; {self.tokens_before:.2f} -> {self.tokens_after:.2f} tokens a text ({more:+.1%} over {self.measured:,} texts)"
        return f"{said}. {DISCLOSES}" if self.discloses else f"{said}."

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
    """Write the model with only the tokens of the samples, or of a list, as an ordinary Hugging Face folder.

    Args:
        model: Local Hugging Face folder or a hub id.
        samples: Samples like all that the model will see, one source or several; labels are not needed.
        tokens: File with a token on each line, as in the tokenizer's vocabulary, beside the tokens of the samples or in their place.
        out: Folder of the smaller model; it appears whole or not at all.
        eval: Other samples, on which the number of tokens a text is counted before and after.
        options: Options; None for the defaults.
        progress: Function that is called with the progress.

    Raises:
        EdgekitError: a subclass says which of model, samples or disk is at fault; nothing is left at ``out``.
    """
    chosen = options or TrimVocabOptions()
    sources = samples_module.collect_all(samples)
    measured = None if eval is None else samples_module.collect(eval, "eval")
    destination = Path(os.path.abspath(out))
    check_output(destination, chosen.force)
    origin = source.read(os.fspath(model), chosen.revision)
    _check_tokenizer(origin)
    roles = {role: name for role, name in chosen.columns.items() if role != "label"}
    texts = [text for one in sources for text in samples_module.read(one, roles, modality=origin.modality).inputs]
    others = None if measured is None else samples_module.read(measured, roles, modality=origin.modality).inputs
    listed = None if tokens is None else read_tokens(Path(tokens))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        made = trim_source(origin, texts, listed, others, Path(scratch) / "model", progress)
        return Trimmed(place(made.path, destination, chosen.force), *list(vars(made).values())[1:])


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one on each line.

    Raises:
        UsageError: when it cannot be read.
    """
    try:
        return [line for line in path.read_text("utf-8").split("\n") if line]
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(
            f"The list of tokens {path} cannot be read ({problem}). Give a text file in UTF-8 with a token on each line.",
            code="tokens-unreadable",
        ) from problem


def trim_source(
    origin: Source,
    texts: Sequence[Text],
    tokens: Sequence[str] | None,
    others: Sequence[Text] | None,
    folder: Path,
    progress: Progress,
) -> Trimmed:
    """The same from a source and texts into a new folder; nothing else is there yet.

    Args:
        origin: the model.
        texts: whose tokens stay.
        tokens: that stay too; None where no list was given.
        others: texts that are counted, in place of ``texts``.
        folder: the new one.
        progress: told how far it is.

    Raises:
        UsageError: when there are neither texts nor tokens, or the list lacks special tokens or has some that the model does not.
        ModelError: when the model has no tokenizer, when it is of a kind that cannot be trimmed, or the smaller one does not encode as it must.
    """
    measured = texts if others is None else others
    if not texts and tokens is None:
        raise UsageError(
            "Neither texts nor a list of tokens was given: the vocabulary is made of the tokens in them. Give samples, or tokens.",
            code="samples-missing",
        )
    _check_tokenizer(origin)
    data = json.loads(tokenizer_json(origin.processor))
    progress("vocabulary", 0, 3)
    before = _count(origin, measured)
    special = {int(i) for i in origin.processor.all_special_ids}
    used = {int(i) for row in origin.encode(texts) for i in row["input_ids"]} | _listed(
        data, tokens, special, origin.model_id
    )
    kept = _closed(data, used, special)
    smaller = _tokenizer(data, kept)
    progress("vocabulary", 1, 3)
    _save(origin, smaller, kept, folder)
    progress("vocabulary", 2, 3)
    made = source.read(folder)
    _check(origin, made, texts, kept)
    after = _count(made, measured)
    progress("vocabulary", 3, 3)
    return Trimmed(folder, len(_names(data)), len(kept), before, after, len(measured), bool(texts))


def _check_tokenizer(origin: Source) -> None:
    noun = processors_of(origin.task).NOUN
    if noun != _NOUN:
        raise ModelError(
            f"{origin.model_id} takes its inputs through its {noun}, and only a {_NOUN} has a vocabulary. Leave the model as it is.",
            code="vocabulary-none",
        )


def _listed(data: Mapping[str, Any], tokens: Sequence[str] | None, special: set[int], model: str) -> set[int]:
    """Indices of a list's tokens."""
    if tokens is None:
        return set()
    names = _names(data)
    index = {name: i for i, name in names.items()}
    lost = [names[i] for i in sorted(special & set(names)) if names[i] not in set(tokens)]
    if lost:
        raise UsageError(
            f"The list of tokens lacks {', '.join(lost)}, special tokens that {model} was trained with: no text would encode as it did. Add them.",
            code="tokens-special",
        )
    strange = [t for t in tokens if t not in index]
    if strange:
        raise UsageError(
            f"{len(strange)} tokens of the list are not in the vocabulary of {model}, {strange[0]!r} for one. Take them out.",
            code="tokens-unknown",
        )
    return {index[t] for t in tokens}


def _count(origin: Source, texts: Sequence[Text]) -> float:
    return float(np.mean([len(row["input_ids"]) for row in origin.encode(texts)])) if texts else 0.0


# ---- which tokens stay


def _names(data: Mapping[str, Any]) -> dict[int, str]:
    """Index to token, of the model and of what was added to it."""
    model = data["model"]
    found = (
        dict(enumerate(p for p, _ in model["vocab"]))
        if model["type"] == "Unigram"
        else {i: t for t, i in model["vocab"].items()}
    )
    return found | {int(a["id"]): str(a["content"]) for a in data["added_tokens"]}


def _closed(data: Mapping[str, Any], used: set[int], special: set[int]) -> list[int]:
    """Indices that stay, ascending: those that are used, special or added, and what any text needs to be encoded."""
    kinds: dict[str, Callable[[Mapping[str, Any], set[str]], set[str]]] = {
        "WordPiece": _wordpiece,
        "BPE": _bpe,
        "Unigram": _unigram,
    }
    model, names = data["model"], _names(data)
    if model.get("type") not in kinds:
        raise ModelError(
            f"The tokenizer is a {model.get('type')}, and only {', '.join(kinds)} can be trimmed. Leave the vocabulary as it is.",
            code="vocabulary-kind",
        )
    added = {int(a["id"]) for a in data["added_tokens"]}
    must = kinds[model["type"]](model, {names[i] for i in used | special | added if i in names})
    unknown = (
        model.get("unk_token")
        if model["type"] != "Unigram"
        else (model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None)
    )
    return sorted({i for i, name in names.items() if name in must or name == unknown} | added | (special & set(names)))


def _wordpiece(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Single characters at the start and inside of words, and tokens with a character that does not stand alone."""
    prefix, vocabulary = model["continuing_subword_prefix"], model["vocab"]

    def pieces(token: str) -> list[str]:
        inside = token.startswith(prefix) and token != prefix
        body = token.removeprefix(prefix) if inside else token
        return [prefix + c if inside or i else c for i, c in enumerate(body)]

    return used | {
        token for token in vocabulary if len(parts := pieces(token)) == 1 or any(p not in vocabulary for p in parts)
    }


def _bpe(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Tokens that no merge makes (bytes or characters), and all merges on the way to a token that stays."""
    parts: dict[str, set[str]] = {}
    for one, two in map(_pair, model["merges"]):
        parts.setdefault(one + two, set()).update((one, two))
    kept = used | {token for token in model["vocab"] if token not in parts}
    todo = list(kept)
    while todo:
        for part in parts.get(todo.pop(), ()):
            if part not in kept:
                kept.add(part)
                todo.append(part)
    return kept


def _unigram(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Single characters (and bytes), and pieces with a character that does not stand alone."""
    pieces = {p for p, _ in model["vocab"]}
    return used | {
        p for p in pieces if len(p) == 1 or (p.startswith("<0x") and p.endswith(">")) or any(c not in pieces for c in p)
    }


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    one, two = merge.split(" ") if isinstance(merge, str) else merge
    return one, two


# ---- the tokenizer and the table without the others


def _tokenizer(data: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """``tokenizer.json`` with the kept tokens, numbered anew in their order."""
    made, new = copy.deepcopy(dict(data)), {old: i for i, old in enumerate(kept)}
    model = made["model"]
    if model["type"] == "Unigram":
        model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
    else:
        model["vocab"] = {
            token: new[i] for token, i in sorted(model["vocab"].items(), key=lambda item: item[1]) if i in new
        }
        if model["type"] == "BPE":
            model["merges"] = [m for m in model["merges"] if {*_pair(m), "".join(_pair(m))} <= model["vocab"].keys()]
    for token in made["added_tokens"]:
        token["id"] = new[int(token["id"])]
    _renumber(made.get("post_processor"), new)
    return made


def _renumber(node: Any, new: Mapping[int, int]) -> None:
    """Ids inside a post-processor: ``special_tokens`` of a template, ``sep`` and ``cls`` of the older kinds."""
    if isinstance(node, list):
        for child in node:
            _renumber(child, new)
    if not isinstance(node, dict):
        return
    for name in ("sep", "cls"):
        if isinstance(node.get(name), list):
            node[name][1] = new[int(node[name][1])]
    if isinstance(node.get("special_tokens"), dict):
        for entry in node["special_tokens"].values():
            entry["ids"] = [new[int(i)] for i in entry["ids"]]
    for child in node.get("processors", []):
        _renumber(child, new)


def _save(origin: Source, smaller: Mapping[str, Any], kept: Sequence[int], folder: Path) -> None:
    import torch

    old, module = origin.processor, copy.deepcopy(origin.module)
    table = module.get_input_embeddings()
    position = {old_id: i for i, old_id in enumerate(kept)}
    pad = position[int(old.pad_token_id)]
    made = torch.nn.Embedding(len(kept), table.embedding_dim, padding_idx=None if table.padding_idx is None else pad)
    with torch.no_grad():
        made.weight.copy_(table.weight[torch.tensor(kept)])
    module.set_input_embeddings(made)
    module.config.vocab_size = len(kept)
    for name in _IDS:
        if getattr(module.config, name, None) in position:
            setattr(module.config, name, position[getattr(module.config, name)])
    tokenizer = wrap_tokenizer(old, smaller)
    save(
        module,
        tokenizer,
        folder,
        {"step": "vocabulary", "model": origin.model_id, "revision": origin.revision, "tokens": len(kept)},
    )


def _check(origin: Source, made: Source, texts: Sequence[Text], kept: Sequence[int]) -> None:
    """Holds the result to what is promised: texts of the samples encode as before, and nothing that could be encoded became unknown."""
    for before, after in zip(origin.encode(texts), made.encode(texts), strict=True):
        if before["input_ids"].tolist() != [kept[i] for i in after["input_ids"]]:
            raise ModelError(
                f"With fewer tokens the tokenizer of {origin.model_id} encodes a text of the samples otherwise. Leave its vocabulary as it is.",
                code="vocabulary-changes",
            )
    if origin.settings.max_length != made.settings.max_length:
        raise ModelError(
            f"Positions of {origin.model_id} are counted from its padding token, whose index changes with this vocabulary. Leave its vocabulary as it is.",
            code="vocabulary-positions",
        )
    words = _words(json.loads(tokenizer_json(origin.processor)))
    unknown = [s.processor.unk_token_id for s in (origin, made)]
    encoded = [_ids(s, words) for s in (origin, made)]
    lost = sum(unknown[1] in b and unknown[0] not in a for a, b in zip(*encoded, strict=True))
    if unknown[0] is not None and lost:
        raise ModelError(
            f"With fewer tokens {lost} tokens of {origin.model_id}'s vocabulary would be unknown. Leave its vocabulary as it is.",
            code="vocabulary-changes",
        )


def _words(data: Mapping[str, Any]) -> list[str]:
    """Every token of a vocabulary as a text."""
    prefix = data["model"].get("continuing_subword_prefix") or ""
    return [name.removeprefix(prefix) if prefix else name.replace("\u2581", " ") for name in _names(data).values()]


def _ids(origin: Source, words: Iterable[str]) -> list[list[int]]:
    return [
        encoding.ids
        for encoding in origin.processor.backend_tokenizer.encode_batch(list(words), add_special_tokens=False)
    ]
