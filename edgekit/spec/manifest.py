"""What a bundle says of itself: ``manifest.json``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from edgekit.spec.agreement import Agreement
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import FormatError, IntegrityError
from edgekit.spec.identity import check_date, check_name, version_key
from edgekit.spec.parsing import parse, plain, strict_json, to_json
from edgekit.spec.short import ShortRepr
from edgekit.spec.tensor import Signature

__all__ = [
    "CHOOSE_ON",
    "FORMAT",
    "MAX_TOKENS",
    "MOST_FILES",
    "ROWS",
    "TIMED_FILES",
    "FileEntry",
    "HeldOut",
    "Manifest",
    "ReferenceCheck",
    "Trial",
    "Variant",
    "check_inside",
    "content_digest",
    "dumps",
    "loads",
]

FORMAT = 2
"""Format version of bundles that this code writes, and the newest that it reads."""


MOST_FILES = 10_000
"""Files of a bundle: a real one has some ten."""
_SHA256 = re.compile("[0-9a-f]{64}")
_LONGEST_NAME = 1024
CHOOSE_ON = ("host", "device")
ROWS = ("together", "alone")
MAX_TOKENS = 2048
"""Rows times padded length of the largest call that a list is cut into, where a target has no memory budget that needs less."""
TIMED_FILES = ("race.json",)


@dataclass(frozen=True)
class Trial:
    """One candidate as it was measured in a build, and what became of it.

    Attributes:
        method: quantization method.
        backend: who ran it.
        executed: precision that the linear layers really ran in, from the backend's own execution record.
        score: task score on the evaluation samples.
        drop: score of the torch model minus ``score``; the other way round where a lower score is better.
        changed: evaluation rows that it answers differently from the torch model.
        p50_ms: median time from input to answer, batch 1, interleaved with the other candidates.
        p90_ms: 90th percentile of the same times.
        first_answer_ms: process start to first answer.
        memory_mb: peak resident memory of the predicting process, MiB.
        size_mb: of its whole bundle on disk, MiB.
        verdict: ``chosen``, or why it was not.
        shapes: bucket edges that it was compiled for, in tokens; none means shapes of any size.
        threads: threads of one call.
        streams: calls at the same time.
        batch: rows of one call, where a list is answered.
        model: name of the student that it is of; empty for the model itself.
        in_float: layers that stay in float because the user, or the accuracy budget, asked for it.
        rows_per_s: evaluation texts answered per second as one list, in batches of similar length; 0 where that was not measured.
        ratio: its time over that of the fastest float32 candidate, text by text (rows per second where throughput is what counts); 0 for those.
        ratio_high: upper end of the ratio's 95 % interval over the rounds.
        losses: evaluation rows that the torch model has right and this wrong; None for scores that are no mean of rows.
        gains: the other way round.
        drop_low: lower end of the drop's 90 % interval.
        drop_high: its upper end: with 95 % confidence the drop is not larger.
        p_value: exact McNemar, two-sided.
        error_growth: of numbers, how much the mean absolute error grew over that of the torch model, in standard deviations of the labels; None for labels.
        error_high: with 95 % confidence it grew by no more.
        recall_lost: the label, where labels are unbalanced, whose recall surely fell by more than the budget allows, and by how much; else empty.
        rows: whether rows of a list shared a call, see :class:`Variant`; empty in bundles that do not state it.
        lists: how far answers in lists were from those alone; None where that was not measured.
        memory_rows, memory_tokens: rows of the list and tokens of each at which ``memory_mb`` was reached: the largest call that a list is cut into; 0 where
            it was not measured so.
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
    shapes: tuple[int, ...] = ()
    threads: int = 0
    streams: int = 1
    batch: int = 1
    in_float: int = 0
    model: str = ""
    rows_per_s: float = 0.0
    ratio: float = 0.0
    ratio_high: float = 0.0
    losses: int | None = None
    gains: int | None = None
    drop_low: float = 0.0
    drop_high: float = 0.0
    p_value: float | None = None
    error_growth: float | None = None
    error_high: float | None = None
    recall_lost: str = ""
    rows: str = ""
    lists: Agreement | None = None
    memory_rows: int = 0
    memory_tokens: int = 0


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
        shapes: bucket edges in tokens: a row is padded to the smallest that holds it; none means that no row is padded.
        streams: calls at the same time.
        batch: rows of one call, where a list is answered; 0 means the manifest's ``max_batch``.
        recipe: what its quantization method chose, in words.
        linear_macs: multiply-accumulates of one token in its linear layers; 0 in bundles that do not say, and of several graphs.
        engine: how TensorRT makes an engine of its graphs; None for backends that run the graphs themselves.
        engines: signature name to an engine that was made where the bundle was built, relative to the bundle; empty where the device makes it.
        rows: ``together``: rows of a list may share a call; ``alone``: they are run one by one, because what one is answered would depend on the others.
            ``alone`` where a bundle does not state it, which is right for every graph.
        max_tokens: rows times padded length of the largest call that a list is cut into, a single row excepted; 0 means that ``batch`` alone limits it.
        lists: how far answers in lists were from those alone; None where that was not measured.
    """

    backend: str
    method: str
    graphs: Mapping[str, str]
    device: str
    threads: int
    executed: str
    requires: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    shapes: tuple[int, ...] = ()
    streams: int = 1
    batch: int = 0
    recipe: Mapping[str, str] = field(default_factory=dict)
    linear_macs: int = 0
    engine: EngineRecipe | None = None
    engines: Mapping[str, str] = field(default_factory=dict)
    rows: str = "alone"
    max_tokens: int = MAX_TOKENS
    lists: Agreement | None = None

    def plan(self, signature: str) -> str:
        """Name of a file for the engine of a graph, for whoever makes it with NVIDIA's own tool."""
        return f"{self.method}.plan" if len(self.graphs) == 1 else f"{self.method}-{signature}.plan"


