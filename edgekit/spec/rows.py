"""Rows of named arrays as a few large arrays, and what is asked of outputs of any task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays, Encoded, Input, Task

__all__ = ["SHAPES", "difference", "encode_each", "finite", "pack", "spread", "unpack"]

SHAPES = ".shapes"
"""Suffix of the name under which the shapes of ragged arrays are packed."""

_ENCODED_AT_ONCE = 32


def encode_each(task: Task, inputs: Sequence[Input]) -> Iterator[Encoded]:
    """What a task makes of each input, of few at a time: tens of thousands of decoded images are larger than the memory.

    Raises:
        InputError: as :meth:`Task.preprocess` does, with the place among all inputs.
    """
    for start in range(0, len(inputs), _ENCODED_AT_ONCE):
        few = inputs[start : start + _ENCODED_AT_ONCE]
        try:
            encoded = task.preprocess(few)
        except InputError:
            for place, value in enumerate(few, start) if start else ():
                _check(task, value, place)
            raise
        yield from encoded


def _check(task: Task, value: Input, place: int) -> None:
    """Raises what is wrong with an input. A task tells the place of one among several, so it is asked for two."""
    try:
        task.preprocess([value, value])
    except InputError as problem:
        raise problem.reworded(str(problem).replace(" at position 0", f" at position {place}", 1)) from problem


def pack(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Puts rows together, for a file or a pipe; :func:`unpack` takes them apart.

    Args:
        rows: at least one; all with the same names, dtypes and ranks.

    Returns:
        Name to ``[rows, ...]`` where all rows have one shape. Else name to all values one after the other, and ``NAME.shapes``: int64 ``[rows, rank]``.
    """
    packed: dict[str, np.ndarray] = {}
    for name in rows[0]:
        arrays = [np.asarray(row[name]) for row in rows]
        if len({a.shape for a in arrays}) == 1:
            packed[name] = np.stack(arrays)
        else:
            packed[name] = np.concatenate([a.ravel() for a in arrays])
            packed[name + SHAPES] = np.array([a.shape for a in arrays], np.int64)
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The rows that :func:`pack` put together, as views.

    Raises:
        ValueError: when values and shapes do not fit each other.
    """
    columns: dict[str, Sequence[np.ndarray]] = {}
    for name, values in packed.items():
        if name.endswith(SHAPES):
            continue
        shapes = packed.get(name + SHAPES)
        columns[name] = list(values) if shapes is None else _ragged(name, values, shapes)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays are of different numbers of rows: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ragged(name: str, values: np.ndarray, shapes: np.ndarray) -> list[np.ndarray]:
    if values.ndim != 1 or shapes.ndim != 2 or shapes.dtype.kind not in "iu" or (shapes < 0).any():
        raise ValueError(
            f"'{name}' is {values.dtype} {values.shape} with shapes {shapes.dtype} {shapes.shape}, expected flat values and int64 [rows, rank]"
        )
    sizes = [int(np.prod([int(n) for n in shape], dtype=object)) for shape in shapes]
    if sum(sizes) != len(values):
        raise ValueError(f"'{name}' has {len(values)} values, its shapes are of {sum(sizes)}")
    ends = np.cumsum([0, *sizes])
    return [values[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]


def spread(rows: Sequence[Arrays]) -> float:
    """Range of all values of all outputs, at least 1: the unit in which differences of outputs are stated."""
    return max(
        [
            1.0,
            *(
                float(max(np.max(r[n]) for r in rows if r[n].size) - min(np.min(r[n]) for r in rows if r[n].size))
                for n in _floats(rows)
            ),
        ]
    )


def difference(rows: Sequence[Arrays], others: Sequence[Arrays]) -> float:
    """Largest difference of a value between two models' outputs to the same rows; infinity where shapes differ or one is not finite."""
    largest = 0.0
    for row, other in zip(rows, others, strict=True):
        for name in row:
            a, b = np.asarray(row[name], np.float64), np.asarray(other[name], np.float64)
            if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
                return float("inf")
            largest = max(largest, float(np.abs(a - b).max())) if a.size else largest
    return largest


def finite(rows: Sequence[Arrays]) -> np.ndarray:
    """Whether every output of a row is a number: bool ``[rows]``."""
    return np.array([all(np.isfinite(a).all() for a in row.values() if a.dtype.kind == "f") for row in rows], bool)


def _floats(rows: Sequence[Arrays]) -> list[str]:
    return [n for n in (rows[0] if rows else ()) if rows[0][n].dtype.kind == "f" and any(r[n].size for r in rows)]
