"""Signature of a bundle: a detached ECDSA P-256 signature over all files, in the format of OpenSSF model-signing.

The file ``model.sig`` is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the sha256 of every
file of the bundle, including its manifest. ``model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key
KEY.pub`` accepts it, and EdgeKit accepts what ``model_signing sign key`` writes. Formats:
github.com/sigstore/model-transparency (signature v1.0), github.com/secure-systems-lab/dsse (protocol v1.0), in-toto
Statement v1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle.keys import check_installed, fingerprint, load_private, load_public, pem
from edgekit.bundle.place import new_file, put_file
from edgekit.spec.errors import BuildError, IntegrityError, UsageError
from edgekit.spec.identity import check_name, version_key
from edgekit.spec.manifest import Manifest
from edgekit.spec.parsing import to_json

__all__ = ["FILE", "Trust", "check", "check_identity", "write"]

FILE = "model.sig"
_MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_MAX_BYTES = 16 * 2**20
_FINGERPRINT = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Trust:
    """Trusted keys, and the bundle that is expected.

    Attributes:
        keys: Public key files (PEM). A bundle must be signed with one of these keys.
        name: Required name of the bundle. None accepts any name.
        at_least: Oldest accepted version of the bundle. None accepts any version.
        revoked: Fingerprints of revoked keys (:func:`edgekit.bundle.keys.fingerprint`).
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
        """Check and store the settings.

        Args:
            keys: Public key files, at least one.
            name: Required name of the bundle.
            at_least: Oldest accepted version (:func:`edgekit.spec.identity.version_key`). It requires ``name``.
            revoked: Fingerprints of revoked keys, or a file with one fingerprint per line, in which ``#`` begins a
                comment.

        Raises:
            UsageError: If there is no key, a version without a name, or an unreadable revocation list.
        """
        if isinstance(keys, (str, os.PathLike)) or not keys:
            raise UsageError(
                f"keys is {keys!r}, expected a list of at least one public key file. "
                "Give e.g. Trust(keys=['maker.pub']).",
                code="trust-keys",
            )
        if at_least is not None and not (name and version_key(at_least)):
            raise UsageError(
                f"at_least is {at_least!r} and name is {name!r}, expected a version and the name it belongs to. "
                "Give e.g. Trust(keys, name='intents', at_least='1.4').",
                code="trust-version",
            )
        object.__setattr__(self, "keys", tuple(Path(os.fspath(k)) for k in keys))
        object.__setattr__(self, "name", check_name(name) if name else None)
        object.__setattr__(self, "at_least", at_least)
        object.__setattr__(self, "revoked", _read_revoked(revoked))


def check_identity(folder: Path, manifest: Manifest, trust: Trust) -> None:
    """Refuse a bundle with another name, or an older version, than ``trust`` requires.

    Args:
        folder: Bundle folder, for error messages.
        manifest: Manifest of the bundle.
        trust: Required name and version.

    Raises:
        IntegrityError: If the name or the version does not match.
    """
    remedy = "Do not load it. Get the right bundle from its maker."
    if trust.name is not None and manifest.name != trust.name:
        raise IntegrityError(
            f"{folder} is named {manifest.name!r}, expected '{trust.name}'. {remedy}", code="bundle-other-name"
        )
    if trust.at_least is not None and version_key(manifest.version) < version_key(trust.at_least):
        raise IntegrityError(
            f"{folder} has version {manifest.version or 'none'} of '{trust.name}', "
            f"expected {trust.at_least} or newer. {remedy}",
            code="bundle-older-version",
        )


