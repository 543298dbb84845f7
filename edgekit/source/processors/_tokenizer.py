"""The tokenizer of a model folder: its files compared with each other and with the tokenizer that Transformers builds.

Transformers 5 builds the tokenizer of a known class from the vocabulary and tokenizer_config.json, so it may behave
differently from tokenizer.json, e.g. lower-case the text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.modalities.text import Text, fuzz_texts
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Told
from edgekit.spec.parsing import to_json

CHOICES = ("file", "transformers")
"""Choices if the two tokenizers differ: tokenizer.json as it is, or the result of ``AutoTokenizer``."""

_FILE = "tokenizer.json"
_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
# Settings of a tokenizer.json, with their names in tokenizer_config.json.
_NAMES = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "handle_chinese_chars": "tokenize_chinese_chars",
    "add_prefix_space": "add_prefix_space",
}
_PARTS = {
    "pre_tokenizer": "pre-tokenizer",
    "post_processor": "template",
    "added_tokens": "added tokens",
}
_SHOWN = 3


def check_told(options: Told) -> None:
    """Check the user's choice of the tokenizer.

    Raises:
        UsageError: If it is not one of ``CHOICES``.
    """
    choice = options.get("tokenizer")
    if choice is not None and choice not in CHOICES:
        raise UsageError(
            f"Unknown tokenizer '{choice}'.{near(choice, CHOICES)} Expected one of: {', '.join(CHOICES)}.",
            code="tokenizer-choice",
        )


def load(model_id: str, folder: Path, options: Told) -> Any:
    """Return the Hugging Face tokenizer of a folder.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model.
        options: Options of the user; ``tokenizer`` is one of ``CHOICES``. Without it the two tokenizers must agree.

    Raises:
        ModelError: If the two tokenizers differ and none was chosen, or a package is missing.
        Exception: If the folder is damaged; Transformers raises errors of every class.
    """
    from transformers import AutoTokenizer

    choice = options.get("tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as problem:
        _check_packages(model_id, folder, problem)
        raise
    data = _read_stored(folder)
    if data is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        if choice == "file":
            raise UsageError(
                f"{model_id} has no {_FILE}, so its tokenizer cannot be read from that file. "
                "Leave the choice of the tokenizer out.",
                code="tokenizer-file-missing",
            )
        return tokenizer
    if choice == "file":
        return wrap_tokenizer(tokenizer, data)
    if choice is None:
        length = min(int(tokenizer.model_max_length), 512)
        texts = [*fuzz_texts(length), *_vocabulary_texts(data, tokenizer)]
        check(model_id, folder, tokenizer, texts, "generated texts")
    return tokenizer


def check(model_id: str, folder: Path, tokenizer: Any, texts: Sequence[Text], noun: str) -> None:
    """Compare the ids of tokenizer.json with those of a tokenizer, special tokens included.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model; without the file nothing is compared.
        tokenizer: Tokenizer that Transformers built from the folder.
        texts: Texts to encode.
        noun: Name of the texts, for the message.

    Raises:
        ModelError: If the ids differ. The message has the settings that differ, and no text.
    """
    from tokenizers import Tokenizer

    data = _read_stored(folder)
    if data is None:
        return
    settings = _differences(data, _without_padding(json.loads(tokenizer.backend_tokenizer.to_str())))
    if not settings:
        return
    stored = Tokenizer.from_str(to_json(data))
    built = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    built.no_truncation()
    built.no_padding()
    pairs = zip(stored.encode_batch(list(texts)), built.encode_batch(list(texts)), strict=True)
    differing = sum((a.ids, a.type_ids) != (b.ids, b.type_ids) for a, b in pairs)
    if differing:
        more = " ..." if len(settings) > _SHOWN else ""
        raise ModelError(
            f"{model_id} has two tokenizers: {_FILE} and the one that Transformers builds from tokenizer_config.json "
            f"give different token ids for {differing} of {len(texts)} {noun}. "
            f"Differences: {'; '.join(settings[:_SHOWN])}{more}. "
            "Choose the one that the model was trained with: --tokenizer file or --tokenizer transformers. "
            "To correct the folder, set tokenizer_class to 'PreTrainedTokenizerFast' in tokenizer_config.json for the "
            "file, or call AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL) for the other.",
            code="tokenizer-ambiguous",
        )


def wrap_tokenizer(old: Any, data: Mapping[str, Any]) -> Any:
    """Return a tokenizer that behaves like a tokenizer.json, with the special tokens of another tokenizer.

    Args:
        old: Tokenizer with the special tokens and the length.
        data: Content of the tokenizer.json. A saved copy of the result is read back with the same behavior.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    names = {role: str(getattr(old, role)) for role in _ROLES if getattr(old, role, None)}
    settings = {
        "model_max_length": old.model_max_length,
        "model_input_names": old.model_input_names,
        "truncation_side": old.truncation_side,
    }
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(to_json(data)), **names, **settings)


def check_files(model_id: str, folder: Path) -> None:
    """Compare vocabulary, added tokens and special tokens in the older files with tokenizer.json.

    Raises:
        ModelError: If they contradict each other.
    """
    data = _read_stored(folder)
    if data is None:
        return
    model = data.get("model")
    vocabulary = _token_ids(model if isinstance(model, Mapping) else {})
    added = _added_ids(data)
    for file, ids in (("vocab.txt", _lines(folder / "vocab.txt")), ("vocab.json", _mapping(folder / "vocab.json"))):
        if ids and vocabulary:
            tokens = {**added, **vocabulary}
            wrong = {token for token, i in ids.items() if tokens.get(token) != i} | (vocabulary.keys() - ids.keys())
            _check_vocabulary(model_id, file, sorted(wrong))
    tokens = {**vocabulary, **added}
    older = _mapping(folder / "added_tokens.json")
    _check_vocabulary(model_id, "added_tokens.json", sorted(t for t, i in older.items() if tokens.get(t) != i))
    config = read_object(folder / "tokenizer_config.json")
    special = read_object(folder / "special_tokens_map.json")
    for role in _ROLES:
        in_config = _content(config.get(role))
        in_map = _content(special.get(role))
        if in_config is not None and in_map is not None and in_config != in_map:
            raise ModelError(
                f"{model_id}: the {role} is {in_config!r} in tokenizer_config.json, but {in_map!r} in "
                "special_tokens_map.json. Correct the wrong one, or save the tokenizer again: "
                "tokenizer.save_pretrained(FOLDER).",
                code="tokenizer-special",
            )


