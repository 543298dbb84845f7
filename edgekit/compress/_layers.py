"""Finds the stack of equal layers in a Transformer of any architecture, and makes a copy of the model with fewer of them.

No architecture is named here: a stack is the longest list of modules of one class that each hold several linear layers.
That is the encoder of BERT and its kin, of ViT and DeiT, of wav2vec2 and HuBERT, and of Whisper's classifier.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import ModelError, UsageError

_FEWEST_LINEARS = 4  # queries, keys, values and their output; a convolution of wav2vec2's front end has none
_COUNTS = ("num_hidden_layers", "n_layers", "encoder_layers", "num_layers")  # what configs call the number of layers
_WEIGHTED_SUM = "layer_weights"  # of audio classifiers that mix the outputs of all layers: one weight each, and one of the embeddings


def stack(module: Any) -> tuple[str, Any]:
    """The path of the layer list in the module, and the list itself, a ``torch.nn.ModuleList``.

    Raises:
        ModelError: when there is none.
    """
    import torch

    found = []
    for path, child in module.named_modules():
        if isinstance(child, torch.nn.ModuleList) and len(child) and len({type(layer) for layer in child}) == 1:
            linears = sum(isinstance(m, torch.nn.Linear) for m in child[0].modules())
            if linears >= _FEWEST_LINEARS:
                found.append((len(child), sum(p.numel() for p in child.parameters()), path, child))
    if not found:
        raise ModelError(
            f"No stack of layers was found in {type(module).__name__}: expected a torch.nn.ModuleList whose members are of one class and hold at least "
            f"{_FEWEST_LINEARS} linear layers each. Give a student of your own instead."
        )
    _, _, path, layers = max(found, key=lambda f: f[:2])
    return path, layers


def depth(module: Any) -> int:
    """Layers that a forward pass goes through; ALBERT's go through one set of weights again and again."""
    _, layers = stack(module)
    return max(len(layers), _shared(module, len(layers)))


def evenly(count: int, of: int) -> tuple[int, ...]:
    """``count`` indices below ``of``, evenly spread, the first and the last among them."""
    return tuple(int(i) for i in np.linspace(0, of - 1, count).round().astype(int)) if count > 1 else (0,)


def shortened(module: Any, keep: Sequence[int]) -> Any:
    """A copy of the module with the layers ``keep`` alone, everything else as it is, and a config that says so.

    Args:
        module: a torch module with a Hugging Face config.
        keep: indices of its layers, ascending.

    Raises:
        UsageError: when there are more than the module has, or they are not ascending indices of its layers.
    """
    import torch

    path, layers = stack(module)
    total = depth(module)
    if len(keep) > total:
        raise UsageError(f"{len(keep)} layers were asked for, and {type(module).__name__} has {total}. Ask for fewer: a student has 1 to {total}.")
    if not keep or list(keep) != sorted(set(keep)) or not 0 <= keep[0] <= keep[-1] < total:
        raise UsageError(f"Layers {list(keep)} were asked for, expected ascending numbers from 0 to {total - 1}, each once.")
    smaller = copy.deepcopy(module)
    if len(layers) == total:
        parent = smaller.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], torch.nn.ModuleList([stack(smaller)[1][i] for i in keep]))
    for owner in smaller.modules():
        weights = getattr(owner, _WEIGHTED_SUM, None)
        if isinstance(weights, torch.nn.Parameter) and weights.numel() == total + 1:
            setattr(owner, _WEIGHTED_SUM, torch.nn.Parameter(weights.detach()[[0, *(i + 1 for i in keep)]]))
    config = smaller.config
    for name in _COUNTS:
        if getattr(config, name, None) == total:
            setattr(config, name, len(keep))
    kinds = getattr(config, "layer_types", None)  # ModernBERT: which layers see everything and which a window
    if kinds is not None and len(kinds) == total:
        config.layer_types = [kinds[i] for i in keep]
    return smaller


@contextlib.contextmanager
def tapped(module: Any) -> Iterator[list[Any]]:
    """Collects what the last layer of the stack gives: in the list is, after each call, its output ``[batch, sequence, hidden]``."""
    _, layers = stack(module)
    seen: list[Any] = []

    def hook(_: Any, __: Any, output: Any) -> None:
        seen[:] = [output[0] if isinstance(output, tuple) else output]

    handle = layers[-1].register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def _shared(module: Any, stored: int) -> int:
    config: Any = getattr(module, "config", None)
    return int(config.num_hidden_layers) if getattr(config, "num_hidden_groups", None) == stored else stored
