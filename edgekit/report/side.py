"""Bundle under test: a bundle in a process of its own, and its outputs for the samples."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import samples as sample_files
from edgekit import tasks
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.report import predictions
from edgekit.report.differences import settings
from edgekit.runtime.stand_in import stand_in_variants
from edgekit.samples import Samples
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import plain
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays, Input, Task
from edgekit.spec.rows import encode_each
from edgekit.spec.sealed import seal
from edgekit.spec.sources import SampleSource
from edgekit.spec.tensor import TensorSpec
from edgekit.timing.worker import Worker

__all__ = [
    "BundleOutputs",
    "BundleUnderTest",
    "Rows",
    "check_same_task",
    "load_eval_rows",
    "open_for_test",
    "predict_all",
]


@dataclass(frozen=True)
class BundleUnderTest:
    """Verified bundle, and how it is run.

    Attributes:
        bundle: Opened bundle.
        name: Last part of its path.
        task: Task with the settings of the bundle.
        backend, threads, trust: Arguments of :func:`edgekit.load`.
    """

    bundle: Bundle
    name: str
    task: Task
    backend: str | None = None
    threads: int | None = None
    trust: Trust | None = None

    def worker(self) -> Worker:
        """Return a new process that runs the bundle."""
        return Worker(self.bundle.path, self.threads, self.backend, trust=self.trust)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of all its graphs."""
        return tuple(spec for signature in self.bundle.manifest.signatures for spec in signature.outputs)

    @property
    def settings(self) -> dict[str, str]:
        """Runtime settings of its manifest as text, by name."""
        return settings(self.bundle.manifest)

    @property
    def stand_in_for(self) -> str:
        """Backends that ONNX Runtime on this CPU stands in for; empty if the bundle runs on its own backend."""
        variants = self.bundle.manifest.variants
        if not stand_in_variants(variants, self.backend):
            return ""
        return " and ".join(dict.fromkeys(variant.backend for variant in variants))

    @property
    def stand_in_note(self) -> str:
        """Note on which results of a stand-in are valid, one or two sentences; empty without a stand-in."""
        if not self.stand_in_for:
            return ""
        return (
            f"Stand-in: {self.name} ran on ONNX Runtime on this CPU in place of {self.stand_in_for}. "
            "Accuracy and size are judged; latency, start, memory and energy must be measured on the device."
        )

    @property
    def size_mb(self) -> float:
        """Size on disk, in MiB."""
        return self.bundle.size / 2**20


@dataclass(frozen=True)
class Rows:
    """Labelled samples in the form that a task reads.

    Attributes:
        samples: Rows of the file.
        evaluation: Rows in the form that the task scores, identified by ``ids``.
        ids: Keyed hash of each row.
        sizes: Size of each whole input as the model reads it, e.g. in tokens over all windows. Tokens that two windows
            share count once.
        truncated: Number of inputs that are longer than the model accepts.
    """

    samples: Samples
    evaluation: Evaluation
    ids: tuple[str, ...]
    sizes: tuple[int, ...]
    truncated: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def inputs(self) -> Sequence[Input]:
        """Inputs for a session."""
        return self.evaluation.inputs

    @property
    def digest(self) -> str:
        """Digest of the samples."""
        return f"sha256:{self.samples.digest}"

    @property
    def sealed(self) -> str:
        """Digest of the samples in the sealed form of a report."""
        return seal(self.samples.digest, hmac.digest(predictions.id_key(), b"samples", "sha256")[:16])


@dataclass(frozen=True)
class BundleOutputs:
    """Outputs of a bundle for all rows, one row per call.

    Attributes:
        outputs: Named arrays, one entry per row.
        method, backend, executed: Method, backend and precision that ran.
    """

    outputs: list[Arrays]
    method: str
    backend: str
    executed: str


def open_for_test(
    path: str | Path, trust: Trust | None = None, backend: str | None = None, threads: int | None = None
) -> BundleUnderTest:
    """Verify and open a bundle.

    Args:
        path: Folder of the bundle.
        trust: Trusted keys; None accepts unsigned bundles and any signer.
        backend: Backend to run; None for the best one here.
        threads: Threads per call; None for those of the bundle.

    Raises:
        IntegrityError: If the bundle was modified, or is not signed by a key of ``trust``.
    """
    bundle = open_bundle(path, trust)
    task = tasks.get(bundle.manifest.task).load(bundle.assets)
    return BundleUnderTest(bundle, bundle.path.resolve().name, task, backend, threads, trust)


def load_eval_rows(task: Task, samples: SampleSource, columns: Mapping[str, str] | None, slices: Sequence[str]) -> Rows:
    """Read labelled samples.

    Args:
        task: Task that reads and scores the samples.
        samples: Source of the samples.
        columns: Column of the file by role; None for the default columns.
        slices: Names of columns to slice by.

    Raises:
        SamplesError: If the samples cannot be read, or have no labels that the task knows.
    """
    read = sample_files.read(samples, columns, slices, task.modality)
    evaluation = read.evaluation(task)
    ids = predictions.row_ids(read.contents(task.modality), predictions.id_key())
    sizes: list[int] = []
    truncated = 0
    for row in encode_each(task, evaluation.inputs):
        sizes.append(row.length or task.modality.size(row.arrays))
        truncated += row.truncated
    evaluation = Evaluation(task, evaluation.inputs, evaluation.truth, ids, evaluation.notes)
    return Rows(read, evaluation, ids, tuple(sizes), truncated)


def check_same_task(identity: Mapping[str, Any], task: Task, which: str) -> None:
    """Check that two models have the same task, labels and other identity, so that they can be compared.

    Args:
        identity: Identity of the other model.
        task: Task of the bundle.
        which: Name of the other model, for the message.

    Raises:
        UsageError: If they differ. The message lists the differences.
    """
    other = plain(identity)
    bundle = plain(task.identity)
    names = [name for name in {**bundle, **other} if bundle.get(name) != other.get(name)]
    if not names:
        return
    raise UsageError(
        f"{which} cannot be compared with the bundle: it has {_describe_identity(other, names)}, "
        f"and the bundle has {_describe_identity(bundle, names)}. "
        "Give a baseline of the same task, with the same labels in the same order.",
        code="model-other-task",
    )


def _describe_identity(identity: Mapping[str, Any], names: Sequence[str]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_describe_value(identity.get(name))}" for name in names)


def _describe_value(value: object) -> str:
    if value is None:
        return "none"
    if not isinstance(value, list):
        return str(value)
    more = " ..." if len(value) > 8 else ""
    return f"({len(value)}) {', '.join(map(str, value[:8]))}{more}"


def predict_all(side: BundleUnderTest, rows: Rows, progress: Progress) -> BundleOutputs:
    """Run a bundle on all rows.

    Args:
        side: Bundle to run.
        rows: Labelled rows.
        progress: Function that is called with the number of finished rows.

    Raises:
        BackendError: If the bundle cannot run.
        OutputError: If an output is NaN.
    """
    with side.worker() as worker:
        outputs = worker.predict(rows.inputs, progress, step=f"predictions of {side.name}")
        method, backend = worker.method_and_backend()
        executed = worker.executed_precision()
    return BundleOutputs(outputs, method, backend, executed)
