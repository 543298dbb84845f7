"""A file is a modality: how Transformers' own processor of it (tokenizer, image processor) is loaded, and its files checked.

The protocol of such a module is ``spec.head.Processors``. Listing this folder is the registration.
"""

from __future__ import annotations

from edgekit.spec.head import Processors
from edgekit.spec.registry import Registry

__all__ = ["get", "names"]

_PROCESSORS: Registry[Processors] = Registry(__name__, "modality", group="edgekit.processors")
names, get = _PROCESSORS.names, _PROCESSORS.get
