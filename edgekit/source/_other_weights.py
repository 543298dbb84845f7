"""Other files with weights in a model folder, compared with the weights that are used.

They may be copies. If they are another version, or a trained part that Transformers does not read, the model is
refused. Pickles are not executed: the raw bytes of their tensors are compared.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.source._weight_names import is_optional, strip_wrappers
from edgekit.spec.errors import ModelError

# Files of a training or of another framework, which are not versions of the weights.
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer|dataset|openvino|tokenizer|latest)"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Usual names of files with a trained part of a model.
_PART = re.compile(r"head|classifier|adapter|lora|delta|modules_to_save|dense|projection")
# Share of the used tensors whose size must occur in a pickle for the two to be comparable.
_COMPARABLE = 0.9


def check_other_files(model_id: str, folder: Path, used: Sequence[Path], names: Mapping[str, str]) -> list[str]:
    """Compare other files with weights in a folder with the used ones.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model.
        used: Files with the used weights.
        names: Stored name of every used tensor to its name in the model.

    Returns:
        A note if files could not be compared.

    Raises:
        ModelError: If a file is another version of the weights, or a part that Transformers does not read.
    """
    files = []
    for path in sorted(folder.iterdir()):
        is_weights = path.suffix == ".safetensors" or path.suffix in _PICKLES
        if is_weights and path.is_file() and path not in used and not _NOT_WEIGHTS.match(path.name):
            files.append(path)
    if not files:
        return []
    values = {names[stored]: array for stored, array in _read_arrays(used).items()}
    unread = []
    for file in files:
        if file.suffix == ".safetensors":
            arrays = {strip_wrappers(name): array for name, array in _read_arrays([file]).items()}
            _compare_arrays(model_id, file, arrays, values)
        elif not _compare_storages(model_id, file, _read_storages(file), list(values.values())):
            unread.append(file.name)
    if not unread:
        return []
    return [f"{', '.join(unread)} was not read; {' and '.join(file.name for file in used[:2])} was used."]


def check_files_below(model_id: str, folder: Path, used: Sequence[Path], names: Mapping[str, str]) -> list[str]:
    """Look for adapters and checkpoints in the subfolders of a model folder.

    Args:
        model_id: Name of the model, for messages.
        folder: Folder of the model.
        used: Files with the used weights.
        names: Stored name of every used tensor to its name in the model.

    Returns:
        A note if there are checkpoints.

    Raises:
        ModelError: If there is an adapter that is not merged into the used weights.
    """
    stored_names = {strip_wrappers(name): stored for stored, name in names.items()}
    patterns = ("*/adapter_config.json", "*/*/adapter_config.json", "*/adapter_model.*")
    adapters = sorted({path.parent for pattern in patterns for path in folder.glob(pattern)})
    if adapters and not any(_is_merged(adapter, used, stored_names) for adapter in adapters):
        places = ", ".join(path.relative_to(folder).as_posix() for path in adapters[:3])
        raise ModelError(
            f"{model_id} has an adapter in {places}, which would not be used. "
            "Merge it: model.merge_and_unload().save_pretrained(FOLDER). "
            "If the folder's own weights are already merged, remove the adapter.",
            code="model-adapter",
        )
    checkpoints = sorted(p.name for p in folder.glob("checkpoint-*") if any(p.glob("*.safetensors")))
    if not checkpoints:
        return []
    return [
        f"The weights of the folder itself were used; {len(checkpoints)} checkpoints below it "
        f"({', '.join(checkpoints[:3])}) were not read."
    ]


def _compare_arrays(
    model_id: str, file: Path, other: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> None:
    unknown = sorted(name for name in other if name not in values and not is_optional(name))
    if unknown:
        more = " ..." if len(unknown) > 3 else ""
        raise _unused_error(model_id, file, f" ({', '.join(unknown[:3])}{more})")
    differing = [name for name, a in other.items() if name in values and not _is_close(a, values[name])]
    if differing:
        raise ModelError(
            f"{model_id} has two versions of its weights: {file.name} and the files Transformers reads "
            f"differ in {len(differing)} tensors ({differing[0]} ...). "
            "Remove the one that is not the fine-tuned model.",
            code="weights-two-versions",
        )


def _unused_error(model_id: str, file: Path, names: str) -> ModelError:
    return ModelError(
        f"{model_id} has weights in {file.name} that Transformers does not read{names}, so they would not be used. "
        f"Save the whole model, model.save_pretrained(FOLDER), or remove {file.name} if it is not needed.",
        code="weights-unused",
    )


def _compare_storages(model_id: str, file: Path, storages: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> bool:
    """Compare the raw bytes in a pickle with the used tensors; tensors are matched by size.

    Returns:
        False if the sizes do not suffice to match them.
    """
    by_size: dict[int, list[np.ndarray]] = {}
    for raw in storages:
        for size in _possible_sizes(raw):
            by_size.setdefault(size, []).append(raw)
    sizes = {value.size for value in values}
    is_part = bool(_PART.search(file.name))
    if is_part and (not storages or any(not sizes.intersection(_possible_sizes(raw)) for raw in storages)):
        raise _unused_error(model_id, file, "")
    matched = [value for value in values if value.size in by_size]
    if not is_part and len(matched) < _COMPARABLE * len(values):
        return False
    if is_part:
        # Each tensor of a part must be one of the used tensors.
        differing = len(storages) - sum(_matches_any([raw], matched) for raw in storages)
    else:
        differing = len(matched) - sum(_matches_any(by_size[value.size], [value]) for value in matched)
    if differing:
        raise ModelError(
            f"{model_id} contains two versions of its weights: {file.name} and the safetensors that Transformers reads "
            f"differ in {differing} tensors. Remove the file that is not the fine-tuned model. If that is the "
            "safetensors file and you trust the other, convert it: model.save_pretrained(FOLDER).",
            code="weights-two-versions",
        )
    return True


def _possible_sizes(raw: np.ndarray) -> tuple[int, int]:
    """Return the number of values in raw bytes, as 4-byte and as 2-byte numbers."""
    return raw.nbytes // 4, raw.nbytes // 2


def _matches_any(storages: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> bool:
    """Return whether one of the raw bytes is one of the tensors."""
    return any(_matches(raw, value) for raw in storages for value in values)


def _matches(raw: np.ndarray, value: np.ndarray) -> bool:
    """Return whether raw bytes are a tensor, as float32, float16 or bfloat16."""
    if raw.nbytes == 4 * value.size:
        return _is_close(raw.view(np.float32), value)
    if raw.nbytes != 2 * value.size:
        return False
    halves = raw.view(np.uint16)
    as_float16 = halves.view(np.float16).astype(np.float32)
    as_bfloat16 = (halves.astype(np.uint32) << 16).view(np.float32)
    return _is_close(as_float16, value) or _is_close(as_bfloat16, value)


def _is_close(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are equal except for the rounding of half precision."""
    if one.size != other.size:
        return False
    with np.errstate(invalid="ignore"):  # The bytes of another type may be any number.
        x = one.reshape(-1).astype(np.float64)
        y = other.reshape(-1).astype(np.float64)
    return bool(np.allclose(x, y, rtol=2.0**-7, atol=1e-6, equal_nan=True))


