"""Arrays out of an ``.npz`` that nobody has to be trusted for: stored entries of known names, with no size that the file itself does not have."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection

import numpy as np

_END = struct.Struct(
    "<4s4H2LH"
)  # the end of the directory (APPNOTE.TXT 4.3.16): signature, 3 numbers, entries, its size, its offset, length of a comment
_LARGE = b"PK\x06\x07"  # before it: the locator of a directory of 64-bit sizes
_ENTRY_BYTES = 46 + 256  # of an entry of the directory: its fixed part, and more than a name takes
_HEADER_BYTES = 1024  # numpy writes 118
_MOST_FREE = 16
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(
    content: bytes, needed: Collection[str], allowed: Collection[str] = (), prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Reads numbers. Nothing is decompressed, unpickled, or allocated beyond the size of the content.

    Args:
        content: the whole file.
        needed: names of arrays that have to be there.
        allowed: further names that may be there; any other is refused.
        prefix: of up to ``_MOST_FREE`` further names that may be there; None for no such name.

    Raises:
        ValueError: for whatever else it is, with what was expected.
    """
    try:
        return _read(content, set(needed), set(allowed), prefix)
    except ValueError:
        raise
    except (
        Exception
    ) as problem:  # zipfile and numpy's header reader share no base class for what a damaged file makes them raise
        raise ValueError(f"{type(problem).__name__}: {problem}") from problem


def _read(content: bytes, needed: set[str], allowed: set[str], prefix: str | None) -> dict[str, np.ndarray]:
    if len(content) < _END.size:
        raise ValueError(f"it has {len(content)} bytes, no archive is so short")
    mark, *_, count, directory, _, comment = _END.unpack(content[-_END.size :])
    if mark != b"PK\x05\x06" or comment or content[-_END.size - 20 :].startswith(_LARGE):
        raise ValueError("it does not end as an archive without comment does")
    if (
        not len(needed) <= count <= len(needed | allowed) + (0 if prefix is None else _MOST_FREE)
        or directory > count * _ENTRY_BYTES
    ):
        raise ValueError(f"it lists {count} arrays in {directory} bytes, expected {', '.join(sorted(needed))}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if lacking := sorted(needed - set(entries)):
            raise ValueError(f"it lacks the array '{lacking[0]}'")
        others = set(entries) - needed - allowed
        if (
            len(entries) != count
            or len(others) > _MOST_FREE
            or any(prefix is None or not name.startswith(prefix) for name in others)
        ):
            raise ValueError(f"it holds arrays that do not belong there, expected {', '.join(sorted(needed))}")
        for entry in entries.values():
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.flag_bits & 1
                or entry.file_size != entry.compress_size
            ):
                raise ValueError("an array is compressed or encrypted, expected arrays that are stored as they are")
        if sum(entry.file_size for entry in entries.values()) > len(content):
            raise ValueError("its arrays are larger than the file")
        return {name: _array(archive.read(entry)) for name, entry in entries.items()}


def _array(content: bytes) -> np.ndarray:
    """An array of numbers that is exactly as large as its header says."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"an array is of the .npy version {version}, expected 1.0 or 2.0")
    shape, by_columns, dtype = _READERS[version](stream, max_header_size=_HEADER_BYTES)
    if dtype.kind not in "iuf" or by_columns or min(shape, default=0) < 0:
        raise ValueError(f"an array is {dtype} {shape}, expected integers or floats in C order")
    data = memoryview(content)[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)
