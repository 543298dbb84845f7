"""A file is a task: all of it that needs torch or Transformers. It has the name of the task's file in ``tasks/``.

The protocol of such a module is ``spec.head.Head``. Listing this folder is the registration: a model is read by the head that its config's
``architectures`` end in.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.spec.head import Head
from edgekit.spec.registry import Registry

__all__ = ["DEFAULT", "for_architectures", "get", "names"]

DEFAULT = "text-classification"
"""The task of a module from Python whose class name ends as no head's does."""

_HEADS: Registry[Head] = Registry(__name__, "task", hyphens=True, group="edgekit.heads")
names, get = _HEADS.names, _HEADS.get


def for_architectures(architectures: Sequence[str]) -> str | None:
    """The task whose head is meant by classes of Transformers, e.g. ``["BertForTokenClassification"]``; None where there is none."""
    return next((name for name in names() if any(a.endswith(get(name).ARCHITECTURES) for a in architectures)), None)
