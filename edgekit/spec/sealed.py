"""Digests of samples that may be shown: whoever has the samples can tell that they are the ones, and guessing them is slow.

A plain sha256 of a few short texts is guessed at billions of tries a second. Bundles and reports go to others, so what they hold is scrypt (RFC 7914) of that
digest with a salt: the same samples look different in each, so that nobody sees who else has them, and a guess costs 16 MiB and some tens of
milliseconds. It is no secret key, since a bundle that one machine has built is checked on others: whoever can guess a whole file of samples can still
confirm the guess. The build cache, which is private to one user, keeps plain digests.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os

__all__ = ["matches", "seal"]

_SCHEME = "scrypt"


def seal(digest: str, salt: bytes | None = None) -> str:
    """A digest of samples as others may see it: ``scrypt:SALT:HASH`` in hex.

    Args:
        digest: sha256 in hex, with or without ``sha256:`` before it.
        salt: 16 bytes; by default random. A build takes them from its model's digest, so that the same build gives the same bytes, and a report from the key
            of its row ids, so that equal samples look equal in the reports of one machine.
    """
    return _sealed(digest.removeprefix("sha256:"), (salt or os.urandom(16)).hex())


def matches(sealed: str, digest: str) -> bool:
    """Whether a sealed digest, or one of an earlier release that is plain, is of these samples.

    Args:
        sealed: of :func:`seal`; or sha256 in hex, with or without ``sha256:`` before it.
        digest: sha256 in hex, with or without ``sha256:``.
    """
    digest = digest.removeprefix("sha256:")
    parts = sealed.split(":")
    if len(parts) == 3 and parts[0] == _SCHEME:
        try:
            return hmac.compare_digest(_sealed(digest, parts[1]), sealed)
        except ValueError:
            return False
    return sealed.removeprefix("sha256:") == digest


@functools.lru_cache(maxsize=64)
def _sealed(digest: str, salt: str) -> str:
    stretched = hashlib.scrypt(digest.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32)
    return f"{_SCHEME}:{salt}:{stretched.hex()}"
