"""Measurement of one bundle, alone or against a baseline, and the report of the results."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from edgekit import samples as sample_files
from edgekit.machine import energy
from edgekit.machine.fingerprint import fingerprint
from edgekit.report import baseline_file, check_packages, differences, gating, speed, stand_in
from edgekit.report.accuracy import compare as compare_answers
from edgekit.report.baseline import Baseline, BundleBefore, ReportBefore, TeacherBefore
from edgekit.report.describe import Description, describe
from edgekit.report.reference import check_reference
from edgekit.report.side import BundleOutputs, BundleUnderTest, Rows, load_eval_rows, predict_all
from edgekit.report.slices import by_label, by_length, score_slices
from edgekit.report.summarize import summarize_bundle
from edgekit.spec import gates as gate_files
from edgekit.spec.errors import BackendError, UsageError
from edgekit.spec.gates import Gates
from edgekit.spec.options import CompareOptions
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import SCHEMA, Accuracy, Gate, Report, Speed
from edgekit.spec.sources import SampleSource
from edgekit.spec.subject import Fingerprint, Subject
from edgekit.spec.user_metric import resolve_metric, with_metric
from edgekit.timing.interleaved import Single, time_interleaved, time_single
from edgekit.timing.probe import make_prober

__all__ = ["Run", "build_report", "measure", "measure_alone", "measure_noise"]

_UNTIMED = "the baseline was not timed: give a bundle, or a file of 'edgekit baseline'"
_PROCESSES = 8
"""Processes of a bundle that is timed alone."""


@dataclass(frozen=True)
class Run:
    """Inputs that all measurements of one run share.

    Attributes:
        side: Bundle that is measured.
        rows: Labelled rows.
        gates: Gates that are checked.
        options: Options of the verb.
        progress: Function that is called with the progress of each part.
        begun: Fingerprint of the machine at the start.
    """

    side: BundleUnderTest
    rows: Rows
    gates: Gates
    options: CompareOptions
    progress: Progress
    begun: Fingerprint

    @classmethod
    def begin(
        cls,
        open_side: Callable[[], BundleUnderTest],
        samples: SampleSource,
        options: CompareOptions,
        progress: Progress,
    ) -> Run:
        """Validate all inputs before anything is measured, and read the samples.

        Args:
            open_side: Function that verifies and opens the bundle.
            samples: Labelled rows.
            options: Options of the verb.
            progress: Function that is called with the progress of each part.

        Raises:
            EdgekitError: If options, bundle, samples or gates cannot be used.
        """
        check_packages("scipy")
        source = sample_files.collect(samples)
        metric = resolve_metric(options.metric)
        if not math.isfinite(options.max_time) or options.max_time < 0 or options.seed < 0:
            raise UsageError(
                f"max_time is {options.max_time:g} and seed is {options.seed}. "
                "Expected max_time in seconds, at least 0, and seed as a whole number, at least 0. Correct them.",
                code="check-settings",
            )
        gates = Gates() if options.gates is None else options.gates
        if not isinstance(gates, Gates):
            gates = gate_files.read(os.fspath(gates))
        side = open_side()  # This reads and hashes the whole bundle.
        side = replace(side, task=with_metric(side.task, metric))
        rows = load_eval_rows(side.task, source, options.columns, options.slices)
        return cls(side, rows, gates, options, progress, fingerprint())


def measure(kind: str, run: Run, against: Baseline | None) -> Report:
    """Measure a bundle, alone or against a baseline.

    Args:
        kind: Kind of the report. A check leaves out robustness and attributions, which have no gates.
        run: Inputs of the run.
        against: Baseline; None to measure the bundle alone.
    """
    results = predict_all(run.side, run.rows, run.progress)
    before: Subject | None
    before_outputs: Sequence[Arrays] | None
    comparison: Speed | None
    if isinstance(against, BundleBefore):
        other = predict_all(against.side, run.rows, run.progress)
        before, after, comparison = _measure_interleaved(run, against.side, other, results)
        before_outputs = other.outputs
    else:
        start = time.monotonic()
        before = None if against is None else against.subject
        before_outputs = None if against is None else against.outputs
        after = measure_alone(run, results, baseline_file.probes_of(before))
        comparison = None
        if against is not None:
            comparison = baseline_file.judge(against, after, time.monotonic() - start, run.options.seed)
    if run.side.stand_in_for:
        after = stand_in.without_times(after)
        comparison = stand_in.only_size(comparison)
        if before is not None and isinstance(against, BundleBefore):
            before = stand_in.without_times(before)
    described: Description = ((), (), (), None)
    if kind != "check":
        outputs = (before_outputs, results.outputs)
        options = run.options
        described = describe(run.side, against, run.rows, outputs, options.seed, options.include_text, run.progress)
    if against is None:
        slices = score_slices(run.rows.evaluation, results.outputs, _slice_columns(run, results.outputs))
        after = replace(after, slices=slices)
    after = replace(after, robustness=described[0])
    subjects: tuple[Subject, ...] = (after,)
    if before is not None:
        before = replace(before, robustness=described[1])
        subjects = (before, after)
    notes = () if against is None else baseline_file.notes(against, after)
    report = build_report(kind, run, subjects, comparison, notes)
    accuracy = None
    if against is not None:
        why_not = against.why_not if isinstance(against, ReportBefore) else ""
        accuracy = _compare_accuracy(run, before_outputs, results.outputs, why_not)
    gates = _check_gates(report, run, against, accuracy)
    first_notes = (
        accuracy.undecidable_reason if accuracy is not None else "",
        _reference_doubt(run, before_outputs, results.outputs),
        run.rows.evaluation.note,
        run.side.stand_in_note,
    )
    return replace(
        report,
        accuracy=accuracy,
        gates=gates,
        robustness=described[2],
        faithfulness=described[3],
        notes=(*filter(None, first_notes), *report.notes),
    )


def _check_gates(report: Report, run: Run, against: Baseline | None, accuracy: Accuracy | None) -> tuple[Gate, ...]:
    """Return the gates of a report, with their verdicts."""
    after = report.subjects[-1]
    before = report.subjects[0] if len(report.subjects) == 2 else None
    drop = _accuracy_drop(run, against, accuracy, after)
    is_equal = before is not None and bool(after.digest) and differences.equal(before, after)
    is_same_machine = True
    if isinstance(against, ReportBefore):
        is_same_machine = not against.fingerprint.differences(report.fingerprint)
    gates: tuple[Gate, ...] = ()
    if accuracy is not None:
        # In a check, a missing latency is incomparable; without its gates the check would pass vacuously. In a
        # comparison, e.g. with a teacher, there is no latency and it is not gated.
        untimed = _UNTIMED if report.kind == "check" else ""
        gates = gating.judge_comparison(
            run.gates, accuracy, report.speed, untimed, equal=is_equal, here=is_same_machine
        )
    return gates + gating.judge_budget(run.gates.budget, after, drop)


def _reference_doubt(run: Run, before: Sequence[Arrays] | None, after: Sequence[Arrays]) -> str:
    """Return a sentence if the answers of the reference look unrelated to the labels; else an empty string."""
    if before is None:
        doubt = check_reference(run.rows.evaluation, after, run.rows.samples.where, "the bundle")
    else:
        doubt = check_reference(run.rows.evaluation, before, run.rows.samples.where, "the baseline")
    return "" if doubt is None else doubt.check.said


def measure_alone(run: Run, results: BundleOutputs, probes: tuple[str, int, tuple[str, ...]]) -> Subject:
    """Time the bundle alone, with probe kernels beside it.

    Args:
        run: Inputs of the run.
        results: Outputs of the bundle.
        probes: Backend, threads and kernels of the probes. No backend means no probes; without kernels, their repeats
            are fitted to the bundle.
    """
    backend, threads, kernels = probes
    meter = energy.find_meter()
    with make_prober(backend, threads) as prober:
        plan = Single(_PROCESSES, prober, kernels, run.options.seed, meter)
        processes = time_single(run.side.worker, run.rows.inputs, plan, run.progress)
    subject = summarize_bundle(run.side, run.rows, results, processes)
    return subject if prober is None else replace(subject, probes_ran=f"{backend} {threads}")


def _measure_interleaved(
    run: Run, other: BundleUnderTest, before: BundleOutputs, after: BundleOutputs
) -> tuple[Subject, Subject, Speed]:
    """Time two bundles interleaved."""
    gated = speed.margins(run.gates)
    sizes_mb = (other.size_mb, run.side.size_mb)
    untimed_before = summarize_bundle(other, run.rows, before, ())
    untimed_after = summarize_bundle(run.side, run.rows, after, ())
    is_decided = speed.make_stop_rule(gated, sizes_mb, run.options.seed)
    if differences.equal(untimed_before, untimed_after) or run.side.stand_in_for:
        # More time adds nothing for two equal bundles, nor for a stand-in, whose times are removed.
        is_decided = _stop_at_first_look
    timing = time_interleaved(
        (other.worker, run.side.worker),
        run.rows.inputs,
        is_decided,
        max_time=run.options.max_time,
        seed=run.options.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    comparison = speed.compare_paired(timing, sizes_mb, gated, run.options.seed)
    before_processes, after_processes = zip(*timing.pairs, strict=True)
    return (
        summarize_bundle(other, run.rows, before, before_processes),
        summarize_bundle(run.side, run.rows, after, after_processes),
        comparison,
    )


def _stop_at_first_look(*_: object) -> bool:
    return True


def measure_noise(run: Run) -> Speed:
    """Time the bundle against itself for the whole ``max_time``, and return the noise floor of the machine."""
    size_mb = run.side.size_mb
    timing = time_interleaved(
        (run.side.worker, run.side.worker),
        run.rows.inputs,
        lambda *_: False,
        max_time=run.options.max_time,
        seed=run.options.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    comparison = speed.compare_paired(timing, (size_mb, size_mb), {}, run.options.seed)
    floor = {}
    for change in comparison.changes:
        if change.low and change.high and math.isfinite(change.high):
            floor[change.metric] = max(1 / change.low, change.high) - 1
    return replace(comparison, noise_floor=floor)


def _compare_accuracy(run: Run, before: Sequence[Arrays] | None, after: Sequence[Arrays], why_not: str) -> Accuracy:
    """Return the comparison of both sides' answers, row by row."""
    metric = run.side.task.metrics[0]
    if before is None:
        return Accuracy(
            len(run.rows), metric.name, higher_is_better=metric.higher_is_better, comparable=False, why_not=why_not
        )
    return compare_answers(
        run.rows.evaluation,
        before,
        after,
        run.rows.ids,
        margins=run.gates.accuracy,
        slices=_slice_columns(run, after),
        include_text=run.options.include_text,
    )


