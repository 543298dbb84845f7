"""One side of a comparison: a bundle in a process of its own, the samples that it answers, and what is said of it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import samples as sample_files
from edgekit import tasks
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.machine import energy
from edgekit.machine.cpu import cpus
from edgekit.report import predictions
from edgekit.report.accuracy import calibration_error, confusion
from edgekit.report.differences import settings
from edgekit.report.slices import by_length
from edgekit.runtime.stand_in import stand_in_variants
from edgekit.samples import Samples
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.manifest import Variant, content_digest
from edgekit.spec.parsing import plain
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, HasLabels, Input, Task
from edgekit.spec.rows import encode_each
from edgekit.spec.sealed import seal
from edgekit.spec.sources import SampleSource
from edgekit.spec.subject import ByLength, Process, Start, Subject, Times
from edgekit.spec.tensor import TensorSpec
from edgekit.stats.percentiles import percentile, samples_needed
from edgekit.timing.worker import Worker

__all__ = [
    "BundleOutputs",
    "BundleUnderTest",
    "Rows",
    "check_same_task",
    "load_eval_rows",
    "open_for_test",
    "predict_all",
    "score",
    "score_fields",
    "summarize_bundle",
    "summarize_teacher",
    "times",
    "variant_of",
]


@dataclass(frozen=True)
class BundleUnderTest:
    """A bundle that was checked, and how it is run.

    Attributes:
        bundle: the bundle.
        name: last part of its path.
        task: its task with its settings.
        backend, threads, trust: as :func:`edgekit.load` takes them.
    """

    bundle: Bundle
    name: str
    task: Task
    backend: str | None = None
    threads: int | None = None
    trust: Trust | None = None

    def worker(self) -> Worker:
        """A new process with it."""
        return Worker(self.bundle.path, self.threads, self.backend, trust=self.trust)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What its graphs give."""
        return tuple(spec for signature in self.bundle.manifest.signatures for spec in signature.outputs)

    @property
    def settings(self) -> dict[str, str]:
        """What its manifest says of how it runs, as text by name."""
        return settings(self.bundle.manifest)

    @property
    def stand_in_for(self) -> str:
        """Backends that ONNX Runtime on this CPU stands in for; empty where the bundle runs on a backend of its own."""
        variants = self.bundle.manifest.variants
        if not stand_in_variants(variants, self.backend):
            return ""
        return " and ".join(dict.fromkeys(variant.backend for variant in variants))

    @property
    def stand_in_note(self) -> str:
        """What a stand-in tells and what it does not, a sentence or two; empty where there is none."""
        if not self.stand_in_for:
            return ""
        return (
            f"Stand-in: {self.name} ran on ONNX Runtime on this CPU in place of {self.stand_in_for}. "
            "Accuracy and size are judged; latency, start, memory and energy are those of the device alone."
        )

    @property
    def size_mb(self) -> float:
        """On disk, MiB."""
        return self.bundle.size / 2**20


@dataclass(frozen=True)
class Rows:
    """Labelled samples as a task reads them.

    Attributes:
        samples: the file's rows.
        evaluation: the rows as the task scores them, told apart by their ids.
        ids: keyed hash of each row.
        sizes: of each whole input as the model reads it, e.g. tokens of all windows, those that two windows share once.
        truncated: inputs that are longer than the model takes.
    """

    samples: Samples
    evaluation: Evaluation
    ids: tuple[str, ...]
    sizes: tuple[int, ...]
    truncated: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def inputs(self) -> Sequence[Input]:
        """As a session takes them."""
        return self.evaluation.inputs

    @property
    def digest(self) -> str:
        """Of the samples."""
        return f"sha256:{self.samples.digest}"

    @property
    def sealed(self) -> str:
        """The same as a report shows it."""
        return seal(self.samples.digest, hmac.digest(predictions.id_key(), b"samples", "sha256")[:16])


@dataclass(frozen=True)
class BundleOutputs:
    """What a bundle answers to all rows, one at a time.

    Attributes:
        outputs: one row each.
        method, backend, executed: what ran.
    """

    outputs: list[Arrays]
    method: str
    backend: str
    executed: str


def open_for_test(
    bundle: str | Path, trust: Trust | None = None, backend: str | None = None, threads: int | None = None
) -> BundleUnderTest:
    """Checks a bundle.

    Raises:
        IntegrityError: when it is altered, or not signed by whom ``trust`` names.
    """
    found = open_bundle(bundle, trust)
    task = tasks.get(found.manifest.task).load(found.assets)
    return BundleUnderTest(found, found.path.resolve().name, task, backend, threads, trust)


def load_eval_rows(task: Task, samples: SampleSource, columns: Mapping[str, str] | None, slices: Sequence[str]) -> Rows:
    """Reads labelled samples.

    Raises:
        SamplesError: when they cannot be read, or have no labels that the task knows.
    """
    read = sample_files.read(samples, columns, slices, task.modality)
    given = read.evaluation(task)
    ids = predictions.row_ids(read.contents(task.modality), predictions.id_key())
    sizes, truncated = list[int](), 0
    for row in encode_each(task, given.inputs):
        sizes.append(row.length or task.modality.size(row.arrays))
        truncated += row.truncated
    return Rows(read, Evaluation(task, given.inputs, given.truth, ids, given.notes), ids, tuple(sizes), truncated)


