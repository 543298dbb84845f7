"""What a module from Python returns: logits, or probabilities, which must not go through a softmax a second time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.source.heads._classes import NUMBER, SINGLE
from edgekit.source.heads._losses import forward
from edgekit.spec.errors import ModelError, UsageError, near
from edgekit.spec.head import Told
from edgekit.spec.protocols import Arrays

KINDS = ("logits", "probabilities")
_FEWEST = 32  # logits of both signs all lie between 0 and 1 by chance once in more than 4 billion times
_SUM = 1e-3
_SMALLEST, _LARGEST = 2.0**-126, 1.0 - 2.0**-24  # of float32 above 0 and below 1


def check_kind(outputs: str | None, kind: str) -> None:
    """Refuses a word for outputs that does not exist, or that a head of numbers cannot have.

    Raises:
        UsageError: with the known ones.
    """
    if outputs is not None and outputs not in KINDS:
        raise UsageError(
            f"Unknown outputs '{outputs}'.{near(outputs, KINDS)} Expected one of: {', '.join(KINDS)}.",
            code="outputs-unknown",
        )
    if outputs == "probabilities" and kind == NUMBER:
        raise UsageError(
            "outputs='probabilities' is of a head with labels, and the problem type is regression, whose numbers are "
            "taken as they are. Leave it out.",
            code="outputs-of-numbers",
        )


def check(model_id: str, kind: str, outputs: Sequence[Arrays]) -> None:
    """Refuses outputs that lie between 0 and 1 as probabilities do.

    Args:
        model_id: for the message.
        kind: problem type.
        outputs: of some rows.

    Raises:
        ModelError: unless they are numbers of a regression.
    """
    values = np.array([row["logits"] for row in outputs])
    if kind == NUMBER or not len(values) or not bool(((values >= 0) & (values <= 1)).all()):
        return
    sums = kind == SINGLE and values.shape[1] > 1 and bool((np.abs(values.sum(axis=1) - 1) < _SUM).all())
    if sums or values.size >= _FEWEST:
        how = "each row sums to 1, as after a softmax" if sums else "as after a sigmoid"
        raise ModelError(
            f"The outputs of {model_id} look like probabilities: all {values.size} values of {len(values)} rows are "
            f"between 0 and 1, {how}. A bundle applies its "
            "own softmax or sigmoid, so it takes logits. Return what goes into the last activation, or pass "
            "outputs='probabilities' to have it undone, "
            "or outputs='logits' if they are logits all the same.",
            code="model-probabilities",
        )


def prepare(module: Any, kind: str, told: Told) -> Any:
    """The module with its problem type in the config; with logits in place of probabilities."""
    if hasattr(getattr(module, "config", None), "problem_type"):
        module.config.problem_type = kind  # so that a folder made of it says it too
    return undone(module, kind) if told.get("outputs") == "probabilities" else module


def undone(module: Any, kind: str) -> Any:
    """A module that returns logits whose softmax or sigmoid is what another returns.

    Args:
        module: returns probabilities ``[batch, labels]``.
        kind: problem type.
    """
    import torch

    class Undone(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model, self.config = module, module.config

        def forward(self, **feeds: Any) -> Any:
            p = forward(self.model, feeds)["logits"].clamp(_SMALLEST, _LARGEST)
            return p.log() if kind == SINGLE else p.log() - torch.log1p(-p)

    return Undone().eval()