def _read_revoked(revoked: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the fingerprints of a revocation list, in lower case."""
    source = "revoked"
    if isinstance(revoked, (str, os.PathLike)):
        source = os.fspath(revoked)
        try:
            with open(source, "rb") as stream:
                text = stream.read(_MAX_BYTES).decode("ascii")
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"The revocation list {source} cannot be read ({problem}). Give a file with one fingerprint per line.",
                code="revocations-unreadable",
            ) from problem
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        revoked = [line for line in lines if line]
    for entry in revoked:
        if not isinstance(entry, str) or not _FINGERPRINT.fullmatch(entry):
            raise UsageError(
                f"{source} contains {str(entry)[:80]!r}, expected fingerprints of 64 hexadecimal digits. "
                "Use the fingerprints that edgekit keygen prints.",
                code="revocations-invalid",
            )
    return tuple(entry.lower() for entry in revoked)


def write(folder: Path, digests: Mapping[str, str], key: Path, password: bytes | None = None) -> Path:
    """Sign a bundle whose files were checked, and write ``model.sig``.

    Args:
        folder: Bundle folder.
        digests: Path of each file in the bundle to its sha256 in hexadecimal.
        key: Private key file (PEM).
        password: Password of the key. None for a key that is not encrypted.

    Returns:
        The signature file.

    Raises:
        UsageError: If the key cannot be read or is not on the curve P-256.
        BuildError: If the signature cannot be written. An older signature is then left unchanged.
    """
    check_installed()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    private = load_private(key, password)
    payload = to_json(_statement(folder.resolve().name, digests), indent=2, sort_keys=True).encode()
    signature = private.sign(_signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": _MEDIA,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem(private.public_key())).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    file = folder / FILE
    try:
        # The new file is created beside the bundle: an unlisted file inside would make the bundle invalid.
        with new_file(folder.resolve()) as (new, stream):
            stream.write(to_json(bundle).encode() + b"\n")
            new.chmod(0o644)  # new_file creates files with mode 0600.
            put_file(new, stream, file)
    except OSError as problem:
        raise BuildError(
            f"The signature {file} cannot be written ({problem.strerror}). "
            "Make the bundle and its parent folder writable, on one file system, or free disk space.",
            code="signature-not-writable",
        ) from problem
    return file


def check(folder: Path, digests: Mapping[str, str], trust: Trust) -> Path:
    """Verify the signature of a bundle.

    Args:
        folder: Bundle folder.
        digests: Path of each file in the bundle to its sha256 in hexadecimal, as computed from the files.
        trust: Trusted keys.

    Returns:
        The public key file of the signer.

    Raises:
        IntegrityError: If there is no valid signature by a trusted key, the key is revoked, or the signature is for
            other files.
        UsageError: If a key cannot be read.
    """
    check_installed()
    file = folder / FILE
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(
            f"{folder} is not signed, expected a signature by a trusted key. "
            "Have its maker sign it: edgekit sign BUNDLE",
            code="bundle-not-signed",
        )
    try:
        payload, signature = _read_envelope(file)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise IntegrityError(
            f"{file} is not a readable signature ({problem}), expected a Sigstore bundle v0.3. Sign the bundle again.",
            code="signature-unreadable",
        ) from problem
    key = _find_signer(payload, signature, trust)
    if key is None:
        keys = ", ".join(map(str, trust.keys))
        raise IntegrityError(
            f"{folder} was not signed with any of the keys {keys}, or its signature was altered. "
            "Do not load it. Get it from its maker again.",
            code="signature-untrusted",
        )
    if trust.revoked and fingerprint(key) in trust.revoked:
        raise IntegrityError(
            f"{folder} was signed with {key}, which is revoked. "
            "Do not load it. Get the bundle from its maker with a new signature.",
            code="key-revoked",
        )
    _check_statement(folder, payload, digests)
    return key


def stated_key(folder: Path) -> str:
    """Return the fingerprint of the key that a bundle's signature names, which nothing here verifies.

    Args:
        folder: Folder of the bundle.

    Returns:
        64 hex digits; empty for a bundle without a signature, ``unknown`` for a signature that cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return ""
    try:
        if file.stat().st_size > _MAX_BYTES:
            return "unknown"
        hint = json.loads(file.read_text("utf-8"))["verificationMaterial"]["publicKey"]["hint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown"
    return hint if isinstance(hint, str) and re.fullmatch("[0-9a-f]{64}", hint) else "unknown"


def _read_envelope(file: Path) -> tuple[bytes, bytes]:
    """Return the payload and the signature of a signature file."""
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    bundle = json.loads(file.read_text("utf-8"))
    envelope = bundle["dsseEnvelope"]
    if (bundle["mediaType"], envelope["payloadType"]) != (_MEDIA, _PAYLOAD):
        raise ValueError(f"media type {bundle['mediaType']}, payload {envelope['payloadType']}")
    payload = base64.b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    return payload, base64.b64decode(signature["sig"], validate=True)


def _find_signer(payload: bytes, signature: bytes, trust: Trust) -> Path | None:
    """Return the trusted key that made a signature, or None."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    for file in trust.keys:
        try:
            load_public(file).verify(signature, _signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        return file
    return None


def _check_statement(folder: Path, payload: bytes, digests: Mapping[str, str]) -> None:
    """Refuse a genuine statement that is of another kind or for other files."""
    try:
        listed = _read_statement(payload)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise IntegrityError(
            f"The signature of {folder} does not list the files of a bundle ({problem}). Sign the bundle again.",
            code="signature-content",
        ) from problem
    names = sorted(listed.keys() | digests.keys())
    for name in names:
        if listed.get(name) != digests.get(name):
            raise IntegrityError(
                f"The signature of {folder} is for other files: '{name}' differs. "
                "Get the bundle and its signature from its maker again.",
                code="signature-content",
            )


def _read_statement(payload: bytes) -> dict[str, str]:
    """Return the files of an in-toto statement and their sha256."""
    statement = json.loads(payload)
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise ValueError(f"its type is {statement['predicateType']}")
    predicate = statement["predicate"]
    resources = predicate["resources"]
    is_sha256 = all(resource["algorithm"] == "sha256" for resource in resources)
    if predicate["serialization"]["method"] != "files" or not is_sha256:
        raise ValueError("it does not list whole files with their sha256")
    (subject,) = statement["subject"]
    if subject["digest"]["sha256"] != _root_digest([str(resource["digest"]) for resource in resources]):
        raise ValueError("its root digest does not match its list of files")
    return {str(resource["name"]): str(resource["digest"]) for resource in resources}


def _statement(name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the in-toto statement for a bundle."""
    names = sorted(digests)
    resources = [{"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names]
    root = _root_digest([digests[name] for name in names])
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [FILE],
            },
            "resources": resources,
        },
    }


def _root_digest(digests: Sequence[str]) -> str:
    """Return the sha256 over all digests, in their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(d) for d in digests)).hexdigest()


def _signed_bytes(payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding of type and payload."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)