def check_same_task(identity: Mapping[str, Any], task: Task, which: str) -> None:
    """Refuses to compare answers to different questions.

    Args:
        identity: of the other.
        task: of the bundle.
        which: the other, for the message.

    Raises:
        UsageError: when they differ, with what differs.
    """
    other, own = plain(identity), plain(task.identity)
    differing = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    if differing:
        its, theirs = (
            "; ".join(f"{name.replace('_', ' ')} {_told(side.get(name))}" for name in differing)
            for side in (own, other)
        )
        raise UsageError(
            f"{which} answers with other {', '.join(differing).replace('_', ' ')} than the bundle: {theirs}, and the bundle {its}. "
            "Only models of one task, with the same labels in the same order, can be compared: give such a baseline.",
            code="model-other-task",
        )


def _told(value: object) -> str:
    if not isinstance(value, list):
        return "none" if value is None else str(value)
    return f"({len(value)}) {', '.join(map(str, value[:8]))}{' ...' if len(value) > 8 else ''}"


def predict_all(side: BundleUnderTest, given: Rows, progress: Progress) -> BundleOutputs:
    """Lets a bundle answer all rows.

    Raises:
        BackendError: when it cannot run.
        OutputError: when it answers with NaN.
    """
    with side.worker() as worker:
        outputs = worker.predict(given.inputs, progress, step=f"answers of {side.name}")
        method, backend = worker.method_and_backend()
        executed = worker.executed_precision()
    return BundleOutputs(outputs, method, backend, executed)


def variant_of(side: BundleUnderTest, found: BundleOutputs) -> Variant:
    """The variant that ran."""
    variants = side.bundle.manifest.variants
    return next((v for v in variants if (v.backend, v.method) == (found.backend, found.method)), variants[0])


def summarize_bundle(side: BundleUnderTest, given: Rows, found: BundleOutputs, processes: Sequence[Process]) -> Subject:
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
        target=manifest.target,
        backend=found.backend,
        method=found.method,
        executed=found.executed,
        threads=min(side.threads or variant.threads, cpus()),
        truncated=given.truncated,
        size_mb=side.size_mb,
        energy_mj=float(np.median(energies)) if energies else None,
        energy_from=_energy_from(bool(energies)),
        times=times(processes, given.sizes),
        start=_start(processes),
        memory_mb=float(np.median([p.memory_mb for p in processes])) if processes else 0.0,
        processes=tuple(processes),
        candidates=manifest.trials,
        settings=side.settings,
        **_scored(manifest.task, given, found.outputs),
    )


def summarize_teacher(task: str, given: Rows, outputs: Sequence[Arrays], name: str) -> Subject:
    """What is said of a model of which the answers are all that is known.

    Args:
        task: its name.
        given: the samples.
        outputs: of the model to these.
        name: of the model.
    """
    return Subject(name=name, digest="", format=0, model="", **_scored(task, given, outputs))


def _scored(name: str, given: Rows, outputs: Sequence[Arrays]) -> dict[str, Any]:
    """Fields of a subject that are about its answers."""
    task, truth = given.evaluation.task, given.evaluation.truth
    return {
        "task": name,
        "identity": plain(task.identity),
        "labels": tuple(task.labels) if isinstance(task, HasLabels) else (),
        **score_fields(task, given.evaluation, outputs),
        "calibration_error": calibration_error(task, outputs, truth),
        "confusion": confusion(task, outputs, truth),
        # Outputs of such a task spell the user's text.
        "predictions": None if task.answers_quote_input else predictions.pack(outputs, given.ids),
    }


def score_fields(task: Task, given: Evaluation | None, outputs: Sequence[Arrays] | None) -> dict[str, Any]:
    """Return the fields of a subject that are about its scores.

    Args:
        task: Task with its metrics.
        given: Labelled rows; None where the scores are not known.
        outputs: Outputs of the model to these rows; None where they are not known.
    """
    metric = task.metrics[0]
    fields: dict[str, Any] = {"score_name": metric.name, "higher_is_better": metric.higher_is_better}
    if given is None or outputs is None:
        return {**fields, "score": None, "more_scores": {}}
    return {**fields, "score": score(given, outputs), "more_scores": given.more_scores(outputs)}


def score(given: Evaluation, outputs: Sequence[Arrays]) -> float | None:
    """The task's score; None where it is not defined on these rows."""
    try:
        return given.score(outputs)
    except SamplesError:
        return None


def times(processes: Sequence[Process], sizes: Sequence[int]) -> Times | None:
    """All calls of all processes together.

    Args:
        processes: that were timed.
        sizes: of each row of the samples.
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
        by_length=_by_length(processes, sizes),
    )


def _energy_from(measured: bool) -> str:
    """Who told it, or why nobody does."""
    meter = energy.find_meter()
    if meter is None:
        return energy.unavailable_reason()
    return meter.source if measured else f"{meter.source} gave no number that can be used"


def _start(processes: Sequence[Process]) -> Start | None:
    if not processes:
        return None
    return Start(*(float(part) for part in np.median([astuple(p.start) for p in processes], axis=0)))


def _by_length(processes: Sequence[Process], sizes: Sequence[int]) -> tuple[ByLength, ...]:
    if max(sizes, default=1) == 1:  # of inputs of one size there is nothing to be told apart
        return ()
    calls = [
        (sizes[row], time)
        for p in processes
        for rows, block in zip(p.rows, p.blocks_ms, strict=True)
        for row, time in zip(rows * 2, block, strict=True)
    ]
    groups: dict[str, list[tuple[int, float]]] = {}
    for name, call in zip(by_length([count for count, _ in calls]), calls, strict=True):
        groups.setdefault(name, []).append(call)
    found = [
        ByLength(min(n for n, _ in g), max(n for n, _ in g), len(g), float(np.median([t for _, t in g])))
        for g in groups.values()
    ]
    return tuple(sorted(found, key=lambda g: g.low))
