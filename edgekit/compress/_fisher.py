"""Importance of each attention head and feed-forward neuron, from one forward and backward pass over samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from edgekit.compress.objective import Objective
from edgekit.source.batches import group_by_length, tensors
from edgekit.source.stack import blocks, stack
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays

_TOKENS = 4096  # Tokens per batch, padding included: the backward pass needs all activations in memory.


class Importance(NamedTuple):
    """Importance of the units of one stored layer.

    Attributes:
        heads: Importance of each head: float64 ``[heads]``.
        neurons: Importance of each neuron: float64 ``[neurons]``.
    """

    heads: np.ndarray
    neurons: np.ndarray


def importance(
    module: Any, rows: Sequence[Arrays], objective: Objective, seed: int, progress: Progress
) -> list[Importance]:
    """Return the importance of all heads and neurons, layer by layer.

    The importance is the diagonal of the Fisher information of a factor on each head and neuron, summed over
    rows: the expected damage, to second order, of setting that factor from 1 to 0 (Kwon et al., "A Fast Post-Training
    Pruning Framework for Transformers", arXiv 2204.09656, section 4.2). The answers are sampled from the model's own
    outputs instead of the labels (Kunstner et al., arXiv 1905.12558, explain why). So rows need no labels, and a row
    that the model predicts well counts too.

    Args:
        module: Torch module in evaluation mode.
        rows: Rows, input name to array.
        objective: Objective that samples the answers and returns their likelihood.
        seed: Random seed for the sampled answers.
        progress: Function that is called after each batch.
    """
    import torch

    _, layers = stack(module)
    layer_blocks = blocks(module)
    totals = [Importance(np.zeros(block.heads), np.zeros(block.neurons)) for block in layer_blocks]
    # Factors of the current batch by layer index and part (0 for heads, 1 for neurons): ``[batch, heads or neurons]``.
    # Each row has factors of its own, so that each row has a gradient of its own.
    factors: dict[tuple[int, int], Any] = {}

    def watch(linear: Any, place: tuple[int, int], count: int) -> Any:
        """Multiply the inputs of a linear by the factors of its heads or neurons."""

        def hook(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x = inputs[0]
            if place not in factors:  # A layer that is applied again has the same factors.
                factors[place] = torch.ones(len(x), count, device=x.device, requires_grad=True)
            repeated = factors[place].repeat_interleave(x.shape[-1] // count, dim=1)
            return (x * repeated.view(len(x), *[1] * (x.ndim - 2), -1), *inputs[1:])

        return linear.register_forward_pre_hook(hook)

    handles = []
    for i, (layer, block) in enumerate(zip(layers, layer_blocks, strict=True)):
        handles.append(watch(layer.get_submodule(block.down), (i, 1), block.neurons))
        if block.attention:
            handles.append(watch(layer.get_submodule(block.attention[3]), (i, 0), block.heads))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    done = 0
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)  # Only the gradients of the factors are needed.
        for indices in group_by_length(rows, _TOKENS):
            factors.clear()
            batch = tensors([rows[i] for i in indices], objective.pads)
            feeds = {name: tensor.to(device) for name, tensor in batch.items()}
            outputs = objective.forward(module, feeds)
            places = list(factors)
            nll = objective.sampled_nll(feeds, outputs, generator)
            gradients = torch.autograd.grad(nll, [factors[place] for place in places])
            for (layer_index, part), gradient in zip(places, gradients, strict=True):
                totals[layer_index][part][:] += gradient.double().square().sum(dim=0).cpu().numpy()
            done += len(indices)
            progress("importance of heads and neurons", done, len(rows))
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    return totals
