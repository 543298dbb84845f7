"""How much each head and each neuron matters: one pass over rows, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from edgekit.compress.objective import Objective
from edgekit.source.batches import group_by_length, tensors
from edgekit.source.stack import blocks, stack
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays

_TOKENS = 4096  # of a batch: all activations are kept for the way back


class Importance(NamedTuple):
    """Of one stored layer.

    Attributes:
        heads: float64 ``[heads]``.
        neurons: float64 ``[neurons]``.
    """

    heads: np.ndarray
    neurons: np.ndarray


def importance(
    module: Any, rows: Sequence[Arrays], objective: Objective, seed: int, progress: Progress
) -> list[Importance]:
    """The diagonal of the Fisher information of a factor on each head and neuron, in the sum over rows, layer by layer.

    It is the expected damage, to second order, of setting that factor from 1 to 0 (Kwon et al., "A Fast Post-Training Pruning Framework
    for Transformers", arXiv 2204.09656, section 4.2). Answers are drawn from the model itself, so rows need no labels and one that the
    model knows well counts too (Kunstner et al., arXiv 1905.12558, on why not from the labels).

    Args:
        module: in evaluation mode.
        rows: input name to array.
        objective: says what answers are, and how likely.
        seed: of the answers that are drawn.
        progress: told after each batch.
    """
    import torch

    layers, roles = stack(module)[1], blocks(module)
    found = [Importance(np.zeros(b.heads), np.zeros(b.neurons)) for b in roles]
    factors: dict[
        tuple[int, int], Any
    ] = {}  # of this batch, [batch, heads or neurons]: one for each row, so that each has a gradient of its own

    def watch(linear: Any, place: tuple[int, int], count: int) -> Any:
        def hook(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x = given[0]
            if place not in factors:  # a layer that is applied again has the same factors
                factors[place] = torch.ones(len(x), count, device=x.device, requires_grad=True)
            each = factors[place].repeat_interleave(x.shape[-1] // count, dim=1)
            return (x * each.view(len(x), *[1] * (x.ndim - 2), -1), *given[1:])

        return linear.register_forward_pre_hook(hook)

    handles, frozen = [], [p for p in module.parameters() if p.requires_grad]
    for i, (layer, b) in enumerate(zip(layers, roles, strict=True)):
        handles.append(watch(layer.get_submodule(b.down), (i, 1), b.neurons))
        if b.attention:
            handles.append(watch(layer.get_submodule(b.attention[3]), (i, 0), b.heads))
    generator, device = torch.Generator().manual_seed(seed), next(module.parameters()).device
    done = 0
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)  # gradients of factors are all that is asked for
        for chosen in group_by_length(rows, _TOKENS):
            factors.clear()
            feeds = {n: t.to(device) for n, t in tensors([rows[i] for i in chosen], objective.pads).items()}
            outputs = objective.forward(module, feeds)
            places = list(factors)
            slopes = torch.autograd.grad(objective.sampled_nll(feeds, outputs, generator), [factors[p] for p in places])
            for (layer_index, part), slope in zip(places, slopes, strict=True):
                found[layer_index][part][:] += slope.double().square().sum(dim=0).cpu().numpy()
            done += len(chosen)
            progress("importance of heads and neurons", done, len(rows))
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    return found
