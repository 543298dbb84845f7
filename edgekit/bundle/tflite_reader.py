"""Reader for the parts of a ``.tflite`` file that a bundle is checked against.

It reads the flatbuffer itself, because devices do not have the flatbuffers package. Every offset that it follows lies
inside the file. It covers the model, its one subgraph with all tensors, buffers and operators, and its one signature.
Slots of tables are those of schema.fbs, version 3
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs).

Refused is what EdgeKit does not write: several subgraphs or signatures, custom operators, weights in other files or
behind the flatbuffer, INT4 values but in blocks with a float16 scale each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgekit.bundle.onnx_reader import Facts, Value
from edgekit.spec.errors import IntegrityError

__all__ = ["IDENTIFIER", "VERSION", "TfliteFacts", "read"]

IDENTIFIER = b"TFL3"
VERSION = 3

_DTYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
    17: "int4",
    18: "bfloat16",
}
_FLOAT16 = 1
_INT4 = 17
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 9: 8, 10: 64, 12: 64, 15: 32, 16: 16, 17: 4, 18: 16}
_CUSTOM = 32  # Operator code of custom operators.
_MOST = 2**20  # Largest number of tensors, buffers or operators.
_MAX_AXES = 64
_BLOCK_MULTIPLE = 32  # XNNPACK takes blocks of a multiple of it.

# Slots of the tables, in the order of the schema.
_MODEL_VERSION = 0
_MODEL_CODES = 1
_MODEL_SUBGRAPHS = 2
_MODEL_BUFFERS = 4
_MODEL_SIGNATURES = 7
_MODEL_EXTERNAL = (8, 9)
_GRAPH_TENSORS = 0
_GRAPH_INPUTS = 1
_GRAPH_OUTPUTS = 2
_GRAPH_OPERATORS = 3
_TENSOR_SHAPE = 0
_TENSOR_TYPE = 1
_TENSOR_BUFFER = 2
_TENSOR_QUANTIZATION = 4
_TENSOR_SIGNATURE = 7
_TENSOR_EXTERNAL = 10
_QUANTIZATION_KIND = 4
_QUANTIZATION_DETAILS = 5
_IN_BLOCKS = 2  # Kind of the details.
_BLOCKS_SCALES = 0
_BLOCKS_ZERO_POINTS = 1
_BLOCKS_SIZE = 2
_BLOCKS_SHAPE = 3
_BUFFER_DATA = 0
_BUFFER_OUTSIDE = (1, 2)
_CODE_OLD = 0
_CODE_CUSTOM = 1
_CODE_VERSION = 2
_CODE_BUILTIN = 3
_OPERATOR_CODE = 0
_OPERATOR_INPUTS = 1
_OPERATOR_OUTPUTS = 2
_SIGNATURE_INPUTS = 0
_SIGNATURE_OUTPUTS = 1
_SIGNATURE_KEY = 2
_SIGNATURE_GRAPH = 4
_MAP_NAME = 0
_MAP_TENSOR = 1


@dataclass
class TfliteFacts(Facts):
    """Content of a ``.tflite`` file. It has no external data.

    Attributes:
        signature: Key of its signature.
        operators: Code and version of each kind of operator.
    """

    signature: str = ""
    operators: tuple[tuple[int, int], ...] = ()


def read(data: bytes) -> TfliteFacts:
    """Read a ``.tflite`` file.

    Args:
        data: Content of the file.

    Raises:
        IntegrityError: If the file is damaged, of another version, or holds what EdgeKit does not write. The message is
            a clause.
    """
    if data[4:8] != IDENTIFIER:
        raise IntegrityError(
            f"not a TensorFlow Lite file (its identifier is {data[4:8]!r}, expected {IDENTIFIER!r})",
            code="bundle-graph",
        )
    try:
        return _read_model(_Table(data, _number(data, 0, "<I")))
    except (struct.error, IndexError, UnicodeDecodeError) as problem:
        raise IntegrityError("a damaged TensorFlow Lite file (an offset leaves it)", code="bundle-graph") from problem
    except ValueError as problem:
        raise IntegrityError(f"not a readable TensorFlow Lite file ({problem})", code="bundle-graph") from problem


def _number(data: bytes, at: int, form: str) -> int:
    """Return a number at a position that is inside the file."""
    if at < 0:
        raise IndexError(at)
    (value,) = struct.unpack_from(form, data, at)
    return int(value)


class _Table:
    """A table of the flatbuffer: a record whose fields may be absent."""

    def __init__(self, data: bytes, at: int) -> None:
        """Read the layout of a table.

        Args:
            data: Content of the file.
            at: Position of the table.
        """
        self._data = data
        self._at = at
        layout = at - _number(data, at, "<i")
        size = _number(data, layout, "<H")
        self._size = _number(data, layout + 2, "<H")
        if size < 4 or size % 2 or layout + size > len(data) or at + self._size > len(data):
            raise IndexError(layout)
        self._slots = struct.unpack_from(f"<{size // 2 - 2}H", data, layout + 4)

    def _place(self, slot: int) -> int:
        """Return the position of a field, or 0 if it is absent."""
        offset = self._slots[slot] if slot < len(self._slots) else 0
        if offset and not 4 <= offset < self._size:
            raise IndexError(offset)
        return self._at + offset if offset else 0

    def is_set(self, slot: int) -> bool:
        """Return whether the table has a field."""
        return bool(self._place(slot))

    def number(self, slot: int, form: str, default: int = 0) -> int:
        """Return a number; ``form`` is that of :mod:`struct`."""
        at = self._place(slot)
        return _number(self._data, at, form) if at else default

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        """Return the position of the first entry and the number of entries of a vector."""
        at = self._place(slot)
        if not at:
            return 0, 0
        at += _number(self._data, at, "<I")
        count = _number(self._data, at, "<I")
        if at + 4 + count * size > len(self._data):
            raise IndexError(at)
        return at + 4, count

    def numbers(self, slot: int) -> tuple[int, ...]:
        """Return a vector of 32-bit integers."""
        at, count = self._vector(slot, 4)
        if count > _MOST:
            raise ValueError(f"a list of {count} numbers")
        return struct.unpack_from(f"<{count}i", self._data, at)

    def byte_count(self, slot: int) -> int:
        """Return the length of a vector of bytes."""
        return self._vector(slot, 1)[1]

    def text(self, slot: int) -> str:
        """Return a text."""
        at, count = self._vector(slot, 1)
        return self._data[at : at + count].decode("utf-8")

    def table(self, slot: int) -> _Table | None:
        """Return a table; None if it is absent."""
        at = self._place(slot)
        return _Table(self._data, at + _number(self._data, at, "<I")) if at else None

    def tables(self, slot: int) -> Iterator[_Table]:
        """Yield the tables of a vector."""
        at, count = self._vector(slot, 4)
        if count > _MOST:
            raise ValueError(f"a list of {count} tables")
        for place in range(at, at + 4 * count, 4):
            yield _Table(self._data, place + _number(self._data, place, "<I"))


class _Tensor:
    """A tensor of the subgraph."""

    def __init__(self, table: _Table) -> None:
        """Read shape and type."""
        self.kind = table.number(_TENSOR_TYPE, "<b")
        self.buffer = table.number(_TENSOR_BUFFER, "<I")
        self.sizes = table.numbers(_TENSOR_SHAPE)
        self._signature = table.numbers(_TENSOR_SIGNATURE)
        if len(self.sizes) > _MAX_AXES or (self._signature and len(self._signature) != len(self.sizes)):
            raise ValueError("a tensor with two ranks, or too many axes")
        if min(self.sizes, default=0) < 0:
            raise ValueError("a tensor with a negative size")
        if table.is_set(_TENSOR_EXTERNAL) and table.number(_TENSOR_EXTERNAL, "<I"):
            raise ValueError("a tensor in another file, which EdgeKit does not write")
        self.blocks = _read_blocks(table.table(_TENSOR_QUANTIZATION))
        if (self.kind == _INT4) != (self.blocks is not None):
            raise ValueError("INT4 values without blocks, or blocks of another type, which EdgeKit does not write")

    @cached_property
    def shape(self) -> tuple[int | None, ...]:
        """Size of each axis, None for an axis that varies."""
        sizes: list[int | None] = list(self._signature or self.sizes)
        for axis, size in enumerate(sizes):
            if size == -1:
                sizes[axis] = None
        return tuple(sizes)

    def check_data(self, length: int) -> None:
        """Check the length of the data of a constant against its shape; 0 for a tensor that is no constant."""
        if not length:
            return
        count = 1
        for size in self.sizes:
            count *= size
        if self.kind not in _BITS or (count * _BITS[self.kind] + 7) // 8 != length:
            raise ValueError(f"a constant of type {self.kind} and shape {list(self.sizes)} with {length} bytes")

    def check_blocks(self, blocks: _Blocks, tensors: Sequence[_Tensor], lengths: Sequence[int]) -> None:
        """Check that there is a scale for each block of the values.

        Args:
            blocks: Blocks of the values.
            tensors: Tensors of the subgraph.
            lengths: Length of the data of each buffer.
        """
        if not 0 <= blocks.scales < len(tensors):
            raise ValueError("scales in a tensor that does not exist")
        scales = tensors[blocks.scales]
        if not lengths[self.buffer] or not lengths[scales.buffer] or scales.kind != _FLOAT16:
            raise ValueError("values in blocks, or their scales, that are no constants, or scales of another type")
        if len(self.sizes) != 2 or scales.sizes != (self.sizes[0], self.sizes[1] // blocks.size):
            raise ValueError(f"values of shape {list(self.sizes)} with scales of shape {list(scales.sizes)}")
        if self.sizes[1] % blocks.size:
            raise ValueError(f"rows of {self.sizes[1]} values in blocks of {blocks.size}")


@dataclass(frozen=True)
class _Blocks:
    """Blocks of a tensor whose values have scales block by block.

    Attributes:
        scales: Index of the tensor with the scales.
        size: Number of values that share a scale.
    """

    scales: int
    size: int


def _read_blocks(quantization: _Table | None) -> _Blocks | None:
    """Return the blocks of a tensor; None if it has none."""
    kind = 0 if quantization is None else quantization.number(_QUANTIZATION_KIND, "<B")
    details = None if quantization is None else quantization.table(_QUANTIZATION_DETAILS)
    if kind == 0 and details is None:
        return None
    if kind != _IN_BLOCKS or details is None:
        raise ValueError("a quantization of its own kind, which EdgeKit does not write")
    size = details.number(_BLOCKS_SIZE, "<i")
    if size <= 0 or size % _BLOCK_MULTIPLE:
        raise ValueError(f"blocks of {size} values, expected a multiple of {_BLOCK_MULTIPLE}")
    if details.number(_BLOCKS_ZERO_POINTS, "<i") >= 0 or details.byte_count(_BLOCKS_SHAPE):
        raise ValueError("blocks with zero points or of several axes, which EdgeKit does not write")
    return _Blocks(details.number(_BLOCKS_SCALES, "<i"), size)


def _read_model(model: _Table) -> TfliteFacts:
    version = model.number(_MODEL_VERSION, "<I")
    if version != VERSION:
        raise ValueError(f"version {version}, expected {VERSION}")
    if any(model.byte_count(slot) for slot in _MODEL_EXTERNAL):
        raise ValueError("weights in other files, which EdgeKit does not write")
    codes = [_read_code(table) for table in model.tables(_MODEL_CODES)]
    lengths = [_data_length(table) for table in model.tables(_MODEL_BUFFERS)]
    graphs = list(model.tables(_MODEL_SUBGRAPHS))
    signatures = list(model.tables(_MODEL_SIGNATURES))
    if len(graphs) != 1 or len(signatures) != 1:
        raise ValueError(f"{len(graphs)} subgraphs and {len(signatures)} signatures, expected one of each")
    tensors = [_Tensor(table) for table in graphs[0].tables(_GRAPH_TENSORS)]
    for tensor in tensors:
        tensor.check_data(lengths[tensor.buffer])
        if tensor.blocks is not None:
            tensor.check_blocks(tensor.blocks, tensors, lengths)
    for operator in graphs[0].tables(_GRAPH_OPERATORS):
        _check_operator(operator, len(codes), len(tensors))
    signature = signatures[0]
    if signature.number(_SIGNATURE_GRAPH, "<I"):
        raise ValueError("a signature of another subgraph")
    facts = TfliteFacts(signature=signature.text(_SIGNATURE_KEY), operators=tuple(codes))
    for slot, graph_slot, values in (
        (_SIGNATURE_INPUTS, _GRAPH_INPUTS, facts.inputs),
        (_SIGNATURE_OUTPUTS, _GRAPH_OUTPUTS, facts.outputs),
    ):
        indices = []
        for entry in signature.tables(slot):
            index = entry.number(_MAP_TENSOR, "<I")
            indices.append(index)
            tensor = tensors[index]
            values.append(Value(entry.text(_MAP_NAME), _DTYPES.get(tensor.kind, ""), tensor.shape))
        names = {value.name for value in values}
        if sorted(indices) != sorted(graphs[0].numbers(graph_slot)) or len(names) < len(values):
            raise ValueError("a signature with other inputs or outputs than its subgraph")
    return facts


def _read_code(table: _Table) -> tuple[int, int]:
    """Return the number and the version of an operator. Numbers above 127 are in a field of their own."""
    number = max(table.number(_CODE_OLD, "<b"), table.number(_CODE_BUILTIN, "<i"))
    if number == _CUSTOM or table.is_set(_CODE_CUSTOM):
        raise ValueError("a custom operator, which EdgeKit does not write")
    return number, table.number(_CODE_VERSION, "<i", 1)


def _data_length(table: _Table) -> int:
    if any(table.number(slot, "<Q") for slot in _BUFFER_OUTSIDE):
        raise ValueError("weights behind the flatbuffer, which EdgeKit does not write")
    return table.byte_count(_BUFFER_DATA)


def _check_operator(operator: _Table, codes: int, tensors: int) -> None:
    """Check that an operator refers to kinds and tensors that exist. An input of -1 is left out."""
    inputs = operator.numbers(_OPERATOR_INPUTS)
    outputs = operator.numbers(_OPERATOR_OUTPUTS)
    is_inside = min(inputs, default=0) >= -1 and min(outputs, default=0) >= 0
    is_inside = is_inside and max((*inputs, *outputs), default=0) < tensors
    if not is_inside or operator.number(_OPERATOR_CODE, "<I") >= codes:
        raise ValueError("an operator on a tensor that does not exist")
