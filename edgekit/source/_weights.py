"""The weights of a model folder, by their names: which count, and what was trained but would not be used."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.spec.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

# What wrappers put into the names: torch.compile, DataParallel and DDP, FSDP, DeepSpeed, activation checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
_BASES = {
    "deberta-v2": "deberta",
    "modernbert": "model",
}  # what the encoder is called in a classifier, where it is not the model type
_HEAD = "classifier"
# Files of a training or of another framework, whose content is no other version of the weights.
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer|dataset|openvino|tokenizer|latest)"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PART = re.compile(
    r"head|classifier|adapter|lora|delta|modules_to_save|dense|projection"
)  # files of a part that was trained, by their usual names
# Names that nobody misses in a classifier: other heads of the pretraining, computed buffers, the weights of a loss.
_HARMLESS = re.compile(
    r"(^|\.)(cls|lm_head|mlm|mlm_head|predictions|lm_predictions|mask_predictions"
    r"|generator_predictions|generator_lm_head|discriminator_predictions"
    r"|vocab_transform|vocab_layer_norm|vocab_projector|sop_classifier|decoder)\."
    r"|(^|\.)(position_ids|token_type_ids|n_averaged|num_batches_tracked)$"
    r"|(^|\.)(loss\w*|criterion\w*|\w*loss_?(fct|fn|func)?|metrics?|(train|val|test)_\w+)\."
    r"|^(bert|roberta|electra|mpnet|deberta)\.pooler\.|(^|\.)(lm_head|decoder)\.bias$"
)
_ADAPTED = re.compile(
    r"(^|\.)(lora_\w+|base_layer|modules_to_save|adapters?|ia3_\w+|prompt_encoder|oft_\w+|hada_\w+)(\.|$)"
)
_SAVE = "Save the fine-tuned model again: model.save_pretrained(FOLDER)."


@dataclass(frozen=True)
class Weights:
    """The weights of a folder that count.

    Attributes:
        files: that hold them.
        names: of every tensor as stored, to its name in the model: another one where a wrapper was saved.
        shapes: of every tensor by its name in the model.
        notes: what should be known of them, a sentence each.
    """

    files: tuple[Path, ...]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]

    @property
    def renamed(self) -> bool:
        """Whether Transformers would not know the stored names."""
        return any(stored != name for stored, name in self.names.items())

    def load(self) -> dict[str, Any]:
        """Every tensor by its name in the model."""
        from safetensors.torch import load_file

        return {self.names[stored]: tensor for file in self.files for stored, tensor in load_file(file).items()}


def survey(model_id: str, folder: Path, kind: str) -> Weights:
    """Looks through a local folder.

    Args:
        model_id: for messages.
        folder: of the model.
        kind: ``model_type`` of its config.

    Raises:
        ModelError: when it holds weights that were trained and would not be used, several versions of the weights, or
            several models.
    """
    from safetensors import SafetensorError

    files = _counted(model_id, folder)
    try:
        stored = {name: entry for file in files for name, entry in _header(file).items()}
    except SafetensorError:  # cut or damaged: loading says so
        return Weights(files, {}, {}, ())
    names = _names(model_id, list(stored), kind)
    prefixes = sorted({s.removesuffix(n) if s.endswith(n) else s for s, n in names.items() if s != n})
    notes = (
        [
            f"The weights were saved from a wrapper ({', '.join(map(repr, prefixes[:2]))} in their names): read "
            "without it."
        ]
        if prefixes
        else []
    )
    packed = sorted({dtype for dtype, _ in stored.values()} - {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"})
    if packed:
        raise ModelError(
            f"{model_id} has weights of the type {packed[0]}: it is quantized already. Give the model as it was "
            "trained, in float32 or float16.",
            code="model-quantized",
        )
    shapes = {names[name]: shape for name, (_, shape) in stored.items()}
    found = Weights(files, names, shapes, ())
    notes += _others(model_id, folder, found)
    notes += _below(model_id, folder, found)
    return Weights(files, names, shapes, tuple(notes))


def check_unexpected(model_id: str, names: Iterable[str]) -> None:
    """Refuses weights that the model has no place for: what was trained would not be used.

    Raises:
        ModelError: with their names.
    """
    beside = sorted(n for n in names if not _HARMLESS.search(n))
    if adapted := [n for n in beside if _ADAPTED.search(n)]:
        raise ModelError(
            f"{model_id} holds {len(adapted)} weights of an adapter ({adapted[0]} ...), which are not part of the "
            "model itself. "
            "Merge it first: model.merge_and_unload().save_pretrained(FOLDER).",
            code="model-adapter",
        )
    if beside:
        raise ModelError(
            f"{model_id} holds {len(beside)} weights that its architecture has no place for "
            f"({', '.join(beside[:3])}{' ...' if len(beside) > 3 else ''}): what "
            "was trained there would not be used. Pass the module itself from Python, edgekit.build(module=..., "
            "processor=...), or save the model without them.",
            code="weights-unused",
        )


def _counted(model_id: str, folder: Path) -> tuple[Path, ...]:
    """The files that Transformers reads."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return (folder / SINGLE,) if (folder / SINGLE).is_file() else ()
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
                f"{INDEX} of {model_id} lists {name!r}, which is no file of that folder. Copy all shards there, or "
                "save the model again.",
                code="weights-index",
            )
    return tuple(folder / name for name in shards)


