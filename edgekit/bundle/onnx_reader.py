"""What an ONNX file says of itself, read off its protobuf wire format, since devices do not have the onnx package.

Inputs and outputs of the graph, and every tensor that lies in another file: in subgraphs, sparse tensors, functions, their attributes' defaults
and training information too. Field numbers and wire types are those of onnx.proto3 (https://github.com/onnx/onnx, IR version 14).

What two readers could read differently is refused: a number or a tag that is longer than it need be, a tag of no field or of another wire type,
groups, a field that is there twice and may be once, a key of ``external_data`` that is there twice. So this reader and a backend's see the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edgekit.spec.errors import IntegrityError

__all__ = ["DTYPES", "FIELDS", "NO_INITIALIZER", "External", "Facts", "Value", "read"]

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 12: "uint32",
    13: "uint64", 16: "bfloat16", 21: "uint4", 22: "int4",
}  # fmt: skip
"""``TensorProto.DataType`` to the numpy name, of what may lie in another file or be an input or output."""

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
_DEEPEST = 64
_EXTERNAL_KEYS = {"location", "offset", "length"}
_MOST_AXES = 64
NO_INITIALIZER = "a tensor that is no initializer lies in another file, where EdgeKit puts initializers alone"

# Message: field number -> what it is. "bytes", "int", "float" and "double" stand for wire types; "*" for a field that may be there more than
# once; other words for a message that is entered. What lies in "bytes" (names, texts, types of values in between) holds no tensor.
FIELDS: dict[str, dict[int, str]] = {
    "model": {
        1: "int", 2: "bytes", 3: "bytes", 4: "bytes", 5: "int", 6: "bytes", 7: "graph", 8: "bytes*", 14: "bytes*", 20: "training*", 25: "function*",
        26: "bytes*",
    },
    "graph": {
        1: "node*", 2: "bytes", 5: "tensor*", 10: "bytes", 11: "value*", 12: "value*", 13: "bytes*", 14: "bytes*", 15: "sparse*", 16: "bytes*",
    },
    "training": {1: "graph", 2: "graph", 3: "bytes*", 4: "bytes*"},
    "function": {
        1: "bytes", 4: "bytes*", 5: "bytes*", 6: "bytes*", 7: "node*", 8: "bytes", 9: "bytes*", 10: "bytes", 11: "attribute*", 12: "bytes*", 13: "bytes",
        14: "bytes*",
    },
    "node": {1: "bytes*", 2: "bytes*", 3: "bytes", 4: "bytes", 5: "attribute*", 6: "bytes", 7: "bytes", 8: "bytes", 9: "bytes*", 10: "bytes*"},
    "attribute": {
        1: "bytes", 2: "float", 3: "int", 4: "bytes", 5: "tensor", 6: "graph", 7: "float*", 8: "int*", 9: "bytes*", 10: "tensor*", 11: "graph*", 13: "bytes",
        14: "bytes", 15: "bytes*", 20: "int", 21: "bytes", 22: "sparse", 23: "sparse*",
    },
    "sparse": {1: "tensor", 2: "tensor", 3: "int*"},
    "tensor": {
        1: "int*", 2: "int", 3: "bytes", 4: "float*", 5: "int*", 6: "bytes*", 7: "int*", 8: "bytes", 9: "bytes", 10: "double*", 11: "int*", 12: "bytes",
        13: "entry*", 14: "int", 16: "bytes*",
    },
    "entry": {1: "bytes", 2: "bytes"},
    "value": {1: "bytes", 2: "type", 3: "bytes", 4: "bytes*"},
    "type": {1: "tensor_type", 4: "bytes", 5: "bytes", 6: "bytes", 7: "bytes", 8: "bytes", 9: "bytes"},
    "tensor_type": {1: "int", 2: "shape"},
    "shape": {1: "axis*"},
    "axis": {1: "int", 2: "bytes", 3: "bytes"},
}  # fmt: skip
_WIRE = {"int": 0, "double": 1, "float": 5}


@dataclass(frozen=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: its name.
        dtype: numpy name of its element type; empty where it is no tensor, or of a type that no bundle has.
        shape: a number, or None for an axis that varies, for each axis; None where the rank is not stated.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class External:
    """A tensor that lies in another file.

    Attributes:
        location: path of the file, relative to the graph.
        offset: first byte.
        size: bytes.
    """

    location: str
    offset: int
    size: int


@dataclass
class Facts:
    """What was read.

    Attributes:
        inputs: of the graph, without those that are initializers as well.
        outputs: of the graph.
        external: every tensor that lies in another file.
        stored: how many of them are initializers of the graph itself.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    external: list[External] = field(default_factory=list)
    stored: int = 0


