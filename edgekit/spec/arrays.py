"""Data that modalities, tasks and loops exchange: rows of named arrays, encoded inputs, ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Arrays", "Encoded", "Input", "Truth"]

Arrays = Mapping[str, np.ndarray]
"""One row without a batch axis: array by name, e.g. ``input_ids: int64 [sequence]``, ``scores: float32 [labels]``."""

Input = Any
"""Input of a session for one row: a text, a pair of texts, the path of an image, an array."""


@dataclass(frozen=True)
class Encoded:
    """A preprocessed input.

    Attributes:
        arrays: Graph inputs of the row. They may include arrays for the loop (sizes of windows) or the task (positions
            of words). Such arrays are not fed to a graph; a loop passes its arrays on with the outputs.
        truncated: True if part of the input was cut off.
        context: Data of the input that postprocessing needs, e.g. offsets or the size of an image.
        length: Extent of the whole input along the bucketed axis, for an input that is split into several windows; None
            if ``Modality.size`` of the row gives it.
    """

    arrays: Arrays
    truncated: bool = False
    context: Any = None
    length: int | None = None


@dataclass(frozen=True)
class Truth:
    """Ground truth of labelled rows.

    Attributes:
        values: One value per row, in the form that ``Task.evidence`` takes.
        notes: One sentence per interpretation of labels that were not used as written.
    """

    values: Sequence[Any]
    notes: tuple[str, ...] = field(default=())
