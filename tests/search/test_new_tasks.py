"""Images and words through the whole story: build, answer, score, compare, check, report, the command line, a bundle for another device."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import small

from edgekit.spec.options import CheckOptions, CompareOptions

pytest.importorskip("PIL")
import tiny
import tiny_images
import tiny_words
import torch
from PIL import Image
from refusals import refused
from transformers import ImageClassificationPipeline, TokenClassificationPipeline

import edgekit
import edgekit.source
from edgekit.bundle.trust import open_bundle
from edgekit.report import check, files
from edgekit.report.evaluate import evaluate
from edgekit.runtime import golden
from edgekit.runtime.verify import verify
from edgekit.spec.engine import shapes
from edgekit.spec.errors import SamplesError
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates

pytestmark = pytest.mark.slow

OPEN = Gates(LatencyGates(9.0, None, None), AccuracyGates(0.3, recall_drop=None), FootprintGates(9.0, 3.0, 0.1, None))
"""Gates that a busy machine passes: what is asked here is whether they are held, not how fast it is."""


QUICK_CLI = """
import sys
from edgekit.cli import main
from edgekit.report import run
from edgekit.timing import interleaved
run._PROCESSES, interleaved._MEASURE_S, interleaved._WARM_UP_S = 2, 0.1, 0.05
sys.argv[0] = "edgekit"
main()
"""
"""The command line with the measurements of the fixture ``quick``."""


def made(folder, model, rows, column, labels, wrong):
    """A build for the CPU, by three methods on two backends. Every tenth row of the evaluation set has another label than the torch model gives it."""
    calibration = small.write_jsonl(folder / "cal.jsonl", [{column: row} for row in rows[:30]])
    written = [
        {column: row, "label": wrong(label) if place % 10 == 0 else label}
        for place, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    dev, few = (
        small.write_jsonl(folder / "dev.jsonl", written[30:]),
        small.write_jsonl(folder / "few.jsonl", written[30:50]),
    )
    aims = {}
    for name, more in (("small", ""), ("int8", 'backends = ["onnxruntime"]\nmethods = ["static"]\n'), ("board", "")):
        aims[name] = folder / f"{name}.toml"
        extends = "jetson" if name == "board" else "cpu"
        aims[name].write_text(
            f'name = "{name}"\nextends = "{extends}"\nthreads = 1\n{more}[budget]\naccuracy_drop = 0.3\n', "utf-8"
        )

    def build(name):
        return edgekit.build(model, samples=calibration, eval=dev, out=folder / name, target=aims[name]).bundle

    return SimpleNamespace(
        bundle=build("small"),
        build=build,
        out=folder / "small",
        dev=dev,
        few=few,
        rows=rows[30:],
        labels=labels[30:],
        folder=folder,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A build of an image classifier; paths in a table, and labels by Transformers' pipeline."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "pictures").mkdir()
    source = edgekit.source.read(tiny_images.folder("vit"))
    pipeline = ImageClassificationPipeline(model=source.module, image_processor=source.processor)
    paths = [f"pictures/secret{place}.png" for place in range(80)]
    for path, picture in zip(paths, tiny_images.images(80, seed=4), strict=True):
        Image.fromarray(picture).save(folder / path)
    answers = [pipeline(str(folder / path)) for path in paths]
    labels = [max(answer, key=lambda entry: entry["score"])["label"] for answer in answers]
    assert min(labels.count(name) for name in tiny_images.LABELS) > 5
    found = made(
        folder,
        tiny_images.folder("vit"),
        paths,
        "image",
        labels,
        lambda label: tiny_images.LABELS[tiny_images.LABELS.index(label) - 1],
    )
    found.answers = answers[30:]
    return found


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A build of a token classifier; lists of words, and the label that torch gives the first token of each."""
    module, tokenizer = tiny_words.made("bert")
    draw, known = random.Random(4), sorted({word for sentence in tiny.SENTENCES for word in sentence.split()})
    rows, labels = [], []
    while len(rows) < 80:
        row = draw.choices(known, k=draw.randint(2, 6))
        encoded = tokenizer(row, is_split_into_words=True, return_tensors="pt")
        places = encoded.word_ids()
        with torch.inference_mode():
            first = module(**encoded).logits[0][[places.index(word) for word in range(len(row))]]
        best = first.topk(2).values
        if (best[:, 0] - best[:, 1]).min() < 0.4:
            continue  # between two labels an INT8 model may rightly answer otherwise
        rows.append(row)
        labels.append(valid([tiny_words.LABELS[place] for place in first.argmax(dim=-1).tolist()]))
    found = made(
        tmp_path_factory.mktemp("words"),
        tiny_words.folder("bert"),
        rows,
        "words",
        labels,
        lambda label: ["O"] * len(label),
    )
    found.pipeline = TokenClassificationPipeline(
        model=module, tokenizer=tokenizer, aggregation_strategy="simple", stride=8
    )
    return found


