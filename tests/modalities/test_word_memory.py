"""Words that are remembered: for every text the ids are those of the tokenizers library, or the library is asked."""

from __future__ import annotations

import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from edgekit.modalities import _word_memory, _word_rules
from edgekit.modalities._text_generated import fuzz_texts
from edgekit.modalities._word_memory import WordMemory
from edgekit.modalities._word_rules import BLANKS, SPACES, find_rule
from edgekit.modalities.text import TextEncoder

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
REAL = small.ROOT.parent / "shared" / "models" / "minilm-sst2" / "tokenizer.json"
FIELDS = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 24
ODD = [
    *("", " ", "  ", "a", " a", "a ", "a  b", "the film", "the\tfilm\nis\rfine", "the\x0bfilm", "the \x0b film", "a\x1cb"),
    *("a\x85b", "a \x85 b", "a\u200bb c", "a \u200b b", "a\xa0b", "a\u3000b", "a\ufeffb", "a \u0301b", "e\u0301 \u0301", "\u0301"),
    *("中文 mixed 文字", "İstanbul ﬁne Σίσυφος ΟΔΟΣ", "각 힣", "naïve café — déjà", "\U0001f469\u200d\U0001f467 x", "\ue000 a", "\u0378 a"),
    *("[MASK]", "[MASK]x [SEP]y", "a [MASK] b", "x[MASK] y", "x [MASK]y", "<mask>", "a <mask> b", "a<mask> b", "a <mask>b", "<s>a </s>"),
    *("don't 're it's", "a--b ...", "_a b_", "x" * 200, "a" * 31 + " " + "b" * 33, "the " * 22, "the " * 23, "▁a b", "a ▁ b"),
]  # fmt: skip
PIECES = [
    "the",
    "film",
    "a",
    "don't",
    "[MASK]",
    "[SEP]",
    "<mask>",
    "<s>",
    "token",
    "_",
    ".",
    "é",
    "e\u0301",
    "\u0301",
    "ß",
    "文",
    "각",
]
PIECES += [
    "\u200b",
    "\x0b",
    "\x1c",
    "\x85",
    "\u2028",
    "\xa0",
    "\u3000",
    "\t",
    "\n",
    "\r",
    "\x00",
    "\ufffd",
    "\U0001f600",
    "İ",
    "▁",
    "``",
]
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec="ascii"), max_size=40),
    st.lists(st.sampled_from([*PIECES, " ", " ", " ", "  "]), max_size=14).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
)


def around(tokenizer, before, behind):
    """A template as BERT and RoBERTa have it."""
    tokens = [(name, tokenizer.token_to_id(name)) for name in (before, behind)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}:0 $A:0 {behind}:0", pair=f"{before}:0 $A:0 {behind}:0 $B:1 {behind}:1", special_tokens=tokens
    )
    return tokenizer


def add(tokenizer, content="[MASK]", **how):
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.add_tokens([AddedToken(content, **{"normalized": False, **how})])
    return around(tokenizer, "[CLS]", "[SEP]")


def wordpiece(normalizer=None, **token):
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(small.vocabulary())}, unk_token="[UNK]"))
    made.normalizer = normalizer or normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return add(made, **token)


def bytewise(prefix=False, merges=(("t", "h"), ("Ġ", "th"), ("e", "r")), **token):
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    made = Tokenizer(models.BPE(vocabulary, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return add(made, **token)


def unigram(scheme="always", *, split_first=False, normalizer=None, **token):
    characters = [chr(c) for c in range(33, 127)]
    pieces = [
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -4.0) for c in characters),
        ("▁the", -3.0),
        ("▁f", -3.5),
        ("lm", -3.5),
        ("'t", -3.0),
    ]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.normalizer = normalizer
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]) if split_first else metaspace
    )
    return add(made, **token)


