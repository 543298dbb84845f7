"""Rows as batches of torch: padded to tensors, and a module's outputs cut back to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature

__all__ = ["cut", "lengths", "pads_of", "reference", "run", "stacked", "tensors"]

_BATCH = 32


def pads_of(signature: Signature) -> dict[str, int | float]:
    """Value that pads short rows, for each input that has one."""
    return {spec.name: spec.pad for spec in signature.inputs if spec.pad is not None}


def tensors(rows: Sequence[Arrays], pads: Mapping[str, float]) -> dict[str, Any]:
    """Tensors ``[batch, ...]`` of rows, padded at the end of their first axis to the longest.

    Raises:
        UsageError: when an input without a pad value has rows of several shapes.
    """
    import torch

    made = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if name in pads:
            padded = np.full((len(arrays), max(1, *map(len, arrays)), *arrays[0].shape[1:]), pads[name], arrays[0].dtype)
            for place, array in zip(padded, arrays, strict=True):
                place[: len(array)] = array
        elif len({a.shape for a in arrays}) == 1:
            padded = np.stack(arrays)
        else:
            raise UsageError(f"The rows of '{name}' are of several shapes, and no value was given to pad them with. Give pads={{'{name}': ...}}.")
        made[name] = torch.from_numpy(padded)
    return made


def stacked(outputs: Sequence[Arrays]) -> dict[str, Any]:
    """Tensors ``[batch, ...]`` of outputs, short ones filled with 0."""
    ragged = [name for name in outputs[0] if len({row[name].shape for row in outputs}) > 1]
    return tensors(outputs, dict.fromkeys(ragged, 0))


def lengths(rows: Sequence[Arrays]) -> np.ndarray:
    """Size of the first axis of each row's first input: int64 ``[rows]``."""
    return np.array([len(next(iter(row.values()))) for row in rows], np.int64)


def cut(outputs: Mapping[str, np.ndarray], rows: Sequence[Arrays], signature: Signature | None) -> list[Arrays]:
    """Takes a batch of outputs apart, without what padding added.

    Args:
        outputs: name to array, batch first.
        rows: that the outputs are of.
        signature: names the axes; None where outputs do not vary from row to row.
    """
    if signature is None or not signature.varying:
        return [{name: array[i] for name, array in outputs.items()} for i in range(len(rows))]
    shapes = {spec.name: spec.shape[1:] for spec in signature.outputs}
    found: list[Arrays] = []
    for i, row in enumerate(rows):
        sizes = {axis: size for spec in signature.inputs for axis, size in zip(spec.shape[1:], row[spec.name].shape, strict=True) if isinstance(axis, str)}
        found.append({name: array[i][tuple(slice(sizes.get(axis)) for axis in shapes[name])] for name, array in outputs.items()})  # type: ignore[arg-type]
    return found


def run(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]], module: Any, rows: Sequence[Arrays], pads: Mapping[str, float], signature: Signature | None
) -> tuple[dict[str, Any], list[Arrays]]:
    """Runs a module on rows as one batch, without gradients.

    Args:
        forward: see :class:`edgekit.spec.head.Head`.
        module: on any device.
        rows: of the batch.
        pads: value that pads short rows, by input.
        signature: of the module, see :func:`cut`.

    Returns:
        The padded tensors, on the CPU, and the outputs of each row.
    """
    import torch

    device = next((p.device for p in module.parameters()), "cpu")
    feeds = tensors(rows, pads)
    with torch.inference_mode():
        outputs = forward(module, {n: t.to(device) for n, t in feeds.items()})
        arrays = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
    return feeds, cut(arrays, rows, signature)


def reference(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]], module: Any, signature: Signature, rows: Sequence[Arrays], progress: Progress
) -> list[Arrays]:
    """What a module computes for rows, in their order, in padded batches of similar length."""
    order = sorted(range(len(rows)), key=lengths(rows).__getitem__) if signature.varying else list(range(len(rows)))
    found: dict[int, Arrays] = {}
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        _, outputs = run(forward, module, [rows[i] for i in chosen], pads_of(signature), signature)
        found.update(zip(chosen, outputs, strict=True))
        progress("torch reference", min(start + _BATCH, len(order)), len(order))
    return [found[i] for i in range(len(rows))]
