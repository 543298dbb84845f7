"""Batches of rows for torch: padding to tensors, and splitting of a module's outputs into rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.runtime.loops import single
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature

__all__ = ["group_by_length", "lengths", "pads_of", "reference", "run", "stack_outputs", "tensors"]

_BATCH = 32


def pads_of(signature: Signature) -> dict[str, int | float]:
    """Return the padding value of each input that has one."""
    return {spec.name: spec.pad for spec in signature.inputs if spec.pad is not None}


def tensors(rows: Sequence[Arrays], pads: Mapping[str, float]) -> dict[str, Any]:
    """Return tensors ``[batch, ...]`` of rows, padded at the end of their first axis to the longest row.

    Args:
        rows: Rows of one batch.
        pads: Padding value by input name.

    Raises:
        UsageError: If an input without a padding value has rows of different shapes.
    """
    import torch

    batch = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if name in pads:
            longest = max(1, *map(len, arrays))
            padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), pads[name], arrays[0].dtype)
            for target, array in zip(padded, arrays, strict=True):
                target[: len(array)] = array
        elif len({array.shape for array in arrays}) == 1:
            padded = np.stack(arrays)
        else:
            raise UsageError(
                f"The rows of '{name}' have different shapes and no padding value. Give pads={{'{name}': ...}}.",
                code="pads-missing",
            )
        batch[name] = torch.from_numpy(padded)
    return batch


def stack_outputs(outputs: Sequence[Arrays]) -> dict[str, Any]:
    """Return tensors ``[batch, ...]`` of outputs, with shorter ones padded with 0."""
    pads = {}
    for name in outputs[0]:
        shapes = {row[name].shape for row in outputs}
        if len(shapes) > 1:
            pads[name] = 0
    return tensors(outputs, pads)


def lengths(rows: Sequence[Arrays]) -> np.ndarray:
    """Return the size of the first axis of each row's first input: int64 ``[rows]``."""
    return np.array([len(next(iter(row.values()))) for row in rows], np.int64)


def group_by_length(rows: Sequence[Arrays], most: int = 0) -> list[list[int]]:
    """Return the indices of rows in batches of similar length, the shortest first.

    Args:
        rows: Rows to group.
        most: Largest product of rows and padded length of a batch with several rows; 0 for no limit.
    """
    return single.cut(lengths(rows).tolist(), _BATCH, most)


def run(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    module: Any,
    rows: Sequence[Arrays],
    pads: Mapping[str, float],
    signature: Signature | None,
) -> tuple[dict[str, Any], list[Arrays]]:
    """Run a module on rows as one batch, without gradients.

    Args:
        forward: Function that runs the module; see :class:`edgekit.spec.head.Head`.
        module: Torch module on any device.
        rows: Rows of the batch.
        pads: Padding value by input name.
        signature: Signature of the module, by which the padding is cut off the outputs; None to keep it.

    Returns:
        The padded tensors, on the CPU, and the outputs of each row.
    """
    import torch

    device = next((p.device for p in module.parameters()), "cpu")
    feeds = tensors(rows, pads)
    with torch.inference_mode():
        outputs = forward(module, {name: tensor.to(device) for name, tensor in feeds.items()})
        arrays = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
    if signature is not None:
        return feeds, single.split(signature, rows, arrays)
    padded_rows: list[Arrays] = []
    for index in range(len(rows)):
        padded_rows.append({name: array[index] for name, array in arrays.items()})
    return feeds, padded_rows


def reference(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    module: Any,
    signature: Signature,
    rows: Sequence[Arrays],
    progress: Progress,
) -> list[Arrays]:
    """Return the outputs of a module for rows, in their order, computed in padded batches of similar length."""
    outputs: dict[int, Arrays] = {}
    for indices in group_by_length(rows):
        _, batch_outputs = run(forward, module, [rows[i] for i in indices], pads_of(signature), signature)
        outputs.update(zip(indices, batch_outputs, strict=True))
        progress(getattr(module, "reference_name", "torch reference"), len(outputs), len(rows))
    return [outputs[i] for i in range(len(rows))]
