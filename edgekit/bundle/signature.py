"""Who made a bundle: a detached ECDSA P-256 signature over all of its files, in the format of the OpenSSF model-signing project.

The file ``model.sig`` is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the sha256 of every file of the
bundle, its manifest among them. ``model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key KEY.pub`` accepts it, and
what ``model_signing sign key`` writes is accepted here. Formats: github.com/sigstore/model-transparency (signature v1.0),
github.com/secure-systems-lab/dsse (protocol v1.0), in-toto Statement v1.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle.place import new_file, put_file
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BuildError, IntegrityError, UsageError
from edgekit.spec.identity import check_name, version_key
from edgekit.spec.manifest import Manifest
from edgekit.spec.parsing import to_json
from edgekit.spec.paths import takes_paths

__all__ = ["FILE", "Trust", "check", "check_identity", "fingerprint", "is_encrypted", "make_keys", "write"]

FILE = "model.sig"
_MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_CURVE = "secp256r1"
_LIMIT = 16 * 2**20
_FINGERPRINT = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Trust:
    """Whose bundles may be opened, and which.

    Attributes:
        keys: public keys (PEM files); a bundle must be signed by one of them.
        name: that a bundle must have; None for any.
        at_least: the oldest version that a bundle may have; None for any.
        revoked: fingerprints of keys that are trusted no more (:func:`fingerprint`).
    """

    keys: tuple[Path, ...]
    name: str | None = None
    at_least: str | None = None
    revoked: tuple[str, ...] = ()

    def __init__(
        self,
        keys: Sequence[str | os.PathLike[str]],
        name: str | None = None,
        at_least: str | None = None,
        revoked: str | os.PathLike[str] | Sequence[str] = (),
    ) -> None:
        """Takes paths.

        Args:
            keys: public key files.
            name: the bundle's.
            at_least: version, see :func:`edgekit.spec.identity.version_key`; it goes with ``name``.
            revoked: a file with one fingerprint a line (``#`` begins a comment), or the fingerprints.

        Raises:
            UsageError: when there is no key, so that nobody would be trusted; a version without a name; or a list that cannot be read.
        """
        if isinstance(keys, (str, os.PathLike)) or not keys:
            raise UsageError(
                f"keys is {keys!r}, expected a list of at least one public key file. Give e.g. Trust(keys=['maker.pub']).",
                code="trust-keys",
            )
        if at_least is not None and not (name and version_key(at_least)):
            raise UsageError(
                f"at_least is {at_least!r} and name {name!r}: versions are of a name. Give e.g. Trust(keys, name='intents', at_least='1.4').",
                code="trust-version",
            )
        object.__setattr__(self, "keys", tuple(Path(os.fspath(k)) for k in keys))
        object.__setattr__(self, "name", check_name(name) if name else None)
        object.__setattr__(self, "at_least", at_least)
        object.__setattr__(self, "revoked", _revoked(revoked))


def check_identity(folder: Path, manifest: Manifest, trust: Trust) -> None:
    """Refuses a bundle that is another, or older, than ``trust`` asks for.

    Raises:
        IntegrityError: with both.
    """
    remedy = "Do not load it; get the right one from its maker."
    if trust.name is not None and manifest.name != trust.name:
        raise IntegrityError(
            f"{folder} is named {manifest.name!r}, expected '{trust.name}'. {remedy}", code="bundle-other-name"
        )
    if trust.at_least is not None and version_key(manifest.version) < version_key(trust.at_least):
        raise IntegrityError(
            f"{folder} is version {manifest.version or 'none'} of '{trust.name}', expected {trust.at_least} or newer. {remedy}",
            code="bundle-older-version",
        )


def fingerprint(public: Path) -> str:
    """sha256 in hex of a public key's PEM text: what ``model.sig`` names its key by, and what a revocation list holds.

    Raises:
        UsageError: when the key cannot be read.
    """
    _needed()
    return hashlib.sha256(_pem(_public(public))).hexdigest()


def _revoked(listed: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    where = "revoked"
    if isinstance(listed, (str, os.PathLike)):
        where = os.fspath(listed)
        try:
            with open(where, "rb") as stream:
                text = stream.read(_LIMIT).decode("ascii")
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"The revocation list {where} cannot be read ({problem}). Give a file with one fingerprint a line.",
                code="revocations-unreadable",
            ) from problem
        listed = [line for line in (part.partition("#")[0].strip() for part in text.splitlines()) if line]
    for one in listed:
        if not isinstance(one, str) or not _FINGERPRINT.fullmatch(one):
            raise UsageError(
                f"{where} lists {str(one)[:80]!r}, expected fingerprints of 64 hexadecimal digits, as edgekit keygen prints them.",
                code="revocations-invalid",
            )
    return tuple(one.lower() for one in listed)


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
    _needed()
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
        for file, mode, content in ((private, 0o600, secret), (public, 0o644, _pem(key.public_key()))):
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


def write(folder: Path, digests: Mapping[str, str], key: Path, password: bytes | None = None) -> Path:
    """Signs a bundle that was checked.

    Args:
        folder: of the bundle.
        digests: path in the bundle to sha256 in hex, of all its files.
        key: private key, PEM.
        password: of the key, where it is encrypted.

    Raises:
        UsageError: when the key cannot be read, or is not on the curve P-256.
        BuildError: when the signature cannot be written; an older one is then as it was.
    """
    _needed()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signer = _private(key, password)
    payload = to_json(_statement(folder.resolve().name, digests), indent=2, sort_keys=True).encode()
    signed = signer.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": _MEDIA,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(_pem(signer.public_key())).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    final = folder / FILE
    try:
        # Not in the bundle: whatever is in it beside what its manifest lists keeps it from being opened.
        with new_file(folder.resolve()) as (new, stream):
            stream.write(to_json(bundle).encode() + b"\n")
            new.chmod(0o644)  # it was made private
            put_file(new, stream, final)
    except OSError as problem:
        what = f"The signature {final} cannot be written ({problem.strerror})"
        raise BuildError(
            f"{what}. Make the bundle and the folder above it writable, on one file system, or free space.",
            code="signature-not-writable",
        ) from problem
    return final


def check(folder: Path, digests: Mapping[str, str], trust: Trust) -> Path:
    """Holds a bundle against its signature; returns the key that signed it.

    Args:
        folder: of the bundle.
        digests: path in the bundle to sha256 in hex, of all its files, as they lie there.
        trust: whose signature is accepted.

    Raises:
        IntegrityError: when there is no signature, it is none of these keys', or it is of other files.
        UsageError: when a key cannot be read.
    """
    _needed()
    file = folder / FILE
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(
            f"{folder} is not signed, and only bundles of known makers are trusted here. Have its maker sign it: edgekit sign BUNDLE",
            code="bundle-not-signed",
        )
    try:
        if file.stat().st_size > _LIMIT:
            raise ValueError(f"more than {_LIMIT} bytes")
        bundle = json.loads(file.read_text("utf-8"))
        envelope = bundle["dsseEnvelope"]
        if (bundle["mediaType"], envelope["payloadType"]) != (_MEDIA, _PAYLOAD):
            raise ValueError(f"media type {bundle['mediaType']}, payload {envelope['payloadType']}")
        payload = base64.b64decode(envelope["payload"], validate=True)
        (one,) = envelope["signatures"]
        signed = base64.b64decode(one["sig"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise IntegrityError(
            f"{file} is not a signature that can be read ({problem}), expected a Sigstore bundle v0.3. Sign the bundle again.",
            code="signature-unreadable",
        ) from problem
    key = _signer(payload, signed, trust)
    if key is None:
        known = ", ".join(map(str, trust.keys))
        raise IntegrityError(
            f"{folder} was not signed by any of the keys {known}, or its signature was altered. Do not load it; get it from its maker again.",
            code="signature-untrusted",
        )
    if trust.revoked and fingerprint(key) in trust.revoked:
        raise IntegrityError(
            f"{folder} was signed by {key}, and this key is revoked. Do not load it; get it from its maker again, signed anew.",
            code="key-revoked",
        )
    _check_statement(folder, payload, digests)
    return key


def is_encrypted(key: Path) -> bool:
    """Whether a private key asks for a password; False for what is no key, which is told when it is opened."""
    try:
        return b"ENCRYPTED" in key.read_bytes()
    except OSError:
        return False


def _needed() -> None:
    """Says how to get what signatures need, which a device that trusts its disk does not.

    Raises:
        UsageError: when it is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise UsageError(
            f"Signatures need the package 'cryptography', which is not installed here. Run: {install_hint('sign')}",
            code="extra-missing",
        )


def _signer(payload: bytes, signed: bytes, trust: Trust) -> Path | None:
    """Which of the keys made a signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    for file in trust.keys:
        try:
            _public(file).verify(signed, _encoded(payload), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        return file
    return None


def _check_statement(folder: Path, payload: bytes, digests: Mapping[str, str]) -> None:
    """Refuses a statement that is genuine but of other files, or of another kind."""
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ValueError(f"it is a {statement['predicateType']}")
        resources = statement["predicate"]["resources"]
        if statement["predicate"]["serialization"]["method"] != "files" or any(
            r["algorithm"] != "sha256" for r in resources
        ):
            raise ValueError("it is not of whole files by sha256")
        listed = {str(r["name"]): str(r["digest"]) for r in resources}
        (subject,) = statement["subject"]
        if subject["digest"]["sha256"] != _root([str(r["digest"]) for r in resources]):
            raise ValueError("its own digest does not add up")
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise IntegrityError(
            f"The signature of {folder} says something else than which files it is of ({problem}). Sign the bundle again.",
            code="signature-content",
        ) from problem
    other = sorted(name for name in {*listed, *digests} if listed.get(name) != digests.get(name))
    if other:
        raise IntegrityError(
            f"The signature of {folder} is of other files: '{other[0]}' differs. Get the bundle and its signature from their maker again.",
            code="signature-content",
        )


def _statement(name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    names = sorted(digests)
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root([digests[n] for n in names])}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [FILE],
            },
            "resources": [{"name": n, "algorithm": "sha256", "digest": digests[n]} for n in names],
        },
    }


def _root(digests: Sequence[str]) -> str:
    """sha256 over all digests in the order of the list."""
    return hashlib.sha256(b"".join(bytes.fromhex(d) for d in digests)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of type and payload."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def _private(file: Path, password: bytes | None) -> Any:
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


def _public(file: Path) -> Any:
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
