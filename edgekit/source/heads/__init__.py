"""Heads: one module per task contains everything of the task that needs torch or Transformers.

A head module has the file name of the task's module in ``tasks/``, and follows the protocol ``spec.head.Head``. The
file name is the registration. A model is read by the head whose suffix matches its config's ``architectures``.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.spec.head import Head
from edgekit.spec.registry import Registry

__all__ = ["DEFAULT", "RAW_OUTPUTS", "for_architectures", "get", "names"]

DEFAULT = "text-classification"
"""Task of a module from Python whose class name has no head's suffix."""

RAW_OUTPUTS = "logits"
"""Form of the outputs of a model that ends before its softmax or sigmoid."""

_HEADS: Registry[Head] = Registry(__name__, "task", hyphens=True, group="edgekit.heads")
names = _HEADS.names
get = _HEADS.get


def for_architectures(architectures: Sequence[str]) -> str | None:
    """Return the task of a head by class names of Transformers, e.g. ``["BertForTokenClassification"]``, or None."""
    for name in names():
        suffix = get(name).ARCHITECTURES
        if any(architecture.endswith(suffix) for architecture in architectures):
            return name
    return None
