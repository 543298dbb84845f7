"""The form of outputs of a module from Python: logits, or probabilities, which must not pass a softmax again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.source.heads import RAW_OUTPUTS
from edgekit.source.heads._classes import NUMBER, SINGLE
from edgekit.source.heads._losses import forward
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Told
from edgekit.spec.protocols import Arrays

KINDS = (RAW_OUTPUTS, "probabilities")
# Number of values that suffices: so many logits of both signs lie between 0 and 1 by chance once in 4 billion times.
_FEWEST = 32
_SUM = 1e-3
_SMALLEST = 2.0**-126  # Smallest normal float32 above 0.
_LARGEST = 1.0 - 2.0**-24  # Largest float32 below 1.


def check_kind(outputs: str | None, kind: str) -> None:
    """Check the user's option for the form of outputs.

    Args:
        outputs: Form of outputs, or None.
        kind: Problem type.

    Raises:
        UsageError: If the form is unknown, or not possible for a head of numbers.
    """
    if outputs is not None and outputs not in KINDS:
        raise UsageError(
            f"Unknown outputs '{outputs}'.{near(outputs, KINDS)} Expected one of: {', '.join(KINDS)}.",
            code="outputs-unknown",
        )
    if outputs == "probabilities" and kind == NUMBER:
        raise UsageError(
            "outputs='probabilities' needs a head with labels, but the problem type is regression, whose numbers are "
            "used as they are. Leave it out.",
            code="outputs-of-numbers",
        )


def check(model_id: str, kind: str, outputs: Sequence[Arrays]) -> None:
    """Check that outputs do not look like probabilities.

    Args:
        model_id: Name of the model, for the message.
        kind: Problem type.
        outputs: Outputs of some rows.

    Raises:
        ModelError: If all outputs lie between 0 and 1, and are not numbers of a regression.
    """
    values = np.array([row["logits"] for row in outputs])
    if kind == NUMBER or not len(values) or not bool(((values >= 0) & (values <= 1)).all()):
        return
    has_unit_sums = kind == SINGLE and values.shape[1] > 1 and bool((np.abs(values.sum(axis=1) - 1) < _SUM).all())
    if has_unit_sums or values.size >= _FEWEST:
        origin = "each row sums to 1, as after a softmax" if has_unit_sums else "as after a sigmoid"
        raise ModelError(
            f"The outputs of {model_id} look like probabilities, expected logits: all {values.size} values of "
            f"{len(values)} rows are between 0 and 1, {origin}. A bundle applies its own softmax or sigmoid. "
            "Return the input of the last activation, or pass outputs='probabilities' to invert it, or "
            "outputs='logits' if they are logits.",
            code="model-probabilities",
        )


def prepare(module: Any, kind: str, options: Told) -> Any:
    """Return the module with its problem type in the config, and with logits instead of probabilities."""
    if hasattr(getattr(module, "config", None), "problem_type"):
        # A folder saved from the module then contains the problem type.
        module.config.problem_type = kind
    return invert_activation(module, kind) if options.get("outputs") == "probabilities" else module


def invert_activation(module: Any, kind: str) -> Any:
    """Return a module whose logits give the probabilities of another module after a softmax or sigmoid.

    Args:
        module: Module that returns probabilities ``[batch, labels]``.
        kind: Problem type.
    """
    import torch

    class InvertedActivation(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module
            self.config = module.config

        def forward(self, **feeds: Any) -> Any:
            p = forward(self.model, feeds)["logits"].clamp(_SMALLEST, _LARGEST)
            return p.log() if kind == SINGLE else p.log() - torch.log1p(-p)

    return InvertedActivation().eval()
