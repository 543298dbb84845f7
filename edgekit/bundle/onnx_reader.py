"""Reader for the parts of an ONNX file that a bundle is checked against.

It reads the protobuf wire format itself, because devices do not have the onnx package. It returns the inputs and
outputs of the graph and all tensors with external data, including those in subgraphs, sparse tensors, functions,
default values of attributes and training information. Field numbers and wire types are those of onnx.proto3
(https://github.com/onnx/onnx, IR version 14).

Everything that two parsers could read differently is refused, so that this reader and a backend see the same: a number
or tag that is longer than necessary, an unknown field, a field with another wire type, a group, a singular field that
occurs twice, and a duplicate key of ``external_data``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edgekit.spec.errors import IntegrityError

__all__ = ["DTYPES", "FIELDS", "NO_INITIALIZER", "External", "Facts", "Value", "read"]

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    21: "uint4",
    22: "int4",
}
"""``TensorProto.DataType`` to the numpy name, for the types of inputs, outputs and external data."""

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
_MAX_DEPTH = 64
_MAX_AXES = 64
_MAX_ELEMENTS = 2**50
_MAX_DECIMAL_DIGITS = 18
_EXTERNAL_KEYS = {"location", "offset", "length"}
NO_INITIALIZER = "a tensor that is not an initializer has external data, which EdgeKit does not write"

# Message to field number to type. "bytes", "int", "float" and "double" are wire types. "*" marks a repeated field. Any
# other type is a message that is parsed. Fields of type "bytes" (names, texts, types of intermediate values) contain
# no tensors.
FIELDS: dict[str, dict[int, str]] = {
    "model": {
        1: "int", 2: "bytes", 3: "bytes", 4: "bytes", 5: "int", 6: "bytes", 7: "graph", 8: "bytes*", 14: "bytes*",
        20: "training*", 25: "function*", 26: "bytes*",
    },
    "graph": {
        1: "node*", 2: "bytes", 5: "tensor*", 10: "bytes", 11: "value*", 12: "value*", 13: "bytes*", 14: "bytes*",
        15: "sparse*", 16: "bytes*",
    },
    "training": {1: "graph", 2: "graph", 3: "bytes*", 4: "bytes*"},
    "function": {
        1: "bytes", 4: "bytes*", 5: "bytes*", 6: "bytes*", 7: "node*", 8: "bytes", 9: "bytes*", 10: "bytes",
        11: "attribute*", 12: "bytes*", 13: "bytes", 14: "bytes*",
    },
    "node": {
        1: "bytes*", 2: "bytes*", 3: "bytes", 4: "bytes", 5: "attribute*", 6: "bytes", 7: "bytes", 8: "bytes",
        9: "bytes*", 10: "bytes*",
    },
    "attribute": {
        1: "bytes", 2: "float", 3: "int", 4: "bytes", 5: "tensor", 6: "graph", 7: "float*", 8: "int*", 9: "bytes*",
        10: "tensor*", 11: "graph*", 13: "bytes", 14: "bytes", 15: "bytes*", 20: "int", 21: "bytes", 22: "sparse",
        23: "sparse*",
    },
    "sparse": {1: "tensor", 2: "tensor", 3: "int*"},
    "tensor": {
        1: "int*", 2: "int", 3: "bytes", 4: "float*", 5: "int*", 6: "bytes*", 7: "int*", 8: "bytes", 9: "bytes",
        10: "double*", 11: "int*", 12: "bytes", 13: "entry*", 14: "int", 16: "bytes*",
    },
    "entry": {1: "bytes", 2: "bytes"},
    "value": {1: "bytes", 2: "type", 3: "bytes", 4: "bytes*"},
    "type": {1: "tensor_type", 4: "bytes", 5: "bytes", 6: "bytes", 7: "bytes", 8: "bytes", 9: "bytes"},
    "tensor_type": {1: "int", 2: "shape"},
    "shape": {1: "axis*"},
    "axis": {1: "int", 2: "bytes", 3: "bytes"},
}  # fmt: skip
_WIRE_TYPES = {"int": 0, "double": 1, "float": 5}
_LENGTH_DELIMITED = 2

_Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: Name of the value.
        dtype: numpy name of the element type. Empty if the value is not a tensor or has a type that no bundle uses.
        shape: Size of each axis, None for an axis that varies. None as a whole if the rank is not stated.
    """

    name: str
    dtype: str
    shape: _Shape


@dataclass(frozen=True)
class External:
    """Place of a tensor with external data.

    Attributes:
        location: Path of the file, relative to the graph.
        offset: Position of the first byte in the file.
        size: Size in bytes.
    """

    location: str
    offset: int
    size: int


