"""``keygen`` and ``sign``: keys, and the signature of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import keys, signature
from edgekit.bundle import trust as trusted
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.sources import FilePath

__all__ = ["KeyPair", "SignedBundle", "keygen", "sign"]


@dataclass(frozen=True)
class SignedBundle:
    """A bundle that was signed.

    Attributes:
        bundle: Folder of the bundle.
        signature: File of the signature, in the bundle.
        key_id: Fingerprint of the public key, as :func:`keygen` gives it.
    """

    bundle: Path
    signature: Path
    key_id: str

    def text(self) -> str:
        """Return a line on the file, and one on the key."""
        return f"Wrote {self.signature}.\nKey id: {self.key_id}"

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {"bundle": str(self.bundle), "signature": str(self.signature), "key_id": self.key_id}


def sign(bundle: FilePath, key: FilePath, *, password: bytes | None = None) -> SignedBundle:
    """Check a bundle and sign it, so that a device can tell who made it.

    Args:
        bundle: Folder of the bundle; an older signature is replaced.
        key: Private key of :func:`keygen`, ECDSA P-256, PEM.
        password: Password of the key, where it is encrypted.

    Returns:
        The file of the signature, in the format of OpenSSF model-signing.

    Raises:
        IntegrityError: If the bundle is altered or incomplete.
        UsageError: If the key cannot be used.
        BuildError: If the signature cannot be written.
    """
    for value, name in ((bundle, "bundle"), (key, "key")):
        check_path(value, name)
    file = trusted.sign(Path(bundle), Path(key), password)
    return SignedBundle(Path(bundle), file, signature.stated_key(file.parent) or "")


@dataclass(frozen=True)
class KeyPair:
    """A key pair to sign bundles with.

    Attributes:
        private: File of the private key.
        public: File of the public key.
        fingerprint: Fingerprint of the public key, for a revocation list.
    """

    private: Path
    public: Path
    fingerprint: str

    def text(self) -> str:
        """Return a line on the files, and one on the fingerprint."""
        wrote = f"Wrote {self.private} (keep it secret) and {self.public} (for Trust(keys=...) and --key)."
        return f"{wrote}\nFingerprint, for a revocation list: {self.fingerprint}"

    def record(self) -> dict[str, object]:
        """Return plain data for JSON, without the key itself."""
        return {"private": str(self.private), "public": str(self.public), "fingerprint": self.fingerprint}


@takes_paths("key")
def keygen(key: FilePath, *, password: bytes | None = None) -> KeyPair:
    """Make a key pair to sign bundles with.

    Args:
        key: File of the private key, which only its owner can read; the public key goes beside it, with ``.pub`` added.
        password: Password that the private key is encrypted with; None for no encryption.

    Returns:
        Both files, and the fingerprint.

    Raises:
        UsageError: If one of the files exists, or there is no such folder.
    """
    public = keys.make_keys(Path(key), password)
    return KeyPair(Path(key), public, keys.fingerprint(public))
