"""Who made a bundle: a detached ECDSA P-256 signature over all of its files, in the format of the OpenSSF model-signing project.

The file ``model.sig`` is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the sha256 of every file of the
bundle, its manifest among them. ``model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key KEY.pub`` accepts it, and
what ``model_signing sign key`` writes is accepted here. Formats: github.com/sigstore/model-transparency (signature v1.0),
github.com/secure-systems-lab/dsse (protocol v1.0), in-toto Statement v1.
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
_LIMIT = 16 * 2**20
_FINGERPRINT = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Trust:
    """Whose bundles may be opened, and which.

    Attributes:
        keys: public keys (PEM files); a bundle must be signed by one of them.
        name: that a bundle must have; None for any.
        at_least: the oldest version that a bundle may have; None for any.
        revoked: fingerprints of keys that are trusted no more (:func:`edgekit.bundle.keys.fingerprint`).
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
    check_installed()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signer = load_private(key, password)
    payload = to_json(_statement(folder.resolve().name, digests), indent=2, sort_keys=True).encode()
    signed = signer.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": _MEDIA,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem(signer.public_key())).hexdigest()},
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
    check_installed()
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


def _signer(payload: bytes, signed: bytes, trust: Trust) -> Path | None:
    """Which of the keys made a signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    for file in trust.keys:
        try:
            load_public(file).verify(signed, _encoded(payload), ec.ECDSA(hashes.SHA256()))
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