def words(pre_tokenizer, normalizer=None, model=None):
    made = Tokenizer(model or models.WordPiece({w: i for i, w in enumerate(small.vocabulary())}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizer
    made.normalizer = normalizer
    return add(made)


def sequence(*parts):
    return normalizers.Sequence(list(parts))


MADE = {
    "wordpiece": (BLANKS, wordpiece()),
    "cased": (BLANKS, wordpiece(normalizers.BertNormalizer(clean_text=False, lowercase=False, strip_accents=True))),
    "lstrip": (BLANKS, wordpiece(lstrip=True, rstrip=True)),
    "single word": (BLANKS, wordpiece(content="token", single_word=True)),
    "normalized": (BLANKS, wordpiece(content="The", normalized=True)),
    "bytes": (SPACES, bytewise()),
    "bytes, prefix": (SPACES, bytewise(True)),
    "bytes, lstrip": (SPACES, bytewise(content="<mask>", lstrip=True)),
    "bytes, rstrip": (SPACES, bytewise(content="<mask>", rstrip=True)),
    "bytes, normalized": (SPACES, bytewise(content="the", normalized=True)),
    "metaspace, always": (SPACES, unigram("always")),
    "metaspace, first": (SPACES, unigram("first", rstrip=True)),
    "metaspace, never": (SPACES, unigram("never", lstrip=True)),
    "metaspace of words": (SPACES, unigram("first", split_first=True)),
    "albert": (
        SPACES,
        unigram(
            split_first=True,
            normalizer=sequence(
                normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()
            ),
        ),
    ),
    "deberta": (
        SPACES,
        unigram(normalizer=sequence(normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False))),
    ),
    "two spaces are one": (SPACES, unigram(normalizer=normalizers.Replace(Regex(" {2,}"), " "))),
    "whitespace": (SPACES, words(pre_tokenizers.Whitespace(), normalizers.NFKC())),
    "digits": (
        SPACES,
        words(
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)])
        ),
    ),
}
"""Rule and tokenizer by name."""


def load(file):
    loaded = Tokenizer.from_file(str(file))
    loaded.no_padding()
    return loaded


STORED = {file.parents[1].name: load(file) for file in sorted(EXPORTS.glob("*/assets/tokenizer.json"))}
STORED |= {"minilm": load(REAL)} if REAL.exists() else {}
ALL = {**{name: made for name, (_, made) in MADE.items()}, **STORED}
for one in ALL.values():
    one.enable_truncation(LONGEST)
NAMES = [*ALL] if REAL.exists() else [*ALL, pytest.param("minilm", marks=pytest.mark.skip("needs ../shared"))]


def differs(memory, tokenizer, text):
    """What is wrong with the answer of the memory; empty if it has none."""
    ids = memory.ids(text, LONGEST)
    if ids is None:
        return ""
    encoding = tokenizer.encode(text)
    found = ids.tolist(), memory.types(len(ids)).tolist()
    return "" if found == (encoding.ids, encoding.type_ids) else f"{text!r}: {found}, not {encoding.ids}"


# ---- equal for every text


@pytest.mark.parametrize("name", NAMES)
def test_odd_and_generated_texts(name):
    tokenizer = ALL[name]
    memory = WordMemory.of(tokenizer, {})
    assert memory is not None
    generated = [text for text in fuzz_texts(64, 300, seed=3) if isinstance(text, str)]
    tried = [*ODD, *small.texts(60, seed=9), *generated]
    for _ in ("unseen", "seen"):
        assert [problem for text in tried if (problem := differs(memory, tokenizer, text))] == []
    remembered = sum(memory.ids(text, LONGEST) is not None for text in small.texts(60, seed=9))
    assert remembered or name in ("albert", "deberta-v2"), "these two have no token for most letters"


@pytest.mark.parametrize("name", NAMES)
def test_every_text(name):
    memory = WordMemory.of(ALL[name], {})

    @settings(max_examples=120, deadline=None)
    @given(texts)
    def check(text):
        assert differs(memory, ALL[name], text) == ""

    check()


def test_a_text_of_the_longest_row_is_remembered_and_a_longer_one_is_truncated_by_the_tokenizer():
    tokenizer = ALL["wordpiece"]
    memory = WordMemory.of(tokenizer, {})
    for words_ in range(LONGEST - 4, LONGEST + 3):
        text = " ".join(["the"] * words_)
        ids = memory.ids(text, LONGEST)
        assert (ids is None) == (words_ + 2 > LONGEST) == bool(tokenizer.encode(text).overflowing)


def test_a_word_that_is_truncated_by_itself_is_left_to_the_tokenizer():
    made = wordpiece()
    made.post_processor = processors.TemplateProcessing(single="$A", pair=None, special_tokens=[])
    made.enable_truncation(LONGEST)
    memory = WordMemory.of(made, {})
    assert len(memory.ids("x" * LONGEST, LONGEST)) == LONGEST
    assert memory.ids("x" * (LONGEST + 1), LONGEST) is None


# ---- rules


@pytest.mark.parametrize("name", MADE)
def test_rule(name):
    rule, tokenizer = MADE[name]
    assert find_rule(tokenizer) == rule


