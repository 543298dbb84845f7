"""One run of a verb: a bundle is measured alone, or beside what it is compared with, and what was measured becomes a report."""

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
from edgekit.report import baselines, check_packages, differences, gating, speed, stand_in
from edgekit.report.accuracy import compare as compare_answers
from edgekit.report.before import BundleBefore, Known, ReportBefore, TeacherBefore
from edgekit.report.describe import Description, describe
from edgekit.report.reference import question
from edgekit.report.side import BundleOutputs, BundleUnderTest, Rows, load_eval_rows, predict_all, summarize_bundle
from edgekit.report.slices import by_label, by_length, score_slices
from edgekit.spec import gates as gate_files
from edgekit.spec.errors import BackendError, UsageError
from edgekit.spec.gates import Gates
from edgekit.spec.options import CompareOptions
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import SCHEMA, Accuracy, Report, Speed
from edgekit.spec.sources import SampleSource
from edgekit.spec.subject import Fingerprint, Subject
from edgekit.spec.user_metric import resolve_metric, with_metric
from edgekit.timing.interleaved import Single, time_interleaved, time_single
from edgekit.timing.probe import make_prober

__all__ = ["Run", "build_report", "measure", "measure_alone", "measure_noise"]

_UNTIMED = "the baseline was not timed: give a bundle, or a file of 'edgekit baseline'"
_PROCESSES = 8  # of a bundle that is timed by itself


@dataclass(frozen=True)
class Run:
    """What all measurements of one run share.

    Attributes:
        side: Bundle that is measured.
        rows: Labelled rows.
        gates: Gates that are held.
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
        """Refuse all that can be refused before anything is measured, and read the samples.

        Args:
            open_side: Function that checks the bundle.
            samples: Labelled rows.
            options: Options of the verb.
            progress: Function that is called with the progress of each part.

        Raises:
            EdgekitError: when options, bundle, samples or gates cannot be used.
        """
        check_packages("scipy")
        source, metric = sample_files.collect(samples), resolve_metric(options.metric)
        if not math.isfinite(options.max_time) or options.max_time < 0 or options.seed < 0:
            said = f"max_time is {options.max_time:g} and seed {options.seed}, expected seconds of at least 0 and a whole number of at least 0"
            raise UsageError(f"{said}. Correct them.", code="check-settings")
        gates = Gates() if options.gates is None else options.gates
        if not isinstance(gates, Gates):
            gates = gate_files.read(os.fspath(gates))
        side = open_side()  # reads and hashes all of the bundle
        side = replace(side, task=with_metric(side.task, metric))
        read = load_eval_rows(side.task, source, options.columns, options.slices)
        return cls(side, read, gates, options, progress, fingerprint())


def measure(kind: str, run: Run, against: Known | None) -> Report:
    """The bundle, alone or beside what it is compared with; a check leaves out what only describes them."""
    found = predict_all(run.side, run.rows, run.progress)
    before: Subject | None
    was: Sequence[Arrays] | None
    judged: Speed | None
    if isinstance(against, BundleBefore):
        other = predict_all(against.side, run.rows, run.progress)
        before, after, judged = _dueled(run, against.side, other, found)
        was = other.outputs
    else:
        began = time.monotonic()
        before, was = (None, None) if against is None else (against.subject, against.outputs)
        after = measure_alone(run, found, baselines.probes_of(before))
        judged = (
            None if against is None else baselines.judge(against, after, time.monotonic() - began, run.options.seed)
        )
    if run.side.stand_in_for:
        after, judged = stand_in.without_times(after), stand_in.only_size(judged)
        before = before if before is None or not isinstance(against, BundleBefore) else stand_in.without_times(before)
    described: Description = ((), (), (), None)
    if kind != "check":
        described = describe(
            run.side, against, run.rows, (was, found.outputs), run.options.seed, run.options.include_text, run.progress
        )
    if against is None:
        slices = score_slices(run.rows.evaluation, found.outputs, _slices_of(run, found.outputs))
        after = replace(after, slices=slices)
    after = replace(after, robustness=described[0])
    before = None if before is None else replace(before, robustness=described[1])
    notes = () if against is None else baselines.notes(against, after)
    made = build_report(kind, run, (after,) if before is None else (before, after), judged, notes)
    accuracy = (
        None
        if against is None
        else _accuracy(run, was, found.outputs, against.why_not if isinstance(against, ReportBefore) else "")
    )
    drop = _drop(run, against, accuracy, after)
    equal = before is not None and bool(after.digest) and differences.equal(before, after)
    here = not isinstance(against, ReportBefore) or not against.fingerprint.differences(made.fingerprint)
    # A check of which gates silently fell away would be a pass; whoever compares with a teacher knows that it has no latency here.
    held = (
        ()
        if accuracy is None
        else gating.compared(
            run.gates, accuracy, made.speed, _UNTIMED if kind == "check" else "", equal=equal, here=here
        )
    )
    held += gating.budget(run.gates.budget, after, drop)
    whose, asked = ("the bundle", found.outputs) if was is None else ("what it is compared with", was)
    doubt = question(run.rows.evaluation, asked, run.rows.samples.where, whose)
    first = (
        accuracy.undecidable_reason if accuracy is not None else "",
        "" if doubt is None else doubt.check.said,
        run.rows.evaluation.note,
        run.side.stand_in_note,
    )
    return replace(
        made,
        accuracy=accuracy,
        gates=held,
        robustness=described[2],
        faithfulness=described[3],
        notes=(*filter(None, first), *made.notes),
    )


def measure_alone(run: Run, found: BundleOutputs, probed: tuple[str, int, tuple[str, ...]]) -> Subject:
    """The bundle by itself, with probe kernels beside it: backend, threads, kernels (none: those that fit the bundle); no backend, no probe."""
    backend, threads, kernels = probed
    opener, inputs, meter = run.side.worker, run.rows.inputs, energy.find_meter()
    with make_prober(backend, threads) as probes:
        plan = Single(_PROCESSES, probes, kernels, run.options.seed, meter)
        processes = time_single(opener, inputs, plan, run.progress)
    made = summarize_bundle(run.side, run.rows, found, processes)
    return made if probes is None else replace(made, probes_ran=f"{backend} {threads}")


def _dueled(run: Run, other: BundleUnderTest, was: BundleOutputs, now: BundleOutputs) -> tuple[Subject, Subject, Speed]:
    """Two bundles in turns."""
    gated, sizes = speed.margins(run.gates), (other.size_mb, run.side.size_mb)
    same = differences.equal(summarize_bundle(other, run.rows, was, ()), summarize_bundle(run.side, run.rows, now, ()))
    measured = time_interleaved(
        (other.worker, run.side.worker),
        run.rows.inputs,
        (lambda *_: True)
        if same or run.side.stand_in_for
        else speed.make_stop_rule(gated, sizes, run.options.seed),  # of a bundle and itself no more is to be learned
        max_time=run.options.max_time,
        seed=run.options.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    judged = speed.compare_paired(measured, sizes, gated, run.options.seed)
    before, after = zip(*measured.pairs, strict=True)
    return summarize_bundle(other, run.rows, was, before), summarize_bundle(run.side, run.rows, now, after), judged


def measure_noise(run: Run) -> Speed:
    """The bundle against itself, for all of the time."""
    own, inputs = run.side.worker, run.rows.inputs
    measured = time_interleaved(
        (own, own),
        inputs,
        lambda *_: False,
        max_time=run.options.max_time,
        seed=run.options.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    found = speed.compare_paired(measured, (run.side.size_mb, run.side.size_mb), {}, run.options.seed)
    floor = {c.metric: max(1 / c.low, c.high) - 1 for c in found.changes if c.low and c.high and math.isfinite(c.high)}
    return replace(found, noise_floor=floor)


def _accuracy(run: Run, was: Sequence[Arrays] | None, now: Sequence[Arrays], why_not: str) -> Accuracy:
    """Both sides' answers, row by row."""
    given, metric = run.rows, run.side.task.metrics[0]
    if was is None:
        return Accuracy(
            len(given), metric.name, higher_is_better=metric.higher_is_better, comparable=False, why_not=why_not
        )
    slices = _slices_of(run, now)
    return compare_answers(
        given.evaluation,
        was,
        now,
        given.ids,
        margins=run.gates.accuracy,
        slices=slices,
        include_text=run.options.include_text,
    )


