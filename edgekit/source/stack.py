"""The stack of equal layers of a Transformer of any architecture, and the removal of heads and neurons.

No architecture is named here. A stack is the longest list of modules of one class that each contain several linear
layers: the encoder of BERT and similar models, of ViT and DeiT, of wav2vec2 and HuBERT, and of Whisper's classifier.
Heads and neurons are identified by the names (q, k, v) and shapes of a layer's linears.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.spec.errors import ModelError

__all__ = ["KEPT_SIZES", "Block", "blocks", "depth", "has_stack", "keep_units", "stack", "widths"]

KEPT_SIZES = "edgekit_widths"
"""Key in the config of a pruned model: ``[heads, neurons]`` of each stored layer."""

_FEWEST_LINEARS = 4  # Query, key, value and output projections; a convolution layer of wav2vec2 has no linear.
_HEADS = ("num_attention_heads", "num_heads", "n_heads")  # Attributes with the number of heads.
_ALL_HEADS = ("all_head_size", "inner_dim")  # Attributes with the number of heads times their size.
_ROLES = {
    "query": re.compile(r"q(uery)?(_|$)"),
    "key": re.compile(r"k(ey)?(_|$)"),
    "value": re.compile(r"v(alue)?(_|$)"),
}


@dataclass(frozen=True)
class Block:
    """The linears of one layer by their role; each is a path within the layer.

    Attributes:
        attention: Query, key, value and output projections; empty if heads cannot be identified.
        heads: Number of heads; 1 if they cannot be identified.
        up: Linears from hidden units to neurons: one, or two of a gated feed-forward part, or one that outputs neurons
            and gates side by side.
        down: Linear from neurons to hidden units.
        neurons: Number of neurons of the feed-forward part.
    """

    attention: tuple[str, ...]
    heads: int
    up: tuple[str, ...]
    down: str
    neurons: int


def stack(module: Any) -> tuple[str, Any]:
    """Return the path of the layer list in a module, and the list itself, a ``torch.nn.ModuleList``.

    Raises:
        ModelError: If there is none.
    """
    import torch

    candidates = []
    for path, child in module.named_modules():
        if isinstance(child, torch.nn.ModuleList) and len(child) and len({type(layer) for layer in child}) == 1:
            linears = sum(isinstance(m, torch.nn.Linear) for m in child[0].modules())
            if linears >= _FEWEST_LINEARS:
                candidates.append((len(child), sum(p.numel() for p in child.parameters()), path, child))
    if not candidates:
        raise ModelError(
            f"{type(module).__name__} has no stack of layers, expected a torch.nn.ModuleList whose members are of one "
            f"class and contain at least {_FEWEST_LINEARS} linear layers each. Give a student of your own instead.",
            code="model-no-layers",
        )
    _, _, path, layers = max(candidates, key=lambda candidate: candidate[:2])
    return path, layers


def has_stack(module: Any) -> bool:
    """Return whether :func:`stack` succeeds."""
    with contextlib.suppress(ModelError):
        return bool(stack(module))
    return False


def depth(module: Any) -> int:
    """Return the number of layers of a forward pass; ALBERT's share one set of weights."""
    _, layers = stack(module)
    config: Any = getattr(module, "config", None)
    is_shared = getattr(config, "num_hidden_groups", None) == len(layers)
    return max(len(layers), int(config.num_hidden_layers)) if is_shared else len(layers)


