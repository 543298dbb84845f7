"""What is asked of any torch module of Transformers: loaded quietly, and copied for export."""

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

__all__ = ["copied", "entries", "quiet", "read_object"]


def entries(config: Any) -> dict[str, Any]:
    """What a config of any kind says."""
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return dict(vars(config)) if hasattr(config, "__dict__") else {}


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is no such file.

    Raises:
        ModelError: when it holds no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"{file} is not valid JSON ({problem}). Save the model again.", code="model-json") from problem
    if not isinstance(data, dict):
        raise ModelError(
            f"{file} is a {type(data).__name__}, expected an object. Save the model again.", code="model-json"
        )
    return data


def copied(module: Any) -> Any:
    """A copy for export: the caller's module keeps its dtype, device, mode and kind of attention."""
    made = copy.deepcopy(module).cpu().float().eval()
    if hasattr(made, "set_attn_implementation"):
        made.set_attn_implementation("eager")
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the progress bars and notices of the training libraries off the user's terminal."""
    import transformers

    before = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()