def valid(tags):
    """A model of random weights begins spans with I-, which a data set does not."""
    read = []
    for tag in tags:
        continues = tag[:1] == "I" and read and read[-1][1:] == tag[1:]
        read.append(tag if tag[:1] != "I" or continues else "B" + tag[1:])
    return read


@pytest.fixture(params=["images", "words"])
def built(request):
    return request.getfixturevalue(request.param)


def test_every_method_is_measured_on_its_backends(built):
    manifest = built.bundle.manifest
    assert {(trial.method, trial.backend) for trial in manifest.trials} == {
        ("float32", "onnxruntime"),
        ("float32", "openvino"),
        ("static", "onnxruntime"),
        ("static", "openvino"),
        ("dynamic", "onnxruntime"),
        ("float32", "litert"),
        ("dynamic_rows", "litert"),
        ("dynamic_rows_int4", "litert"),
    }
    for trial in manifest.trials:
        kind = {"float32": "float32", "dynamic_rows_int4": "int4"}.get(trial.method, "int8")
        assert trial.executed.startswith(kind)
        # Random weights bear 16 levels badly; the budget keeps such a candidate out.
        if trial.method != "dynamic_rows_int4":
            assert trial.changed == 0 if trial.method == "float32" else abs(trial.drop) < 0.3
    assert "have 1 tokens" not in " ".join(manifest.notes)


def test_the_reference_is_right_where_the_labels_are(images, words):
    assert images.bundle.manifest.reference_score == pytest.approx(0.9)
    assert words.bundle.manifest.score_name == "span F1"
    assert 0.5 < words.bundle.manifest.reference_score < 1.0


def test_golden_answers_of_words_are_compared_by_word(words):
    stored = golden.read(open_bundle(words.out))
    with edgekit.load(words.out) as session:
        found = session.run_rows(stored.rows)
    for row, answer in zip(stored.rows, found, strict=True):
        assert (row["words"] >= 0).sum() < len(row["input_ids"]) == len(answer["words"])


def test_images_are_answered_as_by_the_pipeline(images):
    with edgekit.load(images.out) as session:
        assert session.info.max_length is None
        for path, expected in zip(images.rows, images.answers, strict=True):
            answer = session(images.folder / path)
            assert not hasattr(answer, "truncated"), "an image is read whole"
            assert answer.scores == pytest.approx({entry["label"]: entry["score"] for entry in expected}, abs=0.1)
        close = [
            abs(session(images.folder / p).scores[e["label"]] - e["score"])
            for p, es in zip(images.rows, images.answers, strict=True)
            for e in es
        ]
        assert max(close) < (1e-4 if session.info.method == "float32" else 0.1)


