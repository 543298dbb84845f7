"""The modality of images: what is taken, what is refused and how, how images are disturbed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image, ImageOps
from refusals import refused

from edgekit.modalities import image as module
from edgekit.modalities.image import UNBOUND, ImageModality, decode, size_of
from edgekit.modalities.pixels import MOST_PIXELS, Pixels
from edgekit.spec.errors import InputError, SamplesError

PICTURE = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = saved(Image.fromarray(PICTURE), "PNG")
JPEG = saved(Image.fromarray(PICTURE), "JPEG")


def header_of(width: int, height: int) -> bytes:
    """A PNG whose header is whole and whose pixels are missing."""
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


def frames(kind: str) -> bytes:
    pictures = [Image.fromarray(np.roll(PICTURE, i, axis=0)) for i in range(3)]
    return saved(pictures[0], kind, save_all=True, append_images=pictures[1:])


def test_path_bytes_pillow_and_arrays_are_one_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for value in (
        path,
        str(path),
        PNG,
        bytearray(PNG),
        Image.fromarray(PICTURE),
        Image.open(path),
        PICTURE,
        PICTURE / 255,
        (PICTURE / 255).astype(np.float32),
    ):
        found = decode(value)
        assert found.dtype == np.uint8
        assert np.array_equal(found, PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb_as_in_the_pipelines_of_transformers(mode):
    from transformers.image_utils import load_image

    image = Image.fromarray(PICTURE).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PICTURE[:, :, 0]))
    assert np.array_equal(decode(image), np.asarray(load_image(image)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_an_image_as_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(PICTURE), "JPEG", exif=exif)
    turned = decode(data)
    assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert turned.shape == ((30, 20, 3) if orientation > 4 else (20, 30, 3))


def test_one_pixel_is_an_image():
    row = ImageModality(Pixels(4, 4, resize=(4, 4))).encode([np.full((1, 1, 3), 9, np.uint8)])[0]
    assert np.array_equal(row, np.full((3, 4, 4), 9, np.float32))


def test_the_first_picture_of_a_cameras_file_is_taken():
    data = saved(Image.fromarray(PICTURE), "MPO", save_all=True, append_images=[Image.fromarray(PICTURE[::-1].copy())])
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


REFUSED = {
    "no image": b"GIF89 this is none",
    "empty": b"",
    "truncated PNG": PNG[: len(PNG) // 2],
    "truncated JPEG": JPEG[: len(JPEG) // 2],
    "20,000 x 20,000": header_of(20_000, 20_000),
    "more pixels than allowed, fewer than Pillow allows": header_of(8193, 8192),
    "no pixel": header_of(0, 5),
    "16 bits": saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
    "floats": saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    "animated GIF": frames("GIF"),
    "animated WebP": frames("WEBP"),
    "animated PNG": frames("PNG"),
    "stack": frames("TIFF"),
    "another format": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_one_image_of_8_bits_is_refused_in_a_session_and_in_a_table(name, tmp_path):
    with pytest.raises(InputError) as problem:
        decode(REFUSED[name], " at position 3")
    assert "at position 3" in str(problem.value)
    assert "KeyError" not in str(problem.value)  # of Pillow's own registers
    (tmp_path / "secret.png").write_bytes(REFUSED[name])
    with refused("samples-image") as caught:
        UNBOUND.read({"image": "secret.png"}, tmp_path)
    assert "secret" not in str(caught.value)


def test_colours_of_16_bits_are_scaled_to_8_as_pillow_does():
    """Their range is kept, where grey values would be clipped; Transformers' pipelines read such files in the same way."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    line = b"\0" + np.array([0, 40_000, 65_535] * 4, ">u2").tobytes()
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(line * 4))
        + chunk(b"IEND", b"")
    )
    found = decode(data)
    assert found.shape == (4, 4, 3)
    assert np.abs(found[0, 0].astype(int) - [0, 40_000 / 257, 255]).max() <= 1


def test_too_many_pixels_are_refused_before_anything_is_decoded(monkeypatch):
    def decoded(self):
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with refused("image-too-large", str(MOST_PIXELS)):
        decode(header_of(8193, 8192))


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "nowhere.png",
        "http://example.org/a.png",
        "a\0b",
        PICTURE[:, :, 0],
        PICTURE.transpose(2, 0, 1),
        PICTURE.astype(np.int64),
        PICTURE.astype(np.uint16),
        PICTURE.astype(np.float32),
        np.full((2, 2, 3), np.nan),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused(value):
    with pytest.raises(InputError):
        decode(value)


def test_a_folder_is_no_image(tmp_path):
    with refused("image-unreadable"):
        decode(tmp_path)


def test_a_table_names_images_by_paths_inside_its_folder(tmp_path):
    inside, outside = tmp_path / "table", tmp_path / "other.png"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "b.png").write_bytes(PNG)
    outside.write_bytes(PNG)
    (inside / "link.png").symlink_to(outside)
    found = UNBOUND.read({"image": "a/b.png"}, inside)
    assert Path(found) == (inside / "a" / "b.png").resolve()
    assert UNBOUND.read({"image": str(inside / "a" / "b.png")}, inside) == found
    for value in (
        "../other.png",
        str(outside),
        "link.png",
        "a/../../other.png",
        "gone.png",
        "a",
        "",
        "  ",
        None,
        3,
        "a\0b",
    ):
        with pytest.raises(SamplesError) as problem:
            UNBOUND.read({"image": value}, inside)
        assert "other" not in str(problem.value)


