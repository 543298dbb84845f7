"""Messages of two processes on a pipe: a JSON object, and the arrays that it refers to as they lie in memory.

A frame is ``<u4`` bytes of JSON, ``<u8`` bytes of arrays, then both. An array is an ``.npy``; nothing is pickled. Inputs are plain data with arrays in it:
a text, a pair of texts, a path, an image.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from edgekit.spec import rows as of_rows
from edgekit.spec.errors import InputError
from edgekit.spec.parsing import to_json
from edgekit.spec.protocols import Arrays

__all__ = ["read", "rows_of", "sent_rows", "write"]

_HEAD = struct.Struct("<IQ")
_KIND = "\0"  # the key of an object that stands for a value that JSON does not have


def write(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Writes one message.

    Args:
        stream: the pipe.
        message: name to plain data: text, numbers, None, lists, tuples, mappings of str, paths and arrays.

    Raises:
        InputError: for a value of another type; nothing is written then.
    """
    arrays: list[np.ndarray] = []
    head = to_json(_plain(message, arrays)).encode()
    payload = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(payload, array, allow_pickle=False)
    stream.write(_HEAD.pack(len(head), payload.tell()))
    stream.write(head)
    stream.write(payload.getbuffer())
    stream.flush()


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """Reads one message; None where the other end is closed."""
    sizes = stream.read(_HEAD.size)
    if len(sizes) < _HEAD.size:
        return None
    head_bytes, array_bytes = _HEAD.unpack(sizes)
    head, payload = stream.read(head_bytes), stream.read(array_bytes)
    if len(head) < head_bytes or len(payload) < array_bytes:
        return None
    arrays, content = [], io.BytesIO(payload)
    while content.tell() < array_bytes:
        arrays.append(np.lib.format.read_array(content, allow_pickle=False))
    message: dict[str, Any] = _value(json.loads(head), arrays)
    return message


def sent_rows(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Rows in the form that travels: few large arrays."""
    return of_rows.pack(rows) if rows else {}


def rows_of(packed: Mapping[str, np.ndarray]) -> list[Arrays]:
    """The rows that :func:`sent_rows` made an entry of a message."""
    return list(of_rows.unpack(packed)) if packed else []


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """JSON for a value; its arrays are appended to ``arrays``."""
    match value:
        case None | str() | bool() | int() | float():
            return value
        case list():
            return [_plain(item, arrays) for item in value]
        case tuple():
            return {_KIND: "tuple", "items": [_plain(item, arrays) for item in value]}
        case Mapping() if all(isinstance(name, str) and name != _KIND for name in value):
            return {name: _plain(item, arrays) for name, item in value.items()}
        case PurePath():
            return {_KIND: "path", "path": str(Path(value).absolute())}
        case np.ndarray() if not value.dtype.hasobject:
            arrays.append(value)
            return {_KIND: "array", "index": len(arrays) - 1}
    raise InputError(
        f"An input is or holds a {type(value).__name__}, which is not sent to another process. Give a text, a path or an array.",
        code="input-not-sent",
    )


def _value(data: Any, arrays: Sequence[np.ndarray]) -> Any:
    """What :func:`_plain` made JSON of."""
    if isinstance(data, list):
        return [_value(item, arrays) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data.get(_KIND)
    if kind == "tuple":
        return tuple(_value(item, arrays) for item in data["items"])
    if kind == "path":
        return Path(data["path"])
    if kind == "array":
        return arrays[data["index"]]
    return {name: _value(item, arrays) for name, item in data.items()}
