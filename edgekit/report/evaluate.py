"""One bundle on labelled samples: score, latency, memory. The bundle runs in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import backends
from edgekit import samples as sample_files
from edgekit.bundle.signature import Trust
from edgekit.machine.cpu import machine_name
from edgekit.report.reference import question
from edgekit.report.side import open_for_test
from edgekit.report.slices import score_slices
from edgekit.report.table import shown_scores, table
from edgekit.spec.options import EvaluateOptions
from edgekit.spec.parsing import Recorded
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.rows import encode_each
from edgekit.spec.sources import SampleSource
from edgekit.spec.subject import SliceScore
from edgekit.spec.text import wrap_lines
from edgekit.spec.user_metric import resolve_metric, with_metric
from edgekit.stats.percentiles import Latency, latency, samples_needed

__all__ = ["BundleScores", "evaluate"]

_INPUTS_A_REQUEST = 50
_WARM_UP = 20


@dataclass(frozen=True, repr=False)
class BundleScores(Recorded):
    """What was measured.

    Attributes:
        bundle: its path.
        rows: samples.
        truncated: samples that are longer than the model takes.
        score_name, score: the task's score.
        more_scores: name to value of its other scores.
        latency: input to answer, one stream, batch 1.
        first_answer_ms: process start to first answer.
        memory_mb: peak resident memory of the predicting process, MiB.
        size_mb: of the bundle on disk, MiB.
        backend, method: what ran.
        cpu: where.
        notes: what should be known of the samples, a sentence each.
        stand_in_for: Backends that ONNX Runtime on this CPU stood in for; empty where the bundle's own ran. Times and memory are not the device's then.
        slices: Scores by slice, of the columns that were asked for.
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
        """For a terminal."""
        cut = f", {self.truncated} longer than the model takes and truncated" if self.truncated else ""
        times = [
            (
                q,
                getattr(self.latency, f"p{q}_ms"),
                f"not estimable from {self.latency.count} samples (needs {samples_needed(q)})",
            )
            for q in (50, 90, 99)
        ]
        latency = ", ".join(f"p{q} {few if value is None else f'{value:.2f} ms'}" for q, value, few in times)
        ran_on = f"{self.backend}, a stand-in for {self.stand_in_for}" if self.stand_in_for else self.backend
        lines = [
            ("bundle", f"{self.bundle} ({self.method} on {ran_on}, {self.size_mb:.1f} MB)"),
            ("samples", f"{self.rows}{cut}"),
            (self.score_name, f"{self.score:.4f}"),
            *((name, f"{value:.4f}") for name, value in shown_scores(self.more_scores).items()),
        ]
        if self.stand_in_for:
            lines.append(("latency", "incomparable, as are start and memory: measure them on the device"))
        else:
            lines += [
                ("latency", f"{latency} (input to answer, one stream, batch 1)"),
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


@takes_paths("bundle")
def evaluate(
    bundle: str | Path,
    samples: SampleSource,
    *,
    options: EvaluateOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> BundleScores:
    """Score a bundle on labelled samples, and measure its latency and memory.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called after each group of inputs.

    Raises:
        EdgekitError: when the bundle or the samples cannot be used.
    """
    chosen = options or EvaluateOptions()
    source, metric, slices = sample_files.collect(samples), resolve_metric(chosen.metric), chosen.slices
    side = open_for_test(bundle, trust, chosen.backend, chosen.threads)
    side = replace(side, task=with_metric(side.task, metric))
    rows = sample_files.read(source, chosen.columns, slices, side.task.modality)
    given = rows.evaluation(side.task)
    times: list[float] = []
    with side.worker() as worker:
        first = worker.start(given.inputs[0]).total_ms
        worker.time(given.inputs[:_WARM_UP])
        for start in range(0, len(given), _INPUTS_A_REQUEST):
            times += worker.time(given.inputs[start : start + _INPUTS_A_REQUEST])
            progress("timing", len(times), len(given))
        outputs = worker.predict(given.inputs, progress, step="evaluate")
        memory = worker.memory_mb()
        method, ran_on = worker.method_and_backend()
    asked = question(given, outputs, rows.where, "the bundle", renumber=False)
    return BundleScores(
        bundle=str(bundle),
        rows=len(rows),
        truncated=sum(row.truncated for row in encode_each(side.task, given.inputs)),
        score_name=side.task.metrics[0].name,
        score=given.score(outputs),
        more_scores=given.more_scores(outputs),
        latency=latency(times),
        first_answer_ms=first,
        memory_mb=memory,
        size_mb=side.size_mb,
        backend=ran_on,
        method=method,
        cpu=machine_name(backends.get(ran_on).ENGINES != ""),
        stand_in_for=side.stand_in_for,
        slices=score_slices(given, outputs, {name: [row.slices[name] for row in rows.rows] for name in slices}),
        notes=(*given.notes, *filter(None, ("" if asked is None else asked.check.said, given.note))),
    )
