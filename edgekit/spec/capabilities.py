"""Optional capabilities of a task, which reports detect with ``isinstance``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from edgekit.spec.arrays import Arrays

__all__ = ["Explainable", "HasConfidence", "HasLabels", "HasNumbers", "SavesSettings"]


@runtime_checkable
class HasConfidence(Protocol):
    """A task whose answers have a probability: calibration error, margins of changed answers."""

    def confidence(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each answer, and whether it is correct; several answers of a row are flattened.

        Returns:
            Arrays of float64 ``[answers]`` and bool ``[answers]``.
        """

    def margin(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return the lead of each row's answer over the runner-up: float64 ``[rows]``, 0 to 1."""


@runtime_checkable
class HasLabels(Protocol):
    """A task whose answers are labels of a fixed list: confusion matrix, recall, chance-corrected score, slices."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the model's order."""

    @property
    def exclusive(self) -> bool:
        """Whether each item has exactly one label; otherwise it has any number of labels."""

    def label_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted labels of each item: bool ``[items, labels]`` each, true labels first.

        An item is a row, or a part of a row (a word).
        """


@runtime_checkable
class HasNumbers(Protocol):
    """A task whose answers are numbers: error in the labels' unit, R2."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers, in the model's order."""

    def number_matrix(self, outputs: Sequence[Arrays], truth: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted numbers: float64 ``[rows, numbers]`` each, true numbers first."""


@runtime_checkable
class Explainable(Protocol):
    """A task whose answer can be attributed to the units of its input by occlusion."""

    def target_score(self, outputs: Sequence[Arrays], answer: Arrays) -> np.ndarray:
        """Return each output's support for one answer, e.g. its probability: float64 ``[rows]``.

        Args:
            outputs: Outputs of the occluded inputs.
            answer: Outputs of the whole input, which define the answer.
        """

    def target_name(self, answer: Arrays) -> str:
        """Return the name of that answer."""


@runtime_checkable
class SavesSettings(Protocol):
    """A task with settings that the build finds out after its assets were written."""

    def save_settings(self, assets: Path) -> None:
        """Write the settings of the task as they are now.

        Args:
            assets: Folder ``assets`` of the bundle.
        """
