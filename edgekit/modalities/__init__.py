"""A file is a modality: one kind of input, how it is read, measured, generated and disturbed. See :class:`edgekit.spec.protocols.Modality`."""

from __future__ import annotations

import importlib
from typing import cast

from edgekit.spec.protocols import ModalityModule

__all__ = ["get"]


def get(name: str) -> ModalityModule:
    """The module of a modality, by the ``MODALITY`` of a task."""
    return cast(ModalityModule, importlib.import_module(f"edgekit.modalities.{name}"))
