"""Decoding of images with Pillow, as ``load_image`` of Transformers does it.

The header of a file is checked first, so that a file with too many pixels costs nothing. Formats are those that Pillow
decodes by itself; it starts no other program.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.pixels import MOST_PIXELS
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import InputError, UsageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the file formats that are read; a camera's MPO file begins as a JPEG."""

# Pillow's modes that become RGB without loss of range; values of 16 and 32 bits would be clipped at 255.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_ORIENTATION = 0x0112  # EXIF tag.
_ROTATED = (5, 6, 7, 8)  # Values of that tag that swap height and width.


def decode(value: object, place: str = "") -> np.ndarray:
    """Return an image as the pipelines of Transformers see it.

    The EXIF orientation is applied and the image is converted to RGB (an alpha channel is dropped).

    Args:
        value: Path of a file, bytes of a file, Pillow image, or array ``[height, width, 3]`` of uint8 or of floats 0
            to 1.
        place: Position of the image among the inputs, for messages.

    Returns:
        Array uint8 ``[height, width, 3]``.

    Raises:
        InputError: If the value is none of these, has channels of more than 8 bits, several frames or more than
            ``MOST_PIXELS`` pixels, or the file is damaged.
    """
    if isinstance(value, np.ndarray):
        return _from_array(value, place)
    pillow = load_pillow()
    if isinstance(value, pillow.Image):
        return _from_pillow(value, place)
    with _open(value, place) as image:
        return _from_pillow(image, place)


def size_of(value: object, place: str = "") -> tuple[int, int]:
    """Return the height and width of the result of :func:`decode`, from the header of a file.

    The EXIF orientation is applied; the pixels are not decoded.

    Raises:
        InputError: If :func:`decode` would refuse the image for its header.
    """
    if isinstance(value, np.ndarray):
        height, width = _from_array(value, place).shape[:2]
        return int(height), int(width)
    pillow = load_pillow()
    if isinstance(value, pillow.Image):
        return _oriented_size(value, place)
    with _open(value, place) as image:
        return _oriented_size(image, place)


def check_file(path: Path) -> None:
    """Check that :func:`decode` can read a file.

    A JPEG is decoded at an eighth of its size, which detects missing data as well.

    Raises:
        InputError: If it cannot.
    """
    with _open(path, "") as image:
        _check_header(image, "")
        try:
            image.draft("RGB", (1, 1))
            image.load()
        except Exception as problem:  # Decoders raise errors of every class.
            raise unreadable_error("", problem) from problem


def load_pillow() -> Any:
    """Import Pillow.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageFilter
        import PIL.ImageOps
    except ImportError as problem:
        raise UsageError(
            f"Images need the package 'pillow', which is not installed here. Run: {install_hint('image')}",
            code="extra-missing",
        ) from problem
    return PIL.Image


def unreadable_error(place: str, problem: BaseException) -> InputError:
    """Return the error for a file that Pillow cannot read."""
    if isinstance(problem, FileNotFoundError):
        return InputError(
            f"Input{place} is a path without a file. Correct it: a path is relative to the working directory.",
            code="image-not-found",
        )
    return InputError(
        f"Input{place} is no image or is damaged ({type(problem).__name__}), expected a complete file of one of the "
        f"formats {', '.join(FORMATS)}. Replace the file, or convert it to PNG.",
        code="image-unreadable",
    )


def kind_of(value: object) -> str:
    """Return the type of a value, for messages."""
    return "missing" if value is None else f"a {type(value).__name__}"


def _open(value: object, place: str) -> Any:
    """Open an image; only its header is read."""
    if not isinstance(value, (str, os.PathLike, bytes, bytearray)):
        raise InputError(
            f"Input{place} is {kind_of(value)}, expected a path, the bytes of a file, a Pillow image, or an array "
            "[height, width, 3].",
            code="input-type",
        )
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise InputError(
            f"Input{place} is a URL, expected a local image. Download it, and pass its path or its bytes.",
            code="image-address",
        )
    pillow = load_pillow()
    source = io.BytesIO(value) if isinstance(value, (bytes, bytearray)) else value
    try:
        return pillow.open(source, formats=FORMATS)
    except pillow.DecompressionBombError as problem:
        raise InputError(
            f"Input{place} has too many pixels, expected at most {MOST_PIXELS}. Reduce the image.",
            code="image-too-large",
        ) from problem
    except Exception as problem:  # Damaged headers raise errors of every class.
        raise unreadable_error(place, problem) from problem


def _oriented_size(image: Any, place: str) -> tuple[int, int]:
    """Return the height and width of a Pillow image after its EXIF orientation is applied."""
    _check_header(image, place)
    try:
        # The method of the PNG class would decode the file, so the base class's is called.
        orientation = load_pillow().Image.getexif(image).get(_ORIENTATION, 1)
    except Exception as problem:  # Damaged EXIF data raise errors of every class.
        raise unreadable_error(place, problem) from problem
    width, height = image.size
    # Pillow reports the size of a TIFF with its orientation applied.
    is_rotated = orientation in _ROTATED and image.format != "TIFF"
    return (width, height) if is_rotated else (height, width)


def _check_header(image: Any, place: str) -> None:
    """Refuse an image for its header: its size, mode or number of frames."""
    width, height = image.size
    if not width or not height:
        raise InputError(
            f"Input{place} is an image of {width} x {height} pixels, expected at least one pixel. "
            "Replace or remove the image.",
            code="image-empty",
        )
    if width * height > MOST_PIXELS:
        raise _too_large_error(height, width, place)
    if image.mode not in _MODES:
        raise InputError(
            f"Input{place} is an image of the mode '{image.mode}', expected 8 bits per channel. "
            "Scale its values to 0 to 255 first.",
            code="image-mode",
        )
    try:
        # The first frame of a camera's MPO file is the picture itself.
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as problem:
        raise unreadable_error(place, problem) from problem
    if frames > 1:
        raise InputError(
            f"Input{place} is an animation or a stack of {frames} frames, expected one image. "
            "Extract one frame and pass that.",
            code="image-animated",
        )


def _from_pillow(image: Any, place: str) -> np.ndarray:
    from PIL import ImageOps

    _check_header(image, place)
    try:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as problem:  # Decoders raise errors of every class.
        raise unreadable_error(place, problem) from problem


def _from_array(array: np.ndarray, place: str) -> np.ndarray:
    is_color = array.ndim == 3 and array.shape[2] == 3 and 0 not in array.shape
    if not is_color or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        hint = " Move the channels to the end." if array.ndim == 3 and array.shape[0] == 3 else ""
        raise InputError(
            f"Input{place} is an array of {array.dtype} {list(array.shape)}, expected uint8, or floats 0 to 1, of "
            f"[height, width, 3].{hint}",
            code="image-array",
        )
    height, width = array.shape[:2]
    if height * width > MOST_PIXELS:
        raise _too_large_error(height, width, place)
    if array.dtype == np.uint8:
        return array
    if not bool(((array >= 0) & (array <= 1)).all()):  # NaN fails this too.
        raise InputError(
            f"Input{place} is an array of floats, some outside 0 to 1, expected all inside. "
            "Divide values 0 to 255 by 255, or convert them to uint8.",
            code="image-array",
        )
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def _too_large_error(height: int, width: int, place: str) -> InputError:
    return InputError(
        f"Input{place} is an image of {width} x {height} pixels, expected at most {MOST_PIXELS} in all. "
        "Reduce the image.",
        code="image-too-large",
    )
