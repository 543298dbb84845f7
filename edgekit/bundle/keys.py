"""Key pairs for signatures of bundles: ECDSA on the curve P-256, in PEM files."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from edgekit.spec.errors import UsageError
from edgekit.spec.paths import takes_paths

__all__ = ["check_installed", "fingerprint", "is_encrypted", "load_private", "load_public", "make_keys", "pem"]

_CURVE = "secp256r1"


def fingerprint(public: Path) -> str:
    """sha256 in hex of a public key's PEM text: what ``model.sig`` names its key by, and what a revocation list holds.

    Raises:
        UsageError: when the key cannot be read.
    """
    check_installed()
    return hashlib.sha256(pem(load_public(public))).hexdigest()


@takes_paths("private")
def make_keys(private: str | os.PathLike[str], password: bytes | None = None) -> Path:
    """Makes a key pair: ``private``, which its owner alone can read, and ``private`` with ``.pub`` added.

    Args:
        private: where the private key goes (PKCS #8, PEM).
        password: that it is encrypted with.

    Returns:
        The public key's file.

    Raises:
        UsageError: when one of the files exists, or there is no such folder.
    """
    check_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = Path(private)
    if not private.name or private.is_dir():
        raise UsageError(
            f"{private} is a folder, expected the name of a file for the private key. Give e.g. {private / 'maker'}.",
            code="key-path",
        )
    public = private.with_name(private.name + ".pub")
    for file in (private, public):
        if file.exists() or file.is_symlink():
            raise UsageError(
                f"{file} exists, and a key is never written over: what it signed could not be signed again. Give another name.",
                code="key-exists",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    begun: list[Path] = []
    try:
        for file, mode, content in ((private, 0o600, secret), (public, 0o644, pem(key.public_key()))):
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                begun.append(file)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    except BaseException as problem:  # an interrupt too: half a pair would be in the way of the next one
        for file in begun:
            file.unlink(missing_ok=True)
        if not isinstance(problem, OSError):
            raise
        raise UsageError(
            f"The key {private} cannot be written ({problem.strerror}). Give a file in a folder that exists.",
            code="key-not-writable",
        ) from problem
    return public


def is_encrypted(key: Path) -> bool:
    """Whether a private key asks for a password; False for what is no key, which is told when it is opened."""
    try:
        return b"ENCRYPTED" in key.read_bytes()
    except OSError:
        return False


def check_installed() -> None:
    """Says how to get what signatures need, which a device that trusts its disk does not.

    Raises:
        UsageError: when it is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise UsageError(
            "Signatures need the package 'cryptography', which is not installed here. Run: pip install 'edgekit[sign]'",
            code="package-missing",
        )


def pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def load_private(file: Path, password: bytes | None) -> Any:
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password)
    except TypeError as problem:  # encrypted and no password, or the other way round
        raise UsageError(
            f"The key {file} cannot be opened: {str(problem).rstrip('.')}. Give its password, or none where it has none.",
            code="key-password",
        ) from problem
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{file} is not a private key that can be read ({problem}). Make one with: edgekit keygen KEY",
            code="key-unreadable",
        ) from problem
    return _on_the_curve(key, file)


def load_public(file: Path) -> Any:
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{file} is not a public key that can be read ({problem}). Give the .pub file that edgekit keygen wrote.",
            code="key-unreadable",
        ) from problem
    return _on_the_curve(key, file)


def _on_the_curve(key: Any, file: Path) -> Any:
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve != _CURVE:
        raise UsageError(
            f"The key {file} is of the kind {curve}, expected ECDSA on the curve P-256 ({_CURVE}). Make one with: edgekit keygen KEY",
            code="key-kind",
        )
    return key