OTHERS = {
    "no pre-tokenizer": lambda: words(None),
    "a replacement across spaces": lambda: words(pre_tokenizers.Whitespace(), normalizers.Replace("a b", "c")),
    "a replacement that makes a space": lambda: words(pre_tokenizers.Whitespace(), normalizers.Replace("_", " ")),
    "a regular expression": lambda: words(pre_tokenizers.Whitespace(), normalizers.Replace(Regex("t.e"), "x")),
    "white space is cut off at the left": lambda: unigram(normalizer=normalizers.Strip()),
    "a prefix": lambda: unigram(normalizer=normalizers.Prepend("▁")),
    "one pre-token for all": lambda: words(pre_tokenizers.Metaspace(split=False)),
    "a split of its own": lambda: words(pre_tokenizers.Split("e", "isolated")),
    "Metaspace, then something else": lambda: words(
        pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    ),
    "bytes without words": lambda: words(pre_tokenizers.ByteLevel(use_regex=False)),
    "an added token with a space": lambda: wordpiece(content="the film"),
    "an added token with a space when normalized": lambda: wordpiece(content="文字", normalized=True),
    "dropout": lambda: words(pre_tokenizers.Whitespace(), None, models.BPE({"a": 0}, [], dropout=0.5, unk_token="a")),
    "a pre-tokenizer in Python": lambda: words(pre_tokenizers.PreTokenizer.custom(object())),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_rule(name):
    assert find_rule(OTHERS[name]()) == ""
    assert WordMemory.of(OTHERS[name](), {}) is None if "Python" not in name else True


def test_a_template_that_repeats_the_text_is_no_frame():
    made = wordpiece()
    ids = [("[CLS]", made.token_to_id("[CLS]"))]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A:0 [CLS] $A:0", pair=None, special_tokens=ids)
    assert find_rule(made) == BLANKS
    assert WordMemory.of(made, {}) is None


def test_token_types_of_a_template():
    made = wordpiece()
    ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="$A:1 [SEP]:0 [CLS]:2", pair=None, special_tokens=ids)
    made.enable_truncation(LONGEST)
    memory = WordMemory.of(made, {})
    assert [differs(memory, made, text) for text in ("", "the film", "film")] == ["", "", ""]
    assert WordMemory.of(made, {"token_type_ids": 2}) is None
    assert WordMemory.of(made, {"token_type_ids": 3}) is not None


@pytest.mark.parametrize("on", [False, True])
def test_token_types_of_a_single_text_that_are_not_zero(tmp_path, on):
    made = wordpiece()
    ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="$A:1 [SEP]:0 [CLS]:2", pair="$A:1 [SEP]:0 $B:0 [SEP]:3 [CLS]:2", special_tokens=ids
    )
    made.save(str(tmp_path / "t.json"))
    encode = TextEncoder(tmp_path / "t.json", FIELDS, LONGEST, remembers_words=on)
    assert encode.remembers_words == on
    assert encode(["the film"])[0].arrays["token_type_ids"].tolist() == [1, 1, 0, 2]
    assert encode([("the", "film"), "the"])[0].arrays["token_type_ids"].tolist() == [1, 0, 0, 3, 2]
    narrow = TextEncoder(tmp_path / "t.json", FIELDS, LONGEST, tables={"token_type_ids": 2}, remembers_words=on)
    with refused("text-id-outside", "id 2"):
        narrow(["the film"])


def precompiled(char, replacement):
    """A Precompiled normalizer whose table has one character: a double array with two steps, and the replacement."""
    units = [0] * 512
    units[0] = 0x100 << 10  # to the node 0x100
    units[0x100 ^ ord(char)] = 1 << 10 | 1 << 8 | ord(char)  # a leaf, one step on
    units[0x100 ^ ord(char) ^ 1] = 0  # the position of the replacement
    return normalizers.Precompiled(struct.pack("<I512I", 4 * len(units), *units) + replacement.encode() + b"\0")


@pytest.mark.parametrize(("char", "replacement", "rule"), [("_", " ", ""), (" ", "_", ""), ("_", "x", SPACES)])
def test_the_table_of_a_precompiled_normalizer(char, replacement, rule):
    made = unigram(normalizer=precompiled(char, replacement))
    assert made.normalizer.normalize_str(f"a{char}b") == f"a{replacement}b"
    assert find_rule(made) == rule


def test_a_normalizer_that_makes_or_changes_spaces_has_no_rule():
    for normalizer, keeps in (
        (normalizers.Replace("_", " "), False),
        (normalizers.Replace("_", "\u3000"), False),
        (normalizers.Replace(" ", "_"), False),
        (normalizers.Replace(" ", ""), False),
        (normalizers.NFKC(), True),
        (None, True),
    ):
        assert _word_rules._keeps_spaces(words(pre_tokenizers.Whitespace(), normalizer)) is keeps


# ---- the encoder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    small.tokenizer().backend_tokenizer.save(str(path))
    return path


