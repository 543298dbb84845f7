"""Rows of named arrays packed into a few large arrays, and comparisons of the outputs of any task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays, Encoded, Input, Task

__all__ = ["SHAPES", "difference", "encode_each", "finite", "is_finite", "pack", "spread", "unpack"]

SHAPES = ".shapes"
"""Suffix of the name under which the shapes of ragged arrays are packed."""

_ENCODE_CHUNK = 32
_FEW = 16  # Values that Python checks faster than NumPy.


def encode_each(task: Task, inputs: Sequence[Input]) -> Iterator[Encoded]:
    """Yield the encoded form of each input, in small chunks: thousands of decoded images do not fit into memory.

    Raises:
        InputError: If :meth:`Task.preprocess` refuses an input; with its position among all inputs.
    """
    for start in range(0, len(inputs), _ENCODE_CHUNK):
        chunk = inputs[start : start + _ENCODE_CHUNK]
        try:
            encoded = task.preprocess(chunk)
        except InputError:
            if start > 0:
                for position, value in enumerate(chunk, start):
                    _check_input(task, value, position)
            raise
        yield from encoded


def _check_input(task: Task, value: Input, position: int) -> None:
    """Raise the error for one invalid input, with its position among all inputs.

    A task names the position only if there are several inputs, so it gets the input twice.
    """
    try:
        task.preprocess([value, value])
    except InputError as problem:
        message = str(problem).replace(" at position 0", f" at position {position}", 1)
        raise problem.reworded(message) from problem


def pack(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Pack rows into a few arrays, for a file or a pipe. :func:`unpack` is the inverse.

    Args:
        rows: Rows with the same names, dtypes and ranks; at least one.

    Returns:
        Array ``[rows, ...]`` by name if all rows have the same shape. Otherwise the flat values of all rows one after
        the other, and the shapes as int64 ``[rows, rank]`` under ``NAME.shapes``.
    """
    packed: dict[str, np.ndarray] = {}
    for name in rows[0]:
        arrays = [np.asarray(row[name]) for row in rows]
        if len({array.shape for array in arrays}) == 1:
            packed[name] = np.stack(arrays)
        else:
            packed[name] = np.concatenate([array.ravel() for array in arrays])
            packed[name + SHAPES] = np.array([array.shape for array in arrays], np.int64)
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the rows that :func:`pack` packed, as views.

    Raises:
        ValueError: If values and shapes do not match.
    """
    columns: dict[str, Sequence[np.ndarray]] = {}
    for name, values in packed.items():
        if name.endswith(SHAPES):
            continue
        shapes = packed.get(name + SHAPES)
        columns[name] = list(values) if shapes is None else _split_ragged(name, values, shapes)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays have different numbers of rows: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _split_ragged(name: str, values: np.ndarray, shapes: np.ndarray) -> list[np.ndarray]:
    """Split flat values into one array per row, with the given shapes."""
    if values.ndim != 1 or shapes.ndim != 2 or shapes.dtype.kind not in "iu" or (shapes < 0).any():
        raise ValueError(
            f"'{name}' is {values.dtype} {values.shape} with shapes {shapes.dtype} {shapes.shape}, "
            "expected flat values and int64 [rows, rank]"
        )
    # Python integers do not overflow, even for the shapes of a damaged file.
    sizes = [math.prod(shape) for shape in shapes.tolist()]
    if sum(sizes) != len(values):
        raise ValueError(f"'{name}' has {len(values)} values, but its shapes need {sum(sizes)}")
    ends = np.cumsum([0, *sizes])
    return [values[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]


def spread(rows: Sequence[Arrays]) -> float:
    """Return the largest range of values of an output over all rows, at least 1.

    It is the unit for differences between outputs.
    """
    largest = 1.0
    for name in _float_names(rows):
        arrays = [row[name] for row in rows if row[name].size]
        highest = max(np.max(array) for array in arrays)
        lowest = min(np.min(array) for array in arrays)
        largest = max(largest, float(highest - lowest))
    return largest


def difference(rows: Sequence[Arrays], others: Sequence[Arrays]) -> float:
    """Return the largest absolute difference between two models' outputs for the same rows.

    The result is infinity if shapes differ, or a value is not finite.
    """
    largest = 0.0
    for row, other in zip(rows, others, strict=True):
        for name in row:
            first = np.asarray(row[name], np.float64)
            second = np.asarray(other[name], np.float64)
            if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
                return float("inf")
            if first.size:
                largest = max(largest, float(np.abs(first - second).max()))
    return largest


def finite(rows: Sequence[Arrays]) -> np.ndarray:
    """Return whether all float outputs of each row are finite: bool ``[rows]``."""
    return np.array([is_finite(row) for row in rows], bool)


def is_finite(row: Arrays) -> bool:
    """Return whether all float outputs of a row are finite."""
    for array in row.values():
        if array.dtype.kind != "f":
            continue
        if array.ndim == 1 and len(array) <= _FEW:
            # NumPy takes longer to begin than Python for a few values, e.g. the outputs of a classifier.
            if not all(map(math.isfinite, array.tolist())):
                return False
        elif not np.isfinite(array).all():
            return False
    return True


def _float_names(rows: Sequence[Arrays]) -> list[str]:
    """Return the names of the float outputs that have a value in some row."""
    if not rows:
        return []
    names = []
    for name, array in rows[0].items():
        if array.dtype.kind == "f" and any(row[name].size for row in rows):
            names.append(name)
    return names
