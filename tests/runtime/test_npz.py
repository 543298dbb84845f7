"""The reader of ``golden.npz``: what numpy writes is read, and nothing else is; no file makes it take more memory than the file has."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from edgekit.runtime import _npz

pytestmark = pytest.mark.device

ARRAYS = {
    "a": np.arange(12, dtype=np.int64).reshape(3, 4),
    "b": np.linspace(0, 1, 5, dtype=np.float32),
    "c": np.array([7], np.uint8),
}


def written(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def archive(entries, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return stream.getvalue()


def npy(header: str, data: bytes = b"", version=(1, 0)):
    packed = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(packed)) + packed + data


def header(dtype, shape, order=False):
    return f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}"


def assert_refused(content, needed=("a",), allowed=()):
    """Refused with few bytes taken: at most some for what was read."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            _npz.read(content, needed, allowed)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content) + 2**20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_what_numpy_writes_is_read():
    found = _npz.read(written(**ARRAYS), ["a", "b"], ["c", "d"])
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)
    assert _npz.read(archive([("a.npy", npy(header("<i8", (0, 10**18))))]), ["a"])["a"].shape == (0, 10**18)


def test_a_small_file_of_many_megabytes():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made, made.open("a.npy", "w", force_zip64=True) as entry:
        entry.write(npy(header("<f4", (2**24,))))
        for _ in range(64):
            entry.write(bytes(2**20))
    content = stream.getvalue()
    assert len(content) < 2**17
    assert "compressed" in assert_refused(content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_arrays(compression):
    assert "compressed" in assert_refused(archive([("a.npy", written(a=ARRAYS["a"]))], compression))


def array_of(text, data=b"", version=(1, 0)):
    return archive([("a.npy", npy(text, data, version))])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (array_of(header("<f4", (2**40,))), "has 0 bytes"),
        (array_of(header("<f4", (2**62, 2**62))), "has 0 bytes"),
        (array_of(header("<f4", (3,)), bytes(8)), "has 8 bytes"),
        (array_of(header("<f4", (3,)), bytes(16)), "has 16 bytes"),
        (array_of(header("<f4", (-3, -1)), bytes(12)), "in C order"),
        (array_of(header("<f4", (2, 2), True), bytes(16)), "in C order"),
        (array_of(header("|O", (1,)), b"\x80\x04N."), "in C order"),
        (array_of(header("<U4", (1,)), bytes(16)), "in C order"),
        (array_of(header("<c8", (1,)), bytes(8)), "in C order"),
        (array_of("{'descr': [('x', '<i4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)), "in C order"),
        (array_of("{" + "(" * 900), ""),
        (array_of("__import__('os').system('true')"), ""),
        (array_of(header("<f4", (1,)) + " " * 5000, bytes(4)), ""),
        (array_of(header("<f4", (1,)), bytes(4), (3, 0)), "version (3, 0)"),
        (archive([("a.npy", b"\x93NUMP")]), ""),
        (archive([("a.npy", b"")]), ""),
        (archive([("b.npy", b"")]), "lacks the array 'a'"),
        (archive([("a.npy", written(a=ARRAYS["a"])), ("x.npy", b"")]), "lists 2 arrays"),
        (archive([]), "lists 0 arrays"),
        (archive([("a.npy", b"")] * 2), "lists 2 arrays"),
        (archive([(f"{i}.npy", b"") for i in range(50_000)]), "lists 50000 arrays"),
        (archive([("a" * 60_000 + ".npy", b"")]), "lists 1 arrays in 60"),
        (b"", "0 bytes"),
        (bytes(100), "does not end like"),
        (written(a=ARRAYS["a"])[:-1], "does not end like"),
        (written(a=ARRAYS["a"]) + b"x", "does not end like"),
        (written(a=ARRAYS["a"])[:-22] + b"PK\x06\x07" + bytes(16) + written(a=ARRAYS["a"])[-22:], "does not end like"),
    ],
)  # fmt: skip
def test_what_is_not_read(content, said):
    assert said in assert_refused(content)


def test_the_same_name_twice():
    assert "unknown or repeated" in assert_refused(archive([("a.npy", b"")] * 2), ["a"], ["b"])


def test_a_directory_that_lies_about_sizes():
    """Entries that overlap, or are larger than the file."""
    content = bytearray(written(a=np.zeros(1000)))
    place = content.rindex(b"PK\x01\x02")
    for size in (10**6, 2**32 - 2):
        content[place + 20 : place + 28] = struct.pack("<LL", size, size)
        assert_refused(bytes(content))


def test_every_byte_that_is_changed():
    """It is read as it was, or refused; it never ends otherwise."""
    content = written(a=ARRAYS["a"], b=ARRAYS["b"])
    for index in range(len(content)):
        for value in (0, 255, content[index] ^ 1, content[index] ^ 128):
            changed = content[:index] + bytes([value]) + content[index + 1 :]
            try:
                found = _npz.read(changed, ["a", "b"])
            except ValueError:
                continue
            assert all(np.array_equal(found[name], ARRAYS[name]) for name in ("a", "b")), index
