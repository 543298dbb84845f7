"""Texts as a modality: read from cells, identified, generated to a length, taken apart into words."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import small
from refusals import refused
from tokenizers import Tokenizer

from edgekit import modalities
from edgekit.modalities._text_units import mask_token
from edgekit.modalities.text import UNBOUND, TextEncoder, TextModality
from edgekit.spec.protocols import HasLimit

FIELDS = ("input_ids", "attention_mask", "token_type_ids")
MINILM = small.ROOT.parent / "shared" / "models" / "minilm-sst2" / "tokenizer.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    small.tokenizer().backend_tokenizer.save(str(path))
    return path


@pytest.fixture
def text(file):
    return TextModality(TextEncoder(file, FIELDS, small.MAX_LENGTH), small.MAX_LENGTH)


def test_the_modality_by_its_name():
    assert modalities.get("text").UNBOUND is UNBOUND
    assert isinstance(UNBOUND, HasLimit)


# ---- cells and content


def test_cells_become_a_text_or_a_pair():
    assert UNBOUND.read({"text": "a "}, Path()) == "a "
    assert UNBOUND.read({"text": "a", "text_pair": ""}, Path()) == ("a", "")


@pytest.mark.parametrize(
    ("cells", "code", "kind"),
    [
        ({"text": None}, "samples-text-type", "no value for text"),
        ({"text": "a", "text_pair": 3}, "samples-text-type", "a int for text_pair"),
        ({"text": ["secret"]}, "samples-text-type", "a list for text"),
        ({"text": "secret \ud83d"}, "samples-text-surrogate", "surrogate in text"),
    ],
)
def test_cells_that_hold_no_text(cells, code, kind):
    with refused(code, kind) as caught:
        UNBOUND.read(cells, Path())
    assert str(caught.value)[0].islower(), "the place of the row comes before it"
    assert "secret" not in str(caught.value)


def test_content_is_what_row_ids_have_been_made_of():
    assert UNBOUND.content("Grüße") == "Grüße".encode()
    assert UNBOUND.content(("é", "b")) == b"\xff" + b"\0" * 7 + b"\x02" + "éb".encode()
    different = ["ab", ("ab", ""), ("a", "b"), ("", "ab"), "", ("", "")]
    assert len({UNBOUND.content(value) for value in different}) == len(different)


def test_quotes():
    assert [UNBOUND.quote(value) for value in ("a", ("a", "b"))] == ["a", "a | b"]


# ---- rows of a size


@pytest.mark.parametrize("longest", [8, 33, small.MAX_LENGTH])
@pytest.mark.parametrize("pairs", [True, False])
def test_generated_texts(file, longest, pairs):
    text = TextModality(TextEncoder(file, FIELDS, small.MAX_LENGTH), small.MAX_LENGTH, pairs=pairs)
    for count in (1, 3, 60):
        made = text.generate(count, longest)
        assert len(made) == count
        assert made == text.generate(count, longest)
        assert text.size(text.encoder([made[-1]])[0].arrays) >= longest
    assert made[:2] == ["", " "]
    assert (sum(isinstance(value, tuple) for value in made) > 5) is pairs
    assert text.generate(60, longest, seed=1)[8:] != made[8:]


@pytest.mark.parametrize("inputs", [["the film"], [("a", "film b")], ["\x07 \x00"], ["", " "], ["x" * 3000]], ids=str)
def test_joined_texts_have_the_length(text, inputs):
    one, pair = text.join(inputs, 40)
    words = {
        word for value in inputs for part in ([value] if isinstance(value, str) else value) for word in part.split()
    } or {"a"}
    assert set(one.split()) <= {word[:n] for word in words for n in range(len(word) + 1)}
    assert pair == (one, one)
    if inputs != ["\x07 \x00"]:  # control characters, which the tokenizer removes
        expected = 40 if inputs != ["x" * 3000] else 3  # a word that is too long is one unknown token
        assert text.size(text.encoder([one])[0].arrays) >= expected


def test_a_row_that_is_cut_keeps_its_last_token(text):
    row = text.encoder(["the film is fine and more"])[0].arrays
    cut = text.cut(row, 5)
    assert {name: array.tolist() for name, array in cut.items()} == {
        name: [*array[:4], array[-1]] for name, array in row.items()
    }
    assert text.cut(row, 50)["input_ids"].tolist() == row["input_ids"].tolist()
    assert text.size(row) == len(row["input_ids"])
    assert cut["input_ids"].dtype == np.int64


def test_rows_of_a_file_are_held_to_the_limit(text):
    text.check(["a" + " " * 10**5], "f")
    with refused("samples-text-too-long", "row 2"):
        text.check(["a", "ab" * 10**5], "f")


def test_a_limit_that_the_user_sets(text):
    assert (text.limit.characters, text.limit.truncate) == (64 * small.MAX_LENGTH, False)
    text.set_limit(5, truncate=True)
    assert (text.limit.characters, text.limit.truncate) == (5, True)
    assert text.encoder(["the film is fine"])[0].truncated
    with refused("limit-invalid"):
        text.set_limit(0)
    text.set_limit()
    assert not text.encoder(["the film is fine"])[0].truncated


def test_without_a_tokenizer_nothing_is_encoded():
    for encodes in (lambda: UNBOUND.encoder, UNBOUND.filler, UNBOUND.set_limit):
        with refused("task-without-bundle"):
            encodes()


# ---- words and masks


def occluded(value, filler):
    words, without = UNBOUND.occlude(value, filler)
    return words, list(without)


def test_a_text_of_many_words_is_not_copied_for_each_of_them():
    words, without = UNBOUND.occlude("word " * 200_000, "")
    assert len(words) == 200_000
    assert len(next(iter(without))) == 5 * 199_999


def test_words_left_out_leave_the_rest_to_the_letter():
    assert occluded(" a  b\n", "#") == (("a", "b"), [" #  b\n", " a  #\n"])
    assert occluded(" a  b\n", "") == (("a", "b"), [" b\n", " a\n"])
    assert occluded("a", "") == (("a",), [""])
    assert occluded(("a b", "c"), "#") == (("a", "b", "c"), [("# b", "c"), ("a #", "c"), ("a b", "#")])
    assert occluded("", "#") == occluded(("", " "), "#") == ((), [])


def test_a_disturbance_takes_its_draws_from_the_generator():
    disturb = UNBOUND.perturbations["typos"]
    assert (
        disturb("the film is fine", random.Random(1))
        == disturb("the film is fine", random.Random(1))
        != "the film is fine"
    )
    assert UNBOUND.perturbations["case"]("ABC", random.Random(1)) is None


def becomes_one_mask(tokenizer, mask, token):
    """Whether the text encodes to the one id of the token, between the same words."""
    encoded = tokenizer.encode(f"turn {mask} lights", add_special_tokens=False)
    return encoded.ids.count(tokenizer.token_to_id(token)) == 1 and tokenizer.decode(
        encoded.ids, skip_special_tokens=True
    ).split() == ["turn", "lights"]


@pytest.mark.parametrize(
    "name", ["albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"]
)
def test_the_mask_of_every_architecture(name, tmp_path):
    import tiny

    tokens, saved = tiny.tokenizer(name), tmp_path / "tokenizer.json"
    tokens.backend_tokenizer.save(str(saved))
    mask = TextModality(TextEncoder(saved, ("input_ids",), 64), 64).filler()
    assert mask == tokens.mask_token  # what Transformers has it for
    assert becomes_one_mask(Tokenizer.from_file(str(saved)), mask, tokens.mask_token)


@pytest.mark.skipif(not MINILM.exists(), reason="the real tokenizer of minilm-sst2 is not on this machine")
def test_the_mask_of_a_real_tokenizer():
    assert TextModality(TextEncoder(MINILM, ("input_ids",), 64), 64).filler() == "[MASK]"
    assert becomes_one_mask(Tokenizer.from_file(str(MINILM)), "[MASK]", "[MASK]")


@pytest.mark.parametrize(
    ("added", "model", "mask"),
    [
        ([(7, "<mask>", True), (0, "<unk>", True)], {"type": "BPE", "unk_token": "<unk>", "vocab": {}}, "<mask>"),
        ([(1, "<|MASK|>", True)], {"type": "BPE", "unk_token": None, "vocab": {}}, "<|MASK|>"),
        (
            [(1, "[mask]", False), (9, "[MASK]", True)],
            {"type": "BPE", "vocab": {}},
            "[MASK]",
        ),  # the special one, not what somebody added
        (
            [(0, "<unk>", True), (1, "mask", False), (2, "<masked>", True)],
            {"type": "BPE", "unk_token": "<unk>", "vocab": {}},
            "<unk>",
        ),
        ([(0, "<unk>", True)], {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}, "<unk>"),
        (
            [],
            {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}},
            "",
        ),  # would become "[", "UN", "##K", "]"
        ([], {"type": "BPE", "unk_token": None, "vocab": {}}, ""),
        (None, {"type": "Unigram", "unk_id": None, "vocab": []}, ""),
    ],
)
def test_the_next_best_where_there_is_no_mask(added, model, mask):
    tokens = added and [{"id": i, "content": c, "special": s} for i, c, s in added]
    assert mask_token(json.dumps({"added_tokens": tokens, "model": model})) == mask
