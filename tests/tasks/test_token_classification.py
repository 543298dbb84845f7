"""Token classification against Transformers' pipeline and tokenizer, and against hand-made tables of spans."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_words
import torch
from refusals import refused
from transformers import TokenClassificationPipeline

from edgekit.runtime.loops import windows
from edgekit.spec.errors import InputError, IntegrityError, SamplesError
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.tasks import _spans
from edgekit.tasks.token_classification import (
    SPAN_F1,
    STRATEGIES,
    TOKEN_ACCURACY,
    Settings,
    TokenClassification,
    load,
    save,
)

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TAGS = ("NOUN", "VERB", "X-Y")
KINDS = ("bert", "roberta", "deberta-v2", "albert", "modernbert")
STRIDE = 9

TEXTS = [
    *tiny.SENTENCES[:6],
    "",
    "a",
    "Unaffable GREAT-grandmother's don't, do it -- e.g. 3.14%",
    "café naïve  two   blanks\tand\na line",
    "日本語 text mixed с кириллицей",
    "😀 smile 👍🏽",
    "[MASK] and [SEP] in a text",
]
LONG = " ".join(tiny.SENTENCES) + " end"


@dataclass(frozen=True)
class Row:
    input: object
    label: object = None
    empty: bool = False
    others: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A tiny random model, its tokenizer, and the task that the same settings make."""

    module: object
    tokens: object
    task: TokenClassification
    labels: tuple

    def outputs(self, encoded):
        """What a loop of windows gives, with torch as its engine."""
        names = self.task.settings.inputs
        specs = tuple(TensorSpec(name, "int64", ("batch", "sequence"), self.task.settings.pads[name]) for name in names)
        signature = Signature(
            "forward", specs, (TensorSpec("logits", "float32", ("batch", "sequence", len(self.labels))),)
        )

        def run(feeds, keep=()):
            with torch.inference_mode():
                return {"logits": self.module(**{n: torch.from_numpy(a) for n, a in feeds.items()}).logits.numpy()}

        return windows.run(
            {"forward": SimpleNamespace(run=run)}, {"forward": signature}, [row.arrays for row in encoded]
        )

    def pipeline(self, strategy, stride=None):
        made = (
            {"aggregation_strategy": strategy}
            if stride is None
            else {"aggregation_strategy": strategy, "stride": stride}
        )
        return TokenClassificationPipeline(model=self.module, tokenizer=self.tokens, **made)


