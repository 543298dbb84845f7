"""Copies of a module with fewer layers or narrower layers, and access to the output of its last layer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.source.stack import KEPT_SIZES, depth, keep_units, stack, widths
from edgekit.spec.errors import ModelError, UsageError

_LAYER_COUNTS = ("num_hidden_layers", "n_layers", "encoder_layers", "num_layers")
"""Names in configs for the number of layers."""

_WEIGHTED_SUM = "layer_weights"
"""Parameter of audio classifiers that mix the outputs of all layers: a weight for the embeddings and one per layer."""


def spread_evenly(count: int, total: int) -> tuple[int, ...]:
    """Return ``count`` evenly spaced layer indices, the first and the last layer included.

    Args:
        count: Number of layers of the student.
        total: Number of layers of the teacher.

    Raises:
        UsageError: If ``count`` is not between 1 and ``total``.
    """
    if not 1 <= count <= total:
        raise UsageError(
            f"{count} layers were requested for the student, but the teacher has {total}. Give a number from 1 to "
            f"{total}.",
            code="student-layers",
        )
    if count == 1:
        return (0,)
    return tuple(int(i) for i in np.linspace(0, total - 1, count).round().astype(int))


def keep_layers(module: Any, keep: Sequence[int]) -> Any:
    """Return a copy of the module with some of its layers, and a config that describes the copy.

    Args:
        module: Torch module with a Hugging Face config.
        keep: Indices of the layers to keep, ascending.

    Raises:
        UsageError: If the indices are not ascending or not layers of the module.
    """
    import torch

    path, layers = stack(module)
    total = depth(module)
    if not keep or list(keep) != sorted(set(keep)) or not 0 <= keep[0] <= keep[-1] < total:
        raise UsageError(
            f"The layers to keep are {list(keep)}, expected ascending numbers from 0 to {total - 1}, each at most "
            "once.",
            code="student-layers",
        )
    smaller = copy.deepcopy(module)
    has_shared_weights = len(layers) != total  # ALBERT stores one layer and applies it ``total`` times.
    if not has_shared_weights:
        parent_path, _, name = path.rpartition(".")
        _, copied_layers = stack(smaller)
        setattr(smaller.get_submodule(parent_path), name, torch.nn.ModuleList([copied_layers[i] for i in keep]))
    for owner in smaller.modules():
        weights = getattr(owner, _WEIGHTED_SUM, None)
        if isinstance(weights, torch.nn.Parameter) and weights.numel() == total + 1:
            setattr(owner, _WEIGHTED_SUM, torch.nn.Parameter(weights.detach()[[0, *(i + 1 for i in keep)]]))
    _update_config(smaller.config, keep, total)
    if getattr(smaller.config, KEPT_SIZES, None) and not has_shared_weights:
        sizes = getattr(smaller.config, KEPT_SIZES)
        setattr(smaller.config, KEPT_SIZES, [sizes[i] for i in keep])
    return smaller


def _update_config(config: Any, keep: Sequence[int], total: int) -> None:
    """Make a config describe a module with some of its ``total`` layers."""
    for name in _LAYER_COUNTS:
        if getattr(config, name, None) == total:
            setattr(config, name, len(keep))
    # ModernBERT: the layers with global attention and those with local attention.
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and len(layer_types) == total:
        config.layer_types = [layer_types[i] for i in keep]
    # BEiT: names of the outputs as a backbone, that of the embeddings first.
    stage_names = getattr(config, "stage_names", None) or ()
    if len(stage_names) == total + 1:
        config.stage_names = config.stage_names[: len(keep) + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def check_described(module: Any, name: str) -> None:
    """Refuse a model of Transformers whose config cannot describe its layers: its folder could not be loaded.

    Args:
        module: Module from :func:`keep_layers`.
        name: Name of the original model, for the message.

    Raises:
        ModelError: If a module that is created from the config has other weights or shapes.
    """
    import torch

    with torch.device("meta"):
        rebuilt = type(module)(module.config)
    if hasattr(module.config, KEPT_SIZES):
        keep_units(rebuilt, [(range(heads), range(neurons)) for heads, neurons in getattr(module.config, KEPT_SIZES)])
    rebuilt_shapes = {path: tensor.shape for path, tensor in rebuilt.state_dict().items()}
    shapes = {path: tensor.shape for path, tensor in module.state_dict().items()}
    if rebuilt_shapes != shapes:
        raise ModelError(
            f"{name} cannot be reduced to fewer layers: the layers of {type(module).__name__} have several sizes, and "
            "its config cannot record which of them are left. Give a student of your own instead.",
            code="student-shape",
        )


def prune_units(module: Any, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Any:
    """Return a copy of the module with some heads and neurons of each stored layer, and a config with their numbers.

    Args:
        module: Torch module with a Hugging Face config.
        picks: Indices of the heads and of the neurons to keep, ascending, one pair per stored layer.
    """
    smaller = copy.deepcopy(module)
    keep_units(smaller, picks)
    setattr(smaller.config, KEPT_SIZES, widths(smaller))
    return smaller


@contextlib.contextmanager
def capture_last_layer(module: Any) -> Iterator[list[Any]]:
    """Capture the output of the last layer of the stack during each forward pass.

    Yields:
        A list; after each forward pass its only item is the layer's output ``[batch, sequence, hidden]``.
    """
    _, layers = stack(module)
    captured: list[Any] = []

    def hook(_: Any, __: Any, output: Any) -> None:
        captured[:] = [output[0] if isinstance(output, tuple) else output]

    handle = layers[-1].register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()