def blocks(module: Any) -> list[Block]:
    """Return the linears of each stored layer by role.

    Raises:
        ModelError: If there is no stack, or a layer has no feed-forward part.
    """
    import torch

    layers = [_block(layer) for layer in stack(module)[1]]
    # MPNet adds a bias for each head and distance from one table for all layers, so its layers need equal heads.
    table_sizes = {m.embedding_dim for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    for index, block in enumerate(layers):
        if block.heads in table_sizes:
            layers[index] = replace(block, attention=(), heads=1)
    return layers


def _block(layer: Any) -> Block:
    import torch

    linears = {path: m for path, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
    roles = {}
    for role, pattern in _ROLES.items():
        roles[role] = [path for path in linears if pattern.match(path.rpartition(".")[2])]
    attention: tuple[str, ...] = ()
    heads = 1
    if all(len(paths) == 1 for paths in roles.values()):
        attention, heads = _attention(layer, linears, [paths[0] for paths in roles.values()])
    rest = [path for path in linears if path not in attention]
    down = rest[-1]
    neurons = linears[down].in_features
    hidden = linears[down].out_features
    up = []
    for path in rest[:-1]:
        if linears[path].in_features == hidden and linears[path].out_features in (neurons, 2 * neurons):
            up.append(path)
    up = [path for path in up if path.rpartition(".")[0] == down.rpartition(".")[0]] or up
    if not up:
        raise ModelError(
            f"{type(layer).__name__} has no feed-forward part, expected a linear to the neurons and one back. "
            "This model's layers cannot be pruned.",
            code="model-no-feed-forward",
        )
    if attention and len(rest) > len(up) + 1:
        # DeBERTa's projections of positions are split into heads as well, in another way.
        return Block((), 1, tuple(up), down, neurons)
    return Block(attention, heads, tuple(up), down, neurons)


def keep_units(module: Any, kept_units: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Remove all but some heads and neurons from each stored layer, in place.

    Args:
        module: Module with a stack.
        kept_units: Indices of the heads and of the neurons to keep, ascending, for each layer; all heads if they cannot
            be identified.
    """
    for layer, block, (heads, neurons) in zip(stack(module)[1], blocks(module), kept_units, strict=True):
        _prune_layer(layer, block, heads, neurons)


def _prune_layer(layer: Any, block: Block, heads: Sequence[int], neurons: Sequence[int]) -> None:
    if len(heads) < block.heads:
        total = layer.get_submodule(block.attention[0]).out_features
        size = total // block.heads
        units = [head * size + i for head in heads for i in range(size)]
        for path in block.attention[:3]:
            _select(layer.get_submodule(path), units, None)
        _select(layer.get_submodule(block.attention[3]), None, units)
        owner = layer.get_submodule(block.attention[0].rpartition(".")[0])
        for names, old, new in ((_HEADS, block.heads, len(heads)), (_ALL_HEADS, total, len(units))):
            for name in names:
                if getattr(owner, name, None) == old:
                    setattr(owner, name, new)
    if len(neurons) < block.neurons:
        for path in block.up:
            linear = layer.get_submodule(path)
            is_gated = linear.out_features == 2 * block.neurons
            units = list(neurons)
            if is_gated:
                units += [neuron + block.neurons for neuron in neurons]
            _select(linear, units, None)
        _select(layer.get_submodule(block.down), None, list(neurons))


def widths(module: Any) -> list[list[int]]:
    """Return ``[heads, neurons]`` of each stored layer."""
    return [[block.heads, block.neurons] for block in blocks(module)]


def _attention(layer: Any, linears: dict[str, Any], projections: list[str]) -> tuple[tuple[str, ...], int]:
    """Return the query, key, value and output projections, and the number of heads.

    The result is ``((), 1)`` if the shapes are not those of plain multi-head attention.
    """
    owner = layer.get_submodule(projections[0].rpartition(".")[0])
    width = linears[projections[0]].out_features
    heads = next((int(n) for name in _HEADS if isinstance(n := getattr(owner, name, None), int)), 0)
    order = list(linears)
    following = order[max(map(order.index, projections)) + 1 :]
    output = next((path for path in following if linears[path].in_features == width), None)
    if output is None or heads < 1 or width % heads:
        return (), 1
    if any(linears[path].out_features != width for path in projections):
        return (), 1
    return (*projections, output), heads


def _select(linear: Any, rows: Sequence[int] | None, columns: Sequence[int] | None) -> None:
    """Keep some outputs (rows) and some inputs (columns) of a linear, in place."""
    import torch

    weight = linear.weight.detach()
    bias = linear.bias
    if rows is not None:
        weight = weight[list(rows)]
        linear.bias = None if bias is None else torch.nn.Parameter(bias.detach()[list(rows)].clone())
    if columns is not None:
        weight = weight[:, list(columns)]
    linear.weight = torch.nn.Parameter(weight.clone())
    linear.out_features, linear.in_features = weight.shape
