"""What is read by name: a folder on a disk, or the part of a bundle whose bytes were checked."""

from __future__ import annotations

from typing import Protocol, TypeVar

__all__ = ["Content", "Self"]

Self = TypeVar("Self", bound="Content")


class Content(Protocol):
    """A file or folder; ``pathlib.Path`` is one. Its text is its path, for messages."""

    def __truediv__(self: Self, name: str, /) -> Self:
        """What has this name in it."""

    def read_bytes(self) -> bytes:
        """All of a file.

        Raises:
            OSError: when it cannot be read.
        """