def _read_arrays(files: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the float tensors of safetensors files as float32; empty if a file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    arrays = {}
    try:
        for file in files:
            for name, tensor in load_file(file).items():
                if tensor.is_floating_point():
                    arrays[name] = tensor.float().numpy()
    except (SafetensorError, OSError):
        return {}
    return arrays


def _read_storages(file: Path) -> list[np.ndarray]:
    """Return the raw bytes of the tensors in a zip file of ``torch.save``; empty for a file of another format."""
    storages = []
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                is_tensor = re.search(r"(^|/)data/\d+$", entry.filename) and entry.compress_type == zipfile.ZIP_STORED
                if is_tensor and entry.file_size and entry.file_size % 2 == 0:
                    storages.append(np.frombuffer(archive.read(entry), np.uint8))
    except (zipfile.BadZipFile, OSError, EOFError):
        return []
    return storages


def _is_merged(adapter: Path, used: Sequence[Path], stored_names: Mapping[str, str]) -> bool:
    """Return whether the used weights contain the head that was trained with an adapter."""
    trained = {}
    for name, array in _read_arrays(sorted(adapter.glob("adapter_model*.safetensors"))).items():
        bare = name.removeprefix("base_model.model.")
        bare = re.sub(r"\.modules_to_save(\.\w+)?\.(?=\w+$)|\.original_module\.", ".", bare)
        if bare in stored_names:
            trained[stored_names[bare]] = array
    if not trained:
        return False
    values = _read_arrays(used)
    return all(stored in values and _is_close(array, values[stored]) for stored, array in trained.items())
