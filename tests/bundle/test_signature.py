"""Signatures: interoperability with OpenSSF model-signing in both directions, and signatures that must be refused."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import stat
import subprocess
import sys

import pytest
import small
from refusals import refused

import edgekit
from edgekit import Trust
from edgekit.bundle import signature, trust
from edgekit.bundle.keys import is_encrypted, load_private, load_public, make_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key pair of ours, and another one."""
    folder = tmp_path_factory.mktemp("keys")
    return (folder / "ours", make_keys(folder / "ours")), (folder / "theirs", make_keys(folder / "theirs"))


@pytest.fixture
def signed(tiny_bundle, keys, tmp_path):
    bundle = small.copy(tiny_bundle, tmp_path / "bundle")
    trust.sign(bundle, keys[0][0])
    return bundle


def model_signing(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_it_opens_for_who_trusts_the_key(signed, keys):
    key = keys[0][1]
    other = keys[1][1]
    with edgekit.load(signed, trust=Trust(keys=[key])) as session:
        assert session("a fine film").label in small.LABELS
    with edgekit.load(signed, trust=Trust([other, key])) as session:
        assert session("a fine film").label in small.LABELS
    with edgekit.load(signed) as session:
        assert session("a fine film").label in small.LABELS, "who does not ask need not have keys"
    with refused("signature-untrusted"):
        edgekit.load(signed, trust=Trust([other]))


@pytest.mark.slow
def test_model_signing_verifies_ours(signed, keys):
    done = model_signing("verify", "key", signed, "--signature", signed / signature.FILE, "--public_key", keys[0][1])
    assert done.returncode == 0, done.stdout + done.stderr
    done = model_signing("verify", "key", signed, "--signature", signed / signature.FILE, "--public_key", keys[1][1])
    assert done.returncode != 0
    (signed / "assets" / "tokenizer.json").write_text("{}")
    assert (
        model_signing(
            "verify", "key", signed, "--signature", signed / signature.FILE, "--public_key", keys[0][1]
        ).returncode
        != 0
    )


def test_ours_verifies_what_model_signing_signed(tiny_bundle, keys, tmp_path):
    bundle = small.copy(tiny_bundle, tmp_path / "bundle")
    done = model_signing("sign", "key", bundle, "--private_key", keys[0][0], "--signature", bundle / signature.FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    trust.open_bundle(bundle, Trust([keys[0][1]]))
    with refused("signature-untrusted"):
        trust.open_bundle(bundle, Trust([keys[1][1]]))


def test_an_unsigned_bundle(tiny_bundle, keys):
    with refused("bundle-not-signed"):
        edgekit.load(tiny_bundle, trust=Trust([keys[0][1]]))


def test_a_bundle_that_was_made_whole_again_after_a_change(signed, keys):
    """The manifest fits its files, so that without a key nothing is amiss."""
    asset = next(f for f in sorted((signed / "assets").iterdir()) if f.name != "tokenizer.json")
    asset.write_text(json.dumps(json.loads(asset.read_text()), indent=7))
    small.sign(signed)
    trust.open_bundle(signed)
    with refused("signature-content"):
        trust.open_bundle(signed, Trust([keys[0][1]]))


def altered(signed, change):
    file = signed / signature.FILE
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def swap_payload(data):
    statement = json.loads(base64.b64decode(data["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    data["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (swap_payload, "signature-untrusted"),
        (
            lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x" * 70).decode()),
            "signature-untrusted",
        ),
        (lambda d: d["dsseEnvelope"].update(signatures=[]), "signature-unreadable"),
        (lambda d: d["dsseEnvelope"].update(payload="%%%"), "signature-unreadable"),
        (lambda d: d.update(mediaType="text/plain"), "signature-unreadable"),
        (lambda d: d.pop("dsseEnvelope"), "signature-unreadable"),
    ],
)
def test_an_altered_signature(change, code, signed, keys):
    altered(signed, change)
    with refused(code):
        trust.open_bundle(signed, Trust([keys[0][1]]))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"mediaType": 3}'])
def test_a_signature_that_is_none(text, signed, keys):
    (signed / signature.FILE).write_text(text)
    with refused("signature-unreadable"):
        trust.open_bundle(signed, Trust([keys[0][1]]))


def genuine(signed, keys, change):
    """A statement that the maker signed, though it is not of this bundle's files."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    def rewrite(data):
        statement = json.loads(base64.b64decode(data["dsseEnvelope"]["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        signed_bytes = load_private(keys[0][0], None).sign(signature._signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
        data["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        data["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signed_bytes).decode()

    altered(signed, rewrite)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(predicateType="https://example.org/other"), "https://example.org/other"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "whole files"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2b"), "whole files"),
        (lambda s: s["predicate"]["resources"].pop(), "root digest"),
        (lambda s: s.update(subject=[]), "unpack"),
        (lambda s: s.pop("predicate"), "predicate"),
    ],
)
def test_a_genuine_signature_of_something_else(change, reason, signed, keys):
    genuine(signed, keys, change)
    with refused("signature-content", reason):
        trust.open_bundle(signed, Trust([keys[0][1]]))


def test_what_is_not_whole_is_not_signed(tiny_bundle, keys, tmp_path):
    bundle = small.copy(tiny_bundle, tmp_path / "bundle")
    (bundle / "extra").write_text("x")
    with refused("bundle-file-extra"):
        trust.sign(bundle, keys[0][0])
    assert not (bundle / signature.FILE).exists()


def test_keys(tmp_path):
    public = make_keys(tmp_path / "key", password=b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert public == tmp_path / "key.pub"
    assert is_encrypted(tmp_path / "key")
    for name in ("key", "key.pub"):
        before = (tmp_path / name).read_bytes()
        with refused("key-exists"):
            make_keys(tmp_path / "key")
        assert (tmp_path / name).read_bytes() == before
    with refused("key-not-writable"):
        make_keys(tmp_path / "none" / "key")
    with refused("key-password"):
        load_private(tmp_path / "key", None)
    with refused("key-unreadable"):
        load_private(tmp_path / "key", b"wrong")
    with refused("key-unreadable"):
        load_public(tmp_path / "key")
    assert load_private(tmp_path / "key", b"secret").key_size == 256


def test_a_key_of_another_kind(tmp_path, signed):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    for key, kind in (
        (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ):
        (tmp_path / "other.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        with refused("key-kind", f"{kind}", "ECDSA", "256"):
            trust.open_bundle(signed, Trust([tmp_path / "other.pub"]))


@pytest.mark.parametrize("keys", [[], "maker.pub", None])
def test_trust_without_keys(keys):
    with refused("trust-keys"):
        Trust(keys)


@pytest.mark.slow
def test_the_command_line(tiny_bundle, tmp_path):
    bundle = small.copy(tiny_bundle, tmp_path / "bundle")
    done = small.edgekit("keygen", tmp_path / "key")
    assert done.returncode == 0, done.stderr.decode()
    assert b"keep it secret" in done.stdout
    for verb, code in (("verify", 5), ("sign", 0), ("verify", 0)):
        options = ["--key", tmp_path / ("key" if verb == "sign" else "key.pub")]
        done = small.edgekit(verb, bundle, *options)
        assert done.returncode == code, done.stderr.decode()
    assert b"signed by a key that is trusted" in done.stdout
    assert small.edgekit("keygen", tmp_path / "key").returncode == 2


def test_without_cryptography_it_says_what_to_install(signed, keys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused("extra-missing", "edgekit-sdk[sign]"):
        edgekit.load(signed, trust=Trust([keys[0][1]]))
    with edgekit.load(signed) as session:
        assert session("a fine film").label in small.LABELS


def test_a_signature_on_a_disk_that_cannot_be_written(signed, keys, monkeypatch):
    before = (signed / signature.FILE).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with refused("signature-not-writable"):
        trust.sign(signed, keys[0][0])
    assert (signed / signature.FILE).read_bytes() == before
    assert sorted(f for f in os.listdir(signed) if f.startswith(".")) == []
