"""Description of an open session: which variant of a bundle runs, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from edgekit import backends
from edgekit.bundle.trust import Bundle
from edgekit.spec.manifest import Variant
from edgekit.spec.protocols import HasLimit, Remembers, Task

__all__ = ["SessionInfo", "build_version", "describe_session"]


@dataclass(frozen=True)
class SessionInfo:
    """Properties of an open session.

    Attributes:
        bundle: Path of the bundle.
        task: Name of the task.
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
        remembers_words: Whether token ids of words are remembered, so that a text of known words needs no tokenizer.
            At most 16,384 words are: 3 MB for English, 10 MB at most.
        ready_shapes: Bucket edges whose static shapes are compiled by now. A row of another edge waits until its shape
            is, or runs with dynamic shapes, by method. See :meth:`edgekit.runtime.session.Session.warm_up`.
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
    remembers_words: bool
    ready_shapes: tuple[int, ...] = ()


def build_version(variant: Variant) -> str:
    """Return the version of the backend's package when the bundle was built; ``unknown`` if it is not recorded."""
    packages = backends.get(variant.backend).PACKAGES
    return next((variant.versions[package] for package in packages if package in variant.versions), "unknown")


def describe_session(
    bundle: Bundle, variant: Variant, task: Task, *, is_variable: bool, batch: int, chosen: str, engine: str
) -> SessionInfo:
    """Return the description of a session.

    Args:
        bundle: Bundle of the session.
        variant: Variant that runs.
        task: Task of the bundle.
        is_variable: Whether rows vary in size.
        batch: Largest number of rows per call of a list.
        chosen: Reason why the variant runs, as text.
        engine: Origin of the engine, as text; empty for a backend that runs the graph itself.
    """
    manifest = bundle.manifest
    limit = task.modality.limit if isinstance(task.modality, HasLimit) else None
    max_characters = None if limit is None else limit.characters
    max_length = task.max_size if is_variable else None
    return SessionInfo(
        bundle=str(bundle.path),
        task=manifest.task,
        backend=variant.backend,
        backend_version=backends.installed_version(variant.backend) or "unknown",
        built_with=build_version(variant),
        method=variant.method,
        executed=variant.executed,
        threads=variant.threads,
        streams=variant.streams,
        batch=batch,
        shapes=variant.shapes,
        chosen=chosen,
        engine=engine,
        labels=tuple(cast("Sequence[str]", task.identity.get("labels", ()))),
        max_length=max_length,
        max_characters=max_characters,
        truncate=limit is not None and limit.truncate,
        target=manifest.target,
        provenance=manifest.provenance,
        rows=variant.rows,
        max_tokens=variant.max_tokens,
        remembers_words=isinstance(task.modality, Remembers) and task.modality.remembers,
    )
