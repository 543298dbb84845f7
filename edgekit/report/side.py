"""One side of a comparison: a bundle in a process of its own, the samples that it answers, and what is said of it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import samples as sample_files
from edgekit import tasks
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.machine import energy
from edgekit.machine.cpu import cpus
from edgekit.modalities.limits import check_rows
from edgekit.modalities.text import Text
from edgekit.report import predictions
from edgekit.report.accuracy import calibration_error, confusion
from edgekit.report.differences import settings
from edgekit.report.slices import by_length
from edgekit.samples import Samples
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.manifest import Variant, content_digest
from edgekit.spec.progress import Progress
from edgekit.spec.sealed import seal
from edgekit.spec.subject import ByLength, Process, Start, Subject, Times
from edgekit.stats.percentiles import percentile, samples_needed
from edgekit.tasks.text_classification import TextClassification
from edgekit.timing.worker import Worker

_TEXTS_A_REQUEST = 50


@dataclass(frozen=True)
class Side:
    """A bundle that was checked, and how it is run.

    Attributes:
        bundle: the bundle.
        name: last part of its path.
        task: its task with its settings.
        backend, threads, trust: as :func:`edgekit.load` takes them.
    """

    bundle: Bundle
    name: str
    task: TextClassification
    backend: str | None = None
    threads: int | None = None
    trust: Trust | None = None

    def worker(self) -> Worker:
        """A new process with it."""
        return Worker(self.bundle.path, self.threads, self.backend, trust=self.trust)

    @property
    def settings(self) -> dict[str, str]:
        """What its manifest says of how it runs, as text by name."""
        return settings(self.bundle.manifest)

    @property
    def size_mb(self) -> float:
        """On disk, MiB."""
        return self.bundle.size / 2**20


@dataclass(frozen=True)
class Rows:
    """Labelled samples as a task reads them.

    Attributes:
        samples: the file's rows.
        texts: as a session takes them.
        truth: as the task parses the labels.
        ids: keyed hash of each row.
        tokens: of each text, as the model reads it.
        truncated: texts that are longer than the model takes.
        notes: how labels were read where they were not taken as they stand, a sentence each.
    """

    samples: Samples
    texts: list[Text]
    truth: np.ndarray
    ids: tuple[str, ...]
    tokens: tuple[int, ...]
    truncated: int
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of the samples."""
        return f"sha256:{self.samples.digest}"

    @property
    def sealed(self) -> str:
        """The same as a report shows it."""
        return seal(self.samples.digest, hmac.digest(predictions.id_key(), b"samples", "sha256")[:16])


@dataclass(frozen=True)
class Answered:
    """What a bundle answers to all rows, one text at a time.

    Attributes:
        logits: float32 ``[rows, labels]``.
        method, backend, executed: what ran.
    """

    logits: np.ndarray
    method: str
    backend: str
    executed: str


def opened(bundle: str | Path, trust: Trust | None = None, backend: str | None = None, threads: int | None = None) -> Side:
    """Checks a bundle.

    Raises:
        IntegrityError: when it is altered, or not signed by whom ``trust`` names.
    """
    found = open_bundle(bundle, trust)
    task = tasks.get(found.manifest.task).load(found.assets)
    return Side(found, found.path.resolve().name, task, backend, threads, trust)


def rows(task: TextClassification, samples: str | Path, columns: Mapping[str, str] | None, slices: Sequence[str]) -> Rows:
    """Reads labelled samples.

    Raises:
        SamplesError: when they cannot be read, or have no labels that the task knows.
    """
    read = sample_files.read(samples, columns, slices)
    texts: list[Text] = [row.inputs for row in read.rows]
    truth = read.truth(task.settings)
    check_rows(texts, task.settings.max_length, read.where)
    encoded = task.preprocess(texts)
    ids = predictions.row_ids(texts, predictions.id_key())
    return Rows(read, texts, truth.values, ids, tuple(map(len, encoded)), sum(t.truncated for t in encoded), truth.notes)


def same_task(problem_type: str, labels: Sequence[str], task: TextClassification, which: str) -> None:
    """Refuses to compare answers to different questions.

    Args:
        problem_type: of the other.
        labels: of the other, in the order of its logits.
        task: of the bundle.
        which: the other, for the message.

    Raises:
        UsageError: when they differ.
    """
    own = task.settings
    if (own.problem_type, tuple(own.labels)) != (problem_type, tuple(labels)):
        raise UsageError(
            f"{which} answers with {_labels(labels)} ({problem_type}), the bundle with {_labels(own.labels)} ({own.problem_type}). "
            "Only models of one task, with the same labels in the same order, can be compared: give such a baseline."
        )


def _labels(names: Sequence[str]) -> str:
    return f"{len(names)} label{'s' if len(names) != 1 else ''}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"


