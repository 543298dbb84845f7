"""Image classifiers: from a folder of Transformers to a graph, against torch and Transformers' pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
import tiny_images
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import ImageClassificationPipeline

import edgekit.source
from edgekit import tasks
from edgekit.export.graphs import export
from edgekit.runtime import runner
from edgekit.source import from_module, heads, processors
from edgekit.spec.errors import ModelError

PICTURES = tiny_images.images(5, seed=1)


def test_every_supported_architecture_has_a_tiny_version():
    assert set(tiny_images.ARCHITECTURES) == set(processors.get("image").MODEL_TYPES)


@pytest.mark.parametrize("name", tiny_images.ARCHITECTURES)
def test_weights_that_a_wrapper_saved(name, tmp_path):
    """Under the names of the hub, which several of these have others of than in memory."""
    folder = Path(shutil.copytree(tiny_images.folder(name), tmp_path / "model"))
    save_file(
        {f"_orig_mod.{n}": t for n, t in load_file(folder / "model.safetensors").items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    weights, expected = (edgekit.source.read(f).module.state_dict() for f in (folder, tiny_images.folder(name)))
    assert weights.keys() == expected.keys()
    assert [n for n, t in weights.items() if t.dtype != expected[n].dtype or not torch.equal(t, expected[n])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_images.ARCHITECTURES)
def test_a_graph_answers_as_the_pipeline_does(name, tmp_path):
    source = edgekit.source.read(tiny_images.folder(name))
    assert source.task == "image-classification"
    graphs = export(source, tmp_path, PICTURES)
    task = tasks.get(source.task).load(graphs.assets)
    (graph,) = graphs.graphs
    task.check_signature(graph.signature)
    encoded = task.preprocess(PICTURES)
    with runner.open_runner(
        {graph.signature.name: graph.path},
        {graph.signature.name: graph.signature},
        "onnxruntime",
        loop=graphs.loop,
        batch=4,
    ) as opened:
        answers = task.postprocess(opened.run([row.arrays for row in encoded]), encoded)
    pipeline = ImageClassificationPipeline(model=source.module, image_processor=source.processor)
    for picture, answer in zip(PICTURES, answers, strict=True):
        expected = {entry["label"]: entry["score"] for entry in pipeline(Image.fromarray(picture))}
        assert set(answer.scores) == set(expected)
        assert answer.label == max(expected, key=expected.get)
        assert all(answer.scores[label] == pytest.approx(score, abs=1e-4) for label, score in expected.items())
    assert np.ptp([answer.scores["cat"] for answer in answers]) > 1e-2  # answers depend on images


def test_a_pipeline_of_files_with_an_orientation_gives_the_same_answer(tmp_path):
    source = edgekit.source.read(tiny_images.folder("deit"))
    source.save_assets(tmp_path)
    task = tasks.get(source.task).load(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.jpg", exif=exif)
    (row,) = task.preprocess([tmp_path / "a.jpg"])
    expected = ImageClassificationPipeline(model=source.module, image_processor=source.processor).preprocess(
        str(tmp_path / "a.jpg")
    )["pixel_values"]
    assert np.abs(row.arrays["pixel_values"] - expected[0].numpy()).max() <= 1e-6


def test_an_image_processor_of_another_size_than_the_model_is_refused(tmp_path):
    shutil.copytree(tiny_images.folder("vit"), tmp_path / "m")
    tiny_images.processor("deit").save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "image_size": 64}))
    with refused("model-load"):
        _ = edgekit.source.read(tmp_path / "m").settings


@pytest.mark.parametrize("lost", ["preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part_is_refused(lost, tmp_path):
    shutil.copytree(tiny_images.folder("vit"), tmp_path / "m")
    (tmp_path / "m" / lost).unlink()
    with pytest.raises(ModelError):
        edgekit.source.read(tmp_path / "m")


def test_a_module_from_python_is_told_by_its_class():
    model = tiny_images.module("vit")
    source = from_module(model, tiny_images.processor("vit"))
    assert source.task == "image-classification"
    assert source.settings.labels == tiny_images.LABELS
    (output,) = source.outputs(source.encode(PICTURES[:1]))
    with torch.inference_mode():
        expected = (
            model(**tiny_images.processor("vit")(images=Image.fromarray(PICTURES[0]), return_tensors="pt"))
            .logits[0]
            .numpy()
        )
    np.testing.assert_allclose(output["logits"], expected, atol=1e-5)
    with refused("processor-missing"):
        from_module(model, None)


def test_losses_are_those_of_one_label():
    head = heads.get("image-classification")
    draw = torch.Generator().manual_seed(0)
    student, teacher = ({"logits": torch.randn(4, 3, generator=draw)} for _ in range(2))
    truth = head.truth_tensor("single_label_classification", [2, None, 0, 1])
    own = head.truth_loss("single_label_classification", {}, student, truth)
    assert own[0] == pytest.approx(float(-student["logits"][0].log_softmax(0)[2]))
    apart = head.teacher_loss("single_label_classification", {}, student, teacher, 2.0)
    p, q = ((x["logits"][1] / 2).softmax(0) for x in (teacher, student))
    assert apart[1] == pytest.approx(float(4 * (p * (p / q).log()).sum()), rel=1e-5)


def test_an_image_that_is_too_large_once_it_is_resized_is_refused_before_transformers_resizes_it(monkeypatch):
    processor = tiny_images.processor("mobilenet_v1")
    asked = []
    resize = type(processor).resize
    monkeypatch.setattr(
        type(processor),
        "resize",
        lambda self, image, *rest, **more: asked.append(image.shape) or resize(self, image, *rest, **more),
    )
    with refused("image-too-large", "position 1", "65500", "1"):
        processors.get("image").encode(processor, [PICTURES[0], np.zeros((1, 65_500, 3), np.uint8)])
    assert len(asked) == 1