def _slices_of(run: Run, outputs: Sequence[Arrays]) -> dict[str, Sequence[str]]:
    """Return the value of each row in each column of slices: length and label where they vary, and the columns asked for."""
    slices: dict[str, Sequence[str]] = {}
    if max(run.rows.sizes) > 1:  # of inputs of one size there is nothing to be sliced
        slices["length"] = by_length(run.rows.sizes)
    if labels := by_label(run.rows.evaluation, outputs):
        slices["label"] = labels
    for name in run.options.slices:  # a column of such a name is what was asked for
        slices[name] = [row.slices[name] for row in run.rows.samples.rows]
    return slices


def _drop(run: Run, against: Known | None, accuracy: Accuracy | None, after: Subject) -> tuple[float | None, str]:
    """Accuracy lost against the model that the bundle was made of: that of a teacher, else what the build knows."""
    if isinstance(against, TeacherBefore) and accuracy is not None:
        return accuracy.drop, accuracy.why_not
    return gating.own_drop(run.side.bundle.manifest, after, run.rows.digest)


def build_report(
    kind: str, run: Run, subjects: tuple[Subject, ...], judged: Speed | None, more: Sequence[str] = ()
) -> Report:
    """The report's frame, with what the machine did meanwhile; latencies are incomparable where it changed under them."""
    end, notes = fingerprint(), list(run.rows.evaluation.notes)
    if (slowed := end.throttled - run.begun.throttled) > 0:
        notes.append(f"The machine slowed itself down, or its cgroup was held back, {slowed:,} times during the run.")
    changed = "; ".join(run.begun.differences(end))
    if changed and kind == "baseline":
        raise BackendError(
            f"The machine changed while the baseline was measured: {changed}. Let it be steady, and measure again.",
            code="machine-changed",
        )
    if changed:
        notes.append(f"The machine changed during the run: {changed}.")
        judged = (
            replace(judged, comparable=False, why_not=f"the machine changed during the run: {changed}")
            if judged is not None
            else None
        )
    if len(subjects) == 2:
        before, after = subjects
        if before.digest and after.digest:
            notes.append(differences.told(before, after))
        if before.model and before.model != after.model:
            notes.append(f"The two are made of different models: {before.model}, then {after.model}.")
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
        speed=judged,
        notes=(*notes, *more),
        include_text=run.options.include_text,
    )
