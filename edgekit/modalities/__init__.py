"""Modalities: one module per kind of input says how inputs are read, measured, generated and perturbed.

The file name is the registration. See :class:`edgekit.spec.protocols.Modality`.
"""

from __future__ import annotations

from edgekit.spec.protocols import ModalityModule
from edgekit.spec.registry import Registry

__all__ = ["get"]

_MODALITIES: Registry[ModalityModule] = Registry(__name__, "modality", group="edgekit.modalities")
get = _MODALITIES.get
