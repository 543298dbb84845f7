"""A smaller vocabulary in ``tokenizer.json``: the tokens to keep, and the file with only these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.spec.errors import ModelError

__all__ = ["kept_ids", "token_names", "tokenizer_with"]


def token_names(data: Mapping[str, Any]) -> dict[int, str]:
    """Return the token of each id, added tokens included.

    Args:
        data: Content of ``tokenizer.json``.
    """
    model = data["model"]
    if model["type"] == "Unigram":
        names = dict(enumerate(piece for piece, _ in model["vocab"]))
    else:
        names = {token_id: token for token, token_id in model["vocab"].items()}
    return names | {int(added["id"]): str(added["content"]) for added in data["added_tokens"]}


def kept_ids(data: Mapping[str, Any], used: set[int], special: set[int]) -> list[int]:
    """Return the ids of the tokens to keep, ascending.

    These are used, special and added tokens, and tokens whose removal would change how some text is tokenized.

    Args:
        data: Content of ``tokenizer.json``.
        used: Ids of the tokens that samples or a list need.
        special: Ids of the special tokens.

    Raises:
        ModelError: If the tokenizer has a model type that cannot be trimmed.
    """
    required_tokens: dict[str, Callable[[Mapping[str, Any], set[str]], set[str]]] = {
        "WordPiece": _required_by_wordpiece,
        "BPE": _required_by_bpe,
        "Unigram": _required_by_unigram,
    }
    model = data["model"]
    names = token_names(data)
    if model.get("type") not in required_tokens:
        raise ModelError(
            f"The tokenizer has the model type {model.get('type')}, and only {', '.join(required_tokens)} can be "
            "trimmed. Keep the vocabulary as it is.",
            code="vocabulary-kind",
        )
    added = {int(token["id"]) for token in data["added_tokens"]}
    required = required_tokens[model["type"]](model, {names[i] for i in used | special | added if i in names})
    unknown = _unknown_token(model)
    ids = {i for i, name in names.items() if name in required or name == unknown}
    return sorted(ids | added | (special & set(names)))


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    """Return the token for unknown text, if there is one."""
    unknown: str | None
    if model["type"] != "Unigram":
        unknown = model.get("unk_token")
    elif model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    else:
        unknown = None
    return unknown


def _required_by_wordpiece(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Add the single characters, at the start and inside of words, and tokens that cannot be split into these."""
    prefix = model["continuing_subword_prefix"]
    vocabulary = model["vocab"]

    def characters(token: str) -> list[str]:
        if token.startswith(prefix) and token != prefix:
            return [prefix + c for c in token.removeprefix(prefix)]
        return [*token[:1], *(prefix + c for c in token[1:])]

    required = set(used)
    for token in vocabulary:
        parts = characters(token)
        if len(parts) == 1 or any(part not in vocabulary for part in parts):
            required.add(token)
    return required


def _required_by_bpe(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Add the tokens that no merge produces (bytes or characters), and all that merges need to produce kept tokens."""
    parts: dict[str, set[str]] = {}
    for left, right in map(_split_merge, model["merges"]):
        parts.setdefault(left + right, set()).update((left, right))
    required = used | {token for token in model["vocab"] if token not in parts}
    pending = list(required)
    while pending:
        for part in parts.get(pending.pop(), ()):
            if part not in required:
                required.add(part)
                pending.append(part)
    return required


def _required_by_unigram(model: Mapping[str, Any], used: set[str]) -> set[str]:
    """Add the single characters and bytes, and pieces that cannot be split into characters."""
    pieces = {piece for piece, _ in model["vocab"]}
    required = set(used)
    for piece in pieces:
        is_byte = piece.startswith("<0x") and piece.endswith(">")
        if len(piece) == 1 or is_byte or any(c not in pieces for c in piece):
            required.add(piece)
    return required


def _split_merge(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def tokenizer_with(data: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return the content of ``tokenizer.json`` with only some tokens, which get new ids in the order of the old ones.

    Args:
        data: Content of ``tokenizer.json``.
        ids: Old ids of the tokens to keep, ascending.
    """
    smaller = copy.deepcopy(dict(data))
    new_ids = {old: new for new, old in enumerate(ids)}
    model = smaller["model"]
    if model["type"] == "Unigram":
        model["unk_id"] = None if model.get("unk_id") is None else new_ids[model["unk_id"]]
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new_ids]
    else:
        by_id = sorted(model["vocab"].items(), key=lambda item: item[1])
        model["vocab"] = {token: new_ids[i] for token, i in by_id if i in new_ids}
        if model["type"] == "BPE":
            merges = []
            for merge in model["merges"]:
                left, right = _split_merge(merge)
                if {left, right, left + right} <= model["vocab"].keys():
                    merges.append(merge)
            model["merges"] = merges
    for token in smaller["added_tokens"]:
        token["id"] = new_ids[int(token["id"])]
    _renumber(smaller.get("post_processor"), new_ids)
    return smaller


def _renumber(node: Any, new_ids: Mapping[int, int]) -> None:
    """Replace the ids in a post-processor: ``special_tokens`` of a template, ``sep`` and ``cls`` of the older types."""
    if isinstance(node, list):
        for child in node:
            _renumber(child, new_ids)
    if not isinstance(node, dict):
        return
    for name in ("sep", "cls"):
        if isinstance(node.get(name), list):
            node[name][1] = new_ids[int(node[name][1])]
    if isinstance(node.get("special_tokens"), dict):
        for entry in node["special_tokens"].values():
            entry["ids"] = [new_ids[int(i)] for i in entry["ids"]]
    for child in node.get("processors", []):
        _renumber(child, new_ids)