def test_a_jpeg_in_a_table_is_read_to_its_end(tmp_path):
    (tmp_path / "whole.jpg").write_bytes(JPEG)
    (tmp_path / "cut.jpg").write_bytes(JPEG[: len(JPEG) - 40])
    UNBOUND.read({"image": "whole.jpg"}, tmp_path)
    with refused("samples-image"):
        UNBOUND.read({"image": "cut.jpg"}, tmp_path)


def test_content_is_equal_for_equal_images_alone(tmp_path):
    for name, data in (("a.png", PNG), ("b.png", PNG), ("c.jpg", JPEG)):
        (tmp_path / name).write_bytes(data)
    a, b, c = (UNBOUND.content(str(tmp_path / name)) for name in ("a.png", "b.png", "c.jpg"))
    assert a == b == UNBOUND.content(PNG)
    assert c != a
    assert UNBOUND.content(PICTURE) == UNBOUND.content(Image.fromarray(PICTURE)) == UNBOUND.content(PICTURE / 255)
    assert UNBOUND.content(PICTURE) != UNBOUND.content(PICTURE.reshape(30, 20, 3))
    with refused("image-not-found"):
        UNBOUND.content("nowhere.png")


def test_generated_images_differ_and_come_again_by_their_seed():
    first, again, other = (UNBOUND.generate(4, 1, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({a.shape for a in first}) > 1
    assert all(np.array_equal(decode(a), a) for a in first)


@pytest.mark.parametrize("name", sorted(UNBOUND.perturbations))
def test_a_disturbance_changes_an_image_a_little_and_the_same_way_for_one_seed(name):
    image = UNBOUND.generate(1, 1, 0)[0]
    disturb = UNBOUND.perturbations[name]
    before = image.copy()
    changed = disturb(image, random.Random(1))
    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    assert np.array_equal(image, before)
    assert 0.2 < np.abs(changed.astype(int) - image).mean() < 70
    assert np.array_equal(changed, disturb(saved(Image.fromarray(image), "PNG"), random.Random(1)))


def test_patches_cover_an_image_once_each():
    image = PICTURE.copy()
    names, copies = UNBOUND.occlude(image, UNBOUND.filler())
    hidden = list(copies)
    assert len(set(names)) == len(hidden) == 16
    changed = sum((one != image).any(axis=2).astype(int) for one in hidden)
    assert changed.max() == 1
    assert changed.mean() > 0.95  # a pixel may have the mean colour itself
    grey = list(UNBOUND.occlude(image, "")[1])
    assert (grey[0][:5, :7] == 127).all()
    assert not np.array_equal(grey[0], hidden[0])
    assert len(list(UNBOUND.occlude(image[:1, :1], "mean")[1])) == 1


def test_patches_are_counted_by_the_header_and_copies_made_when_they_are_asked_for():
    names, copies = UNBOUND.occlude(header_of(30, 20), "")
    assert len(names) == 16
    with refused("image-unreadable"):  # only now is the file decoded
        next(iter(copies))


def test_an_image_longer_than_a_jpeg_can_be_is_not_changed_by_it():
    assert UNBOUND.perturbations["jpeg"](np.zeros((4, 66_000, 3), np.uint8), random.Random(1)) is None
    assert UNBOUND.perturbations["jpeg"](np.zeros((2, 65_500, 3), np.uint8), random.Random(1)) is not None


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(PICTURE), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_by_the_header_is_that_of_the_decoded_image(kind, orientation):
    file = turned(kind, orientation)
    assert size_of(file) == decode(file).shape[:2]
    assert size_of(Image.open(io.BytesIO(file))) == decode(file).shape[:2]


def test_a_row_that_is_too_large_once_it_is_resized_is_named_by_its_header():
    modality = ImageModality(Pixels(224, 224, shortest_edge=256, crop=True))
    modality.check([PNG, header_of(3000, 2000)], "rows.csv")
    with refused("samples-image", "rows.csv", "row 2", "60000", "1", "15360000", "256"):
        modality.check([PNG, header_of(60_000, 1)], "rows.csv")
    UNBOUND.check([header_of(60_000, 1)], "rows.csv")


def test_a_report_may_show_the_name_of_a_file_or_the_size_of_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert UNBOUND.quote(str(tmp_path / "a.png")) == "a.png"
    assert UNBOUND.quote(PICTURE) == "image of 30 x 20 pixels"


def test_without_pillow_the_message_says_what_to_install(monkeypatch):
    import builtins

    importing = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused("extra-missing", "edgekit-sdk[image]"):
        module.decode(PNG)
    assert np.array_equal(module.decode(PICTURE), PICTURE)


def test_without_a_models_preprocessing_nothing_is_encoded():
    with refused("task-without-bundle"):
        UNBOUND.encode([PICTURE])