def _header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to dtype and shape of each tensor of a safetensors file.

    Raises:
        SafetensorError: when it is none, or cut.
    """
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _names(model_id: str, stored: Sequence[str], kind: str) -> dict[str, str]:
    """Stored names to those of the model, without what wrappers put before or into them.

    Raises:
        ModelError: when the names are those of several models.
    """
    names = {s: ".".join(part for part in s.split(".") if part not in _WRAPPERS) for s in stored}
    base = _BASES.get(kind, kind)
    heads = {
        n[: match.start(2)] for n in names.values() for match in [re.match(rf"((?:.*\.)?)({_HEAD}\.)", n)] if match
    }
    before = sorted(p for p in heads if any(n.startswith(f"{p}{base}.") for n in names.values()))
    if len(before) > 1:
        raise ModelError(
            f"{model_id} holds the weights of {len(before)} models ({', '.join(repr(p) for p in before)} before "
            "their names). Save the one alone.",
            code="weights-several-models",
        )
    if before and before[0]:
        names = {s: n.removeprefix(before[0]) for s, n in names.items()}
    if len(set(names.values())) < len(names):
        twice = next(n for n in names.values() if list(names.values()).count(n) > 1)
        raise ModelError(
            f"{model_id} holds the weight {twice} twice, once with the name of a wrapper before it. {_SAVE}",
            code="weights-twice",
        )
    return names


def _others(model_id: str, folder: Path, counted: Weights) -> list[str]:
    """Compares what else looks like weights at the top of a folder with those that count."""
    files = sorted(
        p for p in folder.iterdir() if p.is_file() and p not in counted.files and not _NOT_WEIGHTS.match(p.name)
    )
    files = [p for p in files if p.suffix == ".safetensors" or p.suffix in _PICKLES]
    if not files:
        return []
    values = {counted.names[n]: a for n, a in _arrays(counted.files).items()}
    unread = []
    for file in files:
        if file.suffix == ".safetensors":
            _compare(model_id, file, {_bare(n): a for n, a in _arrays([file]).items()}, values)
        elif not _compare_storages(model_id, file, _storages(file), list(values.values())):
            unread.append(file.name)
    return (
        [f"{', '.join(unread)} was not read: {' and '.join(f.name for f in counted.files[:2])} counts."]
        if unread
        else []
    )


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _compare(model_id: str, file: Path, other: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
    apart = sorted(n for n in other if n not in values and not _HARMLESS.search(n))
    if apart:
        raise _apart(model_id, file, f" ({', '.join(apart[:3])}{' ...' if len(apart) > 3 else ''})")
    differing = [n for n, a in other.items() if n in values and not _alike(a, values[n])]
    if differing:
        raise ModelError(
            f"{model_id} holds two versions of its weights: {file.name} differs from the files that Transformers "
            f"reads in {len(differing)} tensors "
            f"({differing[0]} ...). Take away the one that is not the fine-tuned model.",
            code="weights-two-versions",
        )


def _apart(model_id: str, file: Path, names: str) -> ModelError:
    return ModelError(
        f"{model_id} has weights in {file.name} that Transformers does not read{names}: what was trained there would "
        "not be used. "
        f"Save the whole model in one, model.save_pretrained(FOLDER), or take {file.name} away if it is of no use.",
        code="weights-unused",
    )


def _compare_storages(model_id: str, file: Path, other: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> bool:
    """Holds the bytes in a pickle, which itself is not run, against the tensors that count.

    Returns:
        False where their sizes do not tell which is which.
    """
    by_size: dict[int, list[np.ndarray]] = {}
    for raw in other:
        for size in (raw.nbytes // 4, raw.nbytes // 2):
            by_size.setdefault(size, []).append(raw)
    sizes = {v.size for v in values}
    if _PART.search(file.name) and (not other or any(not {raw.nbytes // 4, raw.nbytes // 2} & sizes for raw in other)):
        raise _apart(model_id, file, "")
    told = [v for v in values if v.size in by_size]
    if not _PART.search(file.name) and len(told) < 0.9 * len(values):
        return False
    differing = sum(
        not any(_alike(read, v) for raw in by_size[v.size] for read in _readings(raw, v.size)) for v in told
    )
    if _PART.search(file.name):  # the file holds a part: each of its tensors must be one that counts
        differing = sum(not any(_alike(read, v) for v in told for read in _readings(raw, v.size)) for raw in other)
    if differing:
        raise ModelError(
            f"{model_id} holds two versions of its weights: {file.name} and the safetensors that Transformers reads "
            f"differ in {differing} tensors. Take away "
            "the file that is not the fine-tuned model; if that is the safetensors, convert the other where you "
            "trust it: model.save_pretrained(FOLDER).",
            code="weights-two-versions",
        )
    return True


def _readings(raw: np.ndarray, size: int) -> list[np.ndarray]:
    """Bytes as float32, or as float16 and bfloat16; nothing where they are of another size."""
    if raw.nbytes == 4 * size:
        return [raw.view(np.float32)]
    if raw.nbytes != 2 * size:
        return []
    halves = raw[: 2 * size].view(np.uint16)
    return [halves.view(np.float16).astype(np.float32), (halves.astype(np.uint32) << 16).view(np.float32)]


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal but for the rounding of half precision."""
    if one.size != other.size:
        return False
    with np.errstate(invalid="ignore"):  # bytes of another type may be anything
        x, y = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    return bool(np.allclose(x, y, rtol=2.0**-7, atol=1e-6, equal_nan=True))


