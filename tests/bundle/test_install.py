"""Which bundle may be put where: names, versions, last days, revoked keys, and folders that others may write."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace

import pytest
import small
from kill import BLANK, files
from refusals import refused

from edgekit import IntegrityError, Trust, UsageError
from edgekit.bundle import assemble, install, owners, trust
from edgekit.bundle.keys import fingerprint, make_keys
from edgekit.bundle.pack import pack, unpack
from edgekit.spec.identity import version_key

pytestmark = pytest.mark.device

DAY = datetime.timedelta(days=1)
TODAY = datetime.datetime.now(datetime.timezone.utc).date()


def write(out, name="intents", version="1.4", mark=b"mark", **options):
    manifest = replace(
        BLANK, name=name, version=version, **{k: str(options.pop(k)) for k in ("expires", "built") if k in options}
    )
    return assemble.write(out, manifest, files(mark), **options)


def test_versions_compare_by_numbers():
    ordered = ["", "0", "0.9", "1", "1.2", "1.2.0.1", "1.10", "2", "2026.11.3", "1" * 18]
    assert sorted(reversed(ordered), key=version_key) == ordered
    assert version_key("1.2") == version_key("1.2.0") == version_key("01.2")
    for wrong in ("1.", ".1", "v1", "1.2-rc1", "1..2", "-1", "1 ", "１", "1.2.3.4.5.6.7.8.9", "1" * 19, "1\n"):
        with refused("bundle-version"):
            version_key(wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a b"),
        ("name", "../x"),
        ("name", "x" * 65),
        ("version", "v1"),
        ("expires", "tomorrow"),
        ("expires", "2027-02-30"),
    ],
)
def test_a_manifest_with_another_identity_is_none(tmp_path, key, value):
    write(tmp_path / "out")
    small.sign(tmp_path / "out", **{key: value})
    with pytest.raises(IntegrityError, match=r"name is|version is|expires on"):
        trust.open_bundle(tmp_path / "out")


def test_a_newer_one_is_not_replaced(tmp_path):
    """By a build or by what is unpacked; said with the way round it."""
    packed = {
        version: pack(write(tmp_path / f"v{version}", version=version).path, tmp_path / f"v{version}.edge")
        for version in ("1.4", "1.10", "")
    }
    out = tmp_path / "out"
    unpack(packed["1.4"], out)
    unpack(packed["1.4"], out, force=True)
    unpack(packed["1.10"], out, force=True)
    for less in ("1.4", ""):
        with refused("install-downgrade", "1.10", "--allow-downgrade"):
            unpack(packed[less], out, force=True)
        with refused("install-downgrade"):
            write(out, version=less, force=True)
    with refused("install-downgrade", "2"):
        write(out, "other", "2", force=True)
    with refused("install-downgrade"):
        write(out, "", "", force=True)
    assert trust.open_bundle(out).manifest.version == "1.10"
    unpack(packed["1.4"], out, force=True, allow_downgrade=True)
    write(out, "", "", force=True, allow_downgrade=True)
    write(out, "other", "2", force=True)  # who has no name is replaced by any
    assert not [p for p in tmp_path.iterdir() if ".new-" in p.name]


def test_what_came_meanwhile_counts(tmp_path):
    class Slow(dict):
        def items(self):
            write(tmp_path / "out", version="3", force=True)
            return super().items()

    with refused("install-downgrade"):
        assemble.write(tmp_path / "out", replace(BLANK, name="intents", version="2"), Slow(files(b"mark")), force=True)


def test_a_bundle_that_has_expired_is_not_installed_and_goes_on(tmp_path):
    for day in (TODAY, TODAY + DAY):
        unpack(pack(write(tmp_path / f"{day}", expires=day).path, tmp_path / f"{day}.edge"), tmp_path / f"of {day}")
    over = write(tmp_path / "over", expires=TODAY - DAY).path
    with refused("bundle-expired"):
        unpack(pack(over, tmp_path / "over.edge"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    trust.open_bundle(over)


def test_a_clock_that_cannot_be_right_is_a_note(tmp_path):
    """It tells no day, so a last day is not held against it."""
    built = f"{TODAY + 3 * DAY}T00:00:00Z"
    packed = pack(write(tmp_path / "a", expires=TODAY - DAY, built=built).path, tmp_path / "a.edge")
    notes = []
    unpack(packed, tmp_path / "out", notes=notes)
    assert len(notes) == 1
    assert f"clock says {TODAY}" in notes[0]
    assert "was not checked" in notes[0]
    done = small.edgekit("pack", "--unpack", packed, "-o", tmp_path / "again")
    assert done.returncode == 0
    assert b"note: This machine's clock" in done.stderr
    assert (
        install.check_install(trust.open_bundle(write(tmp_path / "b", built=f"{TODAY}T00:00:00Z").path).manifest, "b")
        == ()
    )


# ---- trust


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return folder / "ours", make_keys(folder / "ours"), make_keys(folder / "theirs")


@pytest.fixture
def signed(keys, tmp_path):
    out = write(tmp_path / "signed").path
    trust.sign(out, keys[0])
    return out


def test_trust_in_a_name_and_a_version(signed, keys):
    for good in (
        {},
        {"name": "intents"},
        {"name": "intents", "at_least": "1.4.0"},
        {"name": "intents", "at_least": "1.3"},
    ):
        trust.open_bundle(signed, Trust([keys[1]], **good))
    with refused("bundle-other-name", "intents", "others"):
        trust.open_bundle(signed, Trust([keys[1]], name="others"))
    with refused("bundle-older-version", "1.4", "intents", "1.5"):
        trust.open_bundle(signed, Trust([keys[1]], name="intents", at_least="1.5"))
    for wrong in ({"at_least": "1"}, {"name": "a b"}, {"name": "a", "at_least": "x"}, {"name": "a", "at_least": ""}):
        with pytest.raises(UsageError):
            Trust([keys[1]], **wrong)


def test_a_key_that_is_revoked(signed, keys, tmp_path):
    """By its fingerprint, in a list or a file; who signed is then nobody's to trust, also beside other keys."""
    signer, other = (fingerprint(key) for key in keys[1:])
    listed = tmp_path / "revoked"
    listed.write_text(f"# lost in the train\n{signer.upper()}  # ours\n\n")
    for revoked in (listed, str(listed), [signer], [other, signer]):
        with refused("key-revoked"):
            trust.open_bundle(signed, Trust(keys[1:], revoked=revoked))
    trust.open_bundle(signed, Trust(keys[1:], revoked=[other]))
    done = small.edgekit("verify", signed, "--files-only", "--key", keys[1], "--revoked", listed)
    assert (done.returncode, b"revoked" in done.stderr) == (5, True)
    done = small.edgekit("verify", signed, "--files-only", "--revoked", listed)
    assert (done.returncode, b"error[option-needs-other]" in done.stderr) == (2, True)
    for wrong in (tmp_path / "none", ["abc"], [7]):
        with pytest.raises(UsageError):
            Trust([keys[1]], revoked=wrong)


