"""Rows as batches of torch: padded to tensors, and a module's outputs cut back to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.runtime.loops import single
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature

__all__ = ["alike", "lengths", "pads_of", "reference", "run", "stacked", "tensors"]

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
            padded = np.full(
                (len(arrays), max(1, *map(len, arrays)), *arrays[0].shape[1:]), pads[name], arrays[0].dtype
            )
            for place, array in zip(padded, arrays, strict=True):
                place[: len(array)] = array
        elif len({a.shape for a in arrays}) == 1:
            padded = np.stack(arrays)
        else:
            raise UsageError(
                f"The rows of '{name}' are of several shapes, and no value was given to pad them with. Give pads={{'{name}': ...}}.",
                code="pads-missing",
            )
        made[name] = torch.from_numpy(padded)
    return made


def stacked(outputs: Sequence[Arrays]) -> dict[str, Any]:
    """Tensors ``[batch, ...]`` of outputs, short ones filled with 0."""
    ragged = [name for name in outputs[0] if len({row[name].shape for row in outputs}) > 1]
    return tensors(outputs, dict.fromkeys(ragged, 0))


def lengths(rows: Sequence[Arrays]) -> np.ndarray:
    """Size of the first axis of each row's first input: int64 ``[rows]``."""
    return np.array([len(next(iter(row.values()))) for row in rows], np.int64)


def alike(rows: Sequence[Arrays], most: int = 0) -> list[list[int]]:
    """Places of rows in batches of similar length, the shortest first.

    Args:
        rows: the rows.
        most: rows times padded length of a batch at most, a single row excepted; 0 is no limit.
    """
    return single.cut(lengths(rows).tolist(), _BATCH, most)


def run(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    module: Any,
    rows: Sequence[Arrays],
    pads: Mapping[str, float],
    signature: Signature | None,
) -> tuple[dict[str, Any], list[Arrays]]:
    """Runs a module on rows as one batch, without gradients.

    Args:
        forward: see :class:`edgekit.spec.head.Head`.
        module: on any device.
        rows: of the batch.
        pads: value that pads short rows, by input.
        signature: of the module, by which outputs are cut to the size of each row; None to leave them as they are.

    Returns:
        The padded tensors, on the CPU, and the outputs of each row.
    """
    import torch

    device = next((p.device for p in module.parameters()), "cpu")
    feeds = tensors(rows, pads)
    with torch.inference_mode():
        outputs = forward(module, {n: t.to(device) for n, t in feeds.items()})
        arrays = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
    whole: list[Arrays] = [{name: array[i] for name, array in arrays.items()} for i in range(len(rows))]
    return feeds, whole if signature is None else single.split(signature, rows, arrays)


def reference(
    forward: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    module: Any,
    signature: Signature,
    rows: Sequence[Arrays],
    progress: Progress,
) -> list[Arrays]:
    """What a module computes for rows, in their order, in padded batches of similar length."""
    found: dict[int, Arrays] = {}
    for chosen in alike(rows):
        _, outputs = run(forward, module, [rows[i] for i in chosen], pads_of(signature), signature)
        found.update(zip(chosen, outputs, strict=True))
        progress(getattr(module, "reference_name", "torch reference"), len(found), len(rows))
    return [found[i] for i in range(len(rows))]
