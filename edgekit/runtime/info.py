"""The description of an open session: which variant of a bundle runs, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SessionInfo"]


@dataclass(frozen=True)
class SessionInfo:
    """What was asked for and what runs.

    Attributes:
        bundle: its path.
        task: its task.
        backend: the backend that runs; the one asked for, or an error was raised.
        backend_version: of the installed package.
        built_with: version of that package when the bundle was built; another one may round differently.
        method: quantization method.
        executed: precision that the linear layers ran in when the bundle was built.
        threads: threads of one call.
        streams: calls that a list is answered by at the same time.
        batch: rows of one such call at most.
        shapes: bucket edges that rows are padded to, e.g. in tokens; none where nothing is padded.
        chosen: why this variant runs.
        engine: where its engine came from; empty for a backend that runs the graph itself.
        labels: labels in the model's order; empty where its answers have none.
        max_length: size of the largest row that the model takes, e.g. in tokens; None where all rows have one shape.
        max_characters: characters of the longest text that is taken, each run of white space counted as one; None where inputs are no texts.
        truncate: whether a longer one is cut there in place of being refused.
        target: what the bundle was built for.
        provenance: model, revision, digests, tool versions.
        rows: ``together``: rows of a list share calls; ``alone``: they are run one by one, see :class:`edgekit.spec.manifest.Variant`.
        max_tokens: rows times padded length of one such call at most, a single row excepted; 0: ``batch`` alone limits it.
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