def test_the_fingerprint_is_the_one_that_a_signature_names(signed, keys):
    assert fingerprint(keys[1]) in (signed / "model.sig").read_text()
    done = small.edgekit("keygen", signed.parent / "new")
    assert fingerprint(signed.parent / "new.pub").encode() in done.stdout


@pytest.mark.parametrize("name", ["", "graphs", "graphs/m.onnx", "manifest.json", "model.sig"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_is_not_trusted(signed, keys, name, mode):
    place = signed / name
    place.chmod(place.stat().st_mode | mode)
    with refused("bundle-writable"):
        trust.open_bundle(signed, Trust([keys[1]]))
    trust.open_bundle(signed)


def test_a_folder_above_that_others_may_write(signed, keys):
    """Not one like /tmp, where nobody renames what is another's."""
    signed.parent.chmod(0o777)
    with refused("bundle-writable", f"{signed.parent}", "0777"):
        trust.open_bundle(signed, Trust([keys[1]]))
    signed.parent.chmod(0o1777)
    trust.open_bundle(signed, Trust([keys[1]]))
    signed.chmod(0o1777)
    with refused("bundle-writable"):
        trust.open_bundle(signed, Trust([keys[1]]))


def test_a_link_to_a_bundle_in_a_folder_that_others_may_write(signed, keys, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    signed.rename(tmp_path / "open" / "bundle")
    signed.symlink_to(tmp_path / "open" / "bundle")
    with refused("bundle-writable", f"{tmp_path / 'open'}"):
        trust.open_bundle(signed, Trust([keys[1]]))


def test_a_folder_of_another_user(signed, keys):
    if os.geteuid():
        pytest.skip("only root gives a file to another user")
    os.chown(signed / "graphs", 12345, -1)
    with refused("bundle-owner", "12345", "0"):
        trust.open_bundle(signed, Trust([keys[1]]))
    with refused("bundle-owner", "12345"):
        owners.check_owners(signed / "graphs")
