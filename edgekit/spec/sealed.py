"""Public digests of samples: the owner of the samples can verify them, and guessing them is slow.

A plain sha256 of a few short texts can be guessed at billions of attempts per second. Bundles and reports are shared,
so they contain the scrypt hash (RFC 7914) of that digest with a salt. Equal samples then look different in each file,
and a guess costs 16 MiB and tens of milliseconds. There is no secret key, since other machines verify a bundle: an
attacker who can guess a whole file of samples can still confirm the guess. The build cache is private to one user and
stores plain digests.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os

__all__ = ["matches", "seal"]

_SCHEME = "scrypt"


def seal(digest: str, salt: bytes | None = None) -> str:
    """Return the public form of a digest of samples: ``scrypt:SALT:HASH`` in hex.

    Args:
        digest: sha256 in hex, with or without the prefix ``sha256:``.
        salt: 16 bytes; random by default. A build derives them from the digest of its model, so that equal builds have
            equal bytes. A report derives them from the key of its row ids, so that equal samples have equal digests in
            the reports of one machine.
    """
    return _stretch(digest.removeprefix("sha256:"), (salt or os.urandom(16)).hex())


def matches(sealed: str, digest: str) -> bool:
    """Return whether a sealed digest, or a plain one of an earlier release, belongs to these samples.

    Args:
        sealed: Result of :func:`seal`; or sha256 in hex, with or without the prefix ``sha256:``.
        digest: sha256 of the samples in hex, with or without the prefix ``sha256:``.
    """
    digest = digest.removeprefix("sha256:")
    parts = sealed.split(":")
    if len(parts) == 3 and parts[0] == _SCHEME:
        try:
            return hmac.compare_digest(_stretch(digest, parts[1]), sealed)
        except ValueError:
            return False
    return sealed.removeprefix("sha256:") == digest


@functools.lru_cache(maxsize=64)
def _stretch(digest: str, salt: str) -> str:
    hashed = hashlib.scrypt(digest.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32)
    return f"{_SCHEME}:{salt}:{hashed.hex()}"
