"""Processors: one module per modality loads Transformers' own processor and checks its files.

A processor is a tokenizer or an image processor. Each module follows the protocol ``spec.head.Processors``. The file
name is the registration.
"""

from __future__ import annotations

from edgekit.spec.head import Processors
from edgekit.spec.registry import Registry

__all__ = ["get", "names"]

_PROCESSORS: Registry[Processors] = Registry(__name__, "modality", group="edgekit.processors")
names = _PROCESSORS.names
get = _PROCESSORS.get
