"""Disturbed texts by the definition of each kind."""

from __future__ import annotations

import random
import re
import unicodedata
from difflib import SequenceMatcher

import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.modalities import _text_perturbations as perturbations
from edgekit.modalities.text import UNBOUND

KINDS = ("typos", "case", "punctuation", "homoglyphs", "invisible", "truncation")
LONG = "The quick brown fox jumps over the lazy dog, and nobody was ever really surprised by it."


def of(name, text, seed=0, row=0):
    return UNBOUND.perturbations[name](text, random.Random(f"{seed}/{name}/{row}"))


def edits(before, after):
    return [op for op in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if op[0] != "equal"]


# ---- the kinds


def test_there_are_the_kinds_that_reports_name():
    assert tuple(UNBOUND.perturbations) == KINDS


def test_the_keys_beside_a_key():
    # Read off a US keyboard.
    assert {k: set(perturbations.NEIGHBOURS[k]) for k in "qgpmz"} == {
        "q": set("wa"),
        "g": set("fhtyvb"),
        "p": set("ol"),
        "m": set("njk"),
        "z": set("xas"),
    }
    assert all(a in perturbations.NEIGHBOURS[b] for a, keys in perturbations.NEIGHBOURS.items() for b in keys)
    assert sorted(perturbations.NEIGHBOURS) == list("abcdefghijklmnopqrstuvwxyz")


def slips(before, after):
    """The ways in which one typo makes ``after`` of ``before``."""
    found = set()
    for i in range(len(before)):
        if before[:i] + before[i + 1 :] == after:
            found.add("drop")
        if before[:i] + before[i + 1 : i + 2] + before[i] + before[i + 2 :] == after:
            found.add("swap")
        for key in perturbations.NEIGHBOURS.get(before[i].lower(), ""):
            if before[:i] + (key.upper() if before[i].isupper() else key) + before[i + 1 :] == after:
                found.add("key")
    return found


def test_one_typo_of_each_kind():
    made = [of("typos", "Keyboards", seed) for seed in range(200)]
    found = [slips("Keyboards", text) for text in made]
    assert all(found)
    assert {"drop", "swap", "key"} == set().union(*found)
    assert len(set(made)) > 30


def test_no_word_is_lost_to_a_typo():
    assert all(len((of("typos", "I a 7 o", seed) or "- - - -").split()) == 4 for seed in range(50))
    assert all(of("typos", t, seed) is None for t in ("я я", "漢", "é") for seed in range(20))  # no key is beside these


@pytest.mark.parametrize("name", ["typos", "homoglyphs", "invisible"])
def test_one_change_in_ten_places(name):
    places = {
        "typos": 70,
        "homoglyphs": sum(c in perturbations._ALIKE for c in LONG),
        "invisible": len(re.findall(r"(?=[A-Za-z][A-Za-z])", LONG)),
    }
    assert sum(c.isalpha() for c in LONG) == places["typos"]
    for seed in range(50):
        changes = edits(LONG, of(name, LONG, seed))
        if name == "typos":  # a swap is one edit or two to difflib
            assert 6 <= len(changes) <= 14
        else:
            assert len(changes) == places[name] // 10


def test_case():
    assert of("case", "Straße, ok?") == "STRASSE, OK?"
    assert [of("case", t) for t in ("SHOUTED 7!", "שלום", "漢字", "🎬", "123", "")] == [None] * 6


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Well, it's fine - really!", "Well its fine really"),
        ("¿Qué? «no»", "Qué no"),
        ("- first\nsecond", "first\nsecond"),
        ("a  b , c", "a  b c"),
        ("no marks", "no marks."),
        ("no marks \n", "no marks. \n"),
        ("שלום עולם", "שלום עולם."),
        ("שלום, עולם؟", "שלום עולם"),
        ("🎬", "🎬."),
        ("$5 + 5", "$5 + 5."),  # symbols are no punctuation
        ("...", None),  # nothing would be left
        ("", None),
        ("  ", None),
        (("a.", ""), ("a", "")),
        (("a.", "!"), None),
    ],
)
def test_punctuation(text, made):
    assert of("punctuation", text) == made


def test_homoglyphs_look_alike_and_are_others():
    for latin, other in perturbations._ALIKE.items():
        name, script, of_what = unicodedata.name(latin), unicodedata.name(other).split()[0], unicodedata.name(other)
        assert name.split()[1] in of_what  # capital or small
        assert script in ("CYRILLIC", "GREEK")
        assert unicodedata.normalize("NFKC", other) == other  # no normalizer of a tokenizer undoes it
    back = {v: k for k, v in perturbations._ALIKE.items()}
    assert len(back) == len(perturbations._ALIKE)
    made = of("homoglyphs", LONG)
    assert made != LONG
    assert "".join(back.get(c, c) for c in made) == LONG
    assert [of("homoglyphs", t) for t in ("уже кириллица", "123 !", "🎬", "")] == [None] * 4


def test_invisible_characters_inside_words():
    made = of("invisible", LONG)
    assert made.replace("\u200b", "") == LONG
    assert all(a.isalpha() and b.isalpha() for a, b in re.findall("(.)\u200b(.)", made))
    assert len(re.findall("(.)\u200b(.)", made)) == made.count("\u200b")
    assert [of("invisible", t) for t in ("a b c", "!!", "🎬🎬", "")] == [None] * 4


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a b c", "a b"),
        (" a  b\tc d e f g", " a  b\tc d e"),
        ("a b", None),
        ("", None),
        (("a b c", "d"), ("a b", "d")),
        (("a b c", "d e f g h i"), ("a b", "d e f g")),
    ],
)
def test_truncation(text, made):
    assert of("truncation", text) == made


def test_texts_of_no_words_are_not_emptied():
    for text in ("", " ", "a", "I", "я", "漢", "!", "🎬", "\u200b", ".", "a.", "?a"):
        for name in KINDS:
            for seed in range(20):
                made = of(name, text, seed)
                assert made is None or (made != text and made.strip())


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.tuples(st.text(max_size=40), st.text(max_size=40))),
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
)
def test_any_text(text, seed, name):
    made = of(name, text, seed, 5)
    assert made == of(name, text, seed, 5)
    if made is not None:
        assert made != text
        assert type(made) is type(text)
        parts, now = ((text,), (made,)) if isinstance(text, str) else (text, made)
        assert len(parts) == len(now)
        assert all(isinstance(p, str) and bool(p.strip()) == bool(n.strip()) for p, n in zip(parts, now, strict=True))
        assert [n.encode().decode() for n in now] == list(now)  # no half of a character


def test_a_very_long_text_takes_no_time():
    text = "word " * 50_000
    for name in KINDS:
        assert of(name, text) != text


def test_another_process_disturbs_alike():
    draw = "random.Random(f'7/{k}/3')"
    code = f"import random; from edgekit.modalities.text import UNBOUND; print(ascii([f({LONG!r}, {draw}) for k, f in UNBOUND.perturbations.items()]))"
    expected = ascii([of(k, LONG, 7, 3) for k in KINDS])
    for hashes in "12":  # Python's own hash of a string differs between processes
        done = small.python(code, PYTHONHASHSEED=hashes)
        assert (done.returncode, done.stdout.decode().strip()) == (0, expected)
