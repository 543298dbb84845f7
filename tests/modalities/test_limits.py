"""The limit of a text's length: what is within it is encoded as it was, what is beyond it is refused or cut, in bounded time and memory."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import small
from refusals import refused
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import edgekit
from edgekit.modalities import limits
from edgekit.modalities.limits import check_rows
from edgekit.modalities.text import TextEncoder

FIELDS = ("input_ids", "attention_mask", "token_type_ids")
LIMIT = 64 * small.MAX_LENGTH


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    small.tokenizer().backend_tokenizer.save(str(path))
    return path


@pytest.fixture
def encode(file):
    return TextEncoder(file, FIELDS, small.MAX_LENGTH)


def bare(file, text, length=small.MAX_LENGTH, side="right"):
    """Ids by the tokenizers library alone, from the whole text."""
    reference = Tokenizer.from_file(str(file))
    reference.enable_truncation(length, strategy="longest_first", direction=side)
    return reference.encode(*(text if isinstance(text, tuple) else (text,))).ids


def ids(tokens):
    return tokens.arrays["input_ids"].tolist()


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    """A byte-level tokenizer as RoBERTa has one: blanks are tokens."""
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(path))
    return path


# ---- within the limit


@pytest.mark.parametrize(
    "text",
    [
        "x" * LIMIT,
        "film " * (LIMIT // 5),
        " " * 20_000 + "the film",
        "the film" + "\n\t " * 20_000,
        ("the  \n " * 900 + "end", "film" + " " * 9000),
    ],
    ids=["one word", "words", "leading blanks", "trailing blanks", "a pair with runs of blanks"],
)
def test_within_the_limit_the_ids_are_those_of_the_whole_text(encode, file, text):
    assert ids(encode([text])[0]) == bare(file, text)
    assert ids(encode([text, "a"])[0]) == bare(file, text)


def test_blanks_count_once_also_where_they_are_tokens(bytewise):
    encode = TextEncoder(bytewise, ("input_ids",), 20)
    text = "ab" + " " * 2000 + "c"
    assert ids(encode([text])[0]) == bare(bytewise, text, 20), "not collapsed: this tokenizer sees each blank"
    with refused("text-too-long", "1280"):
        encode([" " * 6000 + "c"])


def test_ten_million_blanks_are_one(encode, file):
    assert ids(encode([" " * 10_000_000 + "the film"])[0]) == bare(file, "the film")
    assert encode([" " * 10_000_000 + "the film"])[0].truncated is False


# ---- beyond it


@pytest.mark.parametrize("text", ["x" * (LIMIT + 1), "film " * 2_000_000, "\U0001f600 a\n" * 1_000_000, "a  " * LIMIT])
def test_beyond_the_limit_is_refused_by_its_place_without_the_text(encode, text):
    for inputs, place in (
        ([text], "Input has"),
        (["a", text], "Input at position 1 has"),
        (["a", "b", ("c", text)], "position 2 (second of the pair) has"),
    ):
        with refused("text-too-long", f"{place}", f"{LIMIT}") as failed:
            encode(inputs)
        assert "film" not in str(failed.value)
        assert "truncate=True" in str(failed.value)
    with refused("text-too-long"):
        encode([(text, "b")])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("the film is strong. " * 5000, True),
        ("x" * 150 + " film" * 10_000, True),
        ("x" * 100_000, True),
        ("ab\x00" * 100_000, None),
    ],
    ids=["words", "a long word first", "one endless word", "what the normalizer removes"],
)
def test_a_cut_text_is_marked_and_its_ids_are_those_of_the_whole_where_what_is_left_fills_the_row(
    encode, file, text, same
):
    encode.set_limit(truncate=True)
    for found in (encode([text])[0], encode([text, "a"])[0], encode([(text, "the end")])[0]):
        assert found.truncated
    assert same is None or ids(encode([text])[0]) == bare(file, text)


def test_the_cut_is_at_the_border_of_a_word(encode, file):
    encode.set_limit(12, truncate=True)
    assert ids(encode(["the film stronger"])[0]) == bare(file, "the film"), "'str' is no word of the text"
    assert ids(encode(["the film, strong"])[0]) == bare(file, "the film,"), (
        "a comma is a word of its own to this tokenizer"
    )
    assert ids(encode(["the  \n  film stronger"])[0]) == bare(file, "the film"), "blanks count once"
    assert ids(encode([("the film stronger", "a")])[0]) == bare(file, ("the film", "a"))
    left = TextEncoder(file, FIELDS, small.MAX_LENGTH, "left")
    left.set_limit(12, truncate=True)
    assert ids(left(["stronger the film"])[0]) == bare(file, "the film", side="left")


def test_where_the_tokenizer_has_no_words_the_cut_is_at_a_blank(tmp_path):
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *((c, -1.0) for c in "abcdefgh "), ("abcd", -0.5)], unk_id=0))
    made.normalizer = normalizers.NFKC()
    made.save(str(tmp_path / "t.json"))
    encode = TextEncoder(tmp_path / "t.json", ("input_ids",), 50)
    encode.set_limit(7, truncate=True)
    assert ids(encode(["abc abcd"])[0]) == bare(tmp_path / "t.json", "abc", 50)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_where_a_look_at_all_of_it_cuts(file, bytewise, side, monkeypatch):
    generator = random.Random(5)
    pieces = ("film", "the", ", ", " ", "\n\t", "-", "x" * 30, "stronger", "\x00", "\x0b", " a")
    for path in (file, bytewise):
        encode = TextEncoder(path, FIELDS[:1], 2000, side)
        for _ in range(15):
            text = "".join(generator.choices(pieces, k=400))
            encode.set_limit(generator.randrange(50, 700), truncate=True)
            near = ids(encode([text])[0])
            monkeypatch.setattr(limits, "_NEAR", 10_000)
            assert near == ids(encode([text])[0])
            monkeypatch.setattr(limits, "_NEAR", 40)
            assert near == ids(encode([text])[0])
            monkeypatch.undo()


def test_a_lone_surrogate_is_told_in_a_text_that_is_cut(encode):
    encode.set_limit(12, truncate=True)
    with refused("text-surrogate"):
        encode(["the \ud800 film is strong"])
    assert encode(["the film is strong \ud800"])[0].truncated, "what is not read is not judged"


@pytest.mark.slow
def test_a_list_in_pieces_is_in_order(encode, file):
    texts = [f"{i} " + "film " * 800 for i in range(600)]
    assert [ids(t) for t in encode(texts)] == [bare(file, t) for t in texts]


_BOUNDED = """
import resource, sys, time
from pathlib import Path
from edgekit.spec.errors import InputError
from edgekit.modalities.text import TextEncoder
encode = TextEncoder(Path(sys.argv[1]), ("input_ids",), 64)
encode(["warm up"])
texts = ["word " * 2_000_000, "x" * 10_000_000, " " * 10_000_000, "\U0001f600\\n" * 5_000_000, "a  " * 3_300_000]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
slowest = 0
for truncate in (False, True):
    encode.set_limit(truncate=truncate)
    for text in texts:
        start = time.process_time()
        try:
            encode([text])
        except InputError:
            pass
        slowest = max(slowest, time.process_time() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, slowest)
