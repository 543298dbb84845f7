"""Files that the kernel writes, read so that nothing in them, and nothing missing, can raise."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["entries", "integer", "line", "mebibytes", "number", "text"]


def text(file: Path) -> str:
    """What a file holds, without the white space around it; empty for one that is missing or may not be read."""
    try:
        with open(file, "rb", buffering=0) as stream:
            return (stream.read() or b"").decode("utf-8", "replace").strip("\0\n\t ")
    except (OSError, ValueError):  # ValueError: a name with a zero byte; a driver that asks to come again gives None
        return ""


def line(file: Path) -> str:
    """The first line of a file, of which only what can be printed: it goes into reports."""
    return "".join(c for c in text(file).partition("\n")[0][:200] if c.isprintable() and c != "\ufffd").strip()


def integer(file: Path) -> int | None:
    """The one whole number that a file holds; None for any other file."""
    return number(text(file))


def number(written: str) -> int | None:
    """A whole number of at most 20 digits, which is what 64 bits hold; None for any other text."""
    return int(written) if re.fullmatch(r"-?[0-9]{1,20}", written) else None


def mebibytes(file: Path, name: str) -> float:
    """The size on a line like ``MemTotal:  16 kB``, MiB; 0.0 where the file does not tell it."""
    found = re.search(rf"^{name}:\s*([0-9]{{1,15}}) kB$", text(file), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def entries(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder, in the order of the first number in each last name; nothing where there is no folder."""
    try:
        return sorted(
            folder.glob(pattern), key=lambda entry: (int((re.findall(r"[0-9]{1,9}", entry.name) or ["0"])[0]), entry)
        )
    except OSError:
        return []
