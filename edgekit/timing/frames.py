"""Messages between two processes over a pipe: a JSON object and the raw data of the arrays in it.

A frame is the length of the JSON text (``<u4``, bytes), the length of the arrays (``<u8``, bytes), the JSON text and
the arrays. Each array is stored in the ``.npy`` format. Nothing is pickled. A message is plain data with arrays in it:
a text, a pair of texts, a path or an image, for example.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from edgekit.spec import rows as row_format
from edgekit.spec.errors import InputError
from edgekit.spec.parsing import to_json
from edgekit.spec.protocols import Arrays

__all__ = ["pack_rows", "read", "unpack_rows", "write"]

_HEADER = struct.Struct("<IQ")
_KIND = "\0"
"""Key that marks a JSON object as the encoding of a value that JSON does not have."""


def write(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write one message.

    Args:
        stream: Pipe to write to.
        message: Field names to plain data: text, numbers, None, lists, tuples, paths, arrays and mappings with
            string keys.

    Raises:
        InputError: If a value has another type. Nothing is written in this case.
    """
    arrays: list[np.ndarray] = []
    text = to_json(_encode(message, arrays)).encode()
    payload = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(payload, array, allow_pickle=False)
    stream.write(_HEADER.pack(len(text), payload.tell()))
    stream.write(text)
    stream.write(payload.getbuffer())
    stream.flush()


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message.

    Args:
        stream: Pipe to read from.

    Returns:
        The message, or None if the other end of the pipe was closed before a whole message arrived.
    """
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    text_bytes, array_bytes = _HEADER.unpack(header)
    text = stream.read(text_bytes)
    payload = stream.read(array_bytes)
    if len(text) < text_bytes or len(payload) < array_bytes:
        return None
    arrays = []
    content = io.BytesIO(payload)
    while content.tell() < array_bytes:
        arrays.append(np.lib.format.read_array(content, allow_pickle=False))
    message: dict[str, Any] = _decode(json.loads(text), arrays)
    return message


def pack_rows(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Pack output rows into a few large arrays, which are faster to send than one array per row."""
    return row_format.pack(rows) if rows else {}


def unpack_rows(packed: Mapping[str, np.ndarray]) -> list[Arrays]:
    """Return the rows that :func:`pack_rows` packed."""
    return list(row_format.unpack(packed)) if packed else []


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value as JSON data, and append the arrays in it to ``arrays``."""
    match value:
        case None | str() | bool() | int() | float():
            return value
        case list():
            return [_encode(item, arrays) for item in value]
        case tuple():
            return {_KIND: "tuple", "items": [_encode(item, arrays) for item in value]}
        case Mapping() if all(isinstance(name, str) and name != _KIND for name in value):
            return {name: _encode(item, arrays) for name, item in value.items()}
        case PurePath():
            return {_KIND: "path", "path": str(Path(value).absolute())}
        case np.ndarray() if not value.dtype.hasobject:
            arrays.append(value)
            return {_KIND: "array", "index": len(arrays) - 1}
    raise InputError(
        f"An input is or contains a {type(value).__name__}, which cannot be sent to another process. "
        "Give a text, a path or an array.",
        code="input-not-sent",
    )


def _decode(data: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Return the value that :func:`_encode` encoded."""
    if isinstance(data, list):
        return [_decode(item, arrays) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data.get(_KIND)
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in data["items"])
    if kind == "path":
        return Path(data["path"])
    if kind == "array":
        return arrays[data["index"]]
    return {name: _decode(item, arrays) for name, item in data.items()}
