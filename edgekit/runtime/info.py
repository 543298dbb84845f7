"""Description of an open session: which variant of a bundle runs, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SessionInfo"]


@dataclass(frozen=True)
class SessionInfo:
    """Properties of an open session.

    Attributes:
        bundle: Path of the bundle.
        task: Name of the task, e.g. ``text-classification``.
        backend: Backend that runs the model.
        backend_version: Version of the installed backend package; ``unknown`` if it cannot be determined.
        built_with: Version of that package when the bundle was built. Another version may round differently.
        method: Quantization method of the variant.
        executed: Precision that the linear layers ran in when the bundle was built.
        threads: Number of threads per call.
        streams: Number of concurrent calls that predict a list.
        batch: Largest number of rows per call of a list.
        shapes: Bucket edges that rows are padded to, e.g. in tokens; empty if rows are not padded.
        chosen: Reason why this variant runs, as text.
        engine: Origin of the TensorRT engine, as text; empty for a backend that runs the graph itself.
        labels: Labels in the order of the model; empty if its answers have none.
        max_length: Size of the largest row that the model accepts, e.g. in tokens; None if all rows have one shape.
        max_characters: Largest number of characters of a text, with each run of white space counted as one; None if
            inputs are not texts.
        truncate: Whether a longer text is cut instead of refused.
        target: Name of the target that the bundle was built for.
        provenance: Origin of the bundle: model, revision, digests and tool versions.
        rows: ``together`` if rows of a list share calls, ``alone`` if they run one by one. See
            :class:`edgekit.spec.manifest.Variant`.
        max_tokens: Largest product of rows and padded length of one call of a list, except for a single row; 0 if only
            ``batch`` limits it.
    """

    bundle: str
    task: str
    backend: str
    backend_version: str
    built_with: str
    method: str
    executed: str
    threads: int
    streams: int
    batch: int
    shapes: tuple[int, ...]
    chosen: str
    engine: str
    labels: tuple[str, ...]
    max_length: int | None
    max_characters: int | None
    truncate: bool
    target: str
    provenance: Mapping[str, str]
    rows: str
    max_tokens: int