def answered(side: Side, given: Rows, progress: Progress) -> Answered:
    """Lets a bundle answer all rows.

    Raises:
        BackendError: when it cannot run.
        SamplesError: when it answers with NaN.
    """
    parts = []
    with side.worker() as worker:
        for start in range(0, len(given.texts), _TEXTS_A_REQUEST):
            parts.append(worker.logits(given.texts[start : start + _TEXTS_A_REQUEST]))
            progress(f"answers of {side.name}", min(start + _TEXTS_A_REQUEST, len(given.texts)), len(given.texts))
        method, backend = worker.ran()
        executed = worker.executed_precision()
    logits = np.concatenate(parts)
    if broken := int(np.isnan(logits).any(axis=1).sum()):
        raise SamplesError(f"{side.name} answers {broken} of {len(logits)} rows with NaN, expected numbers. Build it again, or keep more layers in float.")
    return Answered(logits, method, backend, executed)


def variant_of(side: Side, found: Answered) -> Variant:
    """The variant that ran."""
    variants = side.bundle.manifest.variants
    return next((v for v in variants if (v.backend, v.method) == (found.backend, found.method)), variants[0])


def subject(side: Side, given: Rows, found: Answered, processes: Sequence[Process]) -> Subject:
    """What is said of a bundle."""
    manifest = side.bundle.manifest
    variant = variant_of(side, found)
    energies = [p.energy_mj for p in processes if p.energy_mj is not None]
    revision = manifest.provenance.get("revision", "")
    return Subject(
        name=side.name,
        digest=f"sha256:{content_digest(manifest)}",
        format=manifest.format,
        model=" ".join(filter(None, (manifest.provenance.get("model", ""), revision))),
        task=manifest.task,
        problem_type=side.task.settings.problem_type,
        labels=side.task.settings.labels,
        target=manifest.target,
        backend=found.backend,
        method=found.method,
        executed=found.executed,
        threads=min(side.threads or variant.threads, cpus()),
        score_name=side.task.score_name,
        score=score(side.task, found.logits, given.truth),
        truncated=given.truncated,
        calibration_error=calibration_error(side.task, found.logits, given.truth),
        confusion=confusion(side.task, found.logits, given.truth),
        size_mb=side.size_mb,
        energy_mj=float(np.median(energies)) if energies else None,
        energy_from=_energy_from(bool(energies)),
        times=times(processes, given.tokens),
        start=_start(processes),
        memory_mb=float(np.median([p.memory_mb for p in processes])) if processes else 0.0,
        processes=tuple(processes),
        candidates=manifest.trials,
        predictions=predictions.pack(side.task, found.logits, given.truth, given.ids),
        settings=side.settings,
    )


def teacher(task: TextClassification, given: Rows, logits: np.ndarray, name: str) -> Subject:
    """What is said of a model of which the answers are all that is known."""
    packed = predictions.pack(task, logits, given.truth, given.ids)
    return Subject(
        name=name,
        digest="",
        format=0,
        model="",
        task="text-classification",
        problem_type=task.settings.problem_type,
        labels=task.settings.labels,
        score_name=task.score_name,
        score=score(task, logits, given.truth),
        calibration_error=calibration_error(task, logits, given.truth),
        confusion=confusion(task, logits, given.truth),
        predictions=packed,
    )


def score(task: TextClassification, logits: np.ndarray, truth: np.ndarray) -> float | None:
    """The task's score; None where it is not defined on these rows."""
    try:
        return task.score(logits, truth)
    except SamplesError:
        return None


def times(processes: Sequence[Process], tokens: Sequence[int]) -> Times | None:
    """All calls of all processes together.

    Args:
        processes: that were timed.
        tokens: of each row of the samples.
    """
    found = [t for p in processes for block in p.blocks_ms for t in block]
    if not found:
        return None
    quantiles = np.quantile(found, np.linspace(0, 1, 101))
    return Times(
        count=len(found),
        mean_ms=float(np.mean(found)),
        p50_ms=percentile(found, 50),
        p90_ms=percentile(found, 90),
        p99_ms=percentile(found, 99),
        needed={f"p{q}": samples_needed(q) for q in (50, 90, 99)},
        quantiles_ms=tuple(round(float(t), 4) for t in quantiles),
        by_length=_by_length(processes, tokens),
    )


def _energy_from(measured: bool) -> str:
    """Who told it, or why nobody does."""
    meter = energy.meter()
    if meter is None:
        return energy.why_none()
    return meter.source if measured else f"{meter.source} gave no number that can be used"


def _start(processes: Sequence[Process]) -> Start | None:
    if not processes:
        return None
    names = ("import_ms", "verify_ms", "load_ms", "answer_ms", "total_ms")
    return Start(*(float(np.median([getattr(p.start, name) for p in processes])) for name in names))


def _by_length(processes: Sequence[Process], tokens: Sequence[int]) -> tuple[ByLength, ...]:
    calls = [(tokens[row], time) for p in processes for rows, block in zip(p.rows, p.blocks_ms, strict=True) for row, time in zip(rows * 2, block, strict=True)]
    groups: dict[str, list[tuple[int, float]]] = {}
    for name, call in zip(by_length([count for count, _ in calls]), calls, strict=True):
        groups.setdefault(name, []).append(call)
    found = [ByLength(min(n for n, _ in g), max(n for n, _ in g), len(g), float(np.median([t for _, t in g]))) for g in groups.values()]
    return tuple(sorted(found, key=lambda g: g.low))
