"""Losses of heads with one logit for each of a fixed list of labels or numbers: ``logits: float32 [batch, labels]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.source.heads._classes import MULTI, NUMBER, SINGLE


def forward(module: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run a module; its logits may be the output itself, a named output, or the first of a tuple."""
    output = module(**feeds)
    if hasattr(output, "logits"):
        logits = output.logits
    elif isinstance(output, (tuple, list)):
        logits = output[0]
    else:
        logits = output
    return {"logits": logits.float()}


def logits_module(module: Any, names: Sequence[str]) -> Any:
    """Return a module for tracing, which takes tensors in the order of ``names`` and returns the logits."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *arrays: Any) -> Any:
            return forward(self.model, dict(zip(names, arrays, strict=True)))["logits"]

    return Logits().eval()


def truth_tensor(kind: str, truth: Sequence[Any]) -> Any:
    """Return ``int64 [batch]`` for a single label, else ``float32 [batch, labels]``; 0 in rows without a truth."""
    import torch

    if kind == SINGLE:
        return torch.tensor([int(value or 0) for value in truth], dtype=torch.int64)
    shape = next(np.shape(np.atleast_1d(value)) for value in truth if value is not None)
    rows = np.zeros((len(truth), *shape), np.float32)
    for row, value in zip(rows, truth, strict=True):
        if value is not None:
            row[:] = np.atleast_1d(np.asarray(value, np.float32))
    return torch.from_numpy(rows)


def teacher_loss(
    kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any], temperature: float
) -> Any:
    """Return the divergence of each row's logits from the teacher's: ``[batch]``.

    It is the Kullback-Leibler divergence for a single label, the binary cross-entropy with the teacher's probabilities
    for several labels, and the mean squared difference for numbers.
    """
    from torch.nn import functional

    x = student["logits"]
    y = teacher["logits"]
    if kind == NUMBER:
        return ((x - y) ** 2).mean(dim=1)
    x = x / temperature
    y = y / temperature
    if kind == MULTI:
        losses = functional.binary_cross_entropy_with_logits(x, y.sigmoid(), reduction="none").mean(dim=1)
    else:
        log_x = x.log_softmax(dim=1)
        log_y = y.log_softmax(dim=1)
        losses = functional.kl_div(log_x, log_y, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * losses


def truth_loss(kind: str, feeds: Mapping[str, Any], student: Mapping[str, Any], truth: Any) -> Any:
    """Return the training loss of each row: ``[batch]``.

    It is the cross-entropy for a single label, the mean binary cross-entropy for several labels, and the mean squared
    error for numbers.
    """
    from torch.nn import functional

    logits = student["logits"]
    if kind == SINGLE:
        return functional.cross_entropy(logits, truth.clamp(min=0), reduction="none")
    if kind == MULTI:
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
    return ((logits - truth) ** 2).mean(dim=1)


def sampled_nll(kind: str, feeds: Mapping[str, Any], outputs: Mapping[str, Any], generator: Any) -> Any:
    """Return the negative log-likelihood, summed over rows, of answers sampled from the logits themselves."""
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
