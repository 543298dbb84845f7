"""Samples as callers give them: the type of such an argument, and what a modality needs to read rows in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from edgekit.spec.protocols import Input

__all__ = ["FilePath", "SampleSource", "TakesRows"]

FilePath = str | os.PathLike[str]
"""Path of a file or folder."""

SampleSource = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | Any
"""Samples: the path of a file or folder, the name of a shipped set, or rows as mappings.

Rows may be a list, a ``datasets.Dataset``, a data frame or a generator.
"""


@runtime_checkable
class TakesRows(Protocol):
    """A modality whose inputs in memory may be other objects than a file can hold, e.g. arrays of pixels."""

    def read_row(self, columns: Mapping[str, object]) -> Input:
        """Return the input of one row in memory.

        Args:
            columns: Role to value. A relative path starts at the current folder.

        Raises:
            SamplesError: If a value is no input; the message begins behind the place of the row, as for
                ``Modality.read``.
        """
