"""Many rows in little memory: values in compressed blocks, which are unpacked while they are read.

A row of a sample file is a dozen Python objects, about a kilobyte for a text of a hundred characters. Compressed, it
takes less than its text. Nothing is written to disk, since inputs must not leave memory.
"""

from __future__ import annotations

import itertools
import marshal
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

__all__ = ["FEWEST", "PackedList", "pack"]

FEWEST = 4096
"""Number of values from which on they are compressed."""

_BLOCK = 512
_LEVEL = 1  # zlib's fastest level: 3 times smaller at 80 MB/s, where the best level is 4 times smaller at 20 MB/s.

Value = TypeVar("Value")
Part = TypeVar("Part")


def _identity(value: Any) -> Any:
    return value


def pack(
    values: Iterable[Value], dump: Callable[[Value], Any] = _identity, load: Callable[[Any], Value] = _identity
) -> tuple[Value, ...] | PackedList[Value]:
    """Return values as a tuple, or compressed if there are many.

    Args:
        values: Values, read once.
        dump: Function from a value to plain data: text, numbers, None, lists, tuples and dicts. Values are such data by
            default.
        load: Function from plain data to a value, the inverse of ``dump``.
    """
    iterator = iter(values)
    few = tuple(itertools.islice(iterator, FEWEST))
    if len(few) < FEWEST:
        return few
    return PackedList(itertools.chain(few, iterator), dump, load)


class PackedList(Sequence[Value], Generic[Value]):
    """Values in compressed blocks. Access in ascending order unpacks each block once."""

    def __init__(self, values: Iterable[Value], dump: Callable[[Value], Any], load: Callable[[Any], Value]) -> None:
        """Compress values.

        Args:
            values: Values, read once.
            dump: Function from a value to plain data. A block with other data, e.g. an image, stays as it is.
            load: Function from plain data to a value, the inverse of ``dump``.
        """
        self._load = load
        self._blocks: list[bytes | list[Any]] = []
        self._count = 0
        self._open: tuple[int, list[Any]] = (-1, [])  # The block that was read last, with its index.
        iterator = map(dump, values)
        while block := list(itertools.islice(iterator, _BLOCK)):
            self._count += len(block)
            try:
                self._blocks.append(zlib.compress(marshal.dumps(block), _LEVEL))
            except ValueError:
                self._blocks.append(block)

    def parts(self, load: Callable[[Any], Part]) -> PackedList[Part]:
        """Return the same blocks with another function from plain data to a value, e.g. to the input of a row."""
        parts: PackedList[Part] = PackedList((), load, load)
        parts._blocks = self._blocks
        parts._count = self._count
        return parts

    def take(self, places: Sequence[int]) -> Sequence[Value]:
        """Return the values at some places. They stay compressed."""
        return _Taken(self, places)

    def drain(self) -> Iterator[Value]:
        """Yield the values, each block for the last time: its memory is free afterwards."""
        for index in range(len(self._blocks)):
            data = self._data(index)
            self._blocks[index] = []
            yield from map(self._load, data)
        self._count = 0

    def _data(self, index: int) -> list[Any]:
        """Return the plain data of a block."""
        block = self._blocks[index]
        if isinstance(block, list):
            return block
        opened, data = self._open
        if opened != index:
            data = marshal.loads(zlib.decompress(block))
            self._open = (index, data)
        return data

    def __len__(self) -> int:
        """Return the number of values."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        """Return a value, or those of a slice as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(self._count)[index]]
        block, place = divmod(range(self._count)[index], _BLOCK)
        return self._load(self._data(block)[place])

    def __iter__(self) -> Iterator[Value]:
        """Yield the values."""
        for index in range(len(self._blocks)):
            yield from map(self._load, self._data(index))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has equal values."""
        return _is_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


class _Taken(Sequence[Value], Generic[Value]):
    """The values of a sequence at some places, made while they are read."""

    def __init__(self, values: Sequence[Value], places: Sequence[int]) -> None:
        self._values = values
        self._places = places

    def take(self, places: Sequence[int]) -> Sequence[Value]:
        """Return the values at some places."""
        return _Taken(self._values, [self._places[place] for place in places])

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        if isinstance(index, slice):
            return [self._values[place] for place in self._places[index]]
        return self._values[self._places[index]]

    def __eq__(self, other: object) -> bool:
        return _is_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def _is_equal(values: Sequence[Any], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, (str, bytes)) or len(values) != len(other):
        return False
    return all(first == second for first, second in zip(values, other, strict=True))
