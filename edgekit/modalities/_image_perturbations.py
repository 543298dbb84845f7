"""Perturbations of images that keep the correct answer, resizing, and generated images."""

from __future__ import annotations

import io
import random

import numpy as np

from edgekit.modalities._image_files import decode, load_pillow

_LONGEST_JPEG = 65_500  # Largest side of a JPEG that libjpeg writes, in pixels.
_BRIGHTNESS = (0.6, 1.4)
_QUALITY = 20  # JPEG quality with visible blocks.
_NOISE = 12.0  # Standard deviation, for values 0 to 255.
_SHIFT = 0.08  # Largest shift, as a share of each side.


def resize(image: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Return an image resized by Pillow with a filter number: uint8 ``[height, width, 3]``."""
    pillow = load_pillow()
    return np.asarray(pillow.fromarray(image).resize((width, height), resample=resample))


def blur(value: object, draw: random.Random) -> np.ndarray:
    """Return the image out of focus: a Gaussian of a fiftieth of the shorter side, at least 0.7 pixels."""
    from PIL import ImageFilter

    image = decode(value)
    radius = max(0.7, min(image.shape[:2]) / 50)
    return np.asarray(load_pillow().fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def jpeg(value: object, draw: random.Random) -> np.ndarray | None:
    """Return the image compressed as a JPEG of low quality; None if it is larger than a JPEG can be."""
    pillow = load_pillow()
    file = io.BytesIO()
    image = decode(value)
    if max(image.shape[:2]) > _LONGEST_JPEG:
        return None
    pillow.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return np.asarray(pillow.open(file, formats=("JPEG",)).convert("RGB"))


def brightness(value: object, draw: random.Random) -> np.ndarray:
    """Return the image darker or brighter by up to 40 %."""
    return np.clip(np.rint(decode(value) * draw.uniform(*_BRIGHTNESS)), 0, 255).astype(np.uint8)


def noise(value: object, draw: random.Random) -> np.ndarray:
    """Return the image with sensor noise: normal and independent for each value."""
    image = decode(value)
    normal = np.random.default_rng(draw.getrandbits(64)).normal(0.0, _NOISE, image.shape)
    return np.clip(np.rint(image + normal), 0, 255).astype(np.uint8)


def shift(value: object, draw: random.Random) -> np.ndarray:
    """Return the image shifted by up to 8 % of each side and at least one pixel; the border is repeated."""
    image = decode(value)
    for axis in (0, 1):
        size = image.shape[axis]
        most = max(1, int(size * _SHIFT))
        offset = draw.choice((-1, 1)) * draw.randint(1, most)
        image = np.take(image, np.clip(np.arange(size) + offset, 0, size - 1), axis=axis)
    return image


def generate_pattern(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an interpolated coarse grid of colors with noise: uint8 ``[height, width, 3]``."""
    coarse = draw.uniform(0, 255, (5, 5, 3))
    smooth = _interpolate(_interpolate(coarse, 1, width), 0, height)
    return np.clip(np.rint(smooth + draw.normal(0, 8, smooth.shape)), 0, 255).astype(np.uint8)


def _interpolate(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Return values resized along one axis by linear interpolation."""
    old = np.arange(values.shape[axis])
    new = np.linspace(0, len(old) - 1, size)
    return np.apply_along_axis(lambda line: np.interp(new, old, line), axis, values)
