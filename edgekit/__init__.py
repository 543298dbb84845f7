"""EdgeKit: a fine-tuned Transformer in, a small measured bundle out, and one torch-free object that runs it.

    session = edgekit.load("out")
    session("a fine film").label

Importing this package, and everything that ``load`` and a session touch, needs numpy, tokenizers and one backend.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime's builds collect usage data by default since 1.32, on a thread that starts with its import; a forked child that exits waits for it for ever.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from edgekit.bundle.signature import Trust
from edgekit.runtime.load import load
from edgekit.runtime.session import Session, SessionInfo
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import (
    BackendError,
    BudgetError,
    BuildError,
    CompressError,
    EdgekitError,
    ExportError,
    FormatError,
    InputError,
    IntegrityError,
    ModelError,
    QuantizeError,
    RemoteError,
    SamplesError,
    UsageError,
)
from edgekit.tasks import Classification, LabelScores

if TYPE_CHECKING:
    from edgekit.builder import build
    from edgekit.compress.distill import distill

# A program that sets up logging gets the messages; without that nothing is printed, not even warnings.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BudgetError",
    "BuildError",
    "Classification",
    "CompressError",
    "EdgekitError",
    "ExportError",
    "FormatError",
    "InputError",
    "IntegrityError",
    "LabelScores",
    "ModelError",
    "QuantizeError",
    "RemoteError",
    "SamplesError",
    "Session",
    "SessionInfo",
    "Trust",
    "UsageError",
    "__version__",
    "build",
    "distill",
    "load",
]


def __dir__() -> list[str]:
    """Return the public names, those that are imported on first use among them."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Gives ``edgekit.build`` and ``edgekit.distill`` on first use: they bring torch, which a device does not have."""
    if name not in ("build", "distill"):
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    try:
        from edgekit.builder import build
        from edgekit.compress.distill import distill
    except ModuleNotFoundError as problem:
        if (problem.name or "").startswith("edgekit"):
            raise
        raise BuildError(
            f"Building needs the package '{problem.name}', which is not installed here. Run: {install_hint('build')}",
            code="package-missing",
        ) from problem
    return build if name == "build" else distill
