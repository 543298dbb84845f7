"""A file is a task: what it takes, how it is preprocessed, what its outputs mean, how it is scored.

Listing this folder is the registration: ``text-classification`` is ``text_classification.py``. A task module has
``LOOP`` (a file name in ``runtime/loops/``), ``MODALITY`` (a file name in ``modalities/``) and ``load(assets) -> Task``. Numpy and tokenizers only.
Tasks of installed packages are found by entry points, see :mod:`edgekit.spec.registry`.
"""

from __future__ import annotations

from edgekit.spec.protocols import TaskModule
from edgekit.spec.registry import Registry
from edgekit.tasks._heads import Classification, LabelScores

__all__ = ["Classification", "LabelScores", "get", "names"]

_TASKS: Registry[TaskModule] = Registry(__name__, "task", hyphens=True, group="edgekit.tasks")
names, get = _TASKS.names, _TASKS.get
