"""What is asked of any torch module of Transformers: loaded quietly, and copied for export."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["copied", "entries", "quiet"]


def entries(config: Any) -> dict[str, Any]:
    """What a config of any kind says."""
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return dict(vars(config)) if hasattr(config, "__dict__") else {}


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
