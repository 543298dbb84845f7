"""One forward pass: rows of several sizes are padded to one array, run, and come back row by row, each of its own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays, Runs
from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["SIGNATURES", "calls", "collate", "cut", "record", "run", "size", "split"]

SIGNATURES = ("forward",)


def run(
    engines: Mapping[str, Runs],
    signatures: Mapping[str, Signature],
    rows: Sequence[Arrays],
    shapes: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Arrays]:
    """Runs rows in one call, see :class:`edgekit.spec.protocols.Loop`; this loop has no options."""
    (name,) = SIGNATURES
    signature = signatures[name]
    return split(signature, rows, engines[name].run(collate(signature, rows, shapes)))


def record(
    engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Feeds of the one graph for one call with these rows, which no engine has to run for."""
    (name,) = SIGNATURES
    return {name: [collate(signatures[name], rows)]}


def calls(signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """All rows: they are one call."""
    return [rows]


def collate(signature: Signature, rows: Sequence[Arrays], shapes: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Stacks rows; short ones are padded with the ``pad`` of each input along every axis that varies.

    Args:
        signature: inputs of the graph.
        rows: at least one, input name to an array without the batch axis; the axes that vary may have any size.
        shapes: bucket edges of the first axis that varies, ascending. One row is padded to the smallest that holds it; a longer one, and
            several rows, are left to shapes of any size.

    Returns:
        Input name to ``[batch, ...]`` in the dtype of the signature. An axis that varies has the size of the largest row, or of its bucket, at least 1.

    Raises:
        InputError: for an array whose fixed axes are not those of the signature.
    """
    sizes = _largest(signature, rows)
    if shapes and len(rows) == 1 and sizes:
        axis = next(iter(sizes))
        sizes[axis] = next((edge for edge in shapes if edge >= sizes[axis]), sizes[axis])
    feeds = {}
    for spec in signature.inputs:
        arrays = [row[spec.name] for row in rows]
        shape = tuple([axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape[1:]])
        feeds[spec.name] = _stack(spec, arrays, shape)
    return feeds


def split(signature: Signature, rows: Sequence[Arrays], outputs: Mapping[str, Any]) -> list[Arrays]:
    """Takes outputs apart by row; an output axis with the name of an input axis is cut to the row's own size.

    Args:
        signature: of the graph.
        rows: what it was run on, in this order.
        outputs: output name to ``[batch, ...]``.
    """
    cuts = [(spec.name, spec.shape[1:]) for spec in signature.outputs]
    ragged = any(axis in signature.varying for _, axes in cuts for axis in axes)
    answers: list[Arrays] = []
    for index, row in enumerate(rows):
        answer = {name: np.asarray(outputs[name])[index] for name, _ in cuts}
        if ragged:
            sizes = _largest(signature, [row], least=0)
            answer = {name: _cut(answer[name], axes, sizes) for name, axes in cuts}
        answers.append(answer)
    return answers


def size(signature: Signature, row: Arrays) -> int:
    """Size of a row along the first of its axes that varies, e.g. its tokens; 1 where all rows have one shape."""
    for name, place, _ in signature.places:
        if name in row:  # of several graphs, one may take what another gives
            return int(row[name].shape[place])
    return 1


def cut(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Cuts a list into calls of rows of similar length, the shortest first.

    Args:
        lengths: size of each row, e.g. its tokens.
        rows: rows of one call at most, at least 1.
        tokens: rows times padded length of one call at most, a single row excepted; 0 is no limit.

    Returns:
        The rows of each call, by their place in ``lengths``.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the newest row is the longest of its call: that is what the others are padded to.
        if parts and len(parts[-1]) < rows and (not tokens or (len(parts[-1]) + 1) * lengths[index] <= tokens):
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _largest(signature: Signature, rows: Sequence[Arrays], least: int = 1) -> dict[str, int]:
    """Axis that varies to its largest size in any row, in the order of :attr:`Signature.varying`."""
    sizes = dict.fromkeys(signature.varying, least)
    for name, place, axis in signature.places:
        for row in rows:
            shape = row[name].shape
            if place < len(shape) and shape[place] > sizes[axis]:
                sizes[axis] = shape[place]
    return sizes


def _stack(spec: TensorSpec, arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays as one of ``[batch, *shape]``."""
    if arrays[0].shape == shape and (len(arrays) == 1 or all(array.shape == shape for array in arrays)):
        stacked = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return stacked if stacked.dtype == spec.dtype else stacked.astype(spec.dtype)
    filled = np.full((len(arrays), *shape), 0 if spec.pad is None else spec.pad, spec.dtype)
    for target, array in zip(filled, arrays, strict=True):
        if array.ndim != len(shape) or any(
            isinstance(axis, int) and axis != n for axis, n in zip(spec.shape[1:], array.shape, strict=True)
        ):
            expected = f"{spec.dtype} [{', '.join(map(str, spec.shape[1:]))}]"
            raise InputError(
                f"Input '{spec.name}' of a row is {array.dtype} {list(array.shape)}, expected {expected}. Give the shape that the graph takes.",
                code="input-shape",
            )
        target[tuple([slice(n) for n in array.shape])] = array
    return filled


def _cut(array: np.ndarray, axes: Sequence[str | int], sizes: Mapping[str, int]) -> np.ndarray:
    """A row's output without the padding."""
    kept = [slice(sizes[axis]) if isinstance(axis, str) and axis in sizes else slice(None) for axis in axes]
    return array[tuple(kept)]
