"""Image classification: an image in; one label, several labels or a number out, by the head of Transformers' ``problem_type``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.modalities.image import ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.spec.content import Content
from edgekit.spec.errors import InputError, IntegrityError, UsageError, near
from edgekit.spec.protocols import Arrays, Encoded, Input
from edgekit.spec.tensor import Signature
from edgekit.tasks._heads import HEADS, Head, LabelScores, MultiLabel, Regression, SingleLabel
from edgekit.tasks._settings import read_settings, write_settings

__all__ = ["INPUT", "LOOP", "MODALITY", "ImageClassification", "LabelScores", "Settings", "bind", "load", "save"]

LOOP = "single"
MODALITY = "image"
INPUT = "pixel_values"
"""Name of the graph input that holds an image."""


@dataclass(frozen=True)
class Settings:
    """What the task must know of a model: ``assets/task.json``.

    Attributes:
        problem_type: what the outputs mean, as in Transformers.
        labels: names in the order of the outputs.
        pixels: how an image becomes the input of the graph.
    """

    problem_type: str
    labels: tuple[str, ...]
    pixels: Pixels

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for an unknown problem type, no label, or a label that is there twice.
        """
        if self.problem_type not in HEADS:
            raise UsageError(
                f"Unknown problem type '{self.problem_type}'.{near(self.problem_type, HEADS)} Expected one of: {', '.join(HEADS)}.",
                code="problem-type-unknown",
            )
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise UsageError(
                f"Labels are {list(self.labels)}, expected at least one and each once. Correct id2label in the model's config.",
                code="labels-invalid",
            )


class ImageClassification(Head):
    """An image in; the classes below, one a head, say what comes out."""

    max_size = 1

    def __init__(self, settings: Settings) -> None:
        """Binds the task to a model's settings; :func:`load` reads them from a bundle's assets."""
        super().__init__(settings.labels)
        self.settings = settings
        self.modality = ImageModality(settings.pixels)

    def preprocess(self, inputs: Sequence[Input]) -> list[Encoded]:
        """Makes ``pixel_values`` of images.

        Raises:
            InputError: for what is no image, a damaged one, or one that is too large.
        """
        return [Encoded({INPUT: row}) for row in self.modality.encode(inputs)]

    def check_signature(self, signature: Signature, shapes: Sequence[int] = ()) -> None:
        """Compares the settings with what the graph takes and gives.

        Raises:
            IntegrityError: when the graph takes images of another size, rows have buckets, or there is not one output a label.
        """
        pixels, labels = self.settings.pixels, len(self.settings.labels)
        takes = [(spec.name, spec.shape[1:]) for spec in signature.inputs]
        problem = ""
        if takes != [(INPUT, (3, pixels.height, pixels.width))]:
            problem = f"makes {INPUT} of 3 x {pixels.height} x {pixels.width}, the graph takes {takes}"
        elif shapes:
            problem = f"gives images of one size, a variant is compiled for the sizes {list(shapes)}"
        elif (
            not signature.outputs
            or len(signature.outputs[0].shape) != 2
            or signature.outputs[0].shape[1] not in (labels, "labels")
        ):
            shape = list(signature.outputs[0].shape) if signature.outputs else "nothing"
            problem = f"has {labels} label(s), the graph gives {shape}"
        if problem:
            raise IntegrityError(
                f"assets/task.json {problem}. The bundle's files do not belong together: build or copy it again.",
                code="bundle-assets",
            )

    def check_arrays(self, feeds: Arrays) -> None:
        """Refuses pixels that are not finite.

        Raises:
            InputError: where there is one.
        """
        if INPUT in feeds and not bool(np.isfinite(feeds[INPUT]).all()):
            raise InputError(
                f"The input {INPUT} holds NaN or infinity, expected finite numbers. Preprocess the image again.",
                code="input-not-finite",
            )


class ImageSingleLabel(ImageClassification, SingleLabel):
    """One label an image."""


class ImageMultiLabel(ImageClassification, MultiLabel):
    """Any number of labels an image."""


class ImageRegression(ImageClassification, Regression):
    """One or more numbers an image."""


_CLASSES: tuple[type[ImageClassification], ...] = (ImageSingleLabel, ImageMultiLabel, ImageRegression)


def bind(settings: Settings) -> ImageClassification:
    """The task of a model's settings, of the class of its head."""
    return next(c for c in _CLASSES if issubclass(c, HEADS[settings.problem_type]))(settings)


def load(assets: Content) -> ImageClassification:
    """Makes the task of ``assets/task.json``.

    Raises:
        IntegrityError: when it is missing or malformed.
    """
    return bind(read_settings(Settings, assets))


def save(settings: Settings, assets: Path) -> None:
    """Writes the file that :func:`load` reads."""
    write_settings(settings, assets)
