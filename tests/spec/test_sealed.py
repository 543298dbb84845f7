"""Digests of samples that may be shown: scrypt of RFC 7914 by another implementation, and who matches."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from edgekit.spec.sealed import matches, seal

pytestmark = pytest.mark.device

ONE, TWO = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))


def test_it_is_scrypt():
    salt = bytes(range(16))
    expected = Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(ONE.encode()).hex()
    assert seal(ONE, salt) == seal(f"sha256:{ONE}", salt) == f"scrypt:{salt.hex()}:{expected}"


def test_who_has_the_samples_can_tell():
    sealed = seal(ONE)
    assert matches(sealed, ONE)
    assert matches(sealed, f"sha256:{ONE}")
    assert not matches(sealed, TWO)
    assert seal(ONE) != sealed, "two that are shown do not look the same"
    assert ONE not in sealed


@pytest.mark.parametrize("plain", [ONE, f"sha256:{ONE}"])
def test_plain_digests_of_earlier_releases_count(plain):
    assert matches(plain, ONE)
    assert not matches(plain, TWO)


@pytest.mark.parametrize(
    "text",
    ["", "scrypt", "scrypt::", "scrypt:zz:00", f"scrypt:{'0' * 32}:", f"scrypt:{'0' * 32}:{ONE}", "other:a:b", "é:ü:ö"],
)
def test_what_is_no_digest_matches_nothing(text):
    assert not matches(text, ONE)
