"""The weights of a model folder by name: which files are used, and whether trained weights would be left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.source._other_weights import check_files_below, check_other_files
from edgekit.source._weight_names import is_adapter, is_optional, strip_wrappers
from edgekit.spec.errors import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Name of the encoder in a classifier, if it is not the model type.
_BASES = {"deberta-v2": "deberta", "modernbert": "model"}
_HEAD = "classifier"
_FLOATS = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}
_SAVE = "Save the fine-tuned model again: model.save_pretrained(FOLDER)."


@dataclass(frozen=True)
class Weights:
    """The weights of a folder that are used.

    Attributes:
        files: Files that contain them.
        names: Stored name of every tensor to its name in the model; the two differ if a wrapper was saved.
        shapes: Shape of every tensor by its name in the model.
        notes: Notes about how the weights were read, one sentence each.
    """

    files: tuple[Path, ...]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]

    @property
    def renamed(self) -> bool:
        """Whether Transformers would not recognise the stored names."""
        return any(stored != name for stored, name in self.names.items())

    def load(self) -> dict[str, Any]:
        """Return every tensor by its name in the model."""
        from safetensors.torch import load_file

        weights = {}
        for file in self.files:
            for stored, tensor in load_file(file).items():
                weights[self.names[stored]] = tensor
        return weights


def survey(model_id: str, folder: Path, kind: str) -> Weights:
    """Find the weights of a local folder.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model.
        kind: Value of ``model_type`` in its config.

    Raises:
        ModelError: If the folder has trained weights that would not be used, several versions of the weights, or
            several models.
    """
    from safetensors import SafetensorError

    files = _used_files(model_id, folder)
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    try:
        for file in files:
            stored |= _read_header(file)
    except SafetensorError:
        # The file is damaged; loading reports it.
        return Weights(files, {}, {}, ())
    names = _model_names(model_id, list(stored), kind)
    notes = []
    prefixes = sorted({stored_name.removesuffix(name) for stored_name, name in names.items() if stored_name != name})
    if prefixes:
        wrapper = ", ".join(map(repr, prefixes[:2]))
        notes.append(f"The weights were saved from a wrapper ({wrapper} in their names): read without it.")
    packed = sorted({dtype for dtype, _ in stored.values()} - _FLOATS)
    if packed:
        raise ModelError(
            f"{model_id} has weights of the type {packed[0]}: it is quantized already, expected float32 or float16. "
            "Give the model as it was trained.",
            code="model-quantized",
        )
    shapes = {names[name]: shape for name, (_, shape) in stored.items()}
    weights = Weights(files, names, shapes, ())
    notes += check_other_files(model_id, folder, files, names)
    notes += check_files_below(model_id, folder, files, names)
    return replace(weights, notes=tuple(notes))


def check_unexpected(model_id: str, names: Iterable[str]) -> None:
    """Check that weights without a place in the model are not needed.

    Raises:
        ModelError: If trained weights would not be used; the message has their names.
    """
    unused = sorted(name for name in names if not is_optional(name))
    adapters = [name for name in unused if is_adapter(name)]
    if adapters:
        raise ModelError(
            f"{model_id} contains {len(adapters)} weights of an adapter ({adapters[0]} ...), which are not part of the "
            "model itself. Merge it first: model.merge_and_unload().save_pretrained(FOLDER).",
            code="model-adapter",
        )
    if unused:
        raise ModelError(
            f"{model_id} contains {len(unused)} weights without a place in its architecture ({_first(unused)}), which "
            "would not be used. Pass the module itself from Python, "
            "edgekit.build(edgekit.TorchModule(module=..., processor=...), ...), or save the model without them.",
            code="weights-unused",
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _used_files(model_id: str, folder: Path) -> tuple[Path, ...]:
    """Return the files that Transformers reads."""
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if not (folder / INDEX).is_file():
        return ()
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ModelError(
            f"{INDEX} of {model_id} has no readable weight_map ({type(problem).__name__}). {_SAVE}",
            code="weights-index",
        ) from problem
    for name in shards:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise ModelError(
                f"{INDEX} of {model_id} lists {name!r}, which is not a file in that folder. "
                "Copy all shards into it, or save the model again.",
                code="weights-index",
            )
    return tuple(folder / name for name in shards)


def _read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape of each tensor of a safetensors file.

    Raises:
        SafetensorError: If the file is no safetensors file, or damaged.
    """
    from safetensors import safe_open

    header = {}
    with safe_open(file, "np") as handle:
        for name in handle.keys():  # noqa: SIM118
            part = handle.get_slice(name)
            header[name] = (part.get_dtype(), tuple(part.get_shape()))
    return header


def _model_names(model_id: str, stored: Sequence[str], kind: str) -> dict[str, str]:
    """Return the stored names and the names in the model, without parts that wrappers add.

    Raises:
        ModelError: If the names are those of several models, or two names become equal.
    """
    names = {name: strip_wrappers(name) for name in stored}
    base = _BASES.get(kind, kind)
    head_prefixes = set()
    for name in names.values():
        match = re.match(rf"((?:.*\.)?)({_HEAD}\.)", name)
        if match:
            head_prefixes.add(name[: match.start(2)])
    prefixes = []
    for prefix in sorted(head_prefixes):
        if any(name.startswith(f"{prefix}{base}.") for name in names.values()):
            prefixes.append(prefix)
    if len(prefixes) > 1:
        raise ModelError(
            f"{model_id} contains the weights of {len(prefixes)} models (prefixes {', '.join(map(repr, prefixes))}), "
            "expected one. Save one of them alone.",
            code="weights-several-models",
        )
    if prefixes and prefixes[0]:
        names = {s: name.removeprefix(prefixes[0]) for s, name in names.items()}
    if len(set(names.values())) < len(names):
        duplicate = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise ModelError(
            f"{model_id} contains the weight {duplicate} twice, once with the prefix of a wrapper. {_SAVE}",
            code="weights-twice",
        )
    return names
