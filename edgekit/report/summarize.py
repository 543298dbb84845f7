"""Summary of the results of a bundle or a teacher: the fields of a report's subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from edgekit.machine import energy
from edgekit.machine.cpu import cpus
from edgekit.report import predictions
from edgekit.report.accuracy import calibration_error, confusion
from edgekit.report.side import BundleOutputs, BundleUnderTest, Rows
from edgekit.report.slices import by_length
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError
from edgekit.spec.manifest import Variant, content_digest
from edgekit.spec.parsing import plain
from edgekit.spec.protocols import Arrays, HasLabels, Task
from edgekit.spec.subject import ByLength, Process, Start, Subject, Times
from edgekit.stats.percentiles import percentile, samples_needed

__all__ = ["score", "score_fields", "summarize_bundle", "summarize_teacher", "times", "variant_of"]


def variant_of(side: BundleUnderTest, results: BundleOutputs) -> Variant:
    """Return the variant that ran."""
    for variant in side.bundle.manifest.variants:
        if (variant.backend, variant.method) == (results.backend, results.method):
            return variant
    return side.bundle.manifest.variants[0]


def summarize_bundle(
    side: BundleUnderTest, rows: Rows, results: BundleOutputs, processes: Sequence[Process]
) -> Subject:
    """Return the measurements of a bundle for a report.

    Args:
        side: Bundle under test.
        rows: Labelled rows.
        results: Outputs of the bundle for these rows.
        processes: Timed processes; empty if it was not timed.
    """
    manifest = side.bundle.manifest
    variant = variant_of(side, results)
    energies = [process.energy_mj for process in processes if process.energy_mj is not None]
    memory = [process.memory_mb for process in processes]
    revision = manifest.provenance.get("revision", "")
    return Subject(
        name=side.name,
        digest=f"sha256:{content_digest(manifest)}",
        format=manifest.format,
        model=" ".join(filter(None, (manifest.provenance.get("model", ""), revision))),
        target=manifest.target,
        backend=results.backend,
        method=results.method,
        executed=results.executed,
        threads=min(side.threads or variant.threads, cpus()),
        truncated=rows.truncated,
        size_mb=side.size_mb,
        energy_mj=_median(energies),
        energy_from=_energy_source(bool(energies)),
        times=times(processes, rows.sizes),
        start=_start(processes),
        memory_mb=_median(memory) or 0.0,
        processes=tuple(processes),
        candidates=manifest.trials,
        settings=side.settings,
        **_prediction_fields(manifest.task, rows, results.outputs),
    )


def summarize_teacher(task: str, rows: Rows, outputs: Sequence[Arrays], name: str) -> Subject:
    """Return the results of a model of which only the outputs are known.

    Args:
        task: Name of the task.
        rows: Labelled rows.
        outputs: Outputs of the model for these rows.
        name: Name of the model.
    """
    return Subject(name=name, digest="", format=0, model="", **_prediction_fields(task, rows, outputs))


def _prediction_fields(task_name: str, rows: Rows, outputs: Sequence[Arrays]) -> dict[str, Any]:
    """Return the fields of a subject that depend on its outputs."""
    task = rows.evaluation.task
    truth = rows.evaluation.truth
    packed = None
    if not task.answers_quote_input:  # Otherwise the outputs would contain text of the user.
        packed = predictions.pack(outputs, rows.ids)
    labels: tuple[str, ...] = ()
    if isinstance(task, HasLabels):
        labels = tuple(task.labels)
    return {
        "task": task_name,
        "identity": plain(task.identity),
        "labels": labels,
        **score_fields(task, rows.evaluation, outputs),
        "calibration_error": calibration_error(task, outputs, truth),
        "confusion": confusion(task, outputs, truth),
        "predictions": packed,
    }


def score_fields(task: Task, evaluation: Evaluation | None, outputs: Sequence[Arrays] | None) -> dict[str, Any]:
    """Return the fields of a subject that hold its scores.

    Args:
        task: Task with its metrics.
        evaluation: Labelled rows; None if the scores are not known.
        outputs: Outputs of the model for these rows; None if they are not known.
    """
    metric = task.metrics[0]
    fields: dict[str, Any] = {"score_name": metric.name, "higher_is_better": metric.higher_is_better}
    if evaluation is None or outputs is None:
        return {**fields, "score": None, "more_scores": {}}
    return {**fields, "score": score(evaluation, outputs), "more_scores": evaluation.more_scores(outputs)}


def score(evaluation: Evaluation, outputs: Sequence[Arrays]) -> float | None:
    """Return the score of the task; None if it is not defined on these rows."""
    try:
        return evaluation.score(outputs)
    except SamplesError:
        return None


def times(processes: Sequence[Process], sizes: Sequence[int]) -> Times | None:
    """Return the latency over all calls of all processes; None without calls.

    Args:
        processes: Timed processes.
        sizes: Size of each row of the samples.
    """
    calls = [time for process in processes for block in process.blocks_ms for time in block]
    if not calls:
        return None
    quantiles = np.quantile(calls, np.linspace(0, 1, 101))
    needed = {f"p{percent}": samples_needed(percent) for percent in (50, 90, 99)}
    return Times(
        count=len(calls),
        mean_ms=float(np.mean(calls)),
        p50_ms=percentile(calls, 50),
        p90_ms=percentile(calls, 90),
        p99_ms=percentile(calls, 99),
        needed=needed,
        quantiles_ms=tuple(round(time, 4) for time in quantiles.tolist()),
        by_length=_by_length(processes, sizes),
    )


def _energy_source(is_measured: bool) -> str:
    """Return the source of the energy, or the reason why there is none."""
    meter = energy.find_meter()
    if meter is None:
        return energy.unavailable_reason()
    return meter.source if is_measured else f"{meter.source} gave no usable value"


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _start(processes: Sequence[Process]) -> Start | None:
    """Return the median of each part of the cold start."""
    if not processes:
        return None
    medians = np.median([astuple(process.start) for process in processes], axis=0)
    return Start(*medians.tolist())


def _by_length(processes: Sequence[Process], sizes: Sequence[int]) -> tuple[ByLength, ...]:
    if max(sizes, default=1) == 1:  # All inputs of size 1 would be one group.
        return ()
    calls: list[tuple[int, float]] = []
    for process in processes:
        for rows, block in zip(process.rows, process.blocks_ms, strict=True):
            # A block has each of its rows twice.
            lengths = [sizes[row] for row in rows * 2]
            calls += zip(lengths, block, strict=True)
    groups: dict[str, list[tuple[int, float]]] = {}
    for name, call in zip(by_length([length for length, _ in calls]), calls, strict=True):
        groups.setdefault(name, []).append(call)
    result = []
    for group in groups.values():
        lengths = [length for length, _ in group]
        median = float(np.median([time for _, time in group]))
        result.append(ByLength(min(lengths), max(lengths), len(group), median))
    return tuple(sorted(result, key=lambda group: group.low))
