"""Evaluation of one bundle on labelled samples: score, latency and memory. The bundle runs in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import backends
from edgekit import samples as sample_files
from edgekit.bundle.signature import Trust
from edgekit.machine.cpu import machine_name
from edgekit.report.answers import answer_rows
from edgekit.report.reference import check_reference
from edgekit.report.side import open_for_test
from edgekit.report.slices import score_slices
from edgekit.report.table import shown_scores, table
from edgekit.spec.options import EvaluateOptions
from edgekit.spec.parsing import Recorded
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import SampleSource
from edgekit.spec.subject import SliceScore
from edgekit.spec.text import wrap_lines
from edgekit.spec.user_metric import resolve_metric, with_metric
from edgekit.stats.percentiles import Latency, latency, samples_needed

__all__ = ["BundleScores", "evaluate"]

_WARM_UP_INPUTS = 20


@dataclass(frozen=True, repr=False)
class BundleScores(Recorded):
    """Result of :func:`evaluate`.

    Attributes:
        bundle: Path of the bundle.
        rows: Number of samples.
        truncated: Number of samples that are longer than the model's maximum.
        score_name, score: Name and value of the task's score.
        more_scores: Other scores of the task, value by name.
        latency: Latency from input to answer, for one stream and batch 1: of all rows, or of a random choice of 2,000
            rows if the others shared calls.
        first_answer_ms: Time from process start to the first answer, in ms.
        memory_mb: Peak resident memory of the predicting process, one input at a time, in MiB.
        size_mb: Size of the bundle on disk, in MiB.
        backend, method: Backend that ran, and quantization method.
        cpu: Name of the processor, after the name of the GPU if the bundle ran on one.
        notes: Notes on the samples, one sentence each.
        stand_in_for: Backends that ONNX Runtime on this CPU stood in for, so that times and memory are not those of the
            device; empty if the bundle ran on its own backend.
        slices: Scores by slice, for the columns of the options.
    """

    bundle: str
    rows: int
    truncated: int
    score_name: str
    score: float
    latency: Latency
    first_answer_ms: float
    memory_mb: float
    size_mb: float
    backend: str
    method: str
    cpu: str
    notes: tuple[str, ...] = ()
    more_scores: Mapping[str, float] = field(default_factory=dict)
    stand_in_for: str = ""
    slices: tuple[SliceScore, ...] = ()

    def text(self) -> str:
        """Return the result as text for a terminal."""
        truncated = f", {self.truncated} longer than the model's maximum and truncated" if self.truncated else ""
        backend = f"{self.backend}, a stand-in for {self.stand_in_for}" if self.stand_in_for else self.backend
        lines = [
            ("bundle", f"{self.bundle} ({self.method} on {backend}, {self.size_mb:.1f} MB)"),
            ("samples", f"{self.rows}{truncated}"),
            (self.score_name, f"{self.score:.4f}"),
        ]
        lines += [(name, f"{value:.4f}") for name, value in shown_scores(self.more_scores).items()]
        if self.stand_in_for:
            lines.append(("latency", "incomparable, like start and memory; measure them on the device"))
        else:
            lines += [
                ("latency", f"{self._format_latency()} (input to answer, one stream, batch 1)"),
                ("start", f"{self.first_answer_ms:.0f} ms from process start to first answer"),
                ("memory", f"{self.memory_mb:.0f} MB at the peak of the predicting process, one input at a time"),
            ]
        lines.append(("machine", self.cpu))
        longest = max(len(name) for name, _ in lines)
        text = wrap_lines("\n".join(f"{name:<{longest}}  {value}" for name, value in lines))
        if self.slices:
            rows = []
            for part in self.slices:
                score = "-" if part.score is None else f"{part.score:.4f}"
                rows.append((f"{part.column} = {part.value}", f"{part.rows:,}", score))
            text += "\n" + table(("slice", "rows", self.score_name), rows)
        return "\n".join([text, *(wrap_lines(f"note: {note}") for note in dict.fromkeys(self.notes))])

    def _format_latency(self) -> str:
        parts = []
        for percent in (50, 90, 99):
            value = getattr(self.latency, f"p{percent}_ms")
            if value is None:
                needed = samples_needed(percent)
                parts.append(f"p{percent} not estimable from {self.latency.count} samples (needs {needed})")
            else:
                parts.append(f"p{percent} {value:.2f} ms")
        return ", ".join(parts)


@takes_paths("bundle")
def evaluate(
    bundle: str | Path,
    samples: SampleSource,
    *,
    options: EvaluateOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> BundleScores:
    """Compute the score of a bundle on labelled samples, and measure its latency and memory.

    Each row runs once. Up to 2,000 rows run alone. Of more rows, a random choice of 2,000 is timed alone, and the
    others share calls if the build has measured that answers in lists are those of single rows; a note says so.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called after each group of inputs.

    Raises:
        EdgekitError: If the bundle or the samples cannot be used.
    """
    chosen = options or EvaluateOptions()
    source = sample_files.collect(samples)
    metric = resolve_metric(chosen.metric)
    side = open_for_test(bundle, trust, chosen.backend, chosen.threads)
    side = replace(side, task=with_metric(side.task, metric))
    rows = sample_files.read(source, chosen.columns, chosen.slices, side.task.modality)
    evaluation = rows.evaluation(side.task)
    inputs = evaluation.inputs
    with side.worker() as worker:
        first_answer_ms = worker.start(inputs[0]).total_ms
        worker.time(inputs[:_WARM_UP_INPUTS])
        answers = answer_rows(worker, side, inputs, progress)
        method, backend = worker.method_and_backend()
    outputs = answers.outputs
    doubt = check_reference(evaluation, outputs, rows.where, "the bundle", renumber=False)
    notes = list(evaluation.notes)
    if doubt is not None and doubt.check.said:
        notes.append(doubt.check.said)
    notes += filter(None, (evaluation.note, answers.note))
    slices = {}
    for name in chosen.slices:
        slices[name] = [row.slices[name] for row in rows.rows]
    return BundleScores(
        bundle=str(bundle),
        rows=len(rows),
        truncated=answers.truncated,
        score_name=side.task.metrics[0].name,
        score=evaluation.score(outputs),
        more_scores=evaluation.more_scores(outputs),
        latency=latency(answers.times_ms),
        first_answer_ms=first_answer_ms,
        memory_mb=answers.memory_mb,
        size_mb=side.size_mb,
        backend=backend,
        method=method,
        cpu=machine_name(backends.get(backend).ENGINES != ""),
        stand_in_for=side.stand_in_for,
        slices=score_slices(evaluation, outputs, slices),
        notes=tuple(notes),
    )
