"""Loop of one forward pass: rows are padded to one batch, run, and split into rows of their original sizes."""

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
    """Run rows in one call. See :class:`edgekit.spec.protocols.Loop`; this loop has no options."""
    (name,) = SIGNATURES
    signature = signatures[name]
    return split(signature, rows, engines[name].run(collate(signature, rows, shapes)))


def record(
    engines: Mapping[str, Runs], signatures: Mapping[str, Signature], rows: Sequence[Arrays]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return the feeds of the graph for one call with these rows. No engine runs."""
    (name,) = SIGNATURES
    return {name: [collate(signatures[name], rows)]}


def calls(signatures: Mapping[str, Signature], rows: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """Return the rows of each call: all rows share one."""
    return [rows]


def collate(signature: Signature, rows: Sequence[Arrays], shapes: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Stack rows. Short rows are padded with the ``pad`` value of each input along every variable axis.

    Args:
        signature: Inputs of the graph.
        rows: Rows, at least one: arrays by input name, without the batch axis. Variable axes may have any size.
        shapes: Bucket edges of the first variable axis, ascending. A single row is padded to the smallest edge that
            holds it. A longer row and several rows are padded to the largest row only.

    Returns:
        Arrays ``[batch, ...]`` by input name, in the dtypes of the signature. A variable axis has the size of the
        largest row, or of its bucket, at least 1.

    Raises:
        InputError: If the fixed axes of an array differ from the signature.
    """
    if len(rows) == 1 and not shapes:
        ready = _batch_of_one(signature, rows[0])
        if ready is not None:
            return ready
    sizes = _largest_sizes(signature, rows)
    if shapes and len(rows) == 1 and sizes:
        axis = next(iter(sizes))
        sizes[axis] = next((edge for edge in shapes if edge >= sizes[axis]), sizes[axis])
    shapes_by_axes: dict[tuple[str | int, ...], tuple[int, ...]] = {}
    feeds = {}
    for spec in signature.inputs:
        axes = spec.row_axes
        # Inputs often share their axes, e.g. token ids and their mask.
        shape = shapes_by_axes.get(axes)
        if shape is None:
            shape = shapes_by_axes[axes] = tuple([_axis_size(axis, sizes) for axis in axes])
        feeds[spec.name] = _stack(spec, [row[spec.name] for row in rows], shape)
    return feeds


def split(signature: Signature, rows: Sequence[Arrays], outputs: Mapping[str, Any]) -> list[Arrays]:
    """Split outputs into rows. An output axis with the name of an input axis is cut to the row's size.

    Args:
        signature: Signature of the graph.
        rows: Rows of the call, in its order.
        outputs: Arrays ``[batch, ...]`` by output name.

    Returns:
        Arrays by output name without the batch axis, for each row.
    """
    padded = signature.padded_outputs
    answers: list[Arrays] = []
    for index, row in enumerate(rows):
        answer = {}
        sizes = _largest_sizes(signature, [row], least=0) if padded else {}
        for spec in signature.outputs:
            array = np.asarray(outputs[spec.name])[index]
            answer[spec.name] = _remove_padding(array, spec.row_axes, sizes) if spec.name in padded else array
        answers.append(answer)
    return answers


def size(signature: Signature, row: Arrays) -> int:
    """Return the size of a row along its first variable axis, e.g. in tokens; 1 if all rows have one shape."""
    for name, place, _ in signature.places:
        # An input of one graph can be an output of another, which no row has.
        if name in row:
            return int(row[name].shape[place])
    return 1


def cut(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Divide rows into calls of similar length, the shortest first.

    Args:
        lengths: Size of each row, e.g. in tokens.
        rows: Largest number of rows of one call, at least 1.
        tokens: Largest product of rows and padded length of one call, except for a single row; 0 for no limit.

    Returns:
        Indices into ``lengths`` of the rows of each call.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the newest row is the longest of its call, so the other rows are padded to its length.
        if parts and len(parts[-1]) < rows and (not tokens or (len(parts[-1]) + 1) * lengths[index] <= tokens):
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _axis_size(axis: str | int, sizes: Mapping[str, int]) -> int:
    """Return the size of a fixed or variable axis."""
    return axis if isinstance(axis, int) else sizes[axis]


def _largest_sizes(signature: Signature, rows: Sequence[Arrays], least: int = 1) -> dict[str, int]:
    """Return the largest size of each variable axis in any row, in the order of :attr:`Signature.varying`."""
    sizes = dict.fromkeys(signature.varying, least)
    for name, place, axis in signature.places:
        for row in rows:
            shape = row[name].shape
            if place < len(shape) and shape[place] > sizes[axis]:
                sizes[axis] = shape[place]
    return sizes


def _batch_of_one(signature: Signature, row: Arrays) -> dict[str, np.ndarray] | None:
    """Return the feeds of a row whose arrays need no change, without a copy; None for any other row.

    It is for graphs whose inputs all have the same variable axes, e.g. token ids and their mask.
    """
    axes = signature.shared_axes
    if not axes:
        return None
    shape = row[signature.inputs[0].name].shape
    if len(shape) != len(axes) or 0 in shape:
        return None
    feeds = {}
    for spec in signature.inputs:
        array = row[spec.name]
        if array.shape != shape or array.dtype != spec.element:
            return None
        feeds[spec.name] = array[None]
    return feeds


def _stack(spec: TensorSpec, arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Stack arrays into one of shape ``[batch, *shape]``, padded where they are smaller."""
    if all(array.shape == shape for array in arrays):
        stacked = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return stacked if stacked.dtype == spec.element else stacked.astype(spec.element)
    padded = np.full((len(arrays), *shape), 0 if spec.pad is None else spec.pad, spec.element)
    for target, array in zip(padded, arrays, strict=True):
        if array.ndim != len(shape) or any(
            isinstance(axis, int) and axis != n for axis, n in zip(spec.row_axes, array.shape, strict=True)
        ):
            expected = f"{spec.dtype} [{', '.join(map(str, spec.row_axes))}]"
            raise InputError(
                f"Input '{spec.name}' of a row is {array.dtype} {list(array.shape)}, expected {expected}. "
                "Pass an array of the graph's shape.",
                code="input-shape",
            )
        target[tuple([slice(n) for n in array.shape])] = array
    return padded


def _remove_padding(array: np.ndarray, axes: Sequence[str | int], sizes: Mapping[str, int]) -> np.ndarray:
    """Cut a row's output to the row's size along each variable axis."""
    slices: list[slice] = [slice(None)] * len(axes)
    for position, axis in enumerate(axes):
        if isinstance(axis, str) and axis in sizes:
            slices[position] = slice(sizes[axis])
    return array[tuple(slices)]
