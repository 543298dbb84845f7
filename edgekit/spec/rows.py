"""Rows of named arrays packed into a few large arrays, and comparisons of the outputs of any task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, cast, overload

import numpy as np

from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays, Encoded, Input, Task

__all__ = [
    "SHAPES",
    "PackedRows",
    "column",
    "difference",
    "encode_each",
    "finite",
    "is_finite",
    "pack",
    "spread",
    "take",
    "unpack",
]

Value = TypeVar("Value")

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
    if isinstance(rows, PackedRows) and rows.columns is not None:
        return dict(rows.columns)
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


class PackedRows(Sequence[Arrays]):
    """Rows of named arrays, held as one array a name: 4 bytes a float32, where a mapping of arrays takes 400.

    Rows may be stored in any order. Rows of different shapes are held one by one.
    """

    def __init__(self, count: int) -> None:
        """Create an empty table.

        Args:
            count: Number of rows.
        """
        self._columns: dict[str, np.ndarray] = {}
        self._single: list[Arrays] | None = None  # The rows, once two of them differ in shape.
        self._is_stored = np.zeros(count, bool)
        self._missing = count

    def put(self, places: Sequence[int], packed: Mapping[str, np.ndarray]) -> None:
        """Store rows.

        Args:
            places: Index of each row.
            packed: The rows, as :func:`pack` returns them.
        """
        if self._single is None and not self._fits(packed):
            stored = np.flatnonzero(self._is_stored).tolist()
            self._single = [{}] * len(self)
            for place in stored:
                self._single[place] = {name: values[place] for name, values in self._columns.items()}
            self._columns = {}
        if self._single is not None:
            for place, row in zip(places, unpack(packed), strict=True):
                self._single[place] = row
        else:
            for name, values in packed.items():
                if name not in self._columns:
                    self._columns[name] = np.empty((len(self), *values.shape[1:]), values.dtype)
                self._columns[name][np.asarray(places, np.intp)] = values
        self._is_stored[np.asarray(places, np.intp)] = True
        self._missing = len(self) - int(self._is_stored.sum())

    def _fits(self, packed: Mapping[str, np.ndarray]) -> bool:
        """Return whether rows have one shape, that of the rows before them."""
        if any(name.endswith(SHAPES) for name in packed):
            return False
        kinds = {name: (values.shape[1:], values.dtype) for name, values in packed.items()}
        stored = {name: (values.shape[1:], values.dtype) for name, values in self._columns.items()}
        return not stored or kinds == stored

    @property
    def columns(self) -> Mapping[str, np.ndarray] | None:
        """Array ``[rows, ...]`` by name; None if the rows differ in shape.

        Raises:
            ValueError: If a row was not stored.
        """
        if self._missing:
            raise ValueError(f"{self._missing} of {len(self)} rows were not stored")
        return self._columns if self._single is None else None

    def take(self, places: Sequence[int]) -> Sequence[Arrays]:
        """Return the rows at some places."""
        columns = self.columns
        if columns is None:
            return [self[place] for place in places]
        rows = PackedRows(len(places))
        indices = np.asarray(places, np.intp)
        rows.put(range(len(places)), {name: values[indices] for name, values in columns.items()})
        return rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._is_stored)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrays]: ...
    def __getitem__(self, index: int | slice) -> Arrays | Sequence[Arrays]:
        """Return a row as views, or the rows of a slice."""
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        place = range(len(self))[index]
        columns = self.columns
        if columns is None:
            return cast("list[Arrays]", self._single)[place]
        return {name: values[place] for name, values in columns.items()}


def column(rows: Sequence[Arrays], name: str) -> np.ndarray:
    """Return one array of all rows as an array ``[rows, ...]``.

    Args:
        rows: Rows with arrays of one shape under this name; at least one.
        name: Name of the array.
    """
    if isinstance(rows, PackedRows) and rows.columns is not None:
        return rows.columns[name]
    arrays = [row[name] for row in rows]
    return arrays[0][None] if len(arrays) == 1 else np.array(arrays)


def take(values: Sequence[Value], places: Sequence[int]) -> Sequence[Value]:
    """Return the values at some places, in the form of the values: an array of an array, packed rows of packed rows.

    Args:
        values: Any sequence.
        places: Indices. A range over all values returns them unchanged.
    """
    if isinstance(places, range) and places == range(len(values)):
        return values
    if isinstance(values, np.ndarray):
        return cast("Sequence[Value]", values[np.asarray(places, np.intp)])
    if callable(take_rows := getattr(values, "take", None)):
        return cast("Sequence[Value]", take_rows(places))
    return [values[place] for place in places]


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
    if isinstance(rows, PackedRows) and rows.columns is not None:
        result = np.ones(len(rows), bool)
        for values in rows.columns.values():
            if values.dtype.kind == "f":
                result &= np.isfinite(values).reshape(len(rows), -1).all(axis=1)
        return result
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
