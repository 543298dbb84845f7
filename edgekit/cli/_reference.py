"""The reference of ``eval`` and ``compare``, and the file of ``baseline``."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BuildError, UsageError


def reference(path_or_model: str, bundle: str) -> str | Callable[..., Any]:
    """Return what a bundle is compared with: a Hugging Face folder as a function from inputs to outputs, all else as it is.

    Args:
        path_or_model: Bundle, report, file of outputs, or Hugging Face folder.
        bundle: Folder of the bundle, whose task and labels a teacher must share.

    Raises:
        UsageError: When the teacher has another task or other labels.
        BuildError: When the packages that run a teacher are not installed.
        ModelError: When the teacher cannot be used.
    """
    path = Path(path_or_model)
    if (path / "config.json").is_file() and not (path / "manifest.json").exists():
        return _teacher(path_or_model, bundle)
    return path_or_model


def _teacher(model: str, bundle: str) -> Callable[..., Any]:
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
    from edgekit.report.side import same_task

    origin, opened = source.read(model), open_bundle(bundle)
    if origin.task != opened.manifest.task:
        raise UsageError(
            f"{model} is a model of {origin.task}, {bundle} of {opened.manifest.task}. Give the model that the bundle was built from.",
            code="model-other-task",
        )
    with tempfile.TemporaryDirectory() as assets:
        identity = origin.save_assets(Path(assets)).identity
    same_task(identity, tasks.get(opened.manifest.task).load(opened.assets), model)
    return lambda inputs: origin.outputs(origin.encode(inputs))


def check_file(file: str) -> None:
    """Refuse a baseline's file that cannot be written or is not a ``.json`` file, before anything is measured.

    Raises:
        UsageError: When it does not end in ``.json`` or is a folder.
        BuildError: When it cannot be written.
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
