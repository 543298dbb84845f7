"""Images: a path, the bytes of a file, an image of Pillow, or an array. Pillow reads them as ``load_image`` of Transformers does.

A file is opened by its header first, so that one of too many pixels costs nothing. Formats are those that Pillow decodes by itself: no other program is
started. An image of several frames is refused, because which one is meant cannot be known; of a camera's MPO file the first, the picture itself, is taken.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities.pixels import MOST_PIXELS, Pixels
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import InputError, SamplesError, UsageError

__all__ = ["FORMATS", "UNBOUND", "ImageModality", "check_file", "decode", "size_of"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Names by Pillow of the file formats that are read; an MPO file of a camera begins as a JPEG."""

# Modes by Pillow that become RGB without loss of range; those of 16 and 32 bits would be clipped at 255.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_PATCHES = 4  # along each side, of an image that is explained
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values that swap height and width
_LONGEST_JPEG = 65_500  # pixels of a side that libjpeg takes
_GREY = 127
_MEAN = "mean"
_BRIGHTNESS = (0.6, 1.4)
_QUALITY = 20  # of a JPEG that shows its blocks
_NOISE = 12.0  # standard deviation, of values 0 to 255
_SHIFT = 0.08  # of each side, at most


class ImageModality:
    """The modality ``image``, see :class:`edgekit.spec.protocols.Modality`. An image is read when it is preprocessed; until then a path stays a path."""

    roles = ("image",)
    reads_files = True

    def __init__(self, pixels: Pixels | None = None) -> None:
        """Binds the modality to the preprocessing of a model; without it images are read and disturbed, and not encoded."""
        self._pixels = pixels

    def read(self, columns: Mapping[str, object], folder: Path) -> str:
        """The path of one row's image, absolute.

        Raises:
            SamplesError: for a value that is no path, a path outside the folder, and a file that is no image that can be read; the message begins behind
                the place, and never quotes the value.
        """
        value = columns["image"]
        if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
            raise SamplesError(
                f"has as its image {_kind(value)}, expected the path of a file, relative to the folder of the table. Correct or remove the row.",
                code="samples-image-type",
            )
        try:
            root = folder.resolve()
            path = (root / str(value)).resolve()
            inside = path.is_relative_to(root)
            there = inside and path.is_file()
        except (OSError, ValueError, RuntimeError) as problem:
            raise SamplesError(
                f"has a path of an image that cannot be followed ({type(problem).__name__}). Correct the path.",
                code="samples-image-path",
            ) from problem
        if not inside:
            raise SamplesError(
                "has a path of an image that leads out of the folder of the table. Copy the image into it, or move the table up.",
                code="samples-image-outside",
            )
        if not there:
            raise SamplesError(
                "has a path of an image that leads to no file. Correct the path: it starts at the folder of the table.",
                code="samples-image-missing",
            )
        try:
            check_file(path)
        except InputError as problem:
            raise SamplesError(f"has an image that cannot be taken: {problem}", code="samples-image") from problem
        return str(path)

    def content(self, value: object) -> bytes:
        """What an image is told from others by: the digest of its file, or of its pixels where there is no file."""
        if isinstance(value, (str, os.PathLike)):
            try:
                return b"file " + hashlib.sha256(Path(value).read_bytes()).digest()
            except (OSError, ValueError) as problem:
                raise _unreadable("", problem) from problem
        if isinstance(value, (bytes, bytearray)):
            return b"file " + hashlib.sha256(value).digest()
        image = decode(value)
        return b"pixels " + hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

    def size(self, arrays: Mapping[str, np.ndarray]) -> int:
        """1: rows do not vary."""
        return 1

    def generate(self, count: int, longest: int, seed: int) -> list[np.ndarray]:
        """Smooth patterns with noise, of several sizes and shapes: uint8 ``[height, width, 3]`` each."""
        draw = np.random.default_rng(seed)
        return [_pattern(draw, *(int(n) for n in draw.integers(24, 97, 2))) for _ in range(count)]

    def join(self, inputs: Sequence[object], longest: int) -> list[np.ndarray]:
        """None: rows do not vary in size."""
        return []

    def cut(self, arrays: Mapping[str, np.ndarray], longest: int) -> Mapping[str, np.ndarray]:
        """The row itself."""
        return arrays

    def check(self, inputs: Sequence[object], where: str) -> None:
        """Refuses an image that is too large once it is resized, by its header; :meth:`read` has looked at all else of a file.

        Raises:
            SamplesError: with the number of the first such row.
        """
        if self._pixels is None:
            return
        for row, value in enumerate(inputs, 1):
            try:
                self._pixels.check_size(*size_of(value))
            except InputError as problem:
                raise SamplesError(f"{where}, row {row} cannot be taken: {problem}", code="samples-image") from problem

    @property
    def perturbations(self) -> Mapping[str, Callable[[Any, random.Random], np.ndarray | None]]:
        """Name to what happens to images between a camera and a model."""
        return {"blur": _blur, "jpeg": _jpeg, "brightness": _brighten, "noise": _noise, "shift": _shift}

    def occlude(self, value: object, filler: str) -> tuple[Sequence[str], Iterable[np.ndarray]]:
        """Patches of an image by row and column, and the image once without each: filled with its mean colour, or with grey where ``filler`` is empty.

        The image is decoded when the first copy is asked for, and each copy is made when it is asked for.
        """
        rows, columns = (np.linspace(0, n, min(_PATCHES, n) + 1).astype(int) for n in size_of(value))
        places = list(itertools.product(range(len(rows) - 1), range(len(columns) - 1)))

        def hidden() -> Iterator[np.ndarray]:
            image = decode(value)
            color = np.rint(image.mean(axis=(0, 1))).astype(np.uint8) if filler else np.full(3, _GREY, np.uint8)
            for i, j in places:
                one = image.copy()
                one[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = color
                yield one

        return [f"row {i + 1}, column {j + 1}" for i, j in places], hidden()

    def filler(self) -> str:
        """The mean colour of an image says nothing in the place of a patch."""
        return _MEAN

    def quote(self, value: object) -> str:
        """The name of a file, or the size of an image."""
        if isinstance(value, (str, os.PathLike)):
            return Path(value).name
        height, width = decode(value).shape[:2]
        return f"image of {width} x {height} pixels"

    def encode(self, values: Sequence[object]) -> list[np.ndarray]:
        """``pixel_values`` of images: float32 ``[3, height, width]`` each.

        Raises:
            InputError: for what is no image, see :func:`decode`.
            UsageError: without the preprocessing of a model.
        """
        if self._pixels is None:
            raise UsageError(
                "Images were to be encoded without a model's preprocessing. Load the task of a bundle first.",
                code="task-without-bundle",
            )
        pixels, several = self._pixels, len(values) > 1
        return [
            pixels.apply(decode(value, f" at position {i}" if several else ""), _resize)
            for i, value in enumerate(values)
        ]


def decode(value: object, place: str = "") -> np.ndarray:
    """An image as the pipelines of Transformers see it: turned by its EXIF orientation, converted to RGB (an alpha channel is dropped).

    Args:
        value: the path of a file, its bytes, an image of Pillow, or an array ``[height, width, 3]`` of uint8, or of floats 0 to 1.
        place: of the image among the inputs, for messages.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        InputError: for anything else: values of more than 8 bits that Pillow does not scale to 8 (grey ones), several frames, more than ``MOST_PIXELS``,
            a damaged file.
    """
    if isinstance(value, np.ndarray):
        return _from_array(value, place)
    pillow = _pillow()
    if isinstance(value, pillow.Image):
        return _from_pillow(value, place)
    with _open(value, place) as image:
        return _from_pillow(image, place)


def size_of(value: object, place: str = "") -> tuple[int, int]:
    """Height and width of what :func:`decode` gives, read off the header of a file: its EXIF orientation counts, its pixels are not decoded.

    Raises:
        InputError: for what its header refuses, see :func:`decode`.
    """
    if isinstance(value, np.ndarray):
        height, width = _from_array(value, place).shape[:2]
        return int(height), int(width)
    pillow = _pillow()
    if isinstance(value, pillow.Image):
        return _upright(value, place)
    with _open(value, place) as image:
        return _upright(image, place)


def _upright(image: Any, place: str) -> tuple[int, int]:
    """Height and width of an image of Pillow by its header and its EXIF orientation; those of TIFF are turned already."""
    _check(image, place)
    try:
        orientation = _pillow().Image.getexif(image).get(_ORIENTATION, 1)  # that of the class for PNG decodes the file
    except Exception as problem:  # EXIF of every kind
        raise _unreadable(place, problem) from problem
    width, height = image.size
    return (width, height) if orientation in _ON_THEIR_SIDE and image.format != "TIFF" else (height, width)


def check_file(path: Path) -> None:
    """Refuses a file that :func:`decode` would refuse. A JPEG is decoded in an eighth of its size, which finds what is missing of it as well.

    Raises:
        InputError: with what is wrong.
    """
    with _open(path, "") as image:
        _check(image, "")
        try:
            image.draft("RGB", (1, 1))
            image.load()
        except Exception as problem:  # decoders raise errors of every kind
            raise _unreadable("", problem) from problem


def _pillow() -> Any:
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


def _open(value: object, place: str) -> Any:
    """An image of which the header alone is read."""
    if not isinstance(value, (str, os.PathLike, bytes, bytearray)):
        raise InputError(
            f"Input{place} is {_kind(value)}, expected a path, the bytes of a file, an image of Pillow, or an array [height, width, 3].",
            code="input-type",
        )
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise InputError(
            f"Input{place} is an address, expected an image here. Download it first, and pass its path or its bytes.",
            code="image-address",
        )
    pillow = _pillow()
    source = io.BytesIO(value) if isinstance(value, (bytes, bytearray)) else value
    try:
        return pillow.open(source, formats=FORMATS)
    except pillow.DecompressionBombError as problem:
        raise InputError(
            f"Input{place} has too many pixels, expected at most {MOST_PIXELS}. Make the image smaller.",
            code="image-too-large",
        ) from problem
    except Exception as problem:  # headers of every kind
        raise _unreadable(place, problem) from problem


def _check(image: Any, place: str) -> None:
    """Refuses by its header what cannot be taken."""
    width, height = image.size
    if not width or not height:
        raise InputError(
            f"Input{place} is an image of {width} x {height} pixels, expected at least one.", code="image-empty"
        )
    if width * height > MOST_PIXELS:
        raise InputError(
            f"Input{place} is an image of {width} x {height} pixels, expected at most {MOST_PIXELS} in all. Make it smaller.",
            code="image-too-large",
        )
    if image.mode not in _MODES:
        raise InputError(
            f"Input{place} is an image of the mode '{image.mode}', expected 8 bits a channel. Scale its values to 0 to 255 first.",
            code="image-mode",
        )
    try:
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as problem:
        raise _unreadable(place, problem) from problem
    if frames > 1:
        raise InputError(
            f"Input{place} is an animation or a stack of {frames} frames, expected one image. Pass the frame that is meant.",
            code="image-animated",
        )


def _from_pillow(image: Any, place: str) -> np.ndarray:
    from PIL import ImageOps

    _check(image, place)
    try:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as problem:  # decoders raise errors of every kind
        raise _unreadable(place, problem) from problem


def _from_array(array: np.ndarray, place: str) -> np.ndarray:
    if (
        array.ndim != 3
        or array.shape[2] != 3
        or 0 in array.shape
        or array.dtype.kind not in "uf"
        or (array.dtype.kind == "u" and array.dtype != np.uint8)
    ):
        hint = " Move the channels to the end." if array.ndim == 3 and array.shape[0] == 3 else ""
        expected = "uint8, or floats 0 to 1, of [height, width, 3]"
        raise InputError(
            f"Input{place} is an array of {array.dtype} {list(array.shape)}, expected {expected}.{hint}",
            code="image-array",
        )
    if array.shape[0] * array.shape[1] > MOST_PIXELS:
        raise InputError(
            f"Input{place} is an image of {array.shape[1]} x {array.shape[0]} pixels, expected at most {MOST_PIXELS} in all. Make it smaller.",
            code="image-too-large",
        )
    if array.dtype == np.uint8:
        return array
    if not bool(((array >= 0) & (array <= 1)).all()):  # NaN is in no range
        raise InputError(
            f"Input{place} is an array of floats that are not all 0 to 1, expected that. Divide values 0 to 255 by 255, or convert them to uint8.",
            code="image-array",
        )
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def _unreadable(place: str, problem: BaseException) -> InputError:
    if isinstance(problem, FileNotFoundError):
        return InputError(
            f"Input{place} is the path of no file. Correct it: a path is relative to the folder that the program was started in.",
            code="image-not-found",
        )
    kinds = ", ".join(FORMATS)
    return InputError(
        f"Input{place} is no image, or a damaged one ({type(problem).__name__}), expected a whole file of {kinds}. Look at it, or convert it to PNG.",
        code="image-unreadable",
    )


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


# ---- what Pillow computes


def _resize(image: np.ndarray, height: int, width: int, number: int) -> np.ndarray:
    pillow = _pillow()
    return np.asarray(pillow.fromarray(image).resize((width, height), resample=number))


def _blur(value: object, draw: random.Random) -> np.ndarray:
    """Out of focus: a Gaussian of a fiftieth of the shorter side, at least 0.7 pixels."""
    from PIL import ImageFilter

    image = decode(value)
    radius = max(0.7, min(image.shape[:2]) / 50)
    return np.asarray(_pillow().fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(value: object, draw: random.Random) -> np.ndarray | None:
    """Compressed as a JPEG of low quality; None for an image that is longer than a JPEG can be."""
    pillow, file = _pillow(), io.BytesIO()
    image = decode(value)
    if max(image.shape[:2]) > _LONGEST_JPEG:
        return None
    pillow.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return np.asarray(pillow.open(file, formats=("JPEG",)).convert("RGB"))


# ---- what numpy computes


def _brighten(value: object, draw: random.Random) -> np.ndarray:
    """Darker or brighter by up to two fifths."""
    return np.clip(np.rint(decode(value) * draw.uniform(*_BRIGHTNESS)), 0, 255).astype(np.uint8)


def _noise(value: object, draw: random.Random) -> np.ndarray:
    """Noise of a sensor: normal, each value by itself."""
    image = decode(value)
    noise = np.random.default_rng(draw.getrandbits(64)).normal(0.0, _NOISE, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _shift(value: object, draw: random.Random) -> np.ndarray:
    """Moved by up to a twelfth of each side, at least one pixel; what comes in is the border repeated."""
    image = decode(value)
    for axis in (0, 1):
        size = image.shape[axis]
        most = max(1, int(size * _SHIFT))
        image = np.take(
            image, np.clip(np.arange(size) + draw.choice((-1, 1)) * draw.randint(1, most), 0, size - 1), axis=axis
        )
    return image


def _pattern(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A coarse grid of colours, interpolated, with some noise."""
    coarse = draw.uniform(0, 255, (5, 5, 3))
    across = np.stack(
        [[np.interp(np.linspace(0, 4, width), range(5), line) for line in coarse[:, :, c]] for c in range(3)], axis=-1
    )
    full = np.stack(
        [[np.interp(np.linspace(0, 4, height), range(5), column) for column in across[:, :, c].T] for c in range(3)],
        axis=-1,
    )
    smooth = full.transpose(1, 0, 2)
    return np.clip(np.rint(smooth + draw.normal(0, 8, smooth.shape)), 0, 255).astype(np.uint8)


UNBOUND = ImageModality()
"""The modality without a model: it reads, identifies, disturbs and quotes."""