def model(name, labels, folder):
    module, tokens = tiny_words.made(name, labels)
    inputs = tuple(n for n in tokens.model_input_names if n in ("input_ids", "attention_mask", "token_type_ids"))
    pads = {"input_ids": tokens.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    settings = Settings(
        labels, tiny.MAX_LENGTH, STRIDE, inputs, {n: pads[n] for n in inputs}, unknown=tokens.unk_token_id
    )
    save(settings, tokens.backend_tokenizer.to_str(), folder)
    return Model(module, tokens, load(folder), labels)


@pytest.fixture(scope="module")
def make_once(tmp_path_factory):
    """Make each model once, whatever the order of the tests."""
    return functools.cache(lambda name, labels: model(name, labels, tmp_path_factory.mktemp("assets")))


@pytest.fixture(params=[(name, BIO) for name in KINDS] + [("bert", TAGS)], ids=lambda p: f"{p[0]}-{len(p[1])}")
def tagger(request, make_once):
    return make_once(*request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return model("bert", BIO, tmp_path_factory.mktemp("assets"))


def theirs(entities):
    return [(e.get("entity_group", e.get("entity")), e["start"], e["end"]) for e in entities], [
        float(e["score"]) for e in entities
    ]


def ours(entities):
    return [(e.label, e.start, e.end) for e in entities], [e.score for e in entities]


# ---- the pipeline


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_the_pipeline(tagger, strategy):
    pipeline, encoded = tagger.pipeline(strategy), tagger.task.preprocess(TEXTS)
    found = tagger.task.aggregate(tagger.outputs(encoded), encoded, strategy)
    some = 0
    for text, mine in zip(TEXTS, found, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts, scores = theirs(pipeline(text) if text else [])
        assert ours(mine)[0] == parts
        np.testing.assert_allclose(ours(mine)[1], scores, atol=1e-4)
        assert [e.text for e in mine] == [text[start:end] for _, start, end in parts]
        some += len(parts)
    assert some > 20


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_long_texts_are_read_in_windows_as_in_the_pipeline(tagger, strategy):
    (encoded,) = tagger.task.preprocess([LONG])
    assert len(encoded.context.windows) > 2
    assert not encoded.truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts, scores = theirs(tagger.pipeline(strategy, STRIDE)(LONG))
    (mine,) = tagger.task.aggregate(tagger.outputs([encoded]), [encoded], strategy)
    assert ours(mine)[0] == parts
    np.testing.assert_allclose(ours(mine)[1], scores, atol=1e-4)
    assert mine[-1].end > len(LONG) - 40 or tagger.labels == BIO  # what the last window says is there


def test_words_that_were_split_before_have_places_in_the_joined_text(tagger):
    split = [tuple(text.split()) for text in tiny.SENTENCES[:6]]
    encoded = tagger.task.preprocess(split)
    for words, mine in zip(split, tagger.task.aggregate(tagger.outputs(encoded), encoded, "first"), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (found,) = tagger.pipeline("first")(list(words), is_split_into_words=True)
        parts, scores = theirs(found)
        assert ours(mine)[0] == parts
        np.testing.assert_allclose(ours(mine)[1], scores, atol=1e-4)


def test_an_answer_has_each_word_with_the_label_of_its_first_token(tagger):
    words = ("Unaffable", "people", ",", "don't", "sleep")
    (encoded,) = tagger.task.preprocess([words])
    (output,) = tagger.outputs([encoded])
    (answer,) = tagger.task.postprocess([output], [encoded])
    assert tuple(word.text for word in answer.words) == words
    tokens = tagger.tokens([list(words)], is_split_into_words=True, return_tensors="pt")
    ids = tokens.word_ids(0)
    with torch.inference_mode():
        p = tagger.module(**tokens).logits[0].softmax(-1)
    for place, word in enumerate(answer.words):
        first = ids.index(place)
        assert word.label == tagger.labels[int(p[first].argmax())]
        assert word.score == pytest.approx(float(p[first].max()), abs=1e-4)
    assert answer.entities == tagger.task.aggregate([output], [encoded], "simple")[0]
    assert not answer.truncated


def test_tokens_are_those_of_the_tokenizer_with_overflow(tagger):
    for value in (LONG, tuple(LONG.split()), "a b c", ("a", "b")):
        split = isinstance(value, tuple)
        expected = tagger.tokens(
            [list(value) if split else value],
            is_split_into_words=split,
            truncation=True,
            max_length=tiny.MAX_LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
        )
        (row,) = tagger.task.preprocess([value])
        for name in tagger.task.settings.inputs:
            assert row.arrays[name].tolist() == list(itertools.chain(*expected[name]))
        assert row.arrays["windows"].tolist() == [len(ids) for ids in expected["input_ids"]]
        whole = tagger.tokens([list(value) if split else value], is_split_into_words=split, truncation=False)[
            "input_ids"
        ][0]
        assert (row.length, len(row.arrays["windows"]) > 1) == (
            (len(whole), True) if len(whole) > tiny.MAX_LENGTH else (None, False)
        )
        begun = [word for word in row.arrays["words"].tolist() if word >= 0]
        assert sorted(set(begun)) == list(range(len(begun) - sum(begun.count(w) - 1 for w in set(begun))))
        if split:
            assert set(begun) == set(range(len(value)))


def test_a_list_is_answered_as_each_alone(bert):
    values = [*TEXTS, LONG, tuple(LONG.split())]
    together = bert.task.preprocess(values)
    for value, row in zip(values, together, strict=True):
        (alone,) = bert.task.preprocess([value])
        assert all(np.array_equal(row.arrays[n], alone.arrays[n]) for n in alone.arrays)
        assert row.context == alone.context
    outputs = bert.outputs(together)
    for value, output in zip(values, outputs, strict=True):
        (alone,) = bert.outputs(bert.task.preprocess([value]))
        np.testing.assert_allclose(output["logits"], alone["logits"], atol=1e-4)


def test_a_word_in_two_windows_counts_by_the_one_with_more_text_around_it():
    task = TokenClassification(Settings(TAGS, 7, 3, ("input_ids",)), None)
    values = np.zeros((14, 3), np.float32)
    starts = np.array([-1, 0, 1, 2, 3, 4, -1, -1, 2, 3, 4, 5, 6, -1])
    for place, label in ((3, 1), (4, 1), (5, 1), (8, 2), (9, 2), (10, 2)):
        values[place, label] = 5
    found = task.describe([{"logits": values, "words": starts, "windows": np.array([7, 7])}])
    # Word 2 has three tokens behind it in the first window and one before it in the second, word 4 the other way round; of word 3 both are as good.
    assert found == ["NOUN NOUN VERB VERB X-Y NOUN NOUN"]


def test_outputs_without_places_of_words_answer_for_each_token():
    task = TokenClassification(Settings(TAGS, 7, 3, ("input_ids",)), None)
    assert task.describe([{"logits": np.eye(3, dtype=np.float32)}]) == ["NOUN VERB X-Y"]


# ---- spans

TABLE = [  # labels, spans by seqeval's default mode (get_entities of its release 1.2.2)
    ("O O", []),
    ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
    ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
    ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
    ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
    ("O I-PER B-PER", [("PER", 1, 1), ("PER", 2, 2)]),
    ("B-PER E-PER S-LOC", [("PER", 0, 1), ("LOC", 2, 2)]),
    ("B-PER I-PER E-PER I-PER", [("PER", 0, 2), ("PER", 3, 3)]),
    ("S-PER S-PER E-PER", [("PER", 0, 0), ("PER", 1, 1), ("PER", 2, 2)]),
    ("B-A-B I-A-B I-A-C", [("A-B", 0, 1), ("A-C", 2, 2)]),
    ("", []),
]


@pytest.mark.parametrize(("tags", "expected"), TABLE, ids=lambda v: v if isinstance(v, str) else "")
def test_spans_are_those_of_the_table(tags, expected):
    assert _spans.spans(tags.split()) == expected


def conlleval(tags):
    """Spans by the two tables of rules of conlleval.pl, as they stand there."""
    found, before, kind, start = [], "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        now, its_kind = (tag[0], tag[2:]) if tag != "O" else ("O", "")
        ends = (
            before + now in ("BB", "BO", "IB", "IO", "EE", "EI", "EO", "ES", "BS", "IS") or before in ("E", "S")
        ) or (before != "O" and kind != its_kind)
        begins = (now in ("B", "S") or before + now in ("EE", "EI", "OE", "OI", "SE", "SI")) or (
            now != "O" and kind != its_kind
        )
        if ends:
            found.append((kind, start, place - 1))
        if begins:
            start = place
        before, kind = now, its_kind
    return found


def test_spans_of_all_short_sequences_are_those_of_conlleval():
    labels = ["O", *(f"{p}-{k}" for p in "BIES" for k in "XY")]
    for tags in itertools.product(labels, repeat=4):
        assert _spans.spans(tags) == conlleval(tags)


def test_labels_mark_spans_or_do_not():
    assert _spans.marks_spans(BIO)
    assert _spans.marks_spans(("O", "I-PER"))
    for labels in (TAGS, ("O",), ("O", "B-PER", "PER"), ("B", "I", "O"), ("B-", "O")):
        assert not _spans.marks_spans(labels)


def rows_of(*tags):
    """Outputs that answer words with these labels, one row for each argument."""
    made = []
    for row in tags:
        values = np.full((len(row.split()) + 2, len(BIO)), -2.0, np.float32)
        for place, tag in enumerate(row.split(), 1):
            values[place, BIO.index(tag)] = 2.0
        made.append(
            {
                "logits": values,
                "words": np.array([-1, *range(len(row.split())), -1]),
                "windows": np.array([len(values)]),
            }
        )
    return made


def truth_of(*tags):
    return [np.array([BIO.index(tag) for tag in row.split()]) for row in tags]


def spans_task():
    return TokenClassification(Settings(BIO, 12, 2, ("input_ids",)), None)


def test_f1_of_spans_against_counts_by_hand():
    task = spans_task()
    answered = rows_of("B-PER I-PER O", "O B-LOC B-LOC", "I-LOC O", "O O")
    truth = truth_of("B-PER I-PER O", "O B-LOC I-LOC", "B-LOC O", "B-PER O")
    evidence = task.evidence(answered, truth, SPAN_F1)
    # The row before the last is right: a span that begins with I counts.
    assert evidence.tolist() == [[1, 0, 0], [0, 2, 1], [1, 0, 0], [0, 0, 1]]
    assert SPAN_F1.of(evidence) == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert task.evidence(answered, truth, TOKEN_ACCURACY).tolist() == [[3, 3], [2, 3], [1, 2], [1, 2]]
    assert np.isnan(SPAN_F1.of(task.evidence(rows_of("O O"), truth_of("O O"), SPAN_F1)))
    assert SPAN_F1.of(task.evidence(rows_of("O O"), truth_of("B-PER O"), SPAN_F1)) == 0


def test_answers_and_truths_in_words():
    task = spans_task()
    assert task.describe(rows_of("B-PER I-PER O B-LOC", "O O")) == ["PER 0-1, LOC 3", "O"]
    assert task.describe_truth(truth_of("O B-LOC")) == ["LOC 1"]
    assert task.metrics == (SPAN_F1, TOKEN_ACCURACY)
    assert TokenClassification(Settings(TAGS, 12, 2, ("input_ids",)), None).metrics == (TOKEN_ACCURACY,)


def test_another_number_of_words_than_labels_is_refused():
    with refused("words-differ"):
        spans_task().evidence(rows_of("O O"), truth_of("O"), SPAN_F1)
    with refused("words-differ"):
        spans_task().divergence(rows_of("O O"), rows_of("O"))
    assert spans_task().same_answer(rows_of("O O"), rows_of("O")).tolist() == [False]


# ---- labels of samples


def parse(*rows, labels=BIO):
    return TokenClassification(Settings(labels, 12, 2, ("input_ids",)), None).parse_truth(rows, "f.jsonl")


@pytest.mark.parametrize(
    "label",
    [
        ["B-PER", "I-PER", "O"],
        "B-PER I-PER O",
        "['B-PER', 'I-PER', 'O']",
        [1, 2, 0],
        ("b-per", "i-per", "o"),
        "[1, 2, 0]",
    ],
)
def test_labels_are_read_as_data_sets_write_them(label):
    truth = parse(Row(("Ada", "Lovelace", "wrote"), label))
    assert [value.tolist() for value in truth.values] == [[1, 2, 0]]


@pytest.mark.parametrize(
    "row",
    [
        Row(("a", "b"), ["O"]),
        Row(("a", "b"), ["O", "O", "O"]),
        Row(("a", "b"), []),
        Row(("a",), None),
        Row("a b", ["O", "O"]),
        Row(("a",), ["B-ORG"]),
        Row(("a",), [9]),
        Row(("a", "b"), ["O", "I-PER"]),
        Row(("a", "b"), ["I-PER", "O"]),
        Row(("a", "b"), ["B-LOC", "I-PER"]),
        Row(("a", "b"), [["O"], "O"]),
    ],
    ids=lambda row: str(row.label),
)
def test_labels_that_do_not_fit_their_words_are_refused(row):
    with pytest.raises(SamplesError, match=r"f\.jsonl, row 2"):
        parse(Row(("fine",), ["O"]), row)


def test_a_kind_that_no_label_begins_is_begun_by_the_one_that_goes_on():
    labels = ("O", "I-PER", "B-LOC", "I-LOC")
    assert [v.tolist() for v in parse(Row(("a", "b"), ["I-PER", "B-LOC"]), labels=labels).values] == [[1, 2]]
    with refused("samples-label-bio", "2"):
        parse(Row(("a", "b"), ["I-PER", "I-LOC"]), labels=labels)


def test_truths_of_equal_words_become_the_most_frequent():
    task = spans_task()
    assert task.merge_truth(truth_of("O O", "B-PER O", "B-PER O")).tolist() == [1, 0]


# ---- what is refused


@pytest.mark.parametrize(
    "value", [3, None, b"a", ("a", 3), (), ["a"], ("a", ""), ("a", "\u200d\u0000"), "\ud83d", ("\ud83d",)], ids=repr
)
def test_what_is_neither_a_text_nor_words_is_refused(bert, value):
    with pytest.raises(InputError, match="at position 1"):
        bert.task.preprocess(["fine", value])


def test_a_word_without_a_token_names_the_row_of_a_file(bert):
    with refused("samples-words", "f.jsonl", "row 2", "3"):
        bert.task.modality.check([("fine",), ("a", "b", "\u0000")], "f.jsonl")


def test_a_text_beyond_the_limit_is_refused_or_cut_as_asked(bert):
    modality = bert.task.modality
    try:
        modality.set_limit(20)
        for value in ("a b " * 20, ("word",) * 20):
            with refused("text-too-long", "20"):
                bert.task.preprocess([value])
        modality.set_limit(20, truncate=True)
        texts, words = bert.task.preprocess(["a b " * 20, ("word",) * 20])
        assert texts.truncated
        assert words.truncated
        assert words.context.text == "word word word word"
    finally:
        modality.set_limit()


def test_settings_that_do_not_fit_are_refused(bert, tmp_path):
    for wrong in (
        {"aggregation": "some"},
        {"stride": 64},
        {"stride": -1},
        {"labels": []},
        {"labels": ["a", "a"]},
        {"max_length": 0},
    ):
        save(bert.task.settings, bert.tokens.backend_tokenizer.to_str(), tmp_path)
        data = json.loads((tmp_path / "task.json").read_text())
        (tmp_path / "task.json").write_text(json.dumps({**data, **wrong}))
        with pytest.raises(IntegrityError):
            load(tmp_path)


def test_a_graph_of_another_task_is_refused(bert):
    inputs = tuple(
        TensorSpec(name, "int64", ("batch", "sequence"), bert.task.settings.pads[name])
        for name in bert.task.settings.inputs
    )
    fine = TensorSpec("logits", "float32", ("batch", "sequence", len(BIO)))
    bert.task.check_signature(Signature("forward", inputs, (fine,)), (16, 64))
    for signature, shapes in (
        (Signature("forward", inputs, (TensorSpec("logits", "float32", ("batch", len(BIO))),)), ()),
        (Signature("forward", inputs, (TensorSpec("logits", "float32", ("batch", "sequence", 4)),)), ()),
        (Signature("forward", inputs[:1], (fine,)), ()),
        (Signature("forward", inputs, (fine,)), (128,)),
    ):
        with refused("bundle-assets"):
            bert.task.check_signature(signature, shapes)


@pytest.mark.parametrize("end", [3, -1])
def test_outputs_of_another_number_of_tokens_are_refused_with_the_row_and_both_numbers(bert, end):
    encoded = bert.task.preprocess([("good", "bad"), ("Unaffable", "people", "sleep")])
    outputs = bert.outputs(encoded)
    tokens = len(outputs[1]["words"])
    outputs[1] = {**outputs[1], "logits": outputs[1]["logits"][:end]}
    left = len(outputs[1]["logits"])
    truth = [np.zeros(2, np.int64), np.zeros(3, np.int64)]
    for score in (bert.task.describe, bert.task.margin, lambda o: bert.task.evidence(o, truth, bert.task.metrics[0])):
        with refused("rows-differ", "row 2", f"{left} tokens", f"'words' has {tokens}"):
            score(outputs)
