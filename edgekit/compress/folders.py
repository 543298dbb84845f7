"""Output folders of compressed models: each appears complete or not at all, and no other folder is ever replaced."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.bundle.place import check_free, check_place, disk_errors, new_folder, put_folder, recover, sync_tree
from edgekit.source.modules import quiet
from edgekit.source.stack import KEPT_SIZES
from edgekit.spec.parsing import to_json

__all__ = ["RECORD", "check_output", "place", "save"]

RECORD = "edgekit.json"
"""Name of the file in each folder that records what the model was made from."""


def save(module: Any, processor: Any, folder: Path, record: Mapping[str, object]) -> None:
    """Write a Hugging Face folder and its record file.

    Args:
        module: Torch module of Transformers; it is moved to the CPU.
        processor: Processor of the model, e.g. its tokenizer.
        folder: Folder to write to.
        record: Content of the record file: plain data.
    """
    # The loader of a pruned model finds weights by their names in the module, not by those of the hub's format.
    is_pruned = hasattr(module.config, KEPT_SIZES)
    with quiet():
        module.to("cpu").save_pretrained(folder, save_original_format=not is_pruned)
        processor.save_pretrained(folder)
    (folder / RECORD).write_text(to_json(dict(record), indent=2, sort_keys=True) + "\n", "utf-8")


def check_output(out: Path, force: bool) -> None:
    """Refuse an output folder that must not be replaced, before any work is done.

    Args:
        out: Output folder.
        force: Whether a model that EdgeKit wrote there is replaced.

    Raises:
        UsageError: If the folder exists and ``force`` is False, or holds anything but such a model.
        BuildError: If the folder cannot be created.
    """

    def is_replaceable(path: Path) -> bool:
        return path.is_dir() and (not any(path.iterdir()) or (path / RECORD).is_file())

    check_place(out)
    recover(out)
    check_free(out, force, "a model that EdgeKit wrote", is_replaceable)


def place(model_folder: Path, out: Path, force: bool) -> Path:
    """Copy a finished model folder to the output folder.

    Args:
        model_folder: Folder to copy.
        out: Output folder.
        force: Whether a model that EdgeKit wrote there is replaced.

    Returns:
        The output folder.

    Raises:
        UsageError: If ``out`` is refused, see :func:`check_output`.
        BuildError: If the disk is full or not writable; ``out`` is then unchanged.
    """
    with disk_errors(out), new_folder(out) as folder:
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)
        folder.chmod(0o755)  # The temporary folder is private to its owner.
        sync_tree(folder)
        put_folder(folder, out, lambda: check_output(out, force))
    return out
