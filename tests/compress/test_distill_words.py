"""A student of a task with several answers a row: outputs of ragged length, a truth for each word, a score of spans."""

from __future__ import annotations

import small
import tiny
import tiny_words

import edgekit
import edgekit.source
from edgekit.compress._fisher import importance
from edgekit.compress.distill import Training
from edgekit.compress.objective import Objective


def test_a_token_classifier_teaches_a_smaller_one(tmp_path):
    words = [sentence.split()[: 4 + i % 5] for i, sentence in enumerate(tiny.SENTENCES)]
    rows = [{"words": w, "label": [("O", "B-LOC")[i % 3 == 0] for i, _ in enumerate(w)]} for w in words]
    train = small.write_jsonl(tmp_path / "train.jsonl", [*rows, *({"words": row["words"]} for row in rows[:5])])
    dev = small.write_jsonl(tmp_path / "dev.jsonl", rows)
    training = Training(epochs=3, batch=8, learning_rate=1e-3, copies=2, precision="float32")
    made = edgekit.distill(tiny_words.folder("bert"), samples=train, eval=dev, out=tmp_path / "out", layers=1, training=training)
    assert made.score_name == "span F1"
    assert made.epochs[-1].loss < made.epochs[0].loss
    assert made.compared.losses is None, "a score of spans is no mean of rows"
    student = edgekit.source.read(made.path)
    assert student.task == "token-classification"
    assert student.settings.labels == edgekit.source.read(tiny_words.folder("bert")).settings.labels
    assert student.module.config.num_hidden_layers == 1


def test_what_matters_to_labels_of_words():
    source = edgekit.source.read(tiny_words.folder("bert"))
    rows = source.encode([tuple(sentence.split()[:6]) for sentence in tiny.SENTENCES])
    found = importance(source.module, rows, Objective.of(source), 0, lambda *_: None)
    assert all((layer.heads > 0).all() and (layer.neurons > 0).all() for layer in found)
