"""Strings of a bundle cannot act on a terminal."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
import small

from edgekit import EdgekitError, IntegrityError
from edgekit.spec.errors import MOST
from edgekit.spec.text import on_one_line, visible

OLD = Path(__file__).parents[1] / "data" / "format-1"
HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\x7f\r\b\u2028\ud800\U000e0041"
ACTING = set("\x1b\x07\x9b\u202e\u2066\x7f\r\b\u2028\U000e0041")


def test_every_character_that_unicode_calls_a_control_or_a_format_but_joiners():
    kept = {"\n", "\t", "\u200c", "\u200d"}
    for code in range(0x110000):
        character = chr(code)
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in kept
        if hidden or (code < 0x3000 and unicodedata.category(character) != "Cn"):
            assert (visible(character) == character) != hidden, hex(code)


def test_the_escapes_are_those_of_json():
    assert json.loads(visible(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE
    assert visible("plain, ü 中 \U0001f469\u200d\U0001f680\n\t") == "plain, ü 中 \U0001f469\u200d\U0001f680\n\t"
    assert on_one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_message_that_quotes_something_endless():
    assert len(str(IntegrityError("x" * 10**6))) < MOST + 100
    assert str(EdgekitError("short")) == "short"


@pytest.mark.slow
def test_what_the_verbs_print_of_a_bundle(tmp_path):
    """Labels in answers, everything in inspect, names in errors; JSON says the same as before."""
    bundle = shutil.copytree(OLD, tmp_path / "bundle")
    task = json.loads((bundle / "assets" / "task.json").read_text())
    labels = [f"{HOSTILE[:-2]}\nnote: all is well {i}" for i in range(len(task["labels"]))]
    (bundle / "assets" / "task.json").write_text(json.dumps({**task, "labels": labels}))
    manifest = json.loads((bundle / "manifest.json").read_text())
    changes = {
        "reason": HOSTILE[:-2] + "\nforged: line",
        "notes": [HOSTILE[:-2]],
        "provenance": {HOSTILE[:-2]: HOSTILE[:-2]},
        "target": HOSTILE[:-2],
    }
    small.sign(bundle, **changes)
    for verb in (
        ["run", bundle, "a fine film"],
        ["inspect", bundle],
        ["inspect", bundle, "--json"],
        ["run", bundle, "x", "--backend", HOSTILE[:6]],
    ):
        done = small.edgekit(*verb)
        text = (done.stdout + done.stderr).decode()
        assert text
        assert not ACTING & set(text), verb
        assert "\nforged" not in text
    answer = json.loads(small.edgekit("run", bundle, "a fine film").stdout)
    assert answer["label"] in labels
    assert json.loads(small.edgekit("inspect", bundle, "--json").stdout)["target"] == HOSTILE[:-2]
    (bundle / "assets" / "\x1b[31mred\u202e").write_text("x")
    done = small.edgekit("verify", bundle)
    assert done.returncode == 5
    assert not ACTING & set(done.stderr.decode())
    assert manifest["format"] == 1


def test_files_are_for_this_user_to_write_whatever_the_umask(tmp_path):
    import os

    sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
    from kill import BLANK, files

    from edgekit.bundle import assemble

    before = os.umask(0o002)
    try:
        out = assemble.write(tmp_path / "out", BLANK, files(b"mark")).path
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in [out, *out.rglob("*")]} == {"0o755", "0o644"}
