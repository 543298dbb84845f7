"""Folders of models that this floor writes: they appear whole or not at all, and only such a folder is ever replaced."""

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
"""In each of them: what it was made from."""


def save(module: Any, processor: Any, folder: Path, record: Mapping[str, object]) -> None:
    """Writes a Hugging Face folder, with what it was made from."""
    pruned = hasattr(
        module.config, KEPT_SIZES
    )  # is filled by the names that weights have in memory, not by those of the hub
    with quiet():
        module.to("cpu").save_pretrained(folder, save_original_format=not pruned)
        processor.save_pretrained(folder)
    (folder / RECORD).write_text(to_json(dict(record), indent=2, sort_keys=True) + "\n", "utf-8")


def check_output(out: Path, force: bool) -> None:
    """Refuses a folder that must not be touched, before any work is done.

    Raises:
        UsageError: when it exists and ``force`` is not given, or when it holds something else.
        BuildError: when it cannot be made there.
    """
    check_place(out)
    recover(out)
    check_free(
        out,
        force,
        "a model that EdgeKit wrote",
        lambda there: there.is_dir() and (not any(there.iterdir()) or (there / RECORD).is_file()),
    )


def place(made: Path, out: Path, force: bool) -> Path:
    """Copies a finished folder to ``out``.

    Raises:
        UsageError: as :func:`check_output`.
        BuildError: when the disk is full or cannot be written; ``out`` is then as it was.
    """
    with disk_errors(out), new_folder(out) as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        folder.chmod(0o755)  # it was made private
        sync_tree(folder)
        put_folder(folder, out, lambda: check_output(out, force))
    return out