def _slice_columns(run: Run, outputs: Sequence[Arrays]) -> dict[str, Sequence[str]]:
    """Return the value of each row by column: length and label where they vary, and the columns of the options."""
    columns: dict[str, Sequence[str]] = {}
    if max(run.rows.sizes) > 1:  # All inputs of size 1 would be one slice.
        columns["length"] = by_length(run.rows.sizes)
    labels = by_label(run.rows.evaluation, outputs)
    if labels:
        columns["label"] = labels
    for name in run.options.slices:  # A column of the options replaces "length" and "label".
        columns[name] = [row.slices[name] for row in run.rows.samples.rows]
    return columns


def _accuracy_drop(
    run: Run, against: Baseline | None, accuracy: Accuracy | None, after: Subject
) -> tuple[float | None, str]:
    """Return the accuracy lost against the source model, and the reason if it is not known.

    With a teacher it is the drop against the teacher, otherwise the drop that the build measured.
    """
    if isinstance(against, TeacherBefore) and accuracy is not None:
        return accuracy.drop, accuracy.why_not
    return gating.compute_drop(run.side.bundle.manifest, after, run.rows.digest)


def build_report(
    kind: str, run: Run, subjects: tuple[Subject, ...], comparison: Speed | None, more_notes: Sequence[str] = ()
) -> Report:
    """Build the report of a run, with notes on changes of the machine.

    If the machine changed during the run, its latencies are incomparable.

    Args:
        kind: Kind of the report.
        run: Inputs of the run.
        subjects: The bundle alone, or the baseline and then the bundle.
        comparison: Latency comparison; None if there is none.
        more_notes: Further notes, one sentence each.

    Raises:
        BackendError: If the machine changed while a baseline was measured.
    """
    end = fingerprint()
    notes = list(run.rows.evaluation.notes)
    throttled = end.throttled - run.begun.throttled
    if throttled > 0:
        notes.append(f"The machine, or its cgroup, was throttled {throttled:,} times during the run.")
    changed = "; ".join(run.begun.differences(end))
    if changed and kind == "baseline":
        raise BackendError(
            f"The machine changed while the baseline was measured: {changed}. "
            "Bring it to a steady state, and measure again.",
            code="machine-changed",
        )
    if changed:
        notes.append(f"The machine changed during the run: {changed}.")
        if comparison is not None:
            why_not = f"the machine changed during the run: {changed}"
            comparison = replace(comparison, comparable=False, why_not=why_not)
    if len(subjects) == 2:
        before, after = subjects
        if before.digest and after.digest:
            notes.append(differences.describe_differences(before, after))
        if before.model and before.model != after.model:
            notes.append(f"The two bundles come from different models: {before.model}, then {after.model}.")
    created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Report(
        schema=SCHEMA,
        kind=kind,
        created=created,
        seed=run.options.seed,
        samples=run.rows.sealed,
        rows=len(run.rows),
        fingerprint=end,
        subjects=subjects,
        speed=comparison,
        notes=(*notes, *more_notes),
        include_text=run.options.include_text,
    )