def same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert list(row.arrays) == list(other.arrays)
        assert row.truncated == other.truncated
        for name, array in row.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name])
            assert array.dtype == np.int64
            assert array.flags.writeable


def test_rows_are_those_of_the_tokenizer_alone_and_in_lists_with_pairs(file):
    plain = TextEncoder(file, FIELDS, small.MAX_LENGTH)
    encode = TextEncoder(file, FIELDS, small.MAX_LENGTH, remembers_words=True)
    assert (plain.remembers_words, encode.remembers_words) == (False, True)
    tried = [*ODD, ("the film", "is fine"), ("", ""), *small.texts(20, 1), "film " * 200]
    for _ in ("unseen", "seen"):
        same(encode(tried), plain(tried))
        for text in tried:
            same(encode([text]), plain([text]))
    for options in ({"truncate": True}, {"characters": 12, "truncate": True}):
        encode.set_limit(**options)
        plain.set_limit(**options)
        same(encode(tried), plain(tried))
    with refused("text-surrogate"):
        encode(["the \ud800 film"])


def test_rows_do_not_share_memory(file):
    encode = TextEncoder(file, FIELDS, small.MAX_LENGTH, remembers_words=True)
    first, second = encode(["the film", "the film"])
    for name in FIELDS:
        first.arrays[name][:] = 7
        assert 7 not in second.arrays[name]
        assert 7 not in encode(["the film"])[0].arrays[name]


def test_an_id_outside_the_table_is_refused_each_time(file):
    outside = small.vocabulary().index("film")
    encode = TextEncoder(file, FIELDS, small.MAX_LENGTH, tables={"input_ids": outside}, remembers_words=True)
    for _ in range(2):
        encode(["the end"]) if small.vocabulary().index("the") < outside else None
        with refused("text-id-outside", f"id {outside}"):
            encode(["film"])
        with refused("text-id-outside", "position 1"):
            encode(["bad", "film"])
    special = TextEncoder(file, FIELDS, small.MAX_LENGTH, tables={"input_ids": 2}, remembers_words=True)
    assert not special.remembers_words, "[SEP] itself is outside"


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(_word_memory, "_MOST_WORDS", 50)
    for name in ("wordpiece", "bytes"):
        memory = WordMemory.of(ALL[name], {})
        for number in range(400):
            text = f"the film {number} {'y' * number} b{number}"
            assert differs(memory, ALL[name], text) == ""
            assert len(memory) <= 50
        for word in ("z" * 33, "z" * 500):
            before = len(memory)
            memory.ids(f"the {word}", 10**6)
            assert len(memory) <= before + 1, "a long word is not remembered"


@pytest.mark.parametrize("name", ["wordpiece", "bytes"])
def test_a_text_of_many_new_words_is_left_to_the_tokenizer_until_they_are_known(name, monkeypatch):
    new = [f"w{number}" for number in range(20)]
    encoded = []
    plain = WordMemory._encode
    monkeypatch.setattr(WordMemory, "_encode", lambda self, word: encoded.append(word) or plain(self, word))
    memory = WordMemory.of(ALL[name], {})
    for turn in range(4):
        text = " ".join(new)
        assert (memory.ids(text, 200) is None) == (turn < 2)
        assert len(encoded) == min(8 * (turn + 1), len(new))
    assert memory.ids(text, 200).tolist() == load_like(ALL[name]).encode(text).ids


def load_like(tokenizer):
    """The tokenizer without truncation."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    return copy


def test_its_size_is_at_most_what_the_documentation_says():
    memory = WordMemory.of(wordpiece(), {})
    share = 16
    for number in range(_word_memory._MOST_WORDS // share):
        assert len(memory.ids(f"{number:032d}", 100)) == 34
    # The same words of characters beyond the basic plane: four bytes each.
    wide = sys.getsizeof("\U0001f600" * 32) - sys.getsizeof("0" * 32)
    size = sys.getsizeof(memory._first) + sum(
        sys.getsizeof(word) + sys.getsizeof(ids) + wide for word, ids in memory._first.items()
    )
    assert 5 * 2**20 < share * size < 10 * 2**20


def test_threads_share_it(file, monkeypatch):
    monkeypatch.setattr(_word_memory, "_MOST_WORDS", 30)
    plain = TextEncoder(file, FIELDS, small.MAX_LENGTH)
    encode = TextEncoder(file, FIELDS, small.MAX_LENGTH, remembers_words=True)
    tried = small.texts(60, seed=4)
    expected = [row.arrays["input_ids"].tolist() for row in plain(tried)]
    wrong = []

    def work(start):
        for number in range(400):
            index = (start + 7 * number) % len(tried)
            if encode([tried[index]])[0].arrays["input_ids"].tolist() != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(11 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
