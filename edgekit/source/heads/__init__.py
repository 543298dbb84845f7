"""A file is a task: all of it that needs torch or Transformers. It has the name of the task's file in ``tasks/``.

The protocol of such a module is ``spec.head.Head``. Listing this folder is the registration: a model is read by the head that its config's
``architectures`` end in.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import cast

from edgekit.spec.errors import UsageError, near
from edgekit.spec.head import Head

__all__ = ["DEFAULT", "for_architectures", "get", "names"]

DEFAULT = "text-classification"
"""The task of a module from Python whose class name ends as no head's does."""


def names() -> list[str]:
    """Names of the tasks that models can be read for."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def get(task: str) -> Head:
    """The head of a task.

    Raises:
        UsageError: for an unknown task, with the nearest known one.
    """
    if task not in names():
        raise UsageError(f"Unknown task '{task}'.{near(task, names())} Supported: {', '.join(names())}.")
    return cast(Head, importlib.import_module(f"{__name__}.{task.replace('-', '_')}"))


def for_architectures(architectures: Sequence[str]) -> str | None:
    """The task whose head is meant by classes of Transformers, e.g. ``["BertForTokenClassification"]``; None where there is none."""
    return next((name for name in names() if any(a.endswith(get(name).ARCHITECTURES) for a in architectures)), None)
