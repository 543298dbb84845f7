"""What a bundle says of itself: ``manifest.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from edgekit.spec.errors import FormatError, IntegrityError
from edgekit.spec.parsing import parse, plain
from edgekit.spec.tensor import Signature

FORMAT = 1
"""Format version of bundles that this code writes, and the newest that it reads."""


@dataclass(frozen=True)
class Trial:
    """One candidate as it was measured in a build, and what became of it.

    Attributes:
        method: quantization method.
        backend: who ran it.
        executed: precision that the linear layers really ran in, from the backend's own execution record.
        score: task score on the evaluation samples.
        drop: score of the torch model minus ``score``.
        changed: evaluation rows that it answers differently from the torch model.
        p50_ms: median time from text to label, batch 1, interleaved with the other candidates.
        p90_ms: 90th percentile of the same times.
        first_answer_ms: process start to first label.
        memory_mb: peak resident memory of the predicting process, MiB.
        size_mb: of its bundle on disk, MiB.
        verdict: ``chosen``, or why it was not.
    """

    method: str
    backend: str
    executed: str
    score: float
    drop: float
    changed: int
    p50_ms: float
    p90_ms: float
    first_answer_ms: float
    memory_mb: float
    size_mb: float
    verdict: str = ""


@dataclass(frozen=True)
class Variant:
    """One way to run the model.

    Attributes:
        backend: a file name in ``backends/``.
        method: quantization method of the graphs.
        graphs: signature name to the ONNX file, relative to the bundle.
        device: device of the backend.
        threads: threads of one call.
        executed: precision executed when it was built.
        requires: what the device must have, e.g. ``{"instructions": "vnni"}``; checked when the bundle is loaded.
        versions: of the backend at build time.
    """

    backend: str
    method: str
    graphs: Mapping[str, str]
    device: str
    threads: int
    executed: str
    requires: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileEntry:
    """A file of a bundle: sha256 in hex, and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says of itself.

    Attributes:
        format: format version.
        task: task name.
        loop: how the graphs are driven.
        max_batch: rows of the largest batch that a session forms.
        signatures: entry points.
        variants: ways to run it, best first.
        files: every other file of the bundle, by path relative to it with forward slashes.
        target: name of the target that it was built for.
        reason: why the first variant won.
        score_name: what the scores are, e.g. ``accuracy``.
        reference_score: score of the torch model on the evaluation samples.
        trials: all candidates that were measured.
        provenance: model id, revision, sample digests, tool versions, seed.
    """

    format: int
    task: str
    loop: str
    max_batch: int
    signatures: tuple[Signature, ...]
    variants: tuple[Variant, ...]
    files: Mapping[str, FileEntry]
    target: str
    reason: str
    score_name: str
    reference_score: float
    trials: tuple[Trial, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)


def loads(text: str, where: str) -> Manifest:
    """Reads a manifest strictly.

    Raises:
        FormatError: when it is of a newer format than this code knows.
        IntegrityError: when it is not JSON, has unknown or missing keys, or names a path that leaves the bundle.
    """
    try:
        data: Any = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise IntegrityError(f"{where} is not valid JSON ({problem}). The bundle is damaged: build or copy it again.") from problem
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise FormatError(
            f"{where} has bundle format {version}, this EdgeKit reads up to {FORMAT}. Install a newer EdgeKit, or build the bundle again with this one."
        )
    manifest = parse(Manifest, data, where, IntegrityError)
    if manifest.format < 1:
        raise FormatError(f"{where} has bundle format {manifest.format}, expected 1 to {FORMAT}. Build the bundle again.")
    if not manifest.variants:
        raise IntegrityError(f"{where} lists no variant, expected at least one. Build the bundle again.")
    if manifest.max_batch < 1:
        raise IntegrityError(f"{where} has max_batch {manifest.max_batch}, expected at least 1. Build the bundle again.")
    for path in manifest.files:
        check_inside(path, where)
    for variant in manifest.variants:
        if variant.threads < 1:
            raise IntegrityError(f"{where} has a variant with {variant.threads} threads, expected at least 1. Build or copy the bundle again.")
        if lacking := [s.name for s in manifest.signatures if s.name not in variant.graphs]:
            raise IntegrityError(f"{where} has a variant without a graph for '{lacking[0]}'. Build or copy the bundle again.")
        for path in variant.graphs.values():
            if path not in manifest.files:
                raise IntegrityError(f"{where} names the graph '{path}' but lists no such file. Build or copy the bundle again.")
    return manifest


def dumps(manifest: Manifest) -> str:
    """The text of a manifest: sorted, indented JSON."""
    return json.dumps(plain(manifest), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def check_inside(path: str, where: str) -> None:
    """Refuses a path that is absolute, leaves the bundle, or is spelled in a way that could.

    Raises:
        IntegrityError: with the path.
    """
    pure = PurePosixPath(path)
    bad = not path or "\\" in path or "\0" in path or ":" in path or pure.is_absolute() or str(pure) != path or not pure.parts
    if bad or any(part in ("..", ".") for part in pure.parts):
        raise IntegrityError(
            f"{where} lists the path {path!r}, expected a plain relative path inside the bundle. Do not load this bundle; get it from its source again."
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a key that is there twice: of two readers, each could take another one."""
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise ValueError(f"the key {name!r} is there twice")
        data[name] = value
    return data
