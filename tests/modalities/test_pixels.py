"""Preprocessing of images as data, against the image processors of Transformers that Pillow computes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")
import transformers
from PIL import Image
from refusals import refused
from transformers.image_utils import PILImageResampling

from edgekit.modalities.image import ImageModality
from edgekit.modalities.pixels import MOST_PIXELS, Pixels
from edgekit.source.processors import image as processors
from edgekit.spec.parsing import parse, plain

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SMALL = {"height": 48, "width": 40}
# Class, and what a checkpoint of it sets otherwise than the class: small sizes, odd differences, every kind of step.
CASES = [
    ("ViTImageProcessor", {"size": SMALL}),
    ("ViTImageProcessor", {"size": SMALL, "do_normalize": False}),
    ("ViTImageProcessor", {"size": SMALL, "do_rescale": False}),
    (
        "ViTImageProcessor",
        {"size": SMALL, "resample": PILImageResampling.LANCZOS, "rescale_factor": 1 / 127.5, **IMAGENET},
    ),
    ("ViTImageProcessor", {"size": SMALL, "do_center_crop": True, "crop_size": {"height": 33, "width": 56}}),
    ("DeiTImageProcessor", {"size": {"height": 64, "width": 64}, "crop_size": {"height": 49, "width": 56}, **IMAGENET}),
    ("DeiTImageProcessor", {}),
    ("BeitImageProcessor", {"size": SMALL}),
    ("BeitImageProcessor", {"size": SMALL, "do_center_crop": True, "crop_size": {"height": 31, "width": 31}}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 56}, **IMAGENET}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 40}, "crop_pct": 0.95}),
    ("ConvNextImageProcessor", {}),
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}}),
    (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 47}, "do_flip_channel_order": False},
    ),
    ("MobileNetV1ImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}),
    ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 65}, "crop_size": {"height": 56, "width": 56}}),
    ("EfficientNetImageProcessor", {"size": SMALL}),
    ("EfficientNetImageProcessor", {"size": SMALL, "rescale_offset": True, "include_top": False}),
    ("LevitImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    ("PoolFormerImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    ("PoolFormerImageProcessor", {"size": SMALL, "crop_size": SMALL}),
    ("PoolFormerImageProcessor", {"size": {"height": 48, "width": 48}, "crop_size": {"height": 48, "width": 48}}),
    ("PvtImageProcessor", {"size": SMALL}),
    ("BitImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}),
    ("SiglipImageProcessor", {"size": SMALL}),
]


def processor(name: str, settings: dict):
    return getattr(transformers, name + "Pil")(**settings)


def images() -> list[np.ndarray]:
    """Larger, smaller, wide, tall, odd, of one pixel."""
    draw = np.random.default_rng(7)
    shapes = [(90, 70), (33, 120), (121, 35), (20, 25), (48, 40), (1, 1), (300, 2), (257, 255)]
    return [draw.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_pixels_are_those_of_transformers(name, settings):
    theirs = processor(name, settings)
    found = processors.pixels("model", theirs)
    stored = parse(Pixels, plain(found), "assets/task.json")
    for image, row in zip(images(), ImageModality(stored).encode(images()), strict=True):
        expected = theirs(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
        assert row.dtype == np.float32
        assert row.shape == expected.shape
        assert np.abs(row - expected.astype(np.float32)).max() <= 1e-6


def test_the_processor_is_what_encodes_as_the_truth():
    theirs = processor("DeiTImageProcessor", {})
    image = images()[0]
    (row,) = processors.encode(theirs, [image])
    assert np.array_equal(row["pixel_values"], ImageModality(processors.pixels("model", theirs)).encode([image])[0])


def test_a_folder_gives_the_processor_that_pillow_computes(tmp_path):
    processor("ConvNextImageProcessor", {"size": {"shortest_edge": 40}}).save_pretrained(tmp_path)
    processors.check_names("model", {p.name for p in tmp_path.iterdir()})
    assert processors.survey("model", tmp_path, {}, {}, {}) == ()
    loaded = processors.load("model", tmp_path, {})
    assert processors.pixels("model", loaded) == Pixels(
        40,
        40,
        shortest_edge=int(40 / (224 / 256)),
        resample="bicubic",
        crop=True,
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessor", {"do_resize": False}),
        ("BitImageProcessor", {"do_center_crop": False}),
        ("ViTImageProcessor", {"size": {"shortest_edge": 40, "longest_edge": 80}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": SMALL}),
        ("ViTImageProcessor", {"size": SMALL, "image_std": [0.5, 0.0, 0.5]}),
        ("DetrImageProcessor", {}),
    ],
)
def test_a_processor_without_one_size_or_of_another_kind_is_refused(name, settings):
    with refused("processor-unsupported"):
        processors.pixels("model", processor(name, settings))


def test_a_folder_without_an_image_processor_and_one_with_code_are_refused(tmp_path):
    with refused("processor-missing-file", "preprocessor_config.json"):
        processors.check_names("model", {"config.json", "model.safetensors"})
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "auto_map": {"AutoImageProcessor": "x.Y"}}'
    )
    with refused("model-own-code", "auto_map"):
        processors.survey("model", tmp_path, {}, {}, {})
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "DetrImageProcessor"}')
    with refused("processor-unsupported"):
        processors.survey("model", tmp_path, {}, {}, {})
    with refused("model-channels"):
        processors.survey("model", tmp_path, {"num_channels": 1}, {}, {})


def test_an_image_that_resizing_would_blow_up_is_refused():
    modality = ImageModality(Pixels(224, 224, shortest_edge=256, crop=True))
    with refused("image-too-large", str(MOST_PIXELS)):
        modality.encode([np.zeros((1, 2000, 3), np.uint8)])


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": (8, 8), "shortest_edge": 8, "crop": True},
        {"resize": (9, 8)},
        {"shortest_edge": 8},
        {},
        {"resize": (8, 8), "resample": "cubic"},
        {"resize": (8, 8), "channels": "grb"},
        {"resize": (8, 8), "mean": (0.5,)},
        {"resize": (8, 8), "std": (0.5, 0.0, 0.5)},
        {"resize": (0, 8), "crop": True},
    ],
)
def test_settings_that_give_no_single_size_are_refused(settings):
    with refused("processor-settings"):
        Pixels(8, 8, **settings)


@pytest.mark.parametrize("settings", [{"resize": (8, 6)}, {"shortest_edge": 6, "crop": True}])
def test_an_image_that_has_the_size_already_is_not_resized(settings):
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    found = Pixels(8, 6, **settings).apply(image, lambda *_: pytest.fail("the image was resized"))
    np.testing.assert_array_equal(found, image.transpose(2, 0, 1))
