"""The modality of images: paths, bytes of files, Pillow images and arrays.

An image of several frames is refused, since the intended frame is unknown.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.modalities import _image_perturbations
from edgekit.modalities._image_files import FORMATS, check_file, decode, kind_of, size_of, unreadable_error
from edgekit.modalities.pixels import Pixels
from edgekit.spec.errors import InputError, SamplesError, UsageError

__all__ = ["FORMATS", "UNBOUND", "ImageModality", "check_file", "decode", "size_of"]

_PATCHES = 4  # Number of occluded patches along each side.
_GREY = 127
_MEAN = "mean"


class ImageModality:
    """The modality ``image``, see :class:`edgekit.spec.protocols.Modality`.

    A path stays a path until preprocessing reads the image.
    """

    roles = ("image",)
    reads_files = True

    def __init__(self, pixels: Pixels | None = None) -> None:
        """Create the modality with the preprocessing of a model, or without one and then without encoding."""
        self._pixels = pixels

    def read(self, columns: Mapping[str, object], folder: Path) -> str:
        """Return the absolute path of one row's image.

        Args:
            columns: Cell value by role: ``image`` is a path relative to the folder.
            folder: Folder of the sample file.

        Raises:
            SamplesError: If the value is not a path, the path leads out of the folder, or the file is not a readable
                image. The message continues a sentence that begins with the row, and never quotes the value.
        """
        value = columns["image"]
        if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
            raise SamplesError(
                f"has {kind_of(value)} as its image, expected the path of a file, relative to the folder of the table. "
                "Correct or remove the row.",
                code="samples-image-type",
            )
        try:
            root = folder.resolve()
            path = (root / str(value)).resolve()
            is_inside = path.is_relative_to(root)
            exists = is_inside and path.is_file()
        except (OSError, ValueError, RuntimeError) as problem:
            raise SamplesError(
                f"has an image path that cannot be resolved ({type(problem).__name__}). Correct the path.",
                code="samples-image-path",
            ) from problem
        if not is_inside:
            raise SamplesError(
                "has an image path that leads out of the folder of the table. "
                "Copy the image into the folder, or move the table to a parent folder.",
                code="samples-image-outside",
            )
        if not exists:
            raise SamplesError(
                "has an image path without a file. Correct the path: it is relative to the folder of the table.",
                code="samples-image-missing",
            )
        try:
            check_file(path)
        except InputError as problem:
            raise SamplesError(f"has an image that cannot be used: {problem}", code="samples-image") from problem
        return str(path)

    def read_row(self, columns: Mapping[str, object]) -> str | np.ndarray:
        """Return the image of one row in memory, see :class:`edgekit.spec.sources.TakesRows`.

        Args:
            columns: ``image`` to the path of a file (relative to the current folder; any folder is allowed), the bytes
                of a file, an image of Pillow, an array as :func:`decode` takes it, or a mapping with ``bytes`` or
                ``path`` (an undecoded image of ``datasets``).

        Returns:
            The absolute path, or uint8 ``[height, width, 3]``.

        Raises:
            SamplesError: If a value is no image that can be read; the message begins behind the place.
        """
        value = columns["image"]
        if isinstance(value, Mapping):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, (str, os.PathLike)) and str(value).strip():
            path = Path(value).absolute()
            if path.is_file():
                return self.read({"image": path.name}, path.parent)
            raise SamplesError(
                "has a path of an image that leads to no file. Correct the path: it starts at the current folder.",
                code="samples-image-missing",
            )
        if value is None or isinstance(value, (str, bool, int, float)):
            raise SamplesError(
                f"has as its image {kind_of(value)}, expected a path, the bytes of a file, "
                "an image of Pillow, or an array. Correct or remove the row.",
                code="samples-image-type",
            )
        try:
            return decode(value)
        except InputError as problem:
            raise SamplesError(f"has an image that cannot be taken: {problem}", code="samples-image") from problem

    def content(self, value: object) -> bytes:
        """Return the canonical bytes of an image: the digest of its file, or of its pixels if there is no file."""
        if isinstance(value, (str, os.PathLike)):
            try:
                return b"file " + hashlib.sha256(Path(value).read_bytes()).digest()
            except (OSError, ValueError) as problem:
                raise unreadable_error("", problem) from problem
        if isinstance(value, (bytes, bytearray)):
            return b"file " + hashlib.sha256(value).digest()
        image = decode(value)
        return b"pixels " + hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

    def size(self, arrays: Mapping[str, np.ndarray]) -> int:
        """Return 1, since rows do not vary in size."""
        return 1

    def generate(self, count: int, longest: int, seed: int) -> list[np.ndarray]:
        """Return smooth patterns with noise, of several sizes and shapes: uint8 ``[height, width, 3]`` each."""
        draw = np.random.default_rng(seed)
        images = []
        for _ in range(count):
            height, width = (int(n) for n in draw.integers(24, 97, 2))
            images.append(_image_perturbations.generate_pattern(draw, height, width))
        return images

    def join(self, inputs: Sequence[object], longest: int) -> list[np.ndarray]:
        """Return an empty list, since rows do not vary in size."""
        return []

    def cut(self, arrays: Mapping[str, np.ndarray], longest: int) -> Mapping[str, np.ndarray]:
        """Return the row unchanged, since rows do not vary in size."""
        return arrays

    def check(self, inputs: Sequence[object], where: str) -> None:
        """Check by the headers that no image is too large after resizing; :meth:`read` checks everything else.

        Raises:
            SamplesError: If an image is; the message has the number of the first such row.
        """
        if self._pixels is None:
            return
        for number, value in enumerate(inputs, 1):
            try:
                self._pixels.check_size(*size_of(value))
            except InputError as problem:
                raise SamplesError(
                    f"{where}, row {number} cannot be used: {problem}", code="samples-image", row=number
                ) from problem

    @property
    def perturbations(self) -> Mapping[str, Callable[[Any, random.Random], np.ndarray | None]]:
        """Perturbations by name, as they occur between a camera and a model."""
        return {
            "blur": _image_perturbations.blur,
            "jpeg": _image_perturbations.jpeg,
            "brightness": _image_perturbations.brightness,
            "noise": _image_perturbations.noise,
            "shift": _image_perturbations.shift,
        }

    def occlude(self, value: object, filler: str) -> tuple[Sequence[str], Iterable[np.ndarray]]:
        """Return the names of an image's patches, and the image once with each patch occluded.

        The image is decoded when the first copy is requested, and each copy is created on request.

        Args:
            value: Image, in a form that :func:`decode` accepts.
            filler: Fill of a patch: the result of :meth:`filler` for the image's mean color, empty for grey.
        """
        rows, columns = (np.linspace(0, n, min(_PATCHES, n) + 1).astype(int) for n in size_of(value))
        patches = list(itertools.product(range(len(rows) - 1), range(len(columns) - 1)))

        def occluded() -> Iterator[np.ndarray]:
            image = decode(value)
            color = np.full(3, _GREY, np.uint8)
            if filler:
                color = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
            for i, j in patches:
                copy = image.copy()
                copy[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = color
                yield copy

        return [f"row {i + 1}, column {j + 1}" for i, j in patches], occluded()

    def filler(self) -> str:
        """Return the name of the neutral fill of a patch, the image's mean color."""
        return _MEAN

    def quote(self, value: object) -> str:
        """Return the name of a file, or the size of an image."""
        if isinstance(value, (str, os.PathLike)):
            return Path(value).name
        height, width = decode(value).shape[:2]
        return f"image of {width} x {height} pixels"

    def encode(self, values: Sequence[object]) -> list[np.ndarray]:
        """Return the ``pixel_values`` of each image: float32 ``[3, height, width]``.

        Raises:
            InputError: If :func:`decode` refuses an image.
            UsageError: If there is no preprocessing of a model.
        """
        if self._pixels is None:
            raise UsageError(
                "Images cannot be encoded without a model's preprocessing. Load the task of a bundle first.",
                code="task-without-bundle",
            )
        arrays = []
        for index, value in enumerate(values):
            place = f" at position {index}" if len(values) > 1 else ""
            arrays.append(self._pixels.apply(decode(value, place), _image_perturbations.resize))
        return arrays


UNBOUND = ImageModality()
"""The modality without a model: it reads, identifies, perturbs and quotes images."""