"""


def test_ten_million_characters_take_little_time_and_memory(file):
    done = small.python(_BOUNDED, file)
    assert done.returncode == 0, done.stderr.decode()
    kib, seconds = map(float, done.stdout.split())
    assert kib < 100 * 1024
    assert seconds < 5, "22 s before there was a limit; a quarter of a second on a quiet machine"


# ---- at load, on the command line, in files


def test_a_session_is_loaded_with_a_limit(float32_ort):
    with edgekit.load(float32_ort) as session:
        assert (session.info.max_characters, session.info.truncate) == (LIMIT, False)
        with refused("text-too-long", "position 1"):
            session(["a", "film " * 5000])
    with edgekit.load(float32_ort, max_characters=9, truncate=True) as session:
        assert (session.info.max_characters, session.info.truncate) == (9, True)
        cut, whole = session(["the film stronger", "the film"])
        assert (cut.truncated, whole.truncated) == (True, False)
        assert cut.scores == whole.scores
    with edgekit.load(float32_ort, max_characters=100_000) as session:
        assert session("film " * 5000).truncated


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "9", True, float("nan")])
def test_limits_that_are_none(float32_ort, wrong):
    with refused("limit-invalid", "max_characters"):
        edgekit.load(float32_ort, max_characters=wrong)
    with refused("limit-invalid"):
        edgekit.load(float32_ort, truncate="yes")


@pytest.mark.slow
def test_the_command_line_takes_a_limit(float32_ort):
    done = small.edgekit("run", float32_ort, "--max-characters", "9", "the film stronger")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"more than 9 characters" in done.stderr
    assert b"stronger" not in done.stderr
    done = small.edgekit("run", float32_ort, "--max-characters", "9", "--truncate", "the film stronger")
    assert (done.returncode, json.loads(done.stdout)["truncated"]) == (0, True)


def test_a_row_of_a_file_beyond_the_limit_is_named(float32_ort, tiny_model, tiny_samples, tmp_path):
    rows = [*tiny_samples.rows[:5], {"text": "film " * 2000, "label": "negative"}]
    long = small.write_jsonl(tmp_path / "long.jsonl", rows)
    done = small.edgekit("eval", float32_ort, "--samples", long)
    assert done.returncode == 2
    assert f"row 6 has more than {LIMIT} characters".encode() in done.stderr
    target = small.target(tmp_path / "exact.toml")
    for files in ({"samples": long, "eval": tiny_samples.dev}, {"samples": tiny_samples.train, "eval": long}):
        with refused("samples-text-too-long", "row 6"):
            small.build(tiny_model, **files, out=tmp_path / "out", target=target)
    check_rows(["x" * LIMIT, ("a" + " " * 10**6, "b")], small.MAX_LENGTH, "f")


# ---- tokenizers that fail


def altered(file, tmp_path, **changes):
    data = json.loads(file.read_text("utf-8"))
    for key, value in changes.items():
        data[key] = {**(data[key] or {}), **value} if isinstance(value, dict) else value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_a_panic_of_the_library_is_typed(file, tmp_path, encode):
    """pyo3's PanicException is no ``Exception``: whoever catches those alone does not catch it."""

    class PanicException(BaseException):
        __module__ = "pyo3_runtime"

    class Panicking:
        def encode(self, *texts, **options):
            raise PanicException("byte index 1 is inside 'the user's text'")

        encode_batch = encode

    encode._tokenizer = Panicking()
    for texts in (["a"], ["a", "b"]):
        with refused("bundle-assets") as failed:
            encode(texts)
        assert "the user" not in str(failed.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"vocab": {"a": 0}}},
        {"post_processor": {"single": [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}]}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        {"model": None},
        {"added_tokens": [{"id": -1}]},
    ],
    ids=repr,
)
def test_a_tokenizer_that_cannot_be_used_is_an_integrity_error_at_load(file, tmp_path, changes):
    with refused("bundle-assets", "tokenizer.json"):
        TextEncoder(altered(file, tmp_path, **changes), FIELDS, small.MAX_LENGTH)


