"""The tokenizer of a model folder: its files against each other, and tokenizer.json against what Transformers makes.

Transformers 5 builds the tokenizer of a known class anew from the vocabulary and tokenizer_config.json, so that it may
do what the file does not, e.g. lower the text.
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
"""Which tokenizer counts where the two differ: tokenizer.json as it is, or what ``AutoTokenizer`` makes."""

_FILE = "tokenizer.json"
_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
# Settings of a tokenizer.json by the names that tokenizer_config.json has for them.
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


def check_told(told: Told) -> None:
    """Refuses a tokenizer that is none of ``CHOICES``.

    Raises:
        UsageError: with the known ones.
    """
    choice = told.get("tokenizer")
    if choice is not None and choice not in CHOICES:
        raise UsageError(
            f"Unknown tokenizer '{choice}'.{near(choice, CHOICES)} Expected one of: {', '.join(CHOICES)}.",
            code="tokenizer-choice",
        )


def load(model_id: str, folder: Path, told: Told) -> Any:
    """The Hugging Face tokenizer of a folder.

    Args:
        model_id: for messages.
        folder: of the model.
        told: ``tokenizer`` in it says which counts, see ``CHOICES``; without it they must not differ.

    Raises:
        ModelError: when tokenizer.json and what Transformers makes of it give different ids, and nothing was chosen;
            or a package is missing.
        Exception: of every kind, from Transformers, for a damaged folder.
    """
    from transformers import AutoTokenizer

    choice = told.get("tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as problem:
        _check_packages(model_id, folder, problem)
        raise
    data = _as_stored(folder)
    if data is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        if choice == "file":
            raise UsageError(
                f"{model_id} has no {_FILE}, so its tokenizer cannot be taken as that file has it. Leave the choice "
                "of the tokenizer out.",
                code="tokenizer-file-missing",
            )
        return tokenizer
    if choice == "file":
        return wrapped(tokenizer, data)
    if choice is None:
        length = min(int(tokenizer.model_max_length), 512)
        check(
            model_id, folder, tokenizer, [*fuzz_texts(length), *_vocabulary_texts(data, tokenizer)], "generated texts"
        )
    return tokenizer


def check(model_id: str, folder: Path, tokenizer: Any, texts: Sequence[Text], what: str) -> None:
    """Compares the ids of tokenizer.json as it lies in a folder with those of a tokenizer, special tokens included.

    Args:
        model_id: for messages.
        folder: of the model; without the file there is nothing to compare.
        tokenizer: that Transformers made of it.
        texts: to compare on.
        what: they are, for the message.

    Raises:
        ModelError: with the settings that differ; no text is shown.
    """
    from tokenizers import Tokenizer

    data = _as_stored(folder)
    if data is None:
        return
    settings = _differences(data, _plain(json.loads(tokenizer.backend_tokenizer.to_str())))
    if not settings:
        return
    stored, made = Tokenizer.from_str(to_json(data)), Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    made.no_truncation()
    made.no_padding()
    rows = [[(e.ids, e.type_ids) for e in one.encode_batch(list(texts))] for one in (stored, made)]
    differing = sum(a != b for a, b in zip(*rows, strict=True))
    if differing:
        shown = "; ".join(settings[:_SHOWN]) + (" ..." if len(settings) > _SHOWN else "")
        raise ModelError(
            f"The tokenizer of {model_id} is two: {_FILE} as it lies there, and what Transformers makes of it by "
            "tokenizer_config.json, give different token ids "
            f"for {differing} of {len(texts)} {what}. What differs: {shown}. Take the one that the model was trained "
            "with: --tokenizer file or --tokenizer "
            "transformers. To settle it in the folder: set tokenizer_class to 'PreTrainedTokenizerFast' in "
            "tokenizer_config.json for the file, or "
            "AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL) for the other.",
            code="tokenizer-ambiguous",
        )


def wrapped(old: Any, data: Mapping[str, Any]) -> Any:
    """A tokenizer that does what a tokenizer.json says, with the special tokens of another; saved, it is read so."""
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
    """Holds vocabulary, added tokens and special tokens in the older files against tokenizer.json.

    Raises:
        ModelError: where they contradict each other.
    """
    data = _as_stored(folder)
    if data is None:
        return
    model = data.get("model")
    known = _token_ids(model if isinstance(model, Mapping) else {})
    added = {str(t.get("content")): t.get("id") for t in data.get("added_tokens") or [] if isinstance(t, Mapping)}
    for file, ids in (("vocab.txt", _lines(folder / "vocab.txt")), ("vocab.json", _mapping(folder / "vocab.json"))):
        if ids and known:
            everything = {**added, **known}
            wrong = sorted({t for t, i in ids.items() if everything.get(t) != i} | (known.keys() - ids.keys()))
            if wrong:
                what = f"{len(wrong)} tokens ({', '.join(map(repr, wrong[:_SHOWN]))})"
                raise ModelError(_two(model_id, file, what), code="tokenizer-vocabularies")
    everything = {**known, **added}
    wrong = sorted(t for t, i in _mapping(folder / "added_tokens.json").items() if everything.get(t) != i)
    if wrong:
        what = f"{len(wrong)} tokens ({', '.join(map(repr, wrong[:_SHOWN]))})"
        raise ModelError(_two(model_id, "added_tokens.json", what), code="tokenizer-vocabularies")
    config, special = (read_object(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    for role in _ROLES:
        here, there = (_content(entries.get(role)) for entries in (config, special))
        if here is not None and there is not None and here != there:
            raise ModelError(
                f"{model_id}: tokenizer_config.json has the {role} {here!r}, and special_tokens_map.json {there!r}. "
                "Correct the one that is wrong, or save the tokenizer again: tokenizer.save_pretrained(FOLDER).",
                code="tokenizer-special",
            )


def pad_id(folder: Path) -> int | None:
    """Id of the padding token by the files of a folder, or None where they do not say it."""
    data = _as_stored(folder) or {}
    token = _content(read_object(folder / "tokenizer_config.json").get("pad_token")) or _content(
        read_object(folder / "special_tokens_map.json").get("pad_token")
    )
    ids = {str(t.get("content")): t.get("id") for t in data.get("added_tokens") or [] if isinstance(t, Mapping)}
    found = ids.get(token) if token is not None else None
    return found if isinstance(found, int) else None


def truncation(folder: Path) -> int | None:
    """Length that tokenizer.json cuts texts at, which Transformers and a bundle do not heed."""
    cut = read_object(folder / _FILE).get("truncation")
    length = cut.get("max_length") if isinstance(cut, Mapping) else None
    return length if isinstance(length, int) else None


def _two(model_id: str, file: str, what: str) -> str:
    return (
        f"{model_id} has two vocabularies: {file} and {_FILE} disagree on {what}. Take away the one that is not of "
        "the model, or save its tokenizer again: "
        "tokenizer.save_pretrained(FOLDER)."
    )


def _check_packages(model_id: str, folder: Path, problem: Exception) -> None:
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    files = sorted(p.name for p in folder.glob("*.model"))
    lacking = [
        name
        for name, there in (("sentencepiece", is_sentencepiece_available()), ("protobuf", is_protobuf_available()))
        if not there
    ]
    if files and lacking and not (folder / _FILE).is_file():
        raise ModelError(
            f"{model_id} has its tokenizer in {files[0]} only, and no {_FILE}: to read it takes sentencepiece and "
            f"protobuf, and {' and '.join(lacking)} "
            f"is not installed here. Run: pip install {' '.join(lacking)}. Or convert it once where both are: "
            "AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL).",
            code="tokenizer-package",
        ) from problem


def _as_stored(folder: Path) -> dict[str, Any] | None:
    """What tokenizer.json says, without padding and truncation, which the caller sets; None if none can be read."""
    data = read_object(folder / _FILE)
    return _plain(data) if data else None


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "padding": None, "truncation": None}


def _differences(stored: Any, made: Any, path: str = "") -> list[str]:
    """Settings in which two tokenizers differ, each with both values."""
    if stored == made:
        return []
    part, _, last = path.rpartition(".")
    if path in ("model.vocab", "model.merges", "added_tokens"):
        return [f"{_PARTS.get(path, path)} ({_size(stored)} against {_size(made)})"]
    if isinstance(stored, Mapping) and isinstance(made, Mapping) and (stored.get("type") == made.get("type")):
        keys = dict.fromkeys((*stored, *made))
        return [
            d for key in keys for d in _differences(stored.get(key), made.get(key), f"{path}.{key}" if path else key)
        ]
    name = _NAMES.get(last) or (_PARTS.get(path) if not part else None) or path
    where = f" ({path})" if name != path else ""
    return [f"{name}{where} is {_short(stored)} in the file, {_short(made)} in Transformers"]


def _size(entries: Any) -> str:
    return f"{len(entries)} entries" if isinstance(entries, (Mapping, list)) else "none"


def _short(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    text = str(kind) if kind else to_json(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _vocabulary_texts(data: Mapping[str, Any], tokenizer: Any, count: int = 200) -> list[Text]:
    """Words of the vocabulary in several cases and with accents, and the added tokens of both sides."""
    model = data.get("model")
    known = list(_token_ids(model if isinstance(model, Mapping) else {}))
    choose = random.Random(0)
    words = [
        w for t in choose.sample(known, min(count, len(known))) if (w := t.removeprefix("##").lstrip("▁Ġ")).strip()
    ]
    added = [str(t.get("content")) for t in data.get("added_tokens") or [] if isinstance(t, Mapping)] + [
        str(t) for t in tokenizer.get_added_vocab()
    ]
    texts: list[Text] = [f"{w} {w.capitalize()} {w.upper()} {w}e\u0301 {w},{w}" for w in words]
    return texts + [f"a {token} b{token}c" for token in dict.fromkeys(added)]


def _token_ids(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    return {str(entry[0]): i for i, entry in enumerate(vocabulary)} if isinstance(vocabulary, list) else {}


def _lines(file: Path) -> dict[str, int]:
    if not file.is_file():
        return {}
    lines = file.read_text("utf-8", errors="replace").removesuffix("\n").split("\n")
    return {line.rstrip("\r"): i for i, line in enumerate(lines)}


def _mapping(file: Path) -> dict[str, int]:
    return {str(k): v for k, v in read_object(file).items() if isinstance(v, int)}


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):  # Transformers says so when it reads it
        return {}
    return data if isinstance(data, dict) else {}
