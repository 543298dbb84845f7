"""Helpers for any torch module of Transformers: its config, quiet loading, and a copy for export."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.spec.errors import ModelError

__all__ = ["copy_for_export", "entries", "quiet", "read_object"]


def entries(config: Any) -> dict[str, Any]:
    """Return the entries of a config of any class; empty if it has none."""
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return dict(vars(config)) if hasattr(config, "__dict__") else {}


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if the file does not exist.

    Raises:
        ModelError: If the file does not contain a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"{file} is not valid JSON ({problem}). Save the model again.", code="model-json") from problem
    if not isinstance(data, dict):
        raise ModelError(
            f"{file} contains a {type(data).__name__}, expected an object. Save the model again.", code="model-json"
        )
    return data


def copy_for_export(module: Any) -> Any:
    """Return a float32 copy in evaluation mode on the CPU with eager attention; the caller's module stays unchanged."""
    module = copy.deepcopy(module).cpu().float().eval()
    if hasattr(module, "set_attn_implementation"):
        module.set_attn_implementation("eager")
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars and notices of the training libraries."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    has_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(verbosity)
        if has_bars:
            transformers.logging.enable_progress_bar()
