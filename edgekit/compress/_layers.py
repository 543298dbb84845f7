"""A copy of a model with fewer layers, and what its last layer gives."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.source.stack import KEPT_SIZES, depth, keep_units, stack, widths
from edgekit.spec.errors import ModelError, UsageError

_COUNTS = ("num_hidden_layers", "n_layers", "encoder_layers", "num_layers")  # what configs call the number of layers
_WEIGHTED_SUM = "layer_weights"  # of audio classifiers that mix the outputs of all layers: one weight each, and one of the embeddings


def evenly(count: int, of: int) -> tuple[int, ...]:
    """``count`` indices below ``of``, evenly spread, the first and the last among them.

    Raises:
        UsageError: when there are not so many.
    """
    if not 1 <= count <= of:
        raise UsageError(
            f"{count} layers were asked for, and the teacher has {of}. A student has 1 to {of}.", code="student-layers"
        )
    return tuple(int(i) for i in np.linspace(0, of - 1, count).round().astype(int)) if count > 1 else (0,)


def keep_layers(module: Any, keep: Sequence[int]) -> Any:
    """A copy of the module with the layers ``keep`` alone, everything else as it is, and a config that says so.

    Args:
        module: a torch module with a Hugging Face config.
        keep: indices of its layers, ascending.

    Raises:
        UsageError: when they are not ascending indices of its layers.
    """
    import torch

    path, layers = stack(module)
    total = depth(module)
    if not keep or list(keep) != sorted(set(keep)) or not 0 <= keep[0] <= keep[-1] < total:
        raise UsageError(
            f"Layers {list(keep)} were asked for, expected ascending numbers from 0 to {total - 1}, each once.",
            code="student-layers",
        )
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
    if (
        len(getattr(config, "stage_names", None) or ()) == total + 1
    ):  # BEiT: names of the outputs that it may give as a backbone, the embeddings' first
        config.stage_names = config.stage_names[: len(keep) + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)
    if getattr(config, KEPT_SIZES, None) and len(layers) == total:
        setattr(config, KEPT_SIZES, [getattr(config, KEPT_SIZES)[i] for i in keep])
    return smaller


def check_described(module: Any, name: str) -> None:
    """Refuses a model of Transformers whose config does not say how many layers of which size it has: no folder of it could be read.

    Args:
        module: as :func:`keep_layers` made it.
        name: of the model that it was made of.

    Raises:
        ModelError: with what to do.
    """
    import torch

    with torch.device("meta"):
        made = type(module)(module.config)
    if hasattr(module.config, KEPT_SIZES):
        keep_units(made, [(range(heads), range(neurons)) for heads, neurons in getattr(module.config, KEPT_SIZES)])
    if {n: t.shape for n, t in made.state_dict().items()} != {n: t.shape for n, t in module.state_dict().items()}:
        raise ModelError(
            f"{name} cannot be made a student of fewer layers: those of {type(module).__name__} are of several sizes, and its config cannot say which are "
            "left. Give a student of your own instead.",
            code="student-shape",
        )


def prune_units(module: Any, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Any:
    """A copy of the module with some heads and some neurons of each stored layer, and a config that says how many.

    Args:
        module: a torch module with a Hugging Face config.
        picks: heads and neurons that stay, ascending, layer by layer.
    """
    smaller = copy.deepcopy(module)
    keep_units(smaller, picks)
    setattr(smaller.config, KEPT_SIZES, widths(smaller))
    return smaller


@contextlib.contextmanager
def capture_last_layer(module: Any) -> Iterator[list[Any]]:
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
