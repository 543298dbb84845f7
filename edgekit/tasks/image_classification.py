"""Image classification: the input is an image; the answer is one label, several labels or a number.

The head follows Transformers' ``problem_type``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.modalities.image import ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError
from edgekit.spec.protocols import Arrays, Encoded, Input
from edgekit.spec.tensor import Signature
from edgekit.tasks._heads import (
    HEADS,
    Head,
    LabelScores,
    MultiLabel,
    Regression,
    SingleLabel,
    check_labels,
    check_problem_type,
    output_problem,
)
from edgekit.tasks._settings import read_settings, write_settings

__all__ = ["INPUT", "LOOP", "MODALITY", "ImageClassification", "LabelScores", "Settings", "bind", "load", "save"]

LOOP = "single"
MODALITY = "image"
INPUT = "pixel_values"
"""Name of the graph input that holds an image."""


@dataclass(frozen=True)
class Settings:
    """Settings of the task for one model, the content of ``assets/task.json``.

    Attributes:
        problem_type: Kind of head, as in Transformers.
        labels: Label names, in the order of the outputs.
        pixels: Preprocessing of an image into the graph's input.
    """

    problem_type: str
    labels: tuple[str, ...]
    pixels: Pixels

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: If the problem type is unknown, or the labels are empty or not unique.
        """
        check_problem_type(self.problem_type)
        check_labels(self.labels)


class ImageClassification(Head):
    """The common part of the three image classification tasks; a subclass for each head adds the outputs."""

    max_size = 1

    def __init__(self, settings: Settings) -> None:
        """Create the task from a model's settings; :func:`load` reads them from a bundle's assets."""
        super().__init__(settings.labels)
        self.settings = settings
        self.modality = ImageModality(settings.pixels)

    def preprocess(self, inputs: Sequence[Input]) -> list[Encoded]:
        """Return ``pixel_values`` of each image.

        Raises:
            InputError: If an input is not an image, is damaged or is too large.
        """
        return [Encoded({INPUT: row}) for row in self.modality.encode(inputs)]

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compare the settings with the graph's inputs and outputs.

        Raises:
            IntegrityError: If the image sizes differ, the variant has buckets, or there is not one output per label.
        """
        pixels = self.settings.pixels
        graph_inputs = [(spec.name, spec.shape[1:]) for spec in signature.inputs]
        if graph_inputs != [(INPUT, (3, pixels.height, pixels.width))]:
            problem = f"describes {INPUT} of 3 x {pixels.height} x {pixels.width}, the graph expects {graph_inputs}"
        elif shapes:
            problem = f"describes images of one size, a variant is compiled for the sizes {list(shapes)}"
        else:
            problem = output_problem(signature, len(self.settings.labels))
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Check that all pixel values are finite.

        Raises:
            InputError: If one is NaN or infinite.
        """
        if INPUT in feeds and not bool(np.isfinite(feeds[INPUT]).all()):
            raise InputError(
                f"The input {INPUT} contains NaN or infinity, expected finite numbers. Preprocess the image again.",
                code="input-not-finite",
            )


class ImageSingleLabel(ImageClassification, SingleLabel):
    """One label per image."""


class ImageMultiLabel(ImageClassification, MultiLabel):
    """Any number of labels per image."""


class ImageRegression(ImageClassification, Regression):
    """One or more numbers per image."""


_CLASSES: tuple[type[ImageClassification], ...] = (ImageSingleLabel, ImageMultiLabel, ImageRegression)


def bind(settings: Settings) -> ImageClassification:
    """Return the task for a model's settings, an instance of the class of its head."""
    head = HEADS[settings.problem_type]
    task_class = next(c for c in _CLASSES if issubclass(c, head))
    return task_class(settings)


def load(assets: Content) -> ImageClassification:
    """Return the task described by ``assets/task.json``.

    Raises:
        IntegrityError: If the file is missing or malformed.
    """
    return bind(read_settings(Settings, assets))


def save(settings: Settings, assets: Path) -> None:
    """Write the file that :func:`load` reads."""
    write_settings(settings, assets)