@dataclass
class Facts:
    """Content of an ONNX file.

    Attributes:
        inputs: Inputs of the graph, without those that are also initializers.
        outputs: Outputs of the graph.
        external: All tensors with external data.
        stored: Number of tensors in ``external`` that are initializers of the main graph.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    external: list[External] = field(default_factory=list)
    stored: int = 0


def read(data: bytes) -> Facts:
    """Read an ONNX file.

    Args:
        data: Content of the file.

    Raises:
        IntegrityError: If the file is not an ONNX file that all parsers read alike. The message is a clause.
    """
    reader = _Reader(data)
    try:
        reader.read_model()
    except (IndexError, ValueError) as problem:
        reason = "it ends early" if isinstance(problem, IndexError) else problem
        raise IntegrityError(f"not a readable ONNX file ({reason})", code="bundle-graph") from problem
    return reader.facts


class _Reader:
    """Single pass over one file.

    The methods take the first byte and the end of a message in the file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.facts = Facts()

    def read_model(self) -> None:
        for number, kind, start, stop in self._fields("model", 0, len(self.data)):
            if number == 7:
                self._read_main_graph(start, stop)
            elif kind in FIELDS:
                self._find_tensors(kind, start, stop, 1)

    def _read_main_graph(self, start: int, stop: int) -> None:
        initializers = set()
        for number, kind, begin, end in self._fields("graph", start, stop):
            if number == 11:
                self.facts.inputs.append(self._read_value(begin, end))
            elif number == 12:
                self.facts.outputs.append(self._read_value(begin, end))
            elif number == 5:
                before = len(self.facts.external)
                initializers.add(self._read_tensor(begin, end))
                self.facts.stored += len(self.facts.external) - before
            elif kind in FIELDS:
                self._find_tensors(kind, begin, end, 2)
        self.facts.inputs = [value for value in self.facts.inputs if value.name not in initializers]

    def _find_tensors(self, message: str, start: int, stop: int, depth: int) -> None:
        """Read all tensors in a message of any type."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if message == "tensor":
            self._read_tensor(start, stop)
            return
        for _, kind, begin, end in self._fields(message, start, stop):
            if kind in FIELDS:
                self._find_tensors(kind, begin, end, depth + 1)

    def _read_tensor(self, start: int, stop: int) -> str:
        """Return the name of a tensor. A tensor with external data is added to the facts."""
        dims: list[int] = []
        dtype = 0
        name = ""
        data_location = 0
        has_inline_data = False
        entries = []
        for number, _, begin, end in self._fields("tensor", start, stop):
            match number:
                case 1:
                    dims += self._read_numbers(begin, end)
                case 2:
                    dtype = begin
                case 8:
                    name = self._read_text(begin, end)
                case 13:
                    entries.append(self._read_entry(begin, end))
                case 14:
                    data_location = begin
                case 4 | 5 | 6 | 7 | 9 | 10 | 11:
                    has_inline_data = True
        is_external = data_location == 1
        if data_location not in (0, 1) or bool(entries) != is_external or (entries and has_inline_data):
            raise ValueError("a tensor has both inline and external data")
        if entries:
            self.facts.external.append(_external(entries, dims, dtype))
        return name

    def _read_entry(self, start: int, stop: int) -> tuple[str, str]:
        """Return the key and the value of an entry of ``external_data``."""
        parts = {number: self._read_text(begin, end) for number, _, begin, end in self._fields("entry", start, stop)}
        return parts.get(1, ""), parts.get(2, "")

    def _read_value(self, start: int, stop: int) -> Value:
        name = ""
        dtype = ""
        shape: _Shape = None
        for number, _, begin, end in self._fields("value", start, stop):
            if number == 1:
                name = self._read_text(begin, end)
            elif number == 2:
                dtype, shape = self._read_type(begin, end)
        return Value(name, dtype, shape)

    def _read_type(self, start: int, stop: int) -> tuple[str, _Shape]:
        """Return the element type and the shape of a value."""
        dtype = ""
        shape: _Shape = None
        for number, _, begin, end in self._fields("type", start, stop):
            if number != 1:
                continue
            for inner, _, first, last in self._fields("tensor_type", begin, end):
                if inner == 1:
                    dtype = DTYPES.get(first, "")
                else:
                    shape = self._read_shape(first, last)
        return dtype, shape

    def _read_shape(self, start: int, stop: int) -> tuple[int | None, ...]:
        axes = list(self._fields("shape", start, stop))
        if len(axes) > _MAX_AXES:
            raise ValueError(f"a shape of {len(axes)} axes")
        return tuple(self._read_axis(begin, end) for _, _, begin, end in axes)

    def _read_axis(self, start: int, stop: int) -> int | None:
        fields = {number: begin for number, _, begin, _ in self._fields("axis", start, stop)}
        if 1 in fields and 2 in fields:
            raise ValueError("an axis with both a size and a name")
        return fields.get(1)

    def _read_text(self, start: int, stop: int) -> str:
        return self.data[start:stop].decode("utf-8")

    def _read_numbers(self, start: int, stop: int) -> list[int]:
        """Return the values of a repeated number: a packed list, or a single value (then ``stop`` is -1)."""
        if stop < 0:
            return [start]
        numbers = []
        while start < stop:
            value, start = self._read_varint(start)
            numbers.append(value)
            if len(numbers) > _MAX_AXES:
                raise ValueError("a tensor with too many axes")
        if start > stop:
            raise ValueError("a truncated list of numbers")
        return numbers

    def _fields(self, message: str, at: int, stop: int) -> Iterator[tuple[int, str, int, int]]:
        """Yield the fields of a message.

        Args:
            message: Type of the message, a key of ``FIELDS``.
            at: Position of the first byte.
            stop: Position behind the last byte.

        Yields:
            Field number, type, first byte and end. A number that is not a packed list has its value and -1 in place of
            the last two.

        Raises:
            ValueError: If a field is unknown, has another wire type, or occurs twice though it is singular.
        """
        table = FIELDS[message]
        data = self.data
        seen = set()
        while at < stop:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = self._read_varint(at - 1)
                if tag >> 32:
                    raise ValueError(f"a {message} with a tag of more than 32 bits")
            number = tag >> 3
            wire_type = tag & 7
            kind = table.get(number)
            if kind is None:
                raise ValueError(f"a {message} with the unknown field {number}")
            base_kind = kind.rstrip("*")
            is_repeated = base_kind != kind
            if not is_repeated:
                if number in seen:
                    raise ValueError(f"a {message} with the field {number} twice")
                seen.add(number)
            expected = _WIRE_TYPES.get(base_kind, _LENGTH_DELIMITED)
            is_packed = wire_type == _LENGTH_DELIMITED and is_repeated
            if wire_type != expected and not is_packed:
                raise ValueError(f"a {message} with the field {number} in wire type {wire_type}, expected {expected}")
            if wire_type == _LENGTH_DELIMITED:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = self._read_varint(at - 1)
                begin = at
                at += size
                end = at
            elif wire_type == 0:
                begin, at = self._read_varint(at)
                end = -1
            else:
                begin = at
                end = -1
                at += 8 if wire_type == 1 else 4
            if at > stop:
                raise ValueError("a field is longer than its message")
            yield number, base_kind, begin, end
        if at != stop:
            raise ValueError("a field is longer than its message")

    def _read_varint(self, at: int) -> tuple[int, int]:
        """Return a number of up to 64 bits in its shortest encoding, and the position behind it."""
        data = self.data
        value = 0
        shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if (byte == 0 and shift) or value >> 64:
                    raise ValueError("a number in more bytes than necessary")
                return value, at
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")


def _external(entries: list[tuple[str, str]], dims: list[int], dtype: int) -> External:
    """Return the place of a tensor with external data, after a check of its size against its shape.

    Args:
        entries: Keys and values of ``external_data``.
        dims: Shape of the tensor.
        dtype: ``TensorProto.DataType`` of the tensor.

    Raises:
        ValueError: If a key is not one that EdgeKit writes, or the sizes disagree.
    """
    keys = dict(entries)
    if len(keys) != len(entries) or not keys.keys() <= _EXTERNAL_KEYS or "location" not in keys:
        raise ValueError("external data with keys that EdgeKit does not write")
    if dtype not in _BITS:
        raise ValueError(f"external data of type {dtype}")
    count = 1
    for dim in dims:
        count *= dim
        if count >= _MAX_ELEMENTS:
            raise ValueError("a tensor that is too large for any memory")
    size = (count * _BITS[dtype] + 7) // 8
    if _parse_decimal(keys.get("length", str(size))) != size:
        raise ValueError(f"external data of length {keys['length'][:20]!r} for a tensor of {size} bytes")
    return External(keys["location"], _parse_decimal(keys.get("offset", "0")), size)


def _parse_decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DECIMAL_DIGITS):
        raise ValueError("a size or offset of external data that is not a plain number")
    return int(text)