def read(data: bytes) -> Facts:
    """Reads an ONNX file.

    Raises:
        IntegrityError: when the bytes are not one that all readers read alike.
    """
    reader = _Reader(data)
    try:
        reader.model()
    except (IndexError, ValueError) as problem:
        what = "it ends early" if isinstance(problem, IndexError) else problem
        raise IntegrityError(f"not a readable ONNX file ({what})", code="bundle-graph") from problem
    return reader.facts


class _Reader:
    """Goes through one file once."""

    def __init__(self, data: bytes) -> None:
        self.data, self.facts = data, Facts()

    def model(self) -> None:
        for number, kind, start, stop in self._fields("model", 0, len(self.data)):
            if number == 7:
                self._main_graph(start, stop)
            elif kind in FIELDS:
                self._enter(kind, start, stop, 1)

    def _main_graph(self, start: int, stop: int) -> None:
        constants = set()
        for number, kind, begin, end in self._fields("graph", start, stop):
            if number in (11, 12):
                (self.facts.inputs if number == 11 else self.facts.outputs).append(self._value(begin, end))
            elif number == 5:
                before = len(self.facts.external)
                constants.add(self._tensor(begin, end))
                self.facts.stored += len(self.facts.external) - before
            elif kind in FIELDS:
                self._enter(kind, begin, end, 2)
        self.facts.inputs = [value for value in self.facts.inputs if value.name not in constants]

    def _enter(self, message: str, start: int, stop: int, depth: int) -> None:
        """Looks for tensors in a message of any kind."""
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if message == "tensor":
            self._tensor(start, stop)
            return
        for _, kind, begin, end in self._fields(message, start, stop):
            if kind in FIELDS:
                self._enter(kind, begin, end, depth + 1)

    def _tensor(self, start: int, stop: int) -> str:
        """Name of a tensor; one in another file is noted."""
        dims, dtype, name, place, raw, entries = [], 0, "", 0, False, []
        for number, _, begin, end in self._fields("tensor", start, stop):
            match number:
                case 1:
                    dims += self._numbers(begin, end)
                case 2:
                    dtype = begin
                case 8:
                    name = self._text(begin, end)
                case 13:
                    entries.append(self._entry(begin, end))
                case 14:
                    place = begin
                case 4 | 5 | 6 | 7 | 9 | 10 | 11:
                    raw = True
        if place not in (0, 1) or bool(entries) != (place == 1) or (entries and raw):
            raise ValueError("a tensor says both that it lies in this file and that it lies in another")
        if entries:
            self.facts.external.append(_external(entries, dims, dtype))
        return name

    def _entry(self, start: int, stop: int) -> tuple[str, str]:
        parts = {number: self._text(begin, end) for number, _, begin, end in self._fields("entry", start, stop)}
        return parts.get(1, ""), parts.get(2, "")

    def _value(self, start: int, stop: int) -> Value:
        name, dtype, shape = "", "", None
        for number, _, begin, end in self._fields("value", start, stop):
            if number == 1:
                name = self._text(begin, end)
            elif number == 2:
                dtype, shape = self._type(begin, end)
        return Value(name, dtype, shape)

    def _type(self, start: int, stop: int) -> tuple[str, tuple[int | None, ...] | None]:
        dtype, shape = "", None
        for number, _, begin, end in self._fields("type", start, stop):
            if number != 1:
                continue
            for inner, _, first, last in self._fields("tensor_type", begin, end):
                if inner == 1:
                    dtype = DTYPES.get(first, "")
                else:
                    axes = list(self._fields("shape", first, last))
                    if len(axes) > _MOST_AXES:
                        raise ValueError(f"a shape of {len(axes)} axes")
                    shape = tuple(self._axis(one, other) for _, _, one, other in axes)
        return dtype, shape

    def _axis(self, start: int, stop: int) -> int | None:
        fields = {number: begin for number, _, begin, _ in self._fields("axis", start, stop)}
        if 1 in fields and 2 in fields:
            raise ValueError("an axis with both a size and a name")
        return fields.get(1)

    def _text(self, start: int, stop: int) -> str:
        return self.data[start:stop].decode("utf-8")

    def _numbers(self, start: int, stop: int) -> list[int]:
        """Values of a repeated number: packed, or one that stands alone (then ``stop`` is -1)."""
        if stop < 0:
            return [start]
        numbers = []
        while start < stop:
            value, start = self._varint(start)
            numbers.append(value)
            if len(numbers) > _MOST_AXES:
                raise ValueError("a tensor of too many axes")
        if start > stop:
            raise ValueError("a list of numbers that is cut off")
        return numbers

    def _fields(self, message: str, at: int, stop: int) -> Iterator[tuple[int, str, int, int]]:
        """Yields number, kind, and first byte and end of each field; of a number that is no list its value and -1.

        Raises:
            ValueError: for what the table of this message does not have, or has otherwise.
        """
        table, seen, data = FIELDS[message], set(), self.data
        while at < stop:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = self._varint(at - 1)
                if tag >> 32:
                    raise ValueError(f"a {message} with a tag of more than 32 bits")
            number, wire = tag >> 3, tag & 7
            kind = table.get(number)
            if kind is None:
                raise ValueError(f"a {message} with the field {number}, which it does not have")
            once = kind.rstrip("*")
            if once == kind:
                if number in seen:
                    raise ValueError(f"a {message} with the field {number} twice")
                seen.add(number)
            expected = _WIRE.get(once, 2)
            if wire != expected and not (wire == 2 and once != kind):  # a repeated number may be packed
                raise ValueError(f"a {message} with the field {number} in wire type {wire}, expected {expected}")
            if wire == 2:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = self._varint(at - 1)
                begin, at = at, at + size
                end = at
            elif wire == 0:
                begin, at = self._varint(at)
                end = -1
            else:
                begin, end = at, -1
                at += 8 if wire == 1 else 4
            if at > stop:
                raise ValueError("a field is longer than what it lies in")
            yield number, once, begin, end
        if at != stop:
            raise ValueError("a field is longer than what it lies in")

    def _varint(self, at: int) -> tuple[int, int]:
        """A number of up to 64 bits in as few bytes as it needs, and where it ends."""
        data, value, shift = self.data, 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if (byte == 0 and shift) or value >> 64:
                    raise ValueError("a number in more bytes than it needs")
                return value, at
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")


def _external(entries: list[tuple[str, str]], dims: list[int], dtype: int) -> External:
    """A tensor in another file, after its size was compared with its shape.

    Raises:
        ValueError: when the keys are others than EdgeKit writes, or the sizes disagree.
    """
    keys = dict(entries)
    if len(keys) != len(entries) or not keys.keys() <= _EXTERNAL_KEYS or "location" not in keys:
        raise ValueError("a tensor in another file with keys that EdgeKit does not write")
    if dtype not in _BITS:
        raise ValueError(f"a tensor of type {dtype} in another file")
    count = 1
    for size in dims:
        count *= size
        if count >= 2**50:
            raise ValueError("a tensor that no memory holds")
    size = (count * _BITS[dtype] + 7) // 8
    if _decimal(keys.get("length", str(size))) != size:
        raise ValueError(f"a tensor of {size} bytes by its shape has {keys['length'][:20]!r} in another file")
    return External(keys["location"], _decimal(keys.get("offset", "0")), size)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError("a size or place in another file that is not a plain number")
    return int(text)
