"""Preprocessing of images as data: what an image processor of Transformers does, as a few settings that a bundle holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgekit.spec.errors import InputError, UsageError, near

__all__ = ["FILTERS", "MOST_PIXELS", "Pixels"]

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Resampling filters; the place of each is its number in Pillow."""

MOST_PIXELS = 2**26
"""Pixels of the largest image that is taken, before and after it is resized: 8,192 x 8,192, some 200 MB when decoded."""

_LONGEST = 2**13
_CHANNELS = ("rgb", "bgr")

Resize = Callable[[np.ndarray, int, int, int], np.ndarray]
"""From uint8 ``[height, width, 3]``, the new height, the new width and the number of a filter to uint8 ``[height, width, 3]``."""


@dataclass(frozen=True)
class Pixels:
    """How an image becomes ``pixel_values``, in this order: resize, crop, scale, normalize, order of channels.

    Attributes:
        height: rows of ``pixel_values``.
        width: columns of ``pixel_values``.
        resize: height and width that an image is resized to, whatever its shape; None where it is not.
        shortest_edge: length that its shorter side is resized to, the other in proportion; None where it is not.
        resample: filter of the resizing, one of ``FILTERS``.
        crop: whether ``height`` x ``width`` is cut out of the middle; an image that is smaller gets a black border.
        scale: factor of the values 0 to 255, e.g. 1/255.
        offset: added to scaled values.
        mean: subtracted from each channel after that, in the order red, green, blue; empty for nothing.
        std: that each channel is divided by then; empty for nothing.
        std_again: that each channel is divided by once more (EfficientNet); empty for nothing.
        channels: order of the channels of ``pixel_values``, ``rgb`` or ``bgr``.
    """

    height: int
    width: int
    resize: tuple[int, int] | None = None
    shortest_edge: int | None = None
    resample: str = "bilinear"
    crop: bool = False
    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    std_again: tuple[float, ...] = ()
    channels: str = "rgb"

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for a size out of range, an unknown filter or order of channels, or settings that do not give ``height`` x ``width``.
        """
        edges = [
            self.height,
            self.width,
            *(self.resize or ()),
            *([] if self.shortest_edge is None else [self.shortest_edge]),
        ]
        if wrong := [edge for edge in edges if not 1 <= edge <= _LONGEST]:
            raise UsageError(
                f"A side of an image is {wrong[0]}, expected 1 to {_LONGEST} pixels. Correct the settings of the image processor.",
                code="processor-settings",
            )
        if self.resample not in FILTERS:
            raise UsageError(
                f"Unknown resampling filter '{self.resample}'.{near(self.resample, FILTERS)} Expected one of: {', '.join(FILTERS)}.",
                code="processor-settings",
            )
        if self.channels not in _CHANNELS:
            raise UsageError(
                f"The order of channels is '{self.channels}', expected 'rgb' or 'bgr'. Correct the settings of the image processor.",
                code="processor-settings",
            )
        if any(len(values) not in (0, 3) for values in (self.mean, self.std, self.std_again)) or not all(
            (*self.std, *self.std_again)
        ):
            raise UsageError(
                "mean and std of an image processor have three numbers each, or none, and no std is 0. Correct its settings.",
                code="processor-settings",
            )
        if self.resize is not None and self.shortest_edge is not None:
            raise UsageError(
                "An image is resized to a height and a width, or by its shorter side: give resize or shortest_edge, not both.",
                code="processor-settings",
            )
        if not self.crop and self.resize != (self.height, self.width):
            raise UsageError(
                f"Images of any size do not become {self.height} x {self.width} without resize to that, or a crop. Correct the settings.",
                code="processor-settings",
            )

    def apply(self, image: np.ndarray, resize: Resize) -> np.ndarray:
        """Makes ``pixel_values`` of an image.

        Args:
            image: uint8 ``[height, width, 3]``.
            resize: Pillow's resizing.

        Returns:
            float32 ``[3, height, width]``.

        Raises:
            InputError: for an image so long and narrow that it would have too many pixels when it is resized.
        """
        height, width = self.check_size(*image.shape[:2])
        if image.shape[:2] != (height, width):  # Pillow copies an image that has the size already
            image = resize(image, height, width, FILTERS.index(self.resample))
        if self.crop:
            image = _crop(image, self.height, self.width)
        planes = [table[image[:, :, channel]] for channel, table in enumerate(self._tables)]
        return np.stack(planes[::-1] if self.channels == "bgr" else planes)

    def check_size(self, height: int, width: int, place: str = "") -> tuple[int, int]:
        """Refuses an image by its size, before any memory is asked for.

        Args:
            height: of the image, turned by its EXIF orientation.
            width: likewise.
            place: of the image among the inputs, for messages.

        Returns:
            Height and width after it is resized.

        Raises:
            InputError: for an image so long and narrow that it would have too many pixels when it is resized.
        """
        high, wide = self.resized(height, width)
        if high * wide > MOST_PIXELS:
            raise InputError(
                f"An image{place} of {width} x {height} pixels would have {wide} x {high} once it is resized, expected at most {MOST_PIXELS} in all. "
                "Crop it first.",
                code="image-too-large",
            )
        return high, wide

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after it is resized, and before it is cropped."""
        if self.resize is not None:
            return self.resize
        if self.shortest_edge is None:
            return height, width
        longer = int(self.shortest_edge * max(height, width) / min(height, width))
        return (longer, self.shortest_edge) if width <= height else (self.shortest_edge, longer)

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        """What each of the 256 values of red, green and blue becomes: float32 ``[256]`` each.

        The arithmetic is that of Transformers: the scale in float64, all else in float32.
        """
        values = (np.arange(256).astype(np.float64) * self.scale).astype(np.float32) + np.float32(self.offset)
        tables = []
        for channel in range(3):
            table = values
            if self.mean:
                table = table - np.float32(self.mean[channel])
            for std in (self.std, self.std_again):
                table = table / np.float32(std[channel]) if std else table
            tables.append(np.asarray(table, np.float32))
        return tables


def _crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image, ``[height, width, 3]``; what lies beyond its border is 0. Odd differences are halved as Transformers halves them."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if top >= 0 and left >= 0:
        return image[top : top + height, left : left + width]
    padded = np.zeros((max(height, image.shape[0]), max(width, image.shape[1]), 3), image.dtype)
    above, before = -((image.shape[0] - padded.shape[0]) // 2), -((image.shape[1] - padded.shape[1]) // 2)
    padded[above : above + image.shape[0], before : before + image.shape[1]] = image
    top, left = top + above, left + before
    return padded[max(top, 0) : top + height, max(left, 0) : left + width]
