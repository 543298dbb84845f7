"""The stack of equal layers in a Transformer of any architecture, and layers with fewer heads and neurons.

No architecture is named here. A stack is the longest list of modules of one class that each hold several linear layers: the
encoder of BERT and its kin, of ViT and DeiT, of wav2vec2 and HuBERT, and of Whisper's classifier. Heads and neurons are read off
the linears of a layer by their names (q, k, v) and their shapes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.spec.errors import ModelError

__all__ = ["KEPT_SIZES", "Block", "blocks", "depth", "has_stack", "prune_layers", "stack", "widths"]

KEPT_SIZES = "edgekit_widths"
"""In the config of a pruned model: ``[heads, neurons]`` of each stored layer."""

_FEWEST_LINEARS = 4  # queries, keys, values and their output; a convolution of wav2vec2's front end has none
_HEADS = ("num_attention_heads", "num_heads", "n_heads")  # what attention modules call the number of heads
_ALL_HEADS = ("all_head_size", "inner_dim")  # and heads times their size
_ROLES = {
    "query": re.compile(r"q(uery)?(_|$)"),
    "key": re.compile(r"k(ey)?(_|$)"),
    "value": re.compile(r"v(alue)?(_|$)"),
}


@dataclass(frozen=True)
class Block:
    """The linears of one layer, by what they do; each is a path within the layer.

    Attributes:
        attention: queries, keys, values, and what joins the heads again; empty where heads cannot be told apart.
        heads: number of heads; 1 where they cannot be told apart.
        up: hidden to neurons: one, or two of a gated feed-forward part, or one that gives neurons and gates side by side.
        down: neurons to hidden.
        neurons: of the feed-forward part.
    """

    attention: tuple[str, ...]
    heads: int
    up: tuple[str, ...]
    down: str
    neurons: int


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
            f"{_FEWEST_LINEARS} linear layers each. Give a student of your own instead.",
            code="model-no-layers",
        )
    _, _, path, layers = max(found, key=lambda f: f[:2])
    return path, layers


def has_stack(module: Any) -> bool:
    """Whether :func:`stack` finds one."""
    with contextlib.suppress(ModelError):
        return bool(stack(module))
    return False


def depth(module: Any) -> int:
    """Layers that a forward pass goes through; ALBERT's go through one set of weights again and again."""
    _, layers = stack(module)
    config: Any = getattr(module, "config", None)
    shared = getattr(config, "num_hidden_groups", None) == len(layers)
    return max(len(layers), int(config.num_hidden_layers)) if shared else len(layers)


def blocks(module: Any) -> list[Block]:
    """Reads each stored layer of a module.

    Raises:
        ModelError: when there is no stack, or no feed-forward part in a layer.
    """
    import torch

    found = [_block(layer) for layer in stack(module)[1]]
    # MPNet adds a number for each head and distance, from one table for all layers: its layers cannot have different heads.
    tables = {m.embedding_dim for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    return [replace(b, attention=(), heads=1) if b.heads in tables else b for b in found]


def _block(layer: Any) -> Block:
    import torch

    linears = {path: m for path, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
    named = {role: [p for p in linears if pattern.match(p.rpartition(".")[2])] for role, pattern in _ROLES.items()}
    attention: tuple[str, ...] = ()
    heads = 1
    if all(len(paths) == 1 for paths in named.values()):
        attention, heads = _attention(layer, linears, [paths[0] for paths in named.values()])
    rest = [path for path in linears if path not in attention]
    down = rest[-1]
    neurons, hidden = linears[down].in_features, linears[down].out_features
    up = [
        p for p in rest[:-1] if linears[p].in_features == hidden and linears[p].out_features in (neurons, 2 * neurons)
    ]
    up = [p for p in up if p.rpartition(".")[0] == down.rpartition(".")[0]] or up
    if not up:
        raise ModelError(
            f"{type(layer).__name__} has no feed-forward part: expected a linear into neurons and one back. Leave its layers as they are.",
            code="model-no-feed-forward",
        )
    if (
        attention and len(rest) > len(up) + 1
    ):  # DeBERTa's projections of positions go by heads too, in a way of their own
        attention, heads = (), 1
    return Block(attention, heads, tuple(up), down, neurons)


def prune_layers(module: Any, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Takes out of each stored layer, in place, all but some of its heads and neurons.

    Args:
        module: with a stack.
        picks: heads and neurons that stay, ascending, layer by layer; all heads where they cannot be told apart.
    """
    for layer, found, (heads, neurons) in zip(stack(module)[1], blocks(module), picks, strict=True):
        _narrow(layer, found, heads, neurons)


def _narrow(layer: Any, found: Block, heads: Sequence[int], neurons: Sequence[int]) -> None:
    if len(heads) < found.heads:
        query = layer.get_submodule(found.attention[0])
        before, size = query.out_features, query.out_features // found.heads
        inside = [h * size + i for h in heads for i in range(size)]
        for path in found.attention[:3]:
            _select(layer.get_submodule(path), inside, None)
        _select(layer.get_submodule(found.attention[3]), None, inside)
        owner = layer.get_submodule(found.attention[0].rpartition(".")[0])
        for names, old, new in ((_HEADS, found.heads, len(heads)), (_ALL_HEADS, before, len(inside))):
            for name in names:
                if getattr(owner, name, None) == old:
                    setattr(owner, name, new)
    if len(neurons) < found.neurons:
        for path in found.up:
            linear = layer.get_submodule(path)
            gates = [n + found.neurons for n in neurons] if linear.out_features == 2 * found.neurons else []
            _select(linear, [*neurons, *gates], None)
        _select(layer.get_submodule(found.down), None, list(neurons))


def widths(module: Any) -> list[list[int]]:
    """``[heads, neurons]`` of each stored layer."""
    return [[b.heads, b.neurons] for b in blocks(module)]


def _attention(layer: Any, linears: dict[str, Any], projections: list[str]) -> tuple[tuple[str, ...], int]:
    """Queries, keys, values and output, and the number of heads; nothing where the shapes are not of plain multi-head attention."""
    owner, width = layer.get_submodule(projections[0].rpartition(".")[0]), linears[projections[0]].out_features
    heads = next((int(n) for name in _HEADS if isinstance(n := getattr(owner, name, None), int)), 0)
    order = list(linears)
    after = order[max(map(order.index, projections)) + 1 :]
    output = next((p for p in after if linears[p].in_features == width), None)
    if output is None or heads < 1 or width % heads or any(linears[p].out_features != width for p in projections):
        return (), 1
    return (*projections, output), heads


def _select(linear: Any, rows: Sequence[int] | None, columns: Sequence[int] | None) -> None:
    """Keeps some outputs and some inputs of a linear, in place."""
    import torch

    weight, bias = linear.weight.detach(), linear.bias
    if rows is not None:
        weight = weight[list(rows)]
        linear.bias = None if bias is None else torch.nn.Parameter(bias.detach()[list(rows)].clone())
    if columns is not None:
        weight = weight[:, list(columns)]
    linear.weight = torch.nn.Parameter(weight.clone())
    linear.out_features, linear.in_features = weight.shape