def test_words_are_answered_as_by_the_pipeline(words):
    with edgekit.load(words.out) as session:
        exact = session.info.method == "float32"
        answers = session([tuple(row) for row in words.rows])
        same = [[part.label for part in answer.words] for answer in answers]
        texts = [" ".join(row) for row in words.rows[:10]]
        for text, answer in zip(texts, session(texts), strict=True):
            expected = words.pipeline(text)
            if exact:
                assert [(e.label, e.start, e.end) for e in answer.entities] == [
                    (e["entity_group"], e["start"], e["end"]) for e in expected
                ]
                np.testing.assert_allclose(
                    [e.score for e in answer.entities], [e["score"] for e in expected], atol=1e-4
                )
    right = [valid(found) == wanted for found, wanted in zip(same, words.labels, strict=True)]
    assert all(right) if exact else np.mean(right) > 0.5
    assert [[part.text for part in answer.words] for answer in answers] == words.rows


def test_an_evaluation_scores_what_the_build_scored(built):
    found, manifest = evaluate(built.out, built.dev), built.bundle.manifest
    chosen = next(trial for trial in manifest.trials if trial.verdict == "chosen")
    assert (found.score_name, found.score) == (manifest.score_name, pytest.approx(chosen.score))
    assert found.rows == len(built.rows) and not found.truncated
    assert "text to label" not in found.text()


@pytest.mark.usefixtures("quick")
def test_a_bundle_loses_nothing_against_itself(built):
    itself = check.compare(built.out, built.out, built.few, options=CompareOptions(max_time=0.0))
    assert itself.accuracy.flips == 0 and itself.accuracy.drop == 0.0
    assert {gate.name: gate.verdict for gate in itself.gates}["accuracy.drop"] == "pass"
    assert itself.robustness and all(one.drop == 0.0 for one in itself.robustness)


@pytest.mark.usefixtures("quick")
def test_int8_is_checked_against_a_baseline_in_a_file(built, tmp_path):
    """What it may lose is what the rows show, by the scores of both sides."""
    quantized, file = built.build("int8"), tmp_path / "baseline.json"
    assert [variant.method for variant in quantized.manifest.variants] == ["static"]
    files.write(check.baseline(built.out, built.few, file=file), file)
    found = check.check(quantized.path, file, built.few, options=CheckOptions(gates=OPEN, max_time=0.0))
    before, after = found.subjects
    assert (before.method, after.method) == (built.bundle.manifest.variants[0].method, "static")
    assert found.accuracy.drop == pytest.approx(before.score - after.score)
    assert abs(found.accuracy.drop) < 0.3
    verdicts = {gate.name: gate.verdict for gate in found.gates}
    assert verdicts["footprint.size"] == "pass"
    assert set(verdicts.values()) <= {"pass", "inconclusive"}, verdicts


def test_a_report_shows_labels_and_nothing_of_the_samples(built, tmp_path):
    options = ("--samples", built.few, "-o", tmp_path / "report", "--max-time", "1")
    done = small.python(QUICK_CLI, "eval", built.out, *options)
    assert done.returncode == 0, done.stderr.decode()
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "Confusion" in page
    written = " ".join(file.read_text("utf-8") for file in (tmp_path / "report").iterdir())
    if built.bundle.manifest.task == "image-classification":
        assert "secret" not in written
        assert "tokens" not in page
    else:
        assert "span F1" in page and "token accuracy" in page
        for word in ("thermostat", "kitchen", "unfinished"):
            assert word not in written


def test_the_command_line_answers(images, words):
    done = small.edgekit("run", images.out, images.folder / images.rows[0])
    assert done.returncode == 0, done.stderr.decode()
    assert set(json.loads(done.stdout)["scores"]) == set(tiny_images.LABELS)
    done = small.edgekit("run", words.out, " ".join(words.rows[0]))
    assert done.returncode == 0, done.stderr.decode()
    assert [part["text"] for part in json.loads(done.stdout)["words"]] == words.rows[0]


