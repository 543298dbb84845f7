"""A file is a task: what it takes, how it is preprocessed, what its outputs mean, how it is scored.

Listing this folder is the registration: ``text-classification`` is ``text_classification.py``. A task module has
``LOOP`` (a file name in ``runtime/loops/``), ``MODALITY`` (a file name in ``modalities/``) and ``load(assets) -> Task``. Numpy and tokenizers only.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from edgekit.spec.errors import UsageError, near
from edgekit.spec.protocols import TaskModule
from edgekit.tasks._heads import Classification

__all__ = ["Classification", "get", "names"]


def names() -> list[str]:
    """Names of the tasks, as ``--task`` takes them."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def get(name: str) -> TaskModule:
    """The module of a task.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    if name not in names():
        raise UsageError(f"Unknown task '{name}'.{near(name, names())} Known tasks: {', '.join(names())}.")
    return cast(TaskModule, importlib.import_module(f"edgekit.tasks.{name.replace('-', '_')}"))
