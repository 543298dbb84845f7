"""Row ids: keyed hashes of the inputs.

With ids, a report tells whether two rows are the same, but nothing else about them.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from edgekit.bundle.place import new_file
from edgekit.spec.errors import UsageError

__all__ = ["KEY_VARIABLE", "id_key", "row_ids"]

KEY_VARIABLE = "EDGEKIT_ID_KEY"
"""Environment variable that holds the key of row ids."""

_FEWEST_CHARACTERS = 16  # Least length of a key that the user chose.
_KEY_BYTES = 32
_ID_DIGITS = 16  # 64 bits: the probability that two of a million inputs share an id is 3e-8.


def id_key() -> bytes:
    """Return the key of row ids.

    It is the value of ``EDGEKIT_ID_KEY``, which machines that compare reports must share. If the variable is not set,
    it is a random key, generated once and stored in ``$XDG_STATE_HOME/edgekit/id.key`` (by default
    ``~/.local/state/edgekit/id.key``), mode 0600. If that file cannot be written or read, the random key is valid for
    this process only, and its ids cannot be compared with those of other reports.

    Raises:
        UsageError: If ``EDGEKIT_ID_KEY`` has fewer than 16 characters, or the file does not hold a key.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is not None:
        if len(key) < _FEWEST_CHARACTERS:
            raise UsageError(
                f"{KEY_VARIABLE} has {len(key)} characters, expected at least {_FEWEST_CHARACTERS}. "
                "Set it to a long random text, the same on all machines, or unset it.",
                code="id-key-short",
            )
        return os.fsencode(key)
    try:
        return _load_or_create_key(_state_folder() / "id.key")
    except OSError:
        return _process_key()


def row_ids(contents: Iterable[bytes], key: bytes) -> tuple[str, ...]:
    """Return the id of each row: the first 16 hex digits of HMAC-SHA256 (RFC 2104) over its input's canonical bytes.

    Args:
        contents: Canonical bytes of each row's input, see ``Modality.content``.
        key: Key from :func:`id_key`.
    """
    return tuple(hmac.digest(key, content, "sha256").hex()[:_ID_DIGITS] for content in contents)


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # By the XDG specification, a relative path is invalid and must be ignored.
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "edgekit"


def _load_or_create_key(file: Path) -> bytes:
    """Return the key in a file, which is created if it does not exist.

    Raises:
        OSError: If the file cannot be created or read.
        UsageError: If the file does not hold a key.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new_file(file) as (new, stream):
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
            # Unlike a rename, a link never replaces a file. If two processes race, one creates the key for both.
            with contextlib.suppress(FileExistsError):
                os.link(new, file)
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise UsageError(
            f"{file} holds {len(key)} bytes, expected a key of {_KEY_BYTES}. Remove the file to get a new key. "
            "Row ids then differ from those of earlier reports.",
            code="id-key-size",
        )
    return key


@functools.cache
def _process_key() -> bytes:
    """Return a random key that is the same for the whole process."""
    return secrets.token_bytes(_KEY_BYTES)
