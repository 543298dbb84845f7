"""Which other files an ONNX file names: read off its protobuf wire format, since devices do not have the onnx package.

Only what leads to tensors is followed; the field numbers are those of onnx.proto3 (https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.spec.errors import IntegrityError

# message -> field number -> message that lies there
_LEADS_TO = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64


def locations(data: bytes) -> Iterator[str]:
    """Yields the ``location`` of every tensor that is stored outside of an ONNX file.

    Raises:
        IntegrityError: when the bytes are not a protobuf message.
    """
    try:
        yield from _locations(memoryview(data), "model", 0)
    except (IndexError, ValueError, UnicodeDecodeError) as problem:
        raise IntegrityError(f"not a readable ONNX file ({problem})") from problem


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    for number, value in _fields(data):
        inner = _LEADS_TO[message].get(number)
        if inner == "entry":
            entry = {field: bytes(part).decode("utf-8") for field, part in _fields(value)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif inner is not None:
            yield from _locations(value, inner, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of each length-delimited field; the others hold no message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than the file")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
