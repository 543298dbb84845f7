"""Ids of rows: a keyed hash of the input, so that a report tells whether two rows are the same and nothing else about them."""

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
_FEWEST_CHARACTERS = 16  # of a key that somebody chose
_KEY_BYTES = 32
_ID_DIGITS = 16  # 64 bits: among a million rows the probability that two inputs share an id is 3e-8


def id_key() -> bytes:
    """The key of row ids.

    It is ``EDGEKIT_ID_KEY``, which machines that compare each other's reports share; else a random one, made once and kept in
    ``$XDG_STATE_HOME/edgekit/id.key`` (``~/.local/state/edgekit/id.key``), mode 0600. Where that folder cannot be written or read the key
    is random and lasts as long as the process: ids are then this run's alone, and comparable with no other report's.

    Raises:
        UsageError: when ``EDGEKIT_ID_KEY`` has fewer than 16 characters, or the file holds no key.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is not None:
        if len(given) < _FEWEST_CHARACTERS:
            remedy = "Set it to a long random text, the same on all machines, or unset it."
            raise UsageError(
                f"{KEY_VARIABLE} has {len(given)} characters, expected at least {_FEWEST_CHARACTERS}. {remedy}",
                code="id-key-short",
            )
        return os.fsencode(given)
    try:
        return _kept_key(_state() / "id.key")
    except OSError:
        return _key_of_this_run()


def row_ids(contents: Iterable[bytes], key: bytes) -> tuple[str, ...]:
    """An id for each row: the first 16 hex digits of HMAC-SHA256 (RFC 2104) over the canonical bytes of its input.

    Args:
        contents: one a row, see ``Modality.content``.
        key: as :func:`id_key` gives it.
    """
    return tuple(hmac.digest(key, content, "sha256").hex()[:_ID_DIGITS] for content in contents)


def _state() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    return Path(base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".local", "state")) / "edgekit"


def _kept_key(file: Path) -> bytes:
    """The key in the file, which is made where it is not there.

    Raises:
        OSError: when it cannot be made or read.
        UsageError: when it holds no key.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new_file(file) as (new, stream):
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
            # Unlike a rename, a link never replaces: of two processes at once one makes the key and the other reads it.
            with contextlib.suppress(FileExistsError):
                os.link(new, file)
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        remedy = "Remove it: a new key is made, and ids of earlier reports are no longer found again."
        raise UsageError(f"{file} holds {len(key)} bytes, expected a key of {_KEY_BYTES}. {remedy}", code="id-key-size")
    return key


@functools.cache
def _key_of_this_run() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)
