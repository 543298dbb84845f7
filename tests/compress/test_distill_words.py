"""A student of a task with several answers a row: outputs of ragged length, a truth for each word, a score of spans."""

from __future__ import annotations

import pytest
import small
import tiny
import tiny_words
from refusals import refused

import edgekit
import edgekit.samples
import edgekit.source
from edgekit import SamplesError, UsageError
from edgekit.compress._fisher import importance
from edgekit.compress.distill import Training
from edgekit.compress.objective import Objective
from edgekit.compress.plan import Latency
from edgekit.compress.prune import Base, Recovery, prune_layers
from edgekit.compress.recipe import Recipe
from edgekit.spec.options import DistillOptions

ROWS = [{"words": s.split()[:5], "label": ["O", "B-LOC", "O", "O", "O"][: len(s.split()[:5])]} for s in tiny.SENTENCES]


def assert_refused(tmp_path, error, said, train=ROWS, dev=ROWS, **options):
    """Distils what is refused before the teacher has answered."""
    files = {
        "samples": small.write_jsonl(tmp_path / "train.jsonl", train),
        "eval": small.write_jsonl(tmp_path / "dev.jsonl", dev),
    }
    steps = []
    given = {"layers": 1, "out": tmp_path / "out", "progress": lambda *step: steps.append(step), **files, **options}
    with pytest.raises(error, match=said):
        small.distill(tiny_words.folder("bert"), **given)
    assert steps == []
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_a_token_classifier_teaches_a_smaller_one(tmp_path):
    words = [sentence.split()[: 4 + i % 5] for i, sentence in enumerate(tiny.SENTENCES)]
    rows = [{"words": w, "label": [("O", "B-LOC")[i % 3 == 0] for i, _ in enumerate(w)]} for w in words]
    train = small.write_jsonl(tmp_path / "train.jsonl", [*rows, *({"words": row["words"]} for row in rows[:5])])
    dev = small.write_jsonl(tmp_path / "dev.jsonl", rows)
    training = Training(epochs=3, batch=8, learning_rate=1e-3, copies=2, precision="float32")
    made = edgekit.distill(
        tiny_words.folder("bert"),
        samples=train,
        eval=dev,
        out=tmp_path / "out",
        options=DistillOptions(layers=1, training=training),
    )
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


def test_tokens_of_another_tokenizer_are_not_learnt(tmp_path):
    said = r"has another tokenizer than the teacher .* Give a student with the teacher's tokenizer"
    assert_refused(tmp_path, UsageError, said, layers=None, student=tiny_words.folder("roberta"))
    teacher, recipe = edgekit.source.read(tiny_words.folder("bert")), Recipe(student=str(tiny_words.folder("roberta")))
    with refused("student-tokenizer"):
        recipe.check(teacher, [])


@pytest.mark.parametrize("part", ["train", "dev"])
def test_a_word_without_a_token_would_move_labels(tmp_path, part):
    rows = [*ROWS[:3], {"words": ["John", "\u200b", "Smith"], "label": ["B-PER", "O", "B-LOC"]}, *ROWS[3:]]
    assert_refused(
        tmp_path,
        SamplesError,
        rf"{part}\.jsonl, row 4 .*number 2, for which the tokenizer has no token",
        **{part: rows},
    )


def test_a_row_to_train_on_is_one_window(tmp_path):
    words = " ".join(tiny.SENTENCES).split()
    rows = [*ROWS[:3], {"words": words, "label": ["O"] * len(words)}, *ROWS[3:]]
    assert_refused(tmp_path, SamplesError, r"train\.jsonl, row 4 is longer than the model", train=rows)


def test_rows_are_checked_before_a_model_is_pruned_and_before_a_student_of_one_s_own_is_trained(tmp_path):
    source = edgekit.source.read(tiny_words.folder("bert"))
    words = " ".join(tiny.SENTENCES).split()
    for row, code in (
        ({"words": ["John", "\u200b"]}, "samples-words"),
        ({"words": words}, "samples-text-too-long"),
    ):
        file = small.write_jsonl(tmp_path / "rows.jsonl", [{"words": words[:4]}, row])
        rows = edgekit.samples.read(file, modality=source.modality)
        latency = Latency(lambda models: pytest.fail("nothing is timed"), {})
        with refused(code, "rows.jsonl", "row 2"):
            prune_layers(source, Base(source), 1.5, Recovery([rows], rows, None), latency)
    recipe = Recipe(student=str(tiny_words.folder("bert")))
    recipe.check(source, [rows])
    lost = edgekit.samples.read(
        small.write_jsonl(tmp_path / "lost.jsonl", [{"words": words[:4]}, {"words": ["\u200b"]}]),
        modality=source.modality,
    )
    with refused("samples-words", "lost.jsonl", "row 2"):
        recipe.check(source, [rows, lost])
