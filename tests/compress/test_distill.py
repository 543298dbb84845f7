"""``edgekit distill`` on a small text classifier, from files to a folder; what it refuses; and students in a build."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from refusals import refused

import edgekit
from edgekit import SamplesError, UsageError
from edgekit.compress.distill import Loss, Training, read_training_samples
from edgekit.compress.recipe import Recipe, parse_recipe
from edgekit.modalities.text import UNBOUND

FAST = Training(epochs=2, batch=16, learning_rate=1e-3, copies=1, precision="float32")


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tiny_module):
    """Labelled and unlabelled rows to train on, with the canary in them, and labelled ones to choose by."""
    folder = tmp_path_factory.mktemp("lesson")
    texts = small.texts(160, seed=21)
    answers = small.torch_logits(tiny_module, texts).argmax(axis=1)
    labelled = [{"text": f"{t} {small.CANARY}", "label": small.LABELS[a]} for t, a in zip(texts, answers, strict=True)]
    bare = [{"text": t} for t in small.texts(40, seed=22)]
    dev = small.labelled(tiny_module, small.texts(200, seed=23), count=60, wrong=3)
    write = small.write_jsonl
    files = {
        name: write(folder / f"{name}.jsonl", found)
        for name, found in (("train", labelled), ("bare", bare), ("dev", dev))
    }
    return SimpleNamespace(**files)


@pytest.fixture(scope="module")
def student(tmp_path_factory, tiny_model, rows):
    """A student of one layer, by the command line, with what was printed."""
    out = tmp_path_factory.mktemp("student") / "one"
    options = [
        "--layers",
        "1",
        "--samples",
        rows.train,
        "--samples",
        rows.bare,
        "--eval",
        rows.dev,
        "-o",
        out,
        "--epochs",
        "2",
        "--batch",
        "16",
    ]
    done = small.edgekit(
        "distill",
        tiny_model,
        *options,
        "--learning-rate",
        "1e-3",
        "--copies",
        "1",
        "--precision",
        "float32",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return SimpleNamespace(path=out, output=done.stdout.decode(), errors=done.stderr.decode())


@pytest.mark.slow
@pytest.mark.train
def test_the_student_is_an_ordinary_folder(student, tiny_model):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(student.path)
    assert model.config.num_hidden_layers == 1
    assert tuple(model.config.id2label.values()) == small.LABELS
    assert (
        AutoTokenizer.from_pretrained(student.path)("a fine film").input_ids
        == AutoTokenizer.from_pretrained(tiny_model)("a fine film").input_ids
    )
    record = json.loads((student.path / "edgekit.json").read_text())
    assert record["student"] == [0]
    assert record["training"]["epochs"] == 2


@pytest.mark.slow
@pytest.mark.train
def test_what_it_prints(student):
    lines = student.output.splitlines()
    assert re.fullmatch(r"epoch  loss    accuracy   seconds", lines[0])
    assert re.fullmatch(r" +1  \d+\.\d+ +0\.\d{4} +\d+(  best)?", lines[1])
    assert sum(line.endswith("best") for line in lines) == 1
    words = " ".join(student.output.split())
    assert re.search(
        r"Student: accuracy 0\.\d{4}, teacher 0\.9500; drop -?0\.\d+ \(90 % interval .* lost, .* won, McNemar", words
    ), words
    assert re.fullmatch(r"Wrote .*one; trained in \d+ s\.", lines[-1])


@pytest.mark.slow
@pytest.mark.train
def test_no_text_of_the_samples_is_left_anywhere(student, rows):
    for folder in (student.path, os.environ["EDGEKIT_CACHE"]):
        for place, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(place, name), "rb") as stream:
                    assert small.CANARY.encode() not in stream.read(), name
    assert small.CANARY not in student.output + student.errors


@pytest.mark.slow
@pytest.mark.train
def test_the_student_builds_like_any_other_model(student, tiny_samples, tmp_path):
    options = {
        "samples": tiny_samples.train,
        "eval": tiny_samples.dev,
        "target": small.target(tmp_path / "t.toml", extra="threads = 1"),
    }
    made = small.build(
        student.path, out=tmp_path / "out", **options, accept_reference=True
    )  # a student of one layer knows little
    from transformers import AutoModelForSequenceClassification

    expected = small.torch_logits(
        AutoModelForSequenceClassification.from_pretrained(student.path).eval(), ["a fine film", "it was dull"]
    )
    with edgekit.load(made.bundle.path) as session:
        np.testing.assert_allclose(small.logits(session, ["a fine film", "it was dull"]), expected, atol=1e-3)


def distilled(tiny_model, rows, out, **options):
    given = {"samples": rows.train, "eval": rows.dev, "layers": 1, "training": FAST, **options}
    return small.distill(tiny_model, out=out, **given)


@pytest.mark.train
def test_a_second_call_takes_it_from_the_cache(tiny_model, rows, tmp_path):
    first = distilled(tiny_model, rows, tmp_path / "one")
    steps = []
    again = distilled(tiny_model, rows, tmp_path / "two", progress=lambda step, *_: steps.append(step))
    assert (first.reused, again.reused) == (False, True)
    assert steps == []
    files = [sorted((tmp_path / n).iterdir()) for n in ("one", "two")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


@pytest.mark.train
def test_embeddings_stay_the_teacher_s_unless_they_may_move(tiny_model, tiny_module, rows, tmp_path):
    from transformers import AutoModelForSequenceClassification

    for name, frozen in (("stay", True), ("move", False)):
        training = Training(**{**vars(FAST), "freeze_embeddings": frozen, "epochs": 1})
        distilled(tiny_model, rows, tmp_path / name, training=training)
        made = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        equal = torch.equal(
            made.bert.embeddings.word_embeddings.weight, tiny_module.bert.embeddings.word_embeddings.weight
        )
        assert equal is frozen
        assert not torch.equal(
            made.bert.encoder.layer[0].output.dense.weight, tiny_module.bert.encoder.layer[0].output.dense.weight
        )


@pytest.mark.train
def test_a_student_of_one_s_own_with_another_tokenizer(tiny_model, rows, tmp_path):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokens = small.tokenizer()
    tokens.add_tokens(["wonderful"])
    names = {"id2label": dict(enumerate(small.LABELS)), "label2id": {n: i for i, n in enumerate(small.LABELS)}}
    config = DistilBertConfig(
        dim=32,
        n_layers=1,
        n_heads=4,
        hidden_dim=64,
        vocab_size=len(tokens),
        max_position_embeddings=small.MAX_LENGTH,
        **names,
    )
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path / "own")
    tokens.save_pretrained(tmp_path / "own")
    result = distilled(tiny_model, rows, tmp_path / "out", layers=None, student=tmp_path / "own")
    assert result.notes == (
        "The student has another tokenizer, so the student learns from the teacher's answers, not from relations between tokens.",
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "distilbert"


# ---- what is refused, with nothing left


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"layers": 3},
            UsageError,
            "3 layers were requested for the student, but the teacher has 2",
        ),
        ({"layers": 0}, UsageError, "0 layers were requested"),
        ({"layers": None}, UsageError, "exactly one of layers"),
        ({"keep": [0]}, UsageError, "exactly one of layers"),
        (
            {"layers": None, "keep": [1, 0]},
            UsageError,
            r"The layers to keep are \[1, 0\], expected ascending numbers from 0 to 1",
        ),
        ({"samples": []}, UsageError, "No samples were given"),
        ({"columns": {"label": "lable"}}, SamplesError, "no column 'lable'"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(tiny_model, rows, tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        distilled(tiny_model, rows, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": ("good", "bad")}, "student-differs"),
        (
            {"problem_type": "multi_label_classification"},
            ("student-differs", "multi_label_classification", "single_label_classification"),
        ),
    ],
    ids=str,
)
def test_a_student_of_another_task_or_label_set(tiny_model, rows, tmp_path, settings, said):
    small.save(tmp_path / "other", **settings)
    with refused(said):
        distilled(tiny_model, rows, tmp_path / "out", layers=None, student=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_rows_of_one_label(tiny_model, tiny_module, rows, tmp_path):
    one = small.write_jsonl(
        tmp_path / "one.jsonl", [{"text": t, "label": small.LABELS[1]} for t in small.texts(20, seed=3)]
    )
    with refused("training-one-label", f"{small.LABELS[1]}", "20", "one.jsonl"):
        distilled(tiny_model, rows, tmp_path / "out", samples=one)
    texts = small.texts(60, seed=4)
    answers = small.torch_logits(tiny_module, texts).argmax(axis=1)
    same = small.write_jsonl(
        tmp_path / "same.jsonl", [{"text": t} for t, a in zip(texts, answers, strict=True) if a == answers[0]]
    )
    with refused("training-one-label"):
        distilled(tiny_model, rows, tmp_path / "out", samples=same)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with refused("samples-empty"):
        distilled(tiny_model, rows, tmp_path / "out", samples=empty)
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_an_output_that_is_there(tiny_model, rows, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for force, said in ((False, "output-exists"), (True, "output-other-kind")):
        with refused(said):
            distilled(tiny_model, rows, tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    distilled(tiny_model, rows, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text("{}")
    distilled(tiny_model, rows, tmp_path / "out", force=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_teacher_that_gives_nan(rows, tmp_path):
    """Of weights that are all finite: logits overflow to infinities of both signs, less each other."""
    model = small.module()
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    small.tokenizer().save_pretrained(tmp_path / "broken")
    with refused("teacher-not-finite", "60"):
        distilled(tmp_path / "broken", rows, tmp_path / "out")


def test_a_file_without_the_named_label_column_is_of_rows_without_a_label(tmp_path):
    one = small.write_jsonl(tmp_path / "one.jsonl", [{"text": "a", "y": "good"}])
    two = small.write_jsonl(tmp_path / "two.jsonl", [{"text": "b"}])
    assert [[r.label for r in s.rows] for s in read_training_samples([one, two], {"label": "y"}, UNBOUND)] == [
        ["good"],
        [None],
    ]
    assert [[r.label for r in s.rows] for s in read_training_samples([two], {"label": "y"}, UNBOUND)] == [[None]]


# ---- in a build


@pytest.mark.slow
@pytest.mark.train
def test_a_student_competes_in_a_build(tiny_model, rows, tiny_samples, tmp_path):
    """Beside the model itself, each compared with float32 of its own."""
    aim = small.target(tmp_path / "t.toml", ("dynamic", "float32"), extra="threads = 1")
    said = {"layers": 1, "epochs": 1, "copies": 0, "precision": "float32"}
    made = small.build(
        tiny_model, samples=tiny_samples.train, eval=rows.dev, out=tmp_path / "out", target=aim, distill=[said], distill_samples=[rows.train, rows.bare],
        budget={"accuracy_drop": 1.0},
    )  # fmt: skip
    trials = made.bundle.manifest.trials
    assert {(t.model, t.method) for t in trials} == {(m, q) for m in ("", "1 layer") for q in ("dynamic", "float32")}
    for trial in trials:
        assert (trial.ratio == 0) is (trial.method == "float32"), "each student's float32 is a baseline of its own"
    sizes = {(t.model, t.method): t.size_mb for t in trials}
    assert sizes["1 layer", "float32"] < sizes["", "float32"]
    lines = made.table(wide=True).splitlines()
    assert lines[0].startswith("model ")
    assert any(line.startswith("1 layer ") for line in lines)
    assert any(line.startswith("as given ") for line in lines)
    chosen = next(t for t in trials if t.verdict == "chosen")
    assert ("of the student 1 layer" in made.bundle.manifest.reason) is (chosen.model == "1 layer")
    with edgekit.load(made.bundle.path) as session:
        assert len(session(["a fine film", "it was dull"])) == 2


def test_a_module_from_python_has_no_student_in_a_build(tiny_samples, tmp_path):
    with refused("module-options"):
        small.build(
            module=small.module(),
            processor=small.tokenizer(),
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=tmp_path / "o",
            distill=[{"layers": 1}],
        )


def test_a_recipe():
    read = parse_recipe({"layers": 3, "epochs": 5, "teacher_weight": 0.9, "temperature": 4})
    assert read == Recipe(layers=3, training=Training(epochs=5, loss=Loss(teacher=0.9, temperature=4.0)))
    said = (
        {"layers": 3},
        {"layers": 1},
        {"keep": [0, 5]},
        {"student": "a/tiny"},
        {"speedup": 1.3},
        {"layers": 2, "speedup": 1.25},
    )
    assert [parse_recipe(r).name for r in said] == [
        "3 layers",
        "1 layer",
        "layers 0/5",
        "tiny",
        "pruned 1.3 x",
        "2 layers, pruned 1.25 x",
    ]
    for said, expected in (
        ({"layer": 3}, "Unknown key 'layer' of a student. Did you mean 'layers'?"),
        ({"layers": "three"}, "a student: layers is 'three' (str), expected"),
    ):
        with pytest.raises(UsageError, match=re.escape(expected)):
            parse_recipe(said)


def test_two_students_of_one_name_are_refused(tiny_model, tiny_samples, tmp_path):
    with refused("students-same-name", "1 layer"):
        small.build(
            tiny_model,
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=tmp_path / "o",
            distill=[{"layers": 1}, {"layers": 1, "epochs": 3}],
        )


def test_the_command_line_reads_students():
    from edgekit.cli._options import read_students

    read = read_students(
        None, None, ["layers=3, learning_rate=1e-4,precision=float32", "keep=2", "keep=0/2/5,student=a/b"]
    )
    assert read == (
        {"layers": 3, "learning_rate": 1e-4, "precision": "float32"},
        {"keep": [2]},
        {"keep": [0, 2, 5], "student": "a/b"},
    )
    done = small.edgekit("build", "m", "--distill", "layers", "--samples", "s", "--eval", "e", "-o", "o")
    assert done.returncode == 2
    assert b"'layers' is not KEY=VALUE" in done.stderr


def test_the_module_is_the_verb():
    """``accelerate launch -m edgekit.compress.distill`` takes what ``edgekit distill`` takes."""
    done = small.run(small.sys.executable, "-m", "edgekit.compress.distill", "--help")
    assert done.returncode == 0
    assert b"Usage: edgekit distill [OPTIONS] TEACHER" in done.stdout or b"distill [OPTIONS] TEACHER" in done.stdout