def test_a_tokenizer_that_fails_at_a_text_is_an_integrity_error_at_the_call(file, tmp_path):
    encode = TextEncoder(altered(file, tmp_path, model={"unk_token": "[NONE]"}), FIELDS, small.MAX_LENGTH)
    for texts in (["\u0ad0"], ["a", "\u0ad0"]):
        with refused("bundle-assets", "tokenizer.json"):
            encode(texts)


@pytest.mark.parametrize("length", [-1, 0, 1, 2, 2**31, 2**70])
def test_rows_without_room_for_a_token(file, length):
    with refused("bundle-assets"):
        TextEncoder(file, FIELDS, length)


def test_settings_that_no_tokenizer_has(file):
    with refused("bundle-assets", "pixels"):
        TextEncoder(file, ("input_ids", "pixels"), small.MAX_LENGTH)
    with refused("bundle-assets", "truncation_side", "middle"):
        TextEncoder(file, FIELDS, small.MAX_LENGTH, "middle")


def test_texts_of_other_types(encode):
    assert ids(encode([np.str_("the film")])[0]) == ids(encode(["the film"])[0])
    for wrong in (
        None,
        1,
        b"film",
        ["film"],
        ("a",),
        ("a", None),
        ("a", "b", "c"),
        {"text": "a"},
        np.array(["a"]),
        iter(["a"]),
    ):
        with refused("input-type"):
            encode([wrong])


# ---- ten million characters


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 4096])
def test_the_part_that_is_read_does_not_depend_on_chunks(monkeypatch, file, left, chunk):
    """Against one regular expression for the whole text."""
    monkeypatch.setattr(limits, "_CHUNK", chunk)
    pieces = ["a", "bc", " ", "  ", "\n", " " * 9, "\x0b", "\x85", "\x1c ", "\u3000", ",", "\U0001f600"]
    rng = random.Random(chunk)
    for _ in range(400):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 30)))
        most = rng.randint(1, 40)
        whole = re.sub(r"([^\S\x0b\x0c\x1c-\x1f\x85])[^\S\x0b\x0c\x1c-\x1f\x85]+", r"\1", text)
        part = limits._take_collapsed(text, most, left)
        if len(whole) > most:
            assert len(part) > most
            part, whole = (part[-most - 1 :], whole[-most - 1 :]) if left else (part[: most + 1], whole[: most + 1])
        blank = re.compile(r"\s")
        assert blank.sub("_", part) == blank.sub("_", whole)
        assert left or part == whole, "of a run of blanks the first one stays"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("chars", ["x", " ", " \n\t ", "film ", "\U0001f600", "\u3000"])
def test_no_more_of_a_text_is_looked_at_than_the_limit_needs(file, side, chars):
    """The work is counted, not timed: characters that regular expressions and copies see."""
    text = Counting(chars * (10_000_000 // len(chars)))
    encode = TextEncoder(file, FIELDS, small.MAX_LENGTH, side)
    if chars.isspace():
        assert len(encode([text])[0].arrays["input_ids"]) == 2
        assert text.seen <= len(text) + 2 * 4096
    else:
        with refused("text-too-long"):
            encode([text])
        assert text.seen <= LIMIT + 2 * 4096


class Counting(str):
    """A text that counts the characters that are taken from it."""

    seen = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        self.seen += len(part)
        return part

    def encode(self, *arguments):
        raise AssertionError("the whole text is encoded")
