"""Inputs of a session: which values are lists of inputs, and which forms of input the model was not built on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np

from edgekit.spec.errors import InputError
from edgekit.spec.protocols import HasForms, Input, Modality

__all__ = ["Series", "TextArray", "form_warning", "list_of"]

_TEXT_KINDS = "UOST"  # dtype kinds of arrays of texts: unicode, objects, bytes and NumPy 2's StringDType


class Series(Protocol):
    """A column of a data frame, e.g. ``pandas.Series``."""

    def to_list(self) -> list[Any]:
        """Return the values."""


TextArray = np.ndarray[Any, np.dtype[np.str_]] | np.ndarray[Any, np.dtype[np.object_]]
"""A NumPy array of texts or of other objects."""


def list_of(inputs: Input) -> list[Input] | None:
    """Return the inputs of a list, an array of texts or a column of a data frame; None for a single input.

    Args:
        inputs: Argument of a call. An array of numbers is a single input, e.g. an image.

    Raises:
        InputError: If an array of texts has more or fewer axes than one.
    """
    if isinstance(inputs, str):
        return None
    if isinstance(inputs, list):
        return inputs
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in _TEXT_KINDS:
        if inputs.ndim != 1:
            raise InputError(
                f"An array of texts has the shape {list(inputs.shape)}, expected one axis. "
                "Pass a list; a pair of texts is a tuple in it.",
                code="input-array-shape",
                axes=inputs.ndim,
            )
        return cast("list[Input]", inputs.tolist())
    if not isinstance(inputs, tuple) and callable(getattr(inputs, "to_list", None)):
        return list(inputs.to_list())
    return None


def form_warning(modality: Modality, inputs: Sequence[Input], forms: Sequence[str]) -> str:
    """Return a warning for the first input in a form that the model was not built on; empty if there is none.

    Args:
        modality: Modality of the session's task.
        inputs: Inputs of a call.
        forms: Forms of the samples that the bundle was built with; empty if the bundle does not state them.
    """
    # Every call of a session runs this. An isinstance check against the protocol would cost more than the rest.
    if not forms or getattr(modality, "form", None) is None:
        return ""
    known = cast(HasForms, modality)
    for value in inputs:
        form = known.form(value)
        if form and form not in forms:
            return known.form_warning(form)
    return ""
