"""Reader of arrays from an untrusted ``.npz``: uncompressed entries of known names, no larger than the file itself."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection

import numpy as np

# End of the central directory (APPNOTE.TXT 4.3.16): signature, 3 numbers, number of entries, size and offset of the
# directory, length of the comment.
_END = struct.Struct("<4s4H2LH")
# Signature of the locator of a directory with 64-bit sizes, which comes before the end.
_LARGE = b"PK\x06\x07"
# Upper limit of a directory entry: the fixed part, and more than a name takes.
_MAX_ENTRY_BYTES = 46 + 256
# Upper limit of a .npy header; numpy writes 118 bytes.
_MAX_HEADER_BYTES = 1024
_MAX_PREFIXED = 16
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(
    content: bytes, needed: Collection[str], allowed: Collection[str] = (), prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Read arrays of numbers. Nothing is decompressed or unpickled, and no array is larger than the content.

    Args:
        content: Content of the whole file.
        needed: Names of the required arrays.
        allowed: Names of optional arrays; any other name is refused.
        prefix: Prefix of up to 16 further optional names; None for no further names.

    Returns:
        Arrays by name.

    Raises:
        ValueError: If the content is anything else; with what was expected.
    """
    try:
        return _read(content, set(needed), set(allowed), prefix)
    except ValueError:
        raise
    except Exception as problem:
        # The errors that zipfile and numpy raise for a damaged file have no other common base class.
        raise ValueError(f"{type(problem).__name__}: {problem}") from problem


def _read(content: bytes, needed: set[str], allowed: set[str], prefix: str | None) -> dict[str, np.ndarray]:
    if len(content) < _END.size:
        raise ValueError(f"it has {len(content)} bytes, too few for an archive")
    mark, *_, count, directory_bytes, _, comment = _END.unpack(content[-_END.size :])
    if mark != b"PK\x05\x06" or comment or content[-_END.size - 20 :].startswith(_LARGE):
        raise ValueError("it does not end like an archive without a comment")
    most = len(needed | allowed)
    if prefix is not None:
        most += _MAX_PREFIXED
    if not len(needed) <= count <= most or directory_bytes > count * _MAX_ENTRY_BYTES:
        raise ValueError(f"it lists {count} arrays in {directory_bytes} bytes, expected {', '.join(sorted(needed))}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        missing_names = sorted(needed - set(entries))
        if missing_names:
            raise ValueError(f"it lacks the array '{missing_names[0]}'")
        others = set(entries) - needed - allowed
        if (
            len(entries) != count
            or len(others) > _MAX_PREFIXED
            or any(prefix is None or not name.startswith(prefix) for name in others)
        ):
            raise ValueError(f"it holds unknown or repeated arrays, expected {', '.join(sorted(needed))}")
        for entry in entries.values():
            is_stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
            is_encrypted = entry.flag_bits & 1
            if not is_stored or is_encrypted:
                raise ValueError("an array is compressed or encrypted, expected uncompressed arrays")
        if sum(entry.file_size for entry in entries.values()) > len(content):
            raise ValueError("its arrays are larger than the file")
        return {name: _parse_array(archive.read(entry)) for name, entry in entries.items()}


def _parse_array(content: bytes) -> np.ndarray:
    """Return the array of a ``.npy`` entry, whose size must be exactly the one in its header."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"an array has the .npy version {version}, expected 1.0 or 2.0")
    shape, is_fortran_order, dtype = _READERS[version](stream, max_header_size=_MAX_HEADER_BYTES)
    if dtype.kind not in "iuf" or is_fortran_order or min(shape, default=0) < 0:
        raise ValueError(f"an array is {dtype} {shape}, expected integers or floats in C order")
    data = memoryview(content)[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)
