"""Losses of heads that give a logit for each of a fixed list of labels, or numbers: ``logits: float32 [batch, labels]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.source.heads._classes import MULTI, NUMBER, SINGLE


def forward(module: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a module; its logits may be bare, named or first in a tuple."""
    output = module(**feeds)
    if not hasattr(output, "logits"):
        return {"logits": (output[0] if isinstance(output, (tuple, list)) else output).float()}
    return {"logits": output.logits.float()}


def exported(module: Any, names: Sequence[str]) -> Any:
    """A module that takes tensors in the order of ``names`` and gives the logits: what is traced."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *arrays: Any) -> Any:
            return forward(self.model, dict(zip(names, arrays, strict=True)))["logits"]

    return Logits().eval()


def truth_tensor(kind: str, truth: Sequence[Any]) -> Any:
    """``int64 [batch]`` for a single label, else ``float32 [batch, labels]``; 0 in rows without a truth."""
    import torch

    if kind == SINGLE:
        return torch.tensor([0 if value is None else int(value) for value in truth], dtype=torch.int64)
    known = next(np.atleast_1d(value) for value in truth if value is not None)
    return torch.from_numpy(
        np.stack(
            [
                np.zeros(known.shape, np.float32) if v is None else np.atleast_1d(np.asarray(v, np.float32))
                for v in truth
            ]
        )
    )


def teacher_loss(
    kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any], temperature: float
) -> Any:
    """Divergence of each row's logits, ``[batch]``: Kullback-Leibler, binary cross-entropy with the teacher's probabilities, or the mean squared difference."""
    from torch.nn import functional

    x, y = student["logits"], teacher["logits"]
    if kind == NUMBER:
        return ((x - y) ** 2).mean(dim=1)
    x, y = x / temperature, y / temperature
    if kind == MULTI:
        apart = functional.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction="none").mean(dim=1)
    else:
        apart = functional.kl_div(x.log_softmax(dim=1), y.log_softmax(dim=1), reduction="none", log_target=True).sum(
            dim=1
        )
    return temperature**2 * apart


def truth_loss(kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
    """The loss that such a head is trained with: cross-entropy, binary cross-entropy (mean over labels), or mean squared error: ``[batch]``."""
    from torch.nn import functional

    logits = student["logits"]
    if kind == SINGLE:
        return functional.cross_entropy(logits, truth.clamp(min=0), reduction="none")
    if kind == MULTI:
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
    return ((logits - truth) ** 2).mean(dim=1)


def sampled_nll(kind: str, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
    """Minus the log-probability of an answer that is drawn from the logits themselves, summed over rows."""
    import torch
    from torch.nn import functional

    logits = outputs["logits"]
    values = logits.detach().cpu()
    if kind == SINGLE:
        drawn = torch.multinomial(values.softmax(dim=1), 1, generator=generator)[:, 0].to(logits.device)
        return functional.cross_entropy(logits, drawn, reduction="sum")
    if kind == MULTI:
        drawn = torch.bernoulli(values.sigmoid(), generator=generator).to(logits.device)
        return functional.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
    drawn = (values + torch.randn(values.shape, generator=generator)).to(logits.device)
    return 0.5 * ((logits - drawn) ** 2).sum()
