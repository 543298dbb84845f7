"""Tasks: one module per task says what the inputs are, what the outputs mean and how answers are scored.

The file name is the registration: ``text_classification.py`` is the task ``text-classification``. A task module
defines ``LOOP`` (a file name in ``runtime/loops/``), ``MODALITY`` (a file name in ``modalities/``) and
``load(assets) -> Task``.
It may import numpy and tokenizers, nothing heavier. Installed packages add tasks by entry points; see
:mod:`edgekit.spec.registry`.
"""

from __future__ import annotations

from edgekit.spec.protocols import TaskModule
from edgekit.spec.registry import Registry
from edgekit.tasks._head import Classification, LabelScores

__all__ = ["Classification", "LabelScores", "get", "names"]

_TASKS: Registry[TaskModule] = Registry(__name__, "task", hyphens=True, group="edgekit.tasks")
names = _TASKS.names
get = _TASKS.get
