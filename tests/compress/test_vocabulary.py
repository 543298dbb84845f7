"""Trimmed vocabularies of all three kinds of tokenizer: what encodes as before, what is split finer, and that the model answers the same."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import small
import tiny
from refusals import refused

import edgekit.source
from edgekit.compress import vocabulary
from edgekit.compress.vocabulary import DISCLOSES, trim_source, trim_vocab
from edgekit.spec.options import TrimVocabOptions

SEEN = ["the plot was dull and the acting was worse", "no", "a fine film with a strong cast and a weak ending"]
UNSEEN = [
    "the weather in Berlin is going to be wonderful tomorrow",
    "café owners asked for quieter streets",
    "lock the front door at 06:45!",
]


@pytest.fixture(scope="module", params=["bert", "roberta", "albert", "mpnet", "deberta-v2", "modernbert"])
def models(request, tmp_path_factory):
    """A tiny model of each kind (WordPiece, BPE on bytes, Unigram), and what is left of it."""
    before = edgekit.source.read(tiny.folder(request.param))
    folder = tmp_path_factory.mktemp("trimmed") / "model"
    made = trim_source(before, SEEN, None, UNSEEN, folder, lambda *_: None)
    return before, edgekit.source.read(folder), made


def words(origin, text):
    return [origin.processor.convert_ids_to_tokens(i) for i in tiny.ids(origin, [text])[0]["input_ids"]]


def test_it_is_smaller(models):
    _, after, made = models
    assert made.after < made.before
    assert (
        made.after
        == len(after.processor)
        == after.module.get_input_embeddings().num_embeddings
        == after.module.config.vocab_size
    )
    assert made.tokens_after >= made.tokens_before
    assert DISCLOSES in made.text()


def test_texts_of_the_samples_encode_to_the_same_tokens_and_answers(models):
    before, after, _ = models
    for text in SEEN:
        assert words(after, text) == words(before, text)
    np.testing.assert_allclose(
        tiny.logits(after, after.encode(SEEN)), tiny.logits(before, before.encode(SEEN)), atol=1e-5
    )


def test_other_texts_are_split_finer_and_nothing_becomes_unknown(models):
    before, after, _ = models
    for text in UNSEEN:
        old, new = words(before, text), words(after, text)
        assert new.count(after.processor.unk_token) <= old.count(before.processor.unk_token)
        assert len(new) >= len(old)
        assert after.processor.decode(
            after.encode([text])[0]["input_ids"], skip_special_tokens=True
        ) == before.processor.decode(before.encode([text])[0]["input_ids"], skip_special_tokens=True)


def test_special_tokens_are_where_they_were(models):
    before, after, _ = models
    for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        assert getattr(before.processor, role) == getattr(after.processor, role)
    assert after.settings.pads["input_ids"] == after.processor.pad_token_id
    assert words(after, "no")[0] == words(before, "no")[0]
    assert after.settings.inputs == before.settings.inputs


@pytest.mark.slow
def test_a_trimmed_model_builds(tiny_model, tiny_samples, tmp_path):
    edgekit.compress.vocabulary.trim_vocab(tiny_model, samples=tiny_samples.train, out=tmp_path / "small")
    made = edgekit.build(
        tmp_path / "small",
        samples=tiny_samples.train,
        eval=tiny_samples.dev,
        out=tmp_path / "out",
        target=small.target(tmp_path / "t.toml", extra="threads = 1"),
    )
    texts = [json.loads(line)["text"] for line in tiny_samples.train.read_text().splitlines()]
    with edgekit.load(made.bundle.path) as session:
        np.testing.assert_allclose(small.logits(session, texts), small.torch_logits(small.module(), texts), atol=1e-3)


def test_what_is_refused(tiny_model, tiny_samples, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with refused("output-other-kind"):
        trim_vocab(tiny_model, samples=tiny_samples.train, out=tmp_path / "mine", options=TrimVocabOptions(force=True))
    origin = edgekit.source.read(tiny_model)
    with refused("samples-missing"):
        trim_source(origin, [], None, None, tmp_path / "x", lambda *_: None)
    data = json.loads(vocabulary.tokenizer_json(origin.processor))
    data["model"]["type"] = "WordLevel"
    monkeypatch.setattr(vocabulary, "tokenizer_json", lambda _: json.dumps(data))
    with refused("vocabulary-kind", "BPE"):
        trim_source(origin, ["a"], None, None, tmp_path / "x", lambda *_: None)


@pytest.mark.slow
def test_the_command_line(tiny_model, tiny_samples, tmp_path):
    done = small.edgekit(
        "trim-vocab", tiny_model, "--samples", tiny_samples.train, "--eval", tiny_samples.dev, "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert said.startswith("Vocabulary ")
    assert "tokens per text" in said
    assert DISCLOSES in " ".join(said.split())
    assert small.CANARY not in said


def test_a_list_of_tokens(tiny_model, tmp_path):
    """In place of samples, and beside them."""
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film"]
    (tmp_path / "tokens.txt").write_text("\n".join(listed) + "\n")
    made = trim_vocab(tiny_model, tokens=tmp_path / "tokens.txt", out=tmp_path / "out")
    after = edgekit.source.read(tmp_path / "out").processor.get_vocab()
    whole = edgekit.source.read(tiny_model).processor.get_vocab()
    # What any text needs stays: single characters at the start and inside of words.
    assert set(after) == set(listed) | {t for t in whole if len(t.removeprefix("##")) == 1}
    assert made.text() == f"Vocabulary {len(whole)} -> {len(after)} tokens."
    both = trim_vocab(
        tiny_model,
        tokens=tmp_path / "tokens.txt",
        samples=small.write_jsonl(tmp_path / "s.jsonl", [{"text": "the music"}]),
        out=tmp_path / "both",
    )
    assert both.after > made.after


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (
            ["[PAD]", "[UNK]", "[SEP]", "film"],
            ("tokens-special", "CLS", "MASK"),
        ),
        (
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "xylophone", "qq"],
            ("tokens-unknown", "2", "xylophone"),
        ),
    ],
)
def test_a_list_that_cannot_be(tokens, said, tiny_model, tmp_path):
    (tmp_path / "tokens.txt").write_text("\n".join(tokens))
    with refused(said):
        trim_vocab(tiny_model, tokens=tmp_path / "tokens.txt", out=tmp_path / "out")
    with refused("tokens-unreadable"):
        trim_vocab(tiny_model, tokens=tmp_path / "none.txt", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.train
def test_in_a_build(tiny_model, tiny_samples, tmp_path, monkeypatch):
    """With a student: both are trimmed, and what that did is said."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    # All texts that are scored are among the samples, so none of them is split otherwise.
    # They are few, so that there is something to trim.
    rows = tiny_samples.rows[:12]
    few = small.write_jsonl(tmp_path / "few.jsonl", rows)
    # Words of all samples stay, those of the calibration rows among them. None of them needs the column of the labels.
    bare = [*small.texts(6, seed=5), "zebra crossing"]
    other = small.write_jsonl(tmp_path / "bare.jsonl", [{"text": text} for text in bare])
    renamed = small.write_jsonl(tmp_path / "renamed.jsonl", [{"text": r["text"], "y": r["label"]} for r in rows])
    made = small.build(
        tiny_model,
        samples=few,
        distill_samples=[other],
        eval=renamed,
        columns={"label": "y"},
        out=tmp_path / "out",
        target=small.target(tmp_path / "t.toml", extra="threads = 1"),
        vocabulary="samples",
        distill=[{"layers": 1, "epochs": 1, "copies": 0, "precision": "float32"}],
        budget={"accuracy_drop": 1.0},
    ).bundle.manifest
    (note,) = [n for n in made.notes if n.startswith("Vocabulary ")]
    assert DISCLOSES in note
    kept = set(json.loads((tmp_path / "out" / "assets" / "tokenizer.json").read_text())["model"]["vocab"])
    tokenizer = small.tokenizer()
    of_few, of_other = (
        {token for text in texts for token in tokenizer.tokenize(text)} for texts in ([r["text"] for r in rows], bare)
    )
    assert of_few - of_other and of_other - of_few
    assert of_few | of_other <= kept < set(tokenizer.get_vocab())
    trials = {t.model: t for t in made.trials}
    assert set(trials) == {"", "1 layer"}
    assert trials["1 layer"].size_mb < trials[""].size_mb
    # The model is exported with its whole vocabulary too, before anything is trimmed.
    counts = [vocabulary_size(graph, len(tokenizer), len(kept)) for graph in exported_graphs(tmp_path / "cache")]
    assert sorted(counts) == [len(kept), len(kept), len(tokenizer)]
    assert trials[""].score == pytest.approx(10 / 12), "as before: two of the labels are wrong"


def exported_graphs(cache):
    for file in cache.glob("*/entry.json"):
        if json.loads(file.read_text())["step"] == "export":
            yield onnx.load(file.parent / "model.onnx", load_external_data=False).graph


def vocabulary_size(graph, *sizes):
    """The one of some sizes that the weights of a graph have."""
    (size,) = {size for weight in graph.initializer for size in weight.dims}.intersection(sizes)
    return size
