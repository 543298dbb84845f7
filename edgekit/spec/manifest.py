"""Manifest of a bundle: ``manifest.json``, with its strict reader and writer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from edgekit.spec.agreement import Agreement
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import FormatError, IntegrityError
from edgekit.spec.identity import check_date, check_name, version_key
from edgekit.spec.parsing import parse, plain, strict_json, to_json
from edgekit.spec.short import ShortRepr
from edgekit.spec.tensor import Signature
from edgekit.spec.trial import HeldOut, ReferenceCheck, Trial

# fmt: off
__all__ = [
    "CHOOSE_ON", "FORMAT", "MAX_TOKENS", "MOST_FILES", "ROWS", "TIMED_FILES", "FileEntry", "HeldOut", "Manifest",
    "ReferenceCheck", "Trial", "Variant", "check_inside", "content_digest", "dumps", "loads", "reference_name",
]
# fmt: on

FORMAT = 2
"""Bundle format that this version writes, and the newest that it reads."""

MOST_FILES = 10_000
"""Largest number of files in a bundle. A normal bundle has about ten."""

CHOOSE_ON = ("host", "device")

ROWS = ("together", "alone")

MAX_TOKENS = 2048
"""Default limit of rows times padded length for one call of a list, if the memory budget of the target allows it."""

TIMED_FILES = ("race.json",)
"""Files with measured times, which differ between equal builds."""

_SHA256 = re.compile("[0-9a-f]{64}")
_LONGEST_NAME = 1024  # characters


@dataclass(frozen=True)
class Variant:
    """One way to run the model.

    Attributes:
        backend: Name of a file in ``backends/``.
        method: Quantization method of the graphs.
        graphs: Path of the ONNX or TensorFlow Lite file, relative to the bundle, by signature name.
        device: Device of the backend.
        threads: Threads per call.
        executed: Precision that was executed at build time.
        requires: Requirements on the device, e.g. ``{"instructions": "vnni"}``, checked when the bundle is loaded.
        versions: Versions of the backend at build time.
        shapes: Bucket edges in tokens. A row is padded to the smallest edge that holds it; empty for no padding.
        streams: Number of concurrent calls.
        batch: Rows per call when a list is predicted; 0 for the manifest's ``max_batch``.
        recipe: Settings that the quantization method chose, as text.
        linear_macs: Multiply-accumulates per token in the linear layers; 0 if it is not known, or for several graphs.
        engine: Recipe of the TensorRT engines; None for backends that run the graphs themselves.
        engines: Path of an engine compiled at build time, relative to the bundle, by signature name; empty if the
            device compiles it.
        rows: ``together`` if rows of a list may share a call; ``alone`` if they run one by one, since the answer of a
            row would depend on the others. The default ``alone`` is correct for every graph.
        max_tokens: Largest product of rows and padded length of one call of a list, except for a single row; 0 if only
            ``batch`` limits it.
        lists: Difference between the answers in lists and those to single rows; None if it was not measured.
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
        """Return a file name for the engine of a graph when it is compiled with NVIDIA's ``trtexec``."""
        return f"{self.method}.plan" if len(self.graphs) == 1 else f"{self.method}-{signature}.plan"


@dataclass(frozen=True)
class FileEntry:
    """A file of a bundle.

    Attributes:
        sha256: Digest of the file, in hex.
        size: Size of the file, in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, repr=False)
class Manifest(ShortRepr):
    """Contents of a bundle's ``manifest.json``.

    Attributes:
        format: Format version.
        task: Task name.
        loop: Name of the loop that runs the graphs.
        max_batch: Largest number of rows that a session puts into one batch.
        signatures: Entry points of the model.
        variants: Ways to run the model, the best first.
        files: Digest and size of all other files, by path relative to the bundle with forward slashes.
        target: Name of the target of the build.
        reason: Explanation why the first variant won.
        score_name: Name of the scores, e.g. ``accuracy``.
        higher_is_better: Direction of the scores; False for an error rate.
        reference_score: Score of the torch model on the evaluation samples.
        trials: All candidates that were measured.
        held_out: Result of the chosen candidate on a test set, if there was one.
        sensitivity: Damage by quantizing each layer alone, by layer name, the largest first; empty if no layer had to
            stay in float, or in INT8.
        notes: Notes for users of the bundle about its build, one sentence each.
        verified: Checks that were made at build time beside the scores, one sentence each.
        unverified: Checks that were not possible at build time, one sentence each.
        choose_on: ``host`` if the first variant was chosen by measurement on the build machine; ``device`` if the
            variants race when the bundle is first loaded.
        provenance: Model id, revision, sample digests, tool versions, seed.
        name, version: Identity of the bundle, compared when it replaces another one, see :mod:`edgekit.spec.identity`.
        expires: Last day, in UTC, on which the bundle may be installed. An installed bundle continues to run.
        built: Time of the build in UTC, if the bundle has a name, a version or a last day; else empty.
        reference_check: Evidence that the torch model is better than chance; None in bundles of earlier releases.
        machine: Machine that computed the golden outputs: ``architecture`` and ``instructions``, separated by spaces;
            empty if it is not recorded.
        input_forms: Forms of the samples of the build, e.g. ``text`` and ``pair``; empty if they are not recorded.
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
        """Check the identity of the bundle.

        Raises:
            UsageError: If the name, the version or a day is malformed.
        """
        check_name(self.name)
        version_key(self.version)
        check_date(self.expires)
        check_date(self.built[:10])


def reference_name(provenance: Mapping[str, str]) -> str:
    """Return the short name of the model that scores are compared with: torch, or the ONNX file of the build.

    Args:
        provenance: Origin of a bundle or of graphs.
    """
    return "the ONNX file" if "reference" in provenance else "torch"


