"""A file is a modality: how Transformers' own processor of it (tokenizer, image processor) is loaded, and its files checked.

The protocol of such a module is ``spec.head.Processors``. Listing this folder is the registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from edgekit.spec.head import Processors

__all__ = ["get", "names"]


def names() -> list[str]:
    """Names of the modalities, as tasks have them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(modality: str) -> Processors:
    """The module of a modality."""
    return cast(Processors, importlib.import_module(f"{__name__}.{modality}"))
