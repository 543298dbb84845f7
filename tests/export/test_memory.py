"""The build's comparison of remembered words with the tokenizer, and what a session does with its result."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import small
import tiny
from refusals import refused
from tokenizers import Tokenizer, models, pre_tokenizers

import edgekit
from edgekit import IntegrityError
from edgekit.export.graphs import check_memory, export
from edgekit.modalities._word_memory import WordMemory
from edgekit.tasks import text_classification
from edgekit.tasks.text_classification import Settings

BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "onnxruntime"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def task(folder, tokenizer=None, **more):
    tokenizer = tokenizer or small.tokenizer().backend_tokenizer
    settings = Settings("single_label_classification", small.LABELS, small.MAX_LENGTH, INPUTS, **more)
    text_classification.save(settings, tokenizer.to_str(), folder)
    return text_classification.load(folder)


def inputs(one):
    return [*small.texts(30, seed=2), ("the film", "is fine"), *one.modality.generate(200, one.max_size, 0)]


def written(folder):
    return json.loads((folder / "task.json").read_text("utf-8"))


def test_equal_ids_are_recorded(tmp_path):
    built = task(tmp_path)
    assert "remembers_words" not in written(tmp_path), "the file of older bundles stays as it is"
    assert check_memory(built, inputs(built))
    built.save_settings(tmp_path)
    assert written(tmp_path)["remembers_words"] is True
    opened = text_classification.load(tmp_path)
    assert opened.modality.remembers
    assert opened.settings.labels == small.LABELS


def test_without_a_rule_nothing_is_remembered(tmp_path, caplog):
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(small.vocabulary())}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("e", "isolated")
    built = task(tmp_path, made)
    with caplog.at_level(logging.INFO):
        assert not check_memory(built, inputs(built))
    assert "word by word" in caplog.text
    assert not built.modality.remembers
    caplog.clear()
    # A file that claims it all the same, e.g. of a later release with another rule, is no reason to trust it.
    assert not task(tmp_path, made, remembers_words=True).modality.remembers
    assert "word by word" in caplog.text


@pytest.mark.parametrize("only_seen", [False, True])
def test_other_ids_turn_it_off(tmp_path, monkeypatch, caplog, only_seen):
    """Wrong for words that are new, and wrong only for those that are known."""
    plain = WordMemory._encode
    calls = []

    def wrong(self, word):
        calls.append(word)
        return plain(self, word) if only_seen else plain(self, word[::-1])

    monkeypatch.setattr(WordMemory, "_encode", wrong)
    if only_seen:
        look_up = WordMemory._look_up
        monkeypatch.setattr(WordMemory, "_look_up", lambda self, words: look_up(self, words)[:-1])
    built = task(tmp_path)
    tried = inputs(built)
    expected = built.preprocess(tried)
    assert not check_memory(built, tried)
    assert calls
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not built.modality.remembers
    for row, truth in zip(built.preprocess(tried), expected, strict=True):
        np.testing.assert_array_equal(row.arrays["input_ids"], truth.arrays["input_ids"])


def test_another_mark_of_truncation_turns_it_off(tmp_path, monkeypatch):
    built = task(tmp_path)
    recall = type(built.modality.encoder)._recall

    def marked(self, text, cut):
        row = recall(self, text, cut)
        return row and dataclasses.replace(row, truncated=True)

    monkeypatch.setattr(type(built.modality.encoder), "_recall", marked)
    assert not check_memory(built, inputs(built))


@pytest.mark.slow
def test_an_export_records_it(tmp_path):
    graphs = export(tiny.source("bert"), tmp_path, tiny.TEXTS)
    assert written(graphs.assets)["remembers_words"] is True
    assert text_classification.load(graphs.assets).modality.remembers


# ---- a session


def bundle(place, **more):
    folder = small.copy(BUNDLE, place)
    file = folder / "assets" / "task.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **more}), "utf-8")
    small.sign(folder)
    return folder


def test_a_session_says_whether_it_remembers_words_and_answers_the_same(tmp_path):
    texts = [*small.texts(12, seed=3), "", "  ", "[MASK] the film", "film " * 200]
    off, on = (bundle(tmp_path / str(remembers), remembers_words=remembers) for remembers in (False, True))
    with edgekit.load(off) as plain, edgekit.load(on) as session:
        assert (plain.info.remembers_words, session.info.remembers_words) == (False, True)
        for _ in range(2):
            assert [session(text) for text in texts] == [plain(text) for text in texts]
        assert session(texts) == plain(texts)


def test_a_description_of_the_bundle_says_it(tmp_path):
    assert "remembered" not in edgekit.inspect(bundle(tmp_path / "off", remembers_words=False)).text()
    assert "words are remembered" in edgekit.inspect(bundle(tmp_path / "on", remembers_words=True)).text()


@pytest.mark.parametrize("value", ["yes", 1, None, "unknown"])
def test_an_unknown_value_is_refused(tmp_path, value):
    with refused("value-type", "remembers_words") as failed:
        edgekit.load(bundle(tmp_path / "odd", remembers_words=value))
    assert isinstance(failed.value, IntegrityError)
