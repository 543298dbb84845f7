"""A student of a task without tokens: images of one size, a folder with an image processor."""

from __future__ import annotations

import numpy as np
import pytest
import small

pytest.importorskip("PIL")
import tiny_images
from PIL import Image
from refusals import refused

import edgekit
import edgekit.source
from edgekit.compress.distill import ArrayRows, Training, distill_module
from edgekit.spec.options import ModuleDistillOptions

TRAINING = Training(epochs=3, batch=8, learning_rate=1e-3, copies=2, precision="float32")


@pytest.fixture
def rows(tmp_path):
    pictures = tiny_images.images(48, seed=4)
    made = []
    for place, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{place}.png")
        made.append({"image": f"{place}.png", "label": tiny_images.LABELS[int(np.argmax(picture.mean(axis=(0, 1))))]})
    train = small.write_jsonl(tmp_path / "train.jsonl", [*made[:24], *({"image": row["image"]} for row in made[24:28])])
    return {"samples": train, "eval": small.write_jsonl(tmp_path / "dev.jsonl", made[28:])}


@pytest.mark.train
@pytest.mark.parametrize("name", ["vit", "beit"])
def test_an_image_classifier_teaches_a_smaller_one(name, rows, tmp_path):
    made = small.distill(tiny_images.folder(name), out=tmp_path / "out", **rows, layers=1, training=TRAINING)
    assert made.score_name == "accuracy"
    assert made.epochs[-1].loss < made.epochs[0].loss
    student = edgekit.source.read(made.path)
    assert student.task == "image-classification"
    assert student.module.config.num_hidden_layers == 1
    assert student.settings == edgekit.source.read(tiny_images.folder(name)).settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"), [("swin", "student-shape"), ("mobilevit", "student-shape"), ("resnet", "model-no-layers")]
)
def test_a_teacher_whose_layers_cannot_be_left_out_is_refused(name, code, rows, tmp_path):
    """Before any training: a folder of such a student could not be read."""
    with refused(code):
        small.distill(tiny_images.folder(name), out=tmp_path / "out", **rows, layers=1, training=TRAINING)
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_a_teacher_without_a_stack_of_layers_teaches_a_student_of_one_s_own(rows, tmp_path):
    made = small.distill(
        tiny_images.folder("resnet"),
        out=tmp_path / "out",
        **rows,
        student=tiny_images.folder("convnext"),
        training=TRAINING,
    )
    assert any(
        "no stack of equal layers, so the student learns from the teacher's answers" in note for note in made.notes
    )
    assert made.epochs[-1].loss < made.epochs[0].loss


def test_a_student_with_other_positions_than_the_teacher_is_refused():
    """Swin without its last stage merges no patches, so it has four times as many."""
    given = [
        {"pixel_values": image}
        for image in np.random.default_rng(0).standard_normal((4, 3, tiny_images.SIZE, tiny_images.SIZE), np.float32)
    ]
    with refused("student-positions", "64", "16"):
        distill_module(
            tiny_images.module("swin"),
            ArrayRows(given),
            ArrayRows(given, [0, 1, 2, 0]),
            options=ModuleDistillOptions(layers=1, training=TRAINING),
        )