@dataclass(frozen=True)
class HeldOut:
    """A test set, scored once, when the choice was made.

    Attributes:
        rows: of the test set.
        score: of the chosen candidate.
        reference_score: of the torch model.
        drop: the difference.
        drop_low, drop_high: its 90 % interval.
        losses, gains: rows that only the torch model, or only the candidate, has right; None for scores that are no mean of rows.
        p_value: exact McNemar, two-sided.
        digest: of the samples, as ``spec/sealed.py`` makes it; sha256 in hex in bundles of earlier releases.
    """

    rows: int
    score: float
    reference_score: float
    drop: float
    drop_low: float
    drop_high: float
    losses: int | None
    gains: int | None
    p_value: float | None
    digest: str


@dataclass(frozen=True)
class FileEntry:
    """A file of a bundle: sha256 in hex, and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class ReferenceCheck:
    """How sure it is that the model that the bundle was made of answers better than chance.

    Attributes:
        score_name: ``MCC`` of one label each, ``mean MCC`` of several, ``R2`` of numbers.
        value: on the evaluation samples, 0 where the answers have nothing to do with the labels; None where it is not defined.
        low, high: its 95 % interval; None where ``value`` is.
        rows: different inputs that it is from.
        outcome: ``clear``: the interval lies above 0; ``doubtful``: it does not, or another numbering of the labels fits better; ``too few``: the
            rows cannot tell.
        accepted: doubtful, and accepted by whoever built the bundle.
        said: what is doubtful, a sentence; empty where nothing is.
    """

    score_name: str
    value: float | None
    low: float | None
    high: float | None
    rows: int
    outcome: str
    accepted: bool = False
    said: str = ""


@dataclass(frozen=True, repr=False)
class Manifest(ShortRepr):
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
        higher_is_better: direction of the scores; False for an error rate.
        reference_score: score of the torch model on the evaluation samples.
        trials: all candidates that were measured.
        held_out: the chosen candidate on a test set, where one was given.
        sensitivity: layers by the damage that quantizing each alone does, the most sensitive first; empty where nothing had to be taken back.
        notes: what whoever uses the bundle should know of its making, a sentence each.
        verified: what was checked where it was built beside the scores, a sentence each.
        unverified: what could not be checked there, a sentence each.
        choose_on: ``host``: the first variant was chosen by measurement where it was built; ``device``: the variants race where they are first loaded.
        provenance: model id, revision, sample digests, tool versions, seed.
        name, version: which bundle this is; compared when one is put in the place of another, see :mod:`edgekit.spec.identity`.
        expires: last day, in UTC, on which it may be installed; a bundle that is in place goes on.
        built: when it was built, UTC, where it has a name, a version or a last day; else empty.
        reference_check: whether the torch model answers better than chance; None in bundles that were built before that was asked.
        machine: what the golden outputs were computed on: ``architecture`` and ``instructions``, separated by spaces; empty in bundles that do not say.
        input_forms: Forms of the samples that the bundle was built with, e.g. ``text`` and ``pair``; empty in bundles that do not state them.
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
    held_out: HeldOut | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    choose_on: str = "host"
    provenance: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    version: str = ""
    expires: str = ""
    built: str = ""
    reference_check: ReferenceCheck | None = None
    machine: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: bool = True
    input_forms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what the types cannot say of its identity.

        Raises:
            UsageError: for a name, version or day that is none.
        """
        check_name(self.name)
        version_key(self.version)
        check_date(self.expires)
        check_date(self.built[:10])


