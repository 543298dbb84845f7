"""Bytes of a sample file to text: gzip, byte-order marks, and what is no text at all."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from edgekit.spec.errors import SamplesError

GZIP = ".gz"
LARGEST_MB = 4096
"""Of a file after it is unpacked: a small damaged or hostile archive must not fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def text_of(file: Path) -> str:
    """The text of a file, without its byte-order mark; line ends stay as they are.

    A file is UTF-8 unless a byte-order mark says UTF-16 or UTF-32; a name that ends in ``.gz`` is unpacked first.

    Raises:
        SamplesError: when it cannot be read, is not text in that encoding, or holds a NUL character; naming the line.
    """
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise SamplesError(
            f"Samples {file} cannot be read: {problem.strerror}. Check the path and its permissions.",
            code="samples-unreadable",
        ) from problem
    if file.suffix.lower() == GZIP:
        data = _unpacked(data, file)
    elif data.startswith(_GZIP_MAGIC):
        raise SamplesError(
            f"Samples {file} are packed with gzip, which the name does not say. Rename the file to {file.name}{GZIP}, or unpack it.",
            code="samples-gzip-name",
        )
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        if encoding.startswith(("utf-16", "utf-32")):
            raise SamplesError(
                f"{file} begins like {encoding.upper()} and is not ({problem.reason}). Save it again as UTF-8.",
                code="samples-encoding",
            ) from problem
        line = data.count(b"\n", 0, problem.start) + 1
        remedy = f"Convert the file, e.g.: iconv -f latin1 -t utf-8 {file.name}"
        raise SamplesError(
            f"{file}, line {line} is not UTF-8 ({problem.reason}). {remedy}", code="samples-encoding"
        ) from problem
    if (place := text.find("\0")) >= 0:
        raise SamplesError(
            f"{file}, line {text.count(chr(10), 0, place) + 1} holds a NUL character, which a file of text does not: it may be binary, or UTF-16 "
            "without its byte-order mark. Save it again as UTF-8.",
            code="samples-encoding",
        )
    return text


def lines_of(text: str) -> Iterator[str]:
    """Lines with their ends, where a file has them: at CR, LF or both; never at U+2028 or a form feed, which are part of a text."""
    return iter(io.StringIO(text, newline=""))


def _unpacked(data: bytes, file: Path) -> bytes:
    parts, size = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while part := stream.read(_BLOCK):
                parts.append(part)
                size += len(part)
                if size > LARGEST_MB << 20:
                    raise SamplesError(
                        f"Samples {file} unpack to more than {LARGEST_MB} MB. Give fewer rows, or unpack the file yourself.",
                        code="samples-too-large",
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise SamplesError(
            f"Samples {file} are not a whole gzip file ({problem}). Pack or copy it again.", code="samples-gzip"
        ) from problem
    return b"".join(parts)
