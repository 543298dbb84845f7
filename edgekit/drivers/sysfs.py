"""Readers of kernel files that never raise, whether a file is missing, unreadable or malformed."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["entries", "integer", "line", "mebibytes", "number", "text"]


def text(file: Path) -> str:
    """Return the content of a file without surrounding white space; empty if it is missing or unreadable."""
    try:
        with open(file, "rb", buffering=0) as stream:
            # A driver that asks to read again returns None.
            return (stream.read() or b"").decode("utf-8", "replace").strip("\0\n\t ")
    except (OSError, ValueError):  # ValueError: a file name with a zero byte.
        return ""


def line(file: Path) -> str:
    """Return the printable characters of the first line of a file, at most 200, for reports."""
    first_line = text(file).partition("\n")[0][:200]
    return "".join(char for char in first_line if char.isprintable() and char != "\ufffd").strip()


def integer(file: Path) -> int | None:
    """Return the only content of a file as an integer; None for any other content."""
    return number(text(file))


def number(digits: str) -> int | None:
    """Return a text of at most 20 digits (64 bits) as an integer; None for any other text."""
    return int(digits) if re.fullmatch(r"-?[0-9]{1,20}", digits) else None


def mebibytes(file: Path, name: str) -> float:
    """Return the size on a line such as ``MemTotal:  16 kB``, MiB; 0.0 if the file has no such line.

    Args:
        file: Path of the file.
        name: Name at the start of the line.
    """
    match = re.search(rf"^{name}:\s*([0-9]{{1,15}}) kB$", text(file), re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def entries(folder: Path, pattern: str) -> list[Path]:
    """Return the matching entries of a folder, sorted by the first number in their names; empty if there is no folder.

    Args:
        folder: Path of the folder.
        pattern: Glob pattern.
    """
    try:
        return sorted(folder.glob(pattern), key=_sort_key)
    except OSError:
        return []


def _sort_key(entry: Path) -> tuple[int, Path]:
    match = re.search(r"[0-9]{1,9}", entry.name)
    return (int(match[0]) if match else 0, entry)