def _check_vocabulary(model_id: str, file: str, wrong: Sequence[str]) -> None:
    """Raise ModelError if an older file and tokenizer.json disagree on tokens."""
    if wrong:
        raise ModelError(
            f"{model_id} has two vocabularies: {file} and {_FILE} disagree on {len(wrong)} tokens "
            f"({', '.join(map(repr, wrong[:_SHOWN]))}). Remove the file that does not belong to the model, or save its "
            "tokenizer again: tokenizer.save_pretrained(FOLDER).",
            code="tokenizer-vocabularies",
        )


def pad_id(folder: Path) -> int | None:
    """Return the id of the padding token by the files of a folder, or None if they have none."""
    data = _read_stored(folder) or {}
    token = _content(read_object(folder / "tokenizer_config.json").get("pad_token"))
    token = token or _content(read_object(folder / "special_tokens_map.json").get("pad_token"))
    if token is None:
        return None
    token_id = _added_ids(data).get(token)
    return token_id if isinstance(token_id, int) else None


def truncation(folder: Path) -> int | None:
    """Return the length at which tokenizer.json truncates, which Transformers and a bundle ignore."""
    settings = read_object(folder / _FILE).get("truncation")
    length = settings.get("max_length") if isinstance(settings, Mapping) else None
    return length if isinstance(length, int) else None


def _check_packages(model_id: str, folder: Path, problem: Exception) -> None:
    """Raise ModelError if a tokenizer cannot be read because a package is missing."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    files = sorted(path.name for path in folder.glob("*.model"))
    available = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    missing = [name for name, is_available in available.items() if not is_available]
    if files and missing and not (folder / _FILE).is_file():
        raise ModelError(
            f"{model_id} has its tokenizer only in {files[0]}, without {_FILE}. Reading it needs sentencepiece and "
            f"protobuf; {' and '.join(missing)} is not installed here. Run: pip install {' '.join(missing)}. Or "
            "convert it once where both are installed: AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL).",
            code="tokenizer-package",
        ) from problem


def _read_stored(folder: Path) -> dict[str, Any] | None:
    """Return the content of tokenizer.json without padding and truncation; None if it cannot be read."""
    data = read_object(folder / _FILE)
    return _without_padding(data) if data else None


def _without_padding(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "padding": None, "truncation": None}


def _differences(stored: Any, built: Any, path: str = "") -> list[str]:
    """Return the settings in which two tokenizers differ, each with both values."""
    if stored == built:
        return []
    part, _, last = path.rpartition(".")
    if path in ("model.vocab", "model.merges", "added_tokens"):
        return [f"{_PARTS.get(path, path)} ({_size(stored)} against {_size(built)})"]
    if isinstance(stored, Mapping) and isinstance(built, Mapping) and stored.get("type") == built.get("type"):
        differences = []
        for key in dict.fromkeys((*stored, *built)):
            inner_path = f"{path}.{key}" if path else key
            differences += _differences(stored.get(key), built.get(key), inner_path)
        return differences
    name = _NAMES.get(last) or (_PARTS.get(path) if not part else None) or path
    place = f" ({path})" if name != path else ""
    return [f"{name}{place} is {_short(stored)} in the file, {_short(built)} in Transformers"]


def _size(entries: Any) -> str:
    return f"{len(entries)} entries" if isinstance(entries, (Mapping, list)) else "none"


def _short(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    text = str(kind) if kind else to_json(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _vocabulary_texts(data: Mapping[str, Any], tokenizer: Any, count: int = 200) -> list[Text]:
    """Return words of the vocabulary in several cases and with accents, and the added tokens of both tokenizers."""
    model = data.get("model")
    vocabulary = list(_token_ids(model if isinstance(model, Mapping) else {}))
    sample = random.Random(0).sample(vocabulary, min(count, len(vocabulary)))
    texts: list[Text] = []
    for token in sample:
        word = token.removeprefix("##").lstrip("▁Ġ")
        if word.strip():
            texts.append(f"{word} {word.capitalize()} {word.upper()} {word}e\u0301 {word},{word}")
    added = dict.fromkeys([*_added_ids(data), *map(str, tokenizer.get_added_vocab())])
    return texts + [f"a {token} b{token}c" for token in added]


def _token_ids(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    if isinstance(vocabulary, list):
        return {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    return {}


def _added_ids(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of the added tokens of a tokenizer.json, by their text."""
    tokens = [token for token in data.get("added_tokens") or [] if isinstance(token, Mapping)]
    return {str(token.get("content")): token.get("id") for token in tokens}


def _lines(file: Path) -> dict[str, int]:
    if not file.is_file():
        return {}
    lines = file.read_text("utf-8", errors="replace").removesuffix("\n").split("\n")
    return {line.rstrip("\r"): i for i, line in enumerate(lines)}


def _mapping(file: Path) -> dict[str, int]:
    return {str(key): value for key, value in read_object(file).items() if isinstance(value, int)}


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none. Transformers reports a damaged file itself."""
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
