"""Settings of image preprocessing: the operations of Transformers' image processors, as data in a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgekit.spec.errors import InputError, UsageError, near

__all__ = ["FILTERS", "MOST_PIXELS", "Pixels"]

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Resampling filters; the index of each is its number in Pillow."""

MOST_PIXELS = 2**26
"""Pixels of the largest image, before and after resizing: 8,192 x 8,192, about 200 MB when decoded."""

_LONGEST = 2**13
_CHANNELS = ("rgb", "bgr")

Resize = Callable[[np.ndarray, int, int, int], np.ndarray]
"""Function from an image (uint8 ``[height, width, 3]``), new height, new width and filter number to an image."""


@dataclass(frozen=True)
class Pixels:
    """The preprocessing of an image into ``pixel_values``: resize, crop, scale, normalize, reorder channels.

    Attributes:
        height: Number of rows of ``pixel_values``.
        width: Number of columns of ``pixel_values``.
        resize: Height and width of the resized image, whatever its aspect ratio; None for no such resizing.
        shortest_edge: Length of the resized image's shorter side, with the aspect ratio preserved; None for no such
            resizing.
        resample: Resampling filter, one of ``FILTERS``.
        crop: Whether the center of ``height`` x ``width`` is cut out; a smaller image is padded with black.
        scale: Factor of the values 0 to 255, e.g. 1/255.
        offset: Number added to the scaled values.
        mean: Mean of each channel, subtracted next, in the order red, green, blue; empty for none.
        std: Divisor of each channel, applied next; empty for none.
        std_again: Second divisor of each channel (EfficientNet); empty for none.
        channels: Channel order of ``pixel_values``, ``rgb`` or ``bgr``.
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
        """Check the values.

        Raises:
            UsageError: If a size is out of range, the filter or the channel order is unknown, or the settings do not
                produce ``height`` x ``width``.
        """
        edges = [self.height, self.width, *(self.resize or ())]
        if self.shortest_edge is not None:
            edges.append(self.shortest_edge)
        for edge in edges:
            if not 1 <= edge <= _LONGEST:
                raise _settings_error(f"A side of an image is {edge}, expected 1 to {_LONGEST} pixels.")
        if self.resample not in FILTERS:
            raise _settings_error(
                f"Unknown resampling filter '{self.resample}'.{near(self.resample, FILTERS)} "
                f"Expected one of: {', '.join(FILTERS)}."
            )
        if self.channels not in _CHANNELS:
            raise _settings_error(f"The order of channels is '{self.channels}', expected 'rgb' or 'bgr'.")
        lengths = [len(values) for values in (self.mean, self.std, self.std_again)]
        if any(length not in (0, 3) for length in lengths) or not all((*self.std, *self.std_again)):
            raise _settings_error("mean and std need three numbers each, or none, and no std may be 0.")
        if self.resize is not None and self.shortest_edge is not None:
            raise _settings_error("Both resize and shortest_edge are set, expected at most one.")
        if not self.crop and self.resize != (self.height, self.width):
            raise _settings_error(
                f"Images of any size do not become {self.height} x {self.width} without a crop or a resize to it."
            )

    def apply(self, image: np.ndarray, resize: Resize) -> np.ndarray:
        """Return the ``pixel_values`` of an image.

        Args:
            image: Image, uint8 ``[height, width, 3]``.
            resize: Pillow's resizing.

        Returns:
            Array float32 ``[3, height, width]``.

        Raises:
            InputError: If the image is so long and narrow that it has too many pixels after resizing.
        """
        height, width = self.check_size(*image.shape[:2])
        if image.shape[:2] != (height, width):  # Pillow would copy an image that has this size already.
            image = resize(image, height, width, FILTERS.index(self.resample))
        if self.crop:
            image = _crop(image, self.height, self.width)
        planes = [table[image[:, :, channel]] for channel, table in enumerate(self._tables)]
        return np.stack(planes[::-1] if self.channels == "bgr" else planes)

    def check_size(self, height: int, width: int, place: str = "") -> tuple[int, int]:
        """Check the size of an image before memory is allocated.

        Args:
            height: Height of the image after its EXIF orientation is applied.
            width: Width of the image after its EXIF orientation is applied.
            place: Position of the image among the inputs, for messages.

        Returns:
            Height and width after resizing.

        Raises:
            InputError: If the image is so long and narrow that it has too many pixels after resizing.
        """
        new_height, new_width = self.resized_shape(height, width)
        if new_height * new_width > MOST_PIXELS:
            raise InputError(
                f"An image{place} of {width} x {height} pixels has {new_width} x {new_height} after resizing, expected "
                f"at most {MOST_PIXELS} in all. Crop it first.",
                code="image-too-large",
            )
        return new_height, new_width

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of an image after resizing, before the crop."""
        if self.resize is not None:
            return self.resize
        if self.shortest_edge is None:
            return height, width
        longer = int(self.shortest_edge * max(height, width) / min(height, width))
        return (longer, self.shortest_edge) if width <= height else (self.shortest_edge, longer)

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        """Result of the arithmetic for each of the 256 values of red, green and blue: float32 ``[256]`` each.

        As in Transformers, the scale is applied in float64 and everything else in float32.
        """
        values = (np.arange(256).astype(np.float64) * self.scale).astype(np.float32) + np.float32(self.offset)
        tables = []
        for channel in range(3):
            table = values
            if self.mean:
                table = table - np.float32(self.mean[channel])
            for std in (self.std, self.std_again):
                if std:
                    table = table / np.float32(std[channel])
            tables.append(np.asarray(table, np.float32))
        return tables


def _settings_error(problem: str) -> UsageError:
    return UsageError(f"{problem} Correct the settings of the image processor.", code="processor-settings")


def _crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the center of an image, ``[height, width, 3]``, padded with 0.

    Odd differences are halved as in Transformers.
    """
    rows, columns = image.shape[:2]
    top = (rows - height) // 2
    left = (columns - width) // 2
    if top >= 0 and left >= 0:
        return image[top : top + height, left : left + width]
    padded = np.zeros((max(height, rows), max(width, columns), 3), image.dtype)
    above = -((rows - padded.shape[0]) // 2)
    before = -((columns - padded.shape[1]) // 2)
    padded[above : above + rows, before : before + columns] = image
    top += above
    left += before
    return padded[max(top, 0) : top + height, max(left, 0) : left + width]
