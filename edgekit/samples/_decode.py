"""Decoding of sample files: decompress gzip, detect the encoding, and reject binary data."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from edgekit.spec.errors import SamplesError

GZIP = ".gz"
LARGEST_MB = 4096
"""Maximum size of a decompressed file, in MiB: a small damaged or hostile archive must not fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# UTF-32 is first, because its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_text(file: Path) -> str:
    """Return the text of a file without its byte-order mark; line ends are unchanged.

    The encoding is UTF-8 unless a byte-order mark indicates UTF-16 or UTF-32. A file name that ends in ``.gz`` is
    decompressed first.

    Raises:
        SamplesError: If the file cannot be read, is not text in its encoding, or contains a NUL character. The message
            names the line.
    """
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise SamplesError(
            f"Samples {file} cannot be read: {problem.strerror}. Check the path and its permissions.",
            code="samples-unreadable",
        ) from problem
    if file.suffix.lower() == GZIP:
        data = _decompress(data, file)
    elif data.startswith(_GZIP_MAGIC):
        raise SamplesError(
            f"Samples {file} are packed with gzip, expected a file name that ends in {GZIP}. "
            f"Rename the file to {file.name}{GZIP}, or unpack it.",
            code="samples-gzip-name",
        )
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        if encoding.startswith(("utf-16", "utf-32")):
            raise SamplesError(
                f"{file} begins with the byte-order mark of {encoding.upper()}, but is not valid {encoding.upper()} "
                f"({problem.reason}). Save it again as UTF-8.",
                code="samples-encoding",
            ) from problem
        line = data.count(b"\n", 0, problem.start) + 1
        remedy = f"Convert the file, e.g.: iconv -f latin1 -t utf-8 {file.name}"
        raise SamplesError(
            f"{file}, line {line} is not UTF-8 ({problem.reason}). {remedy}", code="samples-encoding"
        ) from problem
    position = text.find("\0")
    if position >= 0:
        line = text.count("\n", 0, position) + 1
        raise SamplesError(
            f"{file}, line {line} contains a NUL character, expected text. The file may be binary, or UTF-16 without "
            "its byte-order mark. Save it again as UTF-8.",
            code="samples-encoding",
        )
    return text


def can_stream(file: Path) -> bool:
    """Return whether :func:`stream_lines` can read a file: plain UTF-8 without a mark, as far as its begin shows."""
    if file.suffix.lower() == GZIP:
        return False
    try:
        with file.open("rb") as stream:
            begin = stream.read(4)
    except OSError:
        return False  # read_text reports it.
    return not begin.startswith((_GZIP_MAGIC, *(mark for mark, _ in _MARKS)))


def stream_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file, with their ends, as :func:`split_lines` of its text; it is not held in memory.

    Args:
        file: File that :func:`can_stream`.

    Raises:
        SamplesError: If a line is not UTF-8 or contains a NUL character; the error of :func:`read_text`.
    """
    with file.open("rb") as stream:
        for data in stream:
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                read_text(file)
                raise SamplesError(
                    f"Samples {file} changed while they were read. Read them again.", code="samples-changed"
                )
            if "\r" in text:
                yield from split_lines(text)
            else:
                yield text


def split_lines(text: str) -> Iterator[str]:
    """Return an iterator over the lines of a text, with their ends.

    Lines end at CR, LF or CR LF. They do not end at U+2028 or a form feed, which are part of a text.
    """
    return (match.group() for match in _LINE.finditer(text))


def _decompress(data: bytes, file: Path) -> bytes:
    """Return the decompressed content of a gzip file.

    Raises:
        SamplesError: If the data is not a complete gzip file, or exceeds :data:`LARGEST_MB`.
    """
    parts = []
    size = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while part := stream.read(_BLOCK):
                parts.append(part)
                size += len(part)
                if size > LARGEST_MB << 20:
                    raise SamplesError(
                        f"Samples {file} unpack to more than {LARGEST_MB} MB. Give fewer rows, or unpack the file.",
                        code="samples-too-large",
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise SamplesError(
            f"Samples {file} are not a complete gzip file ({problem}). Pack or copy it again.", code="samples-gzip"
        ) from problem
    return b"".join(parts)
