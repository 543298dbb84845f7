"""Files that are read by name: from a folder on disk, or from the verified part of a bundle."""

from __future__ import annotations

from typing import Protocol, TypeVar

__all__ = ["Content", "Self"]

Self = TypeVar("Self", bound="Content")


class Content(Protocol):
    """A file or folder, e.g. a ``pathlib.Path``. ``str()`` of it is its path, for messages."""

    def __truediv__(self: Self, name: str, /) -> Self:
        """Return the entry with this name."""

    def read_bytes(self) -> bytes:
        """Return all bytes of a file.

        Raises:
            OSError: If it cannot be read.
        """
