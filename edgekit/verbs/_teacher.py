"""Models that ``measure``, ``compare`` and ``check`` compare a bundle with, and the file that ``baseline`` writes."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.report.baseline import BaselineRef
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BuildError, UsageError
from edgekit.spec.paths import check_path
from edgekit.spec.sources import FilePath


def find_reference(before: BaselineRef, bundle: FilePath) -> BaselineRef:
    """Return the reference that a bundle is compared with.

    A Hugging Face folder becomes a function from inputs to outputs; anything else is returned unchanged.

    Args:
        before: Bundle, report, file of outputs, Hugging Face folder, or function.
        bundle: Folder of the bundle; a teacher must have the same task.

    Raises:
        UsageError: If ``before`` is neither a path nor a function, or a teacher's task or labels differ.
        BuildError: If the packages that run a teacher are not installed.
        ModelError: If the teacher cannot be used.
    """
    if callable(before):
        return before
    check_path(before, "baseline")
    path = Path(before)
    if not (path / "config.json").is_file() or (path / "manifest.json").exists():
        return before
    return _teacher(os.fspath(before), bundle)


def _teacher(model: str, bundle: FilePath) -> Callable[..., Any]:
    from edgekit import tasks
    from edgekit.bundle.trust import open_bundle
    from edgekit.report.predictions import FILE_TYPES

    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise BuildError(
            f"{model} is a Hugging Face model, and the package '{missing[0]}', which runs it, is not installed. "
            f"Run: {install_hint('build')}, or give the model's outputs as a file ({', '.join(FILE_TYPES)}).",
            code="package-missing",
        )
    from edgekit import source
    from edgekit.report.side import check_same_task

    origin = source.read(model)
    opened = open_bundle(Path(bundle))
    if origin.task != opened.manifest.task:
        raise UsageError(
            f"{model} is a model of {origin.task}, {bundle} of {opened.manifest.task}. "
            "Give the model that the bundle was built from.",
            code="model-other-task",
        )
    with tempfile.TemporaryDirectory() as assets:
        identity = origin.save_assets(Path(assets)).identity
    check_same_task(identity, tasks.get(opened.manifest.task).load(opened.assets), model)
    return lambda inputs: origin.outputs(origin.encode(inputs))


def check_file(file: FilePath) -> None:
    """Refuse a baseline's file that cannot be written or is not a ``.json`` file, before anything is measured.

    Raises:
        UsageError: If it does not end in ``.json`` or is a folder.
        BuildError: If it cannot be written.
    """
    path = Path(file)
    if path.suffix.lower() != ".json":
        raise UsageError(
            f"-o is {file}, expected a file that ends in .json, as 'edgekit check --baseline' takes it. Rename it.",
            code="output-suffix",
        )
    if path.is_dir():
        raise UsageError(
            f"-o is {file}, which is a folder, expected a file. Give e.g. -o {file}/baseline.json.",
            code="output-is-folder",
        )
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BuildError(
            f"{file} cannot be written: {path.parent} is not a folder that may be written. Give another -o.",
            code="output-not-writable",
        )