def loads(text: str, where: str) -> Manifest:
    """Reads a manifest strictly.

    Raises:
        FormatError: when it is of a newer format than this code knows.
        IntegrityError: when it is not JSON, has unknown or missing keys, or names a path that leaves the bundle.
    """
    try:
        data = strict_json(text)
    except (ValueError, RecursionError) as problem:
        raise IntegrityError(
            f"{where} is not valid JSON ({problem}). The bundle is damaged: build or copy it again.",
            code="manifest-invalid",
        ) from problem
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise FormatError(
            f"{where} has bundle format {version}, this EdgeKit reads up to {FORMAT}. Install a newer EdgeKit, or build the bundle again with this one.",
            code="bundle-format",
        )
    files = data.get("files") if isinstance(data, dict) else None
    if isinstance(files, dict) and len(files) > MOST_FILES:  # before anything is made of them
        raise IntegrityError(
            f"{where} lists {len(files)} files, expected at most {MOST_FILES}. Do not load this bundle; get it from its source again.",
            code="manifest-invalid",
        )
    manifest = parse(Manifest, data, where, IntegrityError)
    if manifest.format < 1:
        raise FormatError(
            f"{where} has bundle format {manifest.format}, expected 1 to {FORMAT}. Build the bundle again.",
            code="bundle-format",
        )
    if not manifest.variants:
        raise IntegrityError(
            f"{where} lists no variant, expected at least one. Build the bundle again.", code="manifest-invalid"
        )
    if manifest.max_batch < 1:
        raise IntegrityError(
            f"{where} has max_batch {manifest.max_batch}, expected at least 1. Build the bundle again.",
            code="manifest-invalid",
        )
    if manifest.choose_on not in CHOOSE_ON:
        raise IntegrityError(
            f"{where} has choose_on '{manifest.choose_on}', expected one of: {', '.join(CHOOSE_ON)}. Build the bundle again.",
            code="manifest-invalid",
        )
    for path, file in manifest.files.items():
        check_inside(path, where)
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise IntegrityError(
                f"{where} lists {path!r} with a size or sha256 that is none. Build or copy the bundle again.",
                code="manifest-invalid",
            )
    for variant in manifest.variants:
        _check_variant(manifest, variant, where)
    return manifest if manifest.format > 1 else _from_format_1(manifest)


def _from_format_1(manifest: Manifest) -> Manifest:
    """The same manifest with what format 1 does not state of its variants, by their method: ``dynamic`` has one activation scale per tensor."""
    rows = {"dynamic": "alone"}
    variants = (
        replace(v, rows=rows.get(v.method, "together"), max_tokens=MAX_TOKENS if v.engine is None else 0)
        for v in manifest.variants
    )
    return replace(manifest, variants=tuple(variants))


def _check_variant(manifest: Manifest, variant: Variant, where: str) -> None:
    if variant.threads < 1:
        raise IntegrityError(
            f"{where} has a variant with {variant.threads} threads, expected at least 1. Build or copy the bundle again.",
            code="manifest-invalid",
        )
    if (
        variant.streams < 1
        or variant.batch < 0
        or min(variant.shapes, default=1) < 1
        or list(variant.shapes) != sorted(set(variant.shapes))
    ):
        raise IntegrityError(
            f"{where} has a variant with streams {variant.streams}, batch {variant.batch} and shapes {list(variant.shapes)}, "
            "expected at least 1, at least 0, and ascending token counts. Build or copy the bundle again.",
            code="manifest-invalid",
        )
    if variant.rows not in ROWS or variant.max_tokens < 0:
        raise IntegrityError(
            f"{where} has a variant with rows '{variant.rows}' and max_tokens {variant.max_tokens}, "
            f"expected one of {', '.join(ROWS)}, and at least 0. Build or copy the bundle again.",
            code="manifest-invalid",
        )
    if lacking := [s.name for s in manifest.signatures if s.name not in variant.graphs]:
        raise IntegrityError(
            f"{where} has a variant without a graph for '{lacking[0]}'. Build or copy the bundle again.",
            code="manifest-invalid",
        )
    for path in (*variant.graphs.values(), *variant.engines.values()):
        if path not in manifest.files:
            raise IntegrityError(
                f"{where} names '{path}' but lists no such file. Build or copy the bundle again.",
                code="manifest-invalid",
            )


def dumps(manifest: Manifest) -> str:
    """The text of a manifest: sorted, indented JSON."""
    return to_json(plain(manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def content_digest(manifest: Manifest) -> str:
    """sha256 over what a bundle computes with: every file but those that came from a clock. The same build with the same seed has the same."""
    entries = [[name, entry.sha256] for name, entry in sorted(manifest.files.items()) if name not in TIMED_FILES]
    return hashlib.sha256(to_json(entries).encode()).hexdigest()


def check_inside(path: str, where: str) -> None:
    """Refuses a path that is absolute, leaves the bundle, or is spelled in a way that could.

    Raises:
        IntegrityError: with the path.
    """
    pure = PurePosixPath(path)
    bad = (
        not path
        or len(path) > _LONGEST_NAME
        or "\\" in path
        or "\0" in path
        or ":" in path
        or pure.is_absolute()
        or str(pure) != path
        or not pure.parts
    )
    if bad or any(part in ("..", ".") for part in pure.parts):
        what = f"{where} lists the path {path[:_LONGEST_NAME]!r}, expected a plain relative path inside the bundle"
        raise IntegrityError(f"{what}. Do not load this bundle; get it from its source again.", code="manifest-invalid")
