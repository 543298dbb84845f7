"""Key pairs for bundle signatures: ECDSA on the curve P-256, in PEM files."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import UsageError
from edgekit.spec.paths import takes_paths

__all__ = ["check_installed", "fingerprint", "is_encrypted", "load_private", "load_public", "make_keys", "pem"]

_CURVE = "secp256r1"


@takes_paths("private")
def make_keys(private: str | os.PathLike[str], password: bytes | None = None) -> Path:
    """Make a key pair: ``private``, readable by its owner only, and ``private.pub``.

    Args:
        private: File to write the private key to (PKCS #8, PEM).
        password: Password to encrypt the private key with. None for no encryption.

    Returns:
        The file of the public key.

    Raises:
        UsageError: If one of the files exists, or the folder does not exist or is not writable.
    """
    check_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = Path(private)
    if not private.name or private.is_dir():
        raise UsageError(
            f"{private} is a folder, expected a file name for the private key. Give e.g. {private / 'maker'}.",
            code="key-path",
        )
    public = private.with_name(private.name + ".pub")
    for file in (private, public):
        if file.exists() or file.is_symlink():
            raise UsageError(
                f"{file} exists. A key is never overwritten, because it could not be restored. Give another name.",
                code="key-exists",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    created: list[Path] = []
    try:
        for file, mode, content in ((private, 0o600, secret), (public, 0o644, pem(key.public_key()))):
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                created.append(file)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    except BaseException as problem:  # An interrupt also removes the files: half a pair would block the next attempt.
        for file in created:
            file.unlink(missing_ok=True)
        if not isinstance(problem, OSError):
            raise
        raise UsageError(
            f"The key {private} cannot be written ({problem.strerror}). Give a file in an existing, writable folder.",
            code="key-not-writable",
        ) from problem
    return public


def fingerprint(public: Path) -> str:
    """Return the fingerprint of a public key: the sha256 of its PEM text, as 64 hexadecimal digits.

    ``model.sig`` and revocation lists identify a key by its fingerprint.

    Args:
        public: File of the public key.

    Raises:
        UsageError: If the key cannot be read.
    """
    check_installed()
    return hashlib.sha256(pem(load_public(public))).hexdigest()


def is_encrypted(key: Path) -> bool:
    """Return whether a private key needs a password. A file that is not a key gives False and fails when loaded."""
    try:
        return b"ENCRYPTED" in key.read_bytes()
    except OSError:
        return False


def check_installed() -> None:
    """Check that the package for signatures is installed.

    The package is optional, because a device without trusted keys does not need it.

    Raises:
        UsageError: If it is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise UsageError(
            f"Signatures need the package 'cryptography', which is not installed. Run: {install_hint('sign')}",
            code="extra-missing",
        )


def pem(key: Any) -> bytes:
    """Return the PEM text of a public key."""
    from cryptography.hazmat.primitives import serialization

    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def load_private(file: Path, password: bytes | None) -> Any:
    """Load a private key.

    Args:
        file: PEM file.
        password: Password of the key. None for a key that is not encrypted.

    Raises:
        UsageError: If the file is not a private key on the curve P-256, or the password is wrong.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password)
    except TypeError as problem:  # The key is encrypted and there is no password, or the reverse.
        raise UsageError(
            f"The key {file} cannot be loaded: {str(problem).rstrip('.')}. "
            "Give the password of an encrypted key, and none for a key without encryption.",
            code="key-password",
        ) from problem
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{file} is not a readable private key ({problem}). Make one with: edgekit keygen KEY",
            code="key-unreadable",
        ) from problem
    return _check_curve(key, file)


def load_public(file: Path) -> Any:
    """Load a public key.

    Args:
        file: PEM file.

    Raises:
        UsageError: If the file is not a public key on the curve P-256.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{file} is not a readable public key ({problem}). Give the .pub file that edgekit keygen wrote.",
            code="key-unreadable",
        ) from problem
    return _check_curve(key, file)


def _check_curve(key: Any, file: Path) -> Any:
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve != _CURVE:
        raise UsageError(
            f"The key {file} is of type {curve}, expected ECDSA on the curve P-256 ({_CURVE}). "
            "Make one with: edgekit keygen KEY",
            code="key-kind",
        )
    return key
