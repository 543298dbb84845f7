"""What ``report`` and ``compare`` compare a bundle with, and where ``baseline`` keeps it."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BuildError, UsageError


def reference(given: str, bundle: str) -> str | Callable[..., Any]:
    """What a bundle is compared with: a Hugging Face folder becomes a function from inputs to outputs; the rest is left as it is.

    Args:
        given: a bundle, a report, a file of outputs, or a Hugging Face folder.
        bundle: which a teacher must be of one task with.

    Raises:
        UsageError: when a teacher's task or labels are others.
        BuildError: when the packages that run a teacher are not installed.
        ModelError: when it cannot be used.
    """
    path = Path(given)
    return (
        _teacher(given, bundle) if (path / "config.json").is_file() and not (path / "manifest.json").exists() else given
    )


def _teacher(model: str, bundle: str) -> Callable[..., Any]:
    from edgekit import tasks
    from edgekit.bundle.trust import open_bundle
    from edgekit.report.predictions import FILE_TYPES

    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise BuildError(
            f"{model} is a Hugging Face model, which the package '{missing[0]}' runs, and it is not installed here. Run: {install_hint('build')}, "
            f"or save the model's outputs where it is and give them as a file ({', '.join(FILE_TYPES)}).",
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
        its = origin.save_assets(Path(assets)).identity
    same_task(its, tasks.get(opened.manifest.task).load(opened.assets), model)
    return lambda inputs: origin.outputs(origin.encode(inputs))


def check_file(file: str) -> None:
    """Refuses a baseline's file that cannot be written, or would not be known again as one, before anything is measured.

    Raises:
        UsageError: when it does not end in ``.json`` or is a folder.
        BuildError: when it cannot be made there.
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
