"""The rule by which a tokenizer works word by word, from the data of its ``tokenizer.json``.

A tokenizer works word by word if the ids of a text are those of its words (the parts between spaces) one after the
other. That holds for every text of a rule, not only for those that were tried:

- ``BLANKS``: BERT's normalizer and pre-tokenizer. The normalizer changes characters one by one and decomposes them
  (NFD, which never reaches across a space); the pre-tokenizer drops white space. The rule is for texts of characters
  that are printable by Python's definition: a space is their only white space, and they have no control characters,
  which the normalizer removes even between words. Line ends and tabs count as spaces, as they do for BERT.
- ``SPACES``: pre-tokenizers that begin a new pre-token at each single space (byte-level BPE with its regular
  expression, Metaspace) or drop it. The rule is for printable ASCII with single spaces between words, which Unicode
  normalizers leave alone. The first word has other ids than the rest, since a space belongs to the word behind it.

Everything else has no rule: normalizers and added tokens that reach across a space, models that draw at random,
post-processors other than a template around the text.
"""

from __future__ import annotations

import json
import string
from typing import Any

from tokenizers import Tokenizer

__all__ = ["BLANKS", "SPACES", "find_rule"]

BLANKS = "blanks"
"""Rule of tokenizers that drop white space and accept all printable characters."""

SPACES = "spaces"
"""Rule of tokenizers for printable ASCII with single spaces."""

_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_RANDOM = ("alpha", "dropout", "nbest_size")  # Options of models that draw at random.
# Normalizers that change printable ASCII character by character, or not at all.
_NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents")
# Regular expressions of replacements that no text of printable ASCII with single spaces matches.
_UNMATCHED = (" {2,}", r"\s{2,}|[\n\r\t]", "\u2028")
_SPLITTERS = ("BertPreTokenizer", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit")
_DROPPERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
_TEMPLATES = ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing")


def find_rule(tokenizer: Tokenizer) -> str:
    """Return the rule of a tokenizer: ``BLANKS``, ``SPACES``, or an empty string if it has none."""
    try:
        normalizers = _parts(tokenizer.normalizer, "normalizers")
        pre_tokenizers = _parts(tokenizer.pre_tokenizer, "pretokenizers")
        post_processors = _parts(tokenizer.post_processor, "processors")
    except Exception:  # A component written in Python, e.g., cannot be read as data. The library has no error classes.
        return ""
    if not _is_plain_model(tokenizer.model) or not _has_plain_tokens(tokenizer):
        return ""
    if any(part["type"] not in _TEMPLATES for part in post_processors):
        return ""
    kinds = [part["type"] for part in (*normalizers, *pre_tokenizers)]
    if kinds == ["BertNormalizer", "BertPreTokenizer"]:
        return BLANKS
    is_local = all(map(_keeps_words, normalizers)) and _splits_at_spaces(pre_tokenizers)
    return SPACES if is_local and _keeps_spaces(tokenizer) else ""


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """Return the data of a component, or of the parts of a sequence; empty for None."""
    if component is None:
        return []
    data = json.loads(component.__getstate__())
    pending = [data]
    parts: list[dict[str, Any]] = []
    while pending:
        part = pending.pop(0)
        if part["type"] == "Sequence":
            pending = [*part[key], *pending]
        else:
            parts.append(part)
    return parts


def _is_plain_model(model: Any) -> bool:
    """Return whether a model is known, and gives a pre-token the same ids each time."""
    return type(model).__name__ in _MODELS and not any(getattr(model, name, None) for name in _RANDOM)


def _has_plain_tokens(tokenizer: Tokenizer) -> bool:
    """Return whether no added token can match across a space.

    A token's content is normalized too, where the token matches in normalized text.
    """
    for token in tokenizer.get_added_tokens_decoder().values():
        forms = [token.content]
        if token.normalized and tokenizer.normalizer is not None:
            forms.append(tokenizer.normalizer.normalize_str(token.content))
        if not all(form and form.isprintable() and " " not in form for form in forms):
            return False
    return True


def _keeps_words(normalizer: dict[str, Any]) -> bool:
    """Return whether a normalizer works word by word on printable ASCII with single spaces."""
    kind = normalizer["type"]
    if kind == "Strip":
        return not normalizer["strip_left"]
    if kind == "Replace":
        pattern = normalizer["pattern"]
        return pattern.get("Regex") in _UNMATCHED or _is_word(pattern.get("String"), normalizer["content"])
    return kind in _NORMALIZERS


def _keeps_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether the normalizer keeps a space between words, and makes none from another printable character.

    The table of a ``Precompiled`` normalizer could do otherwise. It maps each ASCII character by itself.
    """
    if tokenizer.normalizer is None:
        return True
    normalize = tokenizer.normalizer.normalize_str
    visible = string.digits + string.ascii_letters + string.punctuation
    makes_space = any(not normalize(f"a{char}a").isprintable() or " " in normalize(f"a{char}a") for char in visible)
    return normalize("a b") == f"{normalize('a')} {normalize('b')}" and not makes_space


def _is_word(pattern: str | None, content: str) -> bool:
    return bool(pattern) and " " not in f"{pattern}{content}" and f"{pattern}{content}".isascii()


def _splits_at_spaces(pre_tokenizers: list[dict[str, Any]]) -> bool:
    """Return whether pre-tokenizers begin a new pre-token at each space, or drop the space."""
    kinds = [part["type"] for part in pre_tokenizers]
    if kinds == ["ByteLevel"]:
        return bool(pre_tokenizers[0].get("use_regex", True))
    if kinds and kinds[-1] == "Metaspace" and kinds[:-1] in ([], ["WhitespaceSplit"]):
        return bool(pre_tokenizers[-1].get("split", True))
    return not set(kinds).isdisjoint(_DROPPERS) and set(kinds) <= set(_SPLITTERS)