def test_a_bundle_for_a_device_holds_what_its_graph_has(built):
    bundle = built.build("board")
    manifest = bundle.manifest
    assert [variant.method for variant in manifest.variants] == ["static_float16", "float16"]
    axes = {"batch", *manifest.signatures[0].varying}
    assert axes == ({"batch"} if manifest.task == "image-classification" else {"batch", "sequence"})
    for variant in manifest.variants:
        assert {axis for profile in variant.engine.profiles for axis in profile} == axes
        for profile in variant.engine.profiles:
            assert set(shapes(manifest.signatures[0], profile)) == {spec.name for spec in manifest.signatures[0].inputs}
    assert not verify(open_bundle(bundle.path)).problem()
    assert "tokens" not in " ".join(manifest.unverified) or manifest.task != "image-classification"


# ---- what is refused, from the file of samples to the exit code


@pytest.mark.parametrize(
    "name", ["none.png", "cut.png", "deep.png", "huge.png", "moving.gif", "../outside.png", "gone.png"]
)
def test_an_image_that_cannot_be_taken_names_its_row_and_not_its_path(images, tmp_path, name):
    table = tmp_path / "table"
    table.mkdir()
    picture = Image.fromarray(tiny_images.images(1)[0])
    picture.save(tmp_path / "outside.png")
    picture.save(table / "fine.png")
    (table / "none.png").write_bytes(b"no image")
    (table / "cut.png").write_bytes((table / "fine.png").read_bytes()[:400])
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(table / "deep.png")
    (table / "huge.png").write_bytes(header_of(20_000, 20_000))
    picture.save(table / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    rows = [{"image": "fine.png", "label": "cat"}, {"image": name, "label": "dog"}]
    file = small.write_jsonl(table / "dev.jsonl", rows)
    with refused("samples-row", "2") as caught:
        evaluate(images.out, file)
    assert name not in str(caught.value)


def test_a_folder_with_a_subfolder_a_label_is_scored_as_a_table(images, tmp_path):
    for path, label in zip(images.rows, images.labels, strict=True):
        (tmp_path / label).mkdir(exist_ok=True)
        shutil.copy(images.folder / path, tmp_path / label)
    found = evaluate(images.out, tmp_path)
    with edgekit.load(images.out) as session:
        answers = session([images.folder / path for path in images.rows])
    assert (found.rows, found.score) == (
        len(images.rows),
        np.mean([a.label == label for a, label in zip(answers, images.labels, strict=True)]),
    )
    (tmp_path / "note.txt").write_text("secret")
    with refused("samples-folder"):
        evaluate(images.out, tmp_path)


def header_of(width, height):
    """A PNG whose header is whole and whose pixels are missing: to decode it would be 1.2 GB."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + data
        + struct.pack(">I", zlib.crc32(data))
        + struct.pack(">I", 1000)
        + b"IDAT"
        + b"\x78\x9c"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"words": ["no", "stop"], "label": ["O"]},
        {"words": ["no", "stop"], "label": ["O", "O", "O"]},
        {"words": ["no", "\u0000"], "label": ["O", "O"]},
        {"words": ["no", "stop"], "label": ["O", "I-PER"]},
        {"words": ["no", "stop"], "label": ["O", "B-ORG"]},
        {"words": "no stop", "label": ["O", "O"]},
        {"words": [], "label": []},
    ],
    ids=["fewer labels", "more labels", "a word without a token", "invalid BIO", "unknown label", "a text", "no word"],
)
def test_labels_that_do_not_fit_name_their_row(words, tmp_path, row):
    file = small.write_jsonl(tmp_path / "dev.jsonl", [{"words": ["fine"], "label": ["O"]}, row])
    with pytest.raises(SamplesError, match=r"(row|line) 2"):
        evaluate(words.out, file)


def test_a_row_longer_than_the_model_is_answered_to_its_last_word(words):
    row = tuple(word for sentence in tiny.SENTENCES for word in sentence.split())
    assert len(row) > 3 * tiny.MAX_LENGTH
    with edgekit.load(words.out) as session:
        answer = session(row)
        assert session.info.max_length == tiny.MAX_LENGTH
    assert [part.text for part in answer.words] == list(row) and not answer.truncated