def _arrays(files: Iterable[Path]) -> dict[str, np.ndarray]:
    """Float tensors of safetensors files, as float32; nothing of a file that is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {n: t.float().numpy() for file in files for n, t in load_file(file).items() if t.is_floating_point()}
    except (SafetensorError, OSError):
        return {}


def _storages(file: Path) -> list[np.ndarray]:
    """The raw bytes of the tensors in a zip of ``torch.save``, beside its pickle; nothing of a file of another kind."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [
                i
                for i in archive.infolist()
                if re.search(r"(^|/)data/\d+$", i.filename) and i.compress_type == zipfile.ZIP_STORED
            ]
            return [np.frombuffer(archive.read(i), np.uint8) for i in entries if i.file_size % 2 == 0 and i.file_size]
    except (zipfile.BadZipFile, OSError, EOFError):
        return []


def _below(model_id: str, folder: Path, counted: Weights) -> list[str]:
    """Looks for adapters and checkpoints in the folders below."""
    heads = {_bare(name): stored for stored, name in counted.names.items()}
    adapters = sorted(
        {
            p.parent
            for pattern in ("*/adapter_config.json", "*/*/adapter_config.json", "*/adapter_model.*")
            for p in folder.glob(pattern)
        }
    )
    if adapters and not any(_merged(adapter, counted, heads) for adapter in adapters):
        where = ", ".join(p.relative_to(folder).as_posix() for p in adapters[:3])
        raise ModelError(
            f"{model_id} has an adapter in {where}, which would not be used. Merge it, "
            "model.merge_and_unload().save_pretrained(FOLDER); if the folder's own "
            "weights are the merged ones already, take the adapter away from it.",
            code="model-adapter",
        )
    checkpoints = sorted(p.name for p in folder.glob("checkpoint-*") if any(p.glob("*.safetensors")))
    if not checkpoints:
        return []
    return [
        f"The weights of the folder itself count; {len(checkpoints)} checkpoints below it "
        f"({', '.join(checkpoints[:3])}) were not read."
    ]


def _merged(adapter: Path, counted: Weights, heads: Mapping[str, str]) -> bool:
    """Whether a folder's weights have the head that was trained with an adapter, so that this was merged into them."""
    trained = {}
    for name, array in _arrays(sorted(adapter.glob("adapter_model*.safetensors"))).items():
        bare = re.sub(
            r"\.modules_to_save(\.\w+)?\.(?=\w+$)|\.original_module\.", ".", name.removeprefix("base_model.model.")
        )
        if bare in heads:
            trained[heads[bare]] = array
    values = _arrays(counted.files) if trained else {}
    return bool(trained) and all(
        stored in values and _alike(array, values[stored]) for stored, array in trained.items()
    )