def loads(text: str, where: str) -> Manifest:
    """Read a manifest strictly.

    Args:
        text: JSON text.
        where: Name of the file, for messages.

    Raises:
        FormatError: If its format is newer than this version reads.
        IntegrityError: If it is not JSON, has unknown or missing keys, or names a path that leaves the bundle.
    """
    try:
        data = strict_json(text)
    except (ValueError, RecursionError) as problem:
        raise IntegrityError(
            f"{where} is not valid JSON ({problem}). The bundle is damaged: build or copy it again.",
            code="manifest-invalid",
        ) from problem
    if isinstance(data, dict):
        _check_raw(data, where)
    manifest = parse(Manifest, data, where, IntegrityError)
    if manifest.format < 1:
        raise FormatError(
            f"{where} has bundle format {manifest.format}, expected 1 to {FORMAT}. Build the bundle again.",
            code="bundle-format",
        )
    for message in _invalid_values(manifest):
        raise IntegrityError(f"{where} {message} Build the bundle again.", code="manifest-invalid")
    for path, file in manifest.files.items():
        check_inside(path, where)
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise IntegrityError(
                f"{where} lists {path!r} with a malformed size or sha256. Build or copy the bundle again.",
                code="manifest-invalid",
            )
    for variant in manifest.variants:
        for message in _invalid_variant(manifest, variant):
            raise IntegrityError(f"{where} {message} Build or copy the bundle again.", code="manifest-invalid")
    return manifest if manifest.format > 1 else _upgrade_format_1(manifest)


def _check_raw(data: Mapping[str, object], where: str) -> None:
    """Check the format version and the number of files before anything is parsed."""
    version = data.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise FormatError(
            f"{where} has bundle format {version}, this EdgeKit reads up to {FORMAT}. "
            "Install a newer EdgeKit, or build the bundle again with this one.",
            code="bundle-format",
        )
    files = data.get("files")
    if isinstance(files, dict) and len(files) > MOST_FILES:
        raise IntegrityError(
            f"{where} lists {len(files)} files, expected at most {MOST_FILES}. "
            "Do not load this bundle; get it from its source again.",
            code="manifest-invalid",
        )


def _upgrade_format_1(manifest: Manifest) -> Manifest:
    """Set the fields that format 1 lacks.

    Rows share a call except for the method ``dynamic``, which has one activation scale per tensor.
    """
    variants = []
    for variant in manifest.variants:
        rows = "alone" if variant.method == "dynamic" else "together"
        max_tokens = MAX_TOKENS if variant.engine is None else 0
        variants.append(replace(variant, rows=rows, max_tokens=max_tokens))
    return replace(manifest, variants=tuple(variants))


def _invalid_values(manifest: Manifest) -> Iterator[str]:
    """Yield the part of an error message that follows the file name, for each invalid value."""
    if not manifest.variants:
        yield "lists no variant, expected at least one."
    if manifest.max_batch < 1:
        yield f"has max_batch {manifest.max_batch}, expected at least 1."
    if manifest.choose_on not in CHOOSE_ON:
        yield f"has choose_on '{manifest.choose_on}', expected one of: {', '.join(CHOOSE_ON)}."


def _invalid_variant(manifest: Manifest, variant: Variant) -> Iterator[str]:
    """Yield the part of an error message that follows the file name, for each invalid value of a variant."""
    if variant.threads < 1:
        yield f"has a variant with {variant.threads} threads, expected at least 1."
    ascending = list(variant.shapes) == sorted(set(variant.shapes))
    if variant.streams < 1 or variant.batch < 0 or min(variant.shapes, default=1) < 1 or not ascending:
        yield (
            f"has a variant with streams {variant.streams}, batch {variant.batch} and shapes {list(variant.shapes)}, "
            "expected at least 1, at least 0, and ascending token counts."
        )
    if variant.rows not in ROWS or variant.max_tokens < 0:
        yield (
            f"has a variant with rows '{variant.rows}' and max_tokens {variant.max_tokens}, "
            f"expected one of {', '.join(ROWS)}, and at least 0."
        )
    for signature in manifest.signatures:
        if signature.name not in variant.graphs:
            yield f"has a variant without a graph for '{signature.name}'."
    for path in (*variant.graphs.values(), *variant.engines.values()):
        if path not in manifest.files:
            yield f"names '{path}' but does not list that file."


def dumps(manifest: Manifest) -> str:
    """Return a manifest as sorted, indented JSON."""
    return to_json(plain(manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def content_digest(manifest: Manifest) -> str:
    """Return the sha256 over every file of a bundle except those with measured times.

    Builds with the same inputs and the same seed have the same digest.
    """
    entries = [[name, entry.sha256] for name, entry in sorted(manifest.files.items()) if name not in TIMED_FILES]
    return hashlib.sha256(to_json(entries).encode()).hexdigest()


def check_inside(path: str, where: str) -> None:
    """Check that a path is relative, inside the bundle, and in its normal form.

    Args:
        path: Path from a manifest.
        where: Name of the manifest, for messages.

    Raises:
        IntegrityError: If it is not; with the path.
    """
    pure = PurePosixPath(path)
    is_malformed = not path or len(path) > _LONGEST_NAME or any(character in path for character in "\\\0:")
    is_outside = pure.is_absolute() or any(part in ("..", ".") for part in pure.parts)
    if is_malformed or is_outside or str(pure) != path or not pure.parts:
        raise IntegrityError(
            f"{where} lists the path {path[:_LONGEST_NAME]!r}, expected a plain relative path inside the bundle. "
            "Do not load this bundle; get it from its source again.",
            code="manifest-invalid",
        )
