"""What the verbs ``report``, ``baseline``, ``compare`` and ``check`` do: measure, set side by side, judge.

Nothing here needs torch: a teacher comes in as a function from inputs to outputs, or as a file of them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from edgekit.bundle.signature import Trust
from edgekit.machine import energy
from edgekit.machine.cpu import cpus
from edgekit.machine.fingerprint import fingerprint
from edgekit.report import baselines, check_packages, differences, gating, speed, stand_in
from edgekit.report.accuracy import compare as compare_answers
from edgekit.report.before import Before, BundleBefore, Known, ReportBefore, TeacherBefore, known
from edgekit.report.describe import Description, describe
from edgekit.report.reference import question
from edgekit.report.side import Answered, Rows, Side, answered, opened, rows, subject, variant_of
from edgekit.report.slices import by_label, by_length, score_slices
from edgekit.spec import gates as gate_files
from edgekit.spec.errors import BackendError, UsageError
from edgekit.spec.gates import OFF, Gates
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays
from edgekit.spec.report import SCHEMA, Accuracy, Report, Speed
from edgekit.spec.subject import Fingerprint, Subject
from edgekit.timing.interleaved import time_interleaved, time_single
from edgekit.timing.probe import make_prober
from edgekit.timing.scenarios import NAMES as SCENARIOS
from edgekit.timing.scenarios import run as run_scenarios

__all__ = ["baseline", "check", "compare", "report", "self_check"]

_LOG = logging.getLogger(__name__)

_UNTIMED = "the baseline was not timed: give a bundle, or a file of 'edgekit baseline'"
_PROCESSES = 8  # of a bundle that is timed by itself


@dataclass(frozen=True)
class _Run:
    """What all that is measured in one run shares; the arguments of the verbs say what each is."""

    side: Side
    rows: Rows
    slices: Sequence[str]
    gates: Gates
    max_time: float
    seed: int
    include_text: bool
    progress: Progress
    begun: Fingerprint

    @classmethod
    def begin(
        cls,
        open_side: Callable[[], Side],
        samples: str | Path,
        columns: Mapping[str, str] | None,
        seed: int,
        progress: Progress,
        *,
        slices: Sequence[str] = (),
        gates: Gates | str | Path | None = None,
        max_time: float = 0.0,
        include_text: bool = False,
    ) -> _Run:
        """Refuses all that can be refused before anything is measured."""
        check_packages("scipy")
        if not math.isfinite(max_time) or max_time < 0 or seed < 0:
            said = f"max_time is {max_time:g} and seed {seed}, expected seconds of at least 0 and a whole number of at least 0"
            raise UsageError(f"{said}. Correct them.", code="check-settings")
        held = gates if isinstance(gates, Gates) else Gates() if gates is None else gate_files.read(gates)
        side = open_side()  # reads and hashes all of the bundle
        return cls(
            side,
            rows(side.task, samples, columns, slices),
            slices,
            held,
            max_time,
            seed,
            include_text,
            progress,
            fingerprint(),
        )


@takes_paths("bundle", "samples")
def report(
    bundle: str | Path,
    samples: str | Path,
    *,
    reference: Before | None = None,
    scenarios: Sequence[str] = SCENARIOS,
    server_bound_ms: float | None = None,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] = (),
    gates: Gates | str | Path | None = None,
    include_text: bool = False,
    backend: str | None = None,
    threads: int | None = None,
    trust: Trust | None = None,
    max_time: float = 30.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Everything that can be measured of one bundle.

    Args:
        bundle: its folder.
        samples: labelled rows.
        reference: what its answers are compared with, most often its teacher; None to describe it by itself.
        scenarios: of MLPerf, by name.
        server_bound_ms: bound of the Server scenario's 99th percentile; None for 10 times the median of a single stream.
        columns: role to column name.
        slices: columns whose values are scored apart; the size of the inputs always is where it varies, and the label where each row has one.
        gates: gates, or a TOML file of them: the budget is held against the bundle, margins against the reference; None for no gate.
        include_text: show texts of the samples in the report.
        backend: as :func:`edgekit.load` takes it.
        threads: likewise.
        trust: likewise.
        max_time: seconds for the scenarios, and as many for a comparison by the clock.
        seed: of all that is drawn.
        progress: told how far each part is.

    Raises:
        EdgekitError: when the bundle, the samples or the reference cannot be used.
    """
    held = OFF if gates is None else gates
    opening = partial(opened, bundle, trust, backend, threads)
    run = _Run.begin(
        opening,
        samples,
        columns,
        seed,
        progress,
        slices=slices,
        gates=held,
        max_time=max_time,
        include_text=include_text,
    )
    made = _measured("report", run, None if reference is None else known(reference, run.side, run.rows))
    if not scenarios or run.side.stand_in_for:
        return made
    with run.side.worker() as worker:
        worker.start(run.rows.inputs[0])
        done = run_scenarios(
            worker,
            run.rows.inputs,
            tuple(scenarios),
            seconds=max_time,
            bound_ms=server_bound_ms,
            seed=seed,
            progress=progress,
        )
    return replace(made, subjects=(*made.subjects[:-1], replace(made.subjects[-1], scenarios=done)))


@takes_paths("bundle", "samples", "file")
def baseline(
    bundle: str | Path,
    samples: str | Path,
    *,
    file: str | Path | None = None,
    append: bool = False,
    columns: Mapping[str, str] | None = None,
    backend: str | None = None,
    threads: int | None = None,
    trust: Trust | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """What :func:`check` needs of a bundle to stand in for it later: its answers, its footprint, and its latency on this machine in one session.

    Beside the bundle probe kernels are timed, which tell what the machine was worth. ``file`` is where the caller will write the report: the bundle's
    place is noted relative to it, and is looked at by a check. With ``append`` the sessions of the baseline that is there are taken over, where there
    is one, and this one is added to them. The other arguments, and what is raised, are those of :func:`report`.

    Raises:
        UsageError: beside the others, where the baseline in ``file`` is of another bundle, other samples or another machine.
    """
    run = _Run.begin(partial(opened, bundle, trust, backend, threads), samples, columns, seed, progress)
    if run.side.stand_in_for:
        raise UsageError(
            f"A baseline holds the times of {bundle} on its device, and a stand-in has none. Make it on the device.",
            code="stand-in-no-times",
        )
    earlier = (
        baselines.earlier(Path(file), run.side, run.rows, run.begun)
        if append and file is not None and Path(file).exists()
        else None
    )
    found = answered(run.side, run.rows, progress)
    variant = variant_of(run.side, found)
    own = (found.backend, max(1, min(run.side.threads or variant.threads, cpus()) // variant.streams), ())
    now = _solo(run, found, own if earlier is None else baselines.probes_of(earlier.subjects[0]))
    made = _framed("baseline", run, (baselines.placed(now, run.side, file),), None)
    made = made if earlier is None else baselines.continued(earlier, made)
    return replace(made, notes=(*made.notes, *baselines.advice(made.subjects[0])))


@takes_paths("after", "samples")
def compare(
    before: Before,
    after: str | Path,
    samples: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] = (),
    gates: Gates | str | Path | None = None,
    include_text: bool = False,
    backend: str | None = None,
    trust: Trust | None = None,
    max_time: float = 30.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Two bundles, or a bundle and its teacher, row by row and in turns by the clock; with what only describes them.

    Args:
        before: see :data:`edgekit.report.before.Before`.
        after: a bundle's folder.
        samples: labelled rows.
        columns: role to column name.
        slices: columns whose values are scored apart; the size of the inputs always is where it varies, and the label where each row has one.
        gates: gates, or a TOML file of them; None for the default margins.
        include_text: show texts of the samples in the report.
        backend: as :func:`edgekit.load` takes it, for ``after``; ``onnxruntime`` for a bundle of a device is a stand-in: only accuracy and size are judged.
        trust: whose bundles may be opened.
        max_time: seconds that timing goes on for while a gate is not decided.
        seed: of all that is drawn.
        progress: told how far each part is.

    Raises:
        EdgekitError: when a bundle, the samples or the gates cannot be used.
    """
    run = _Run.begin(
        partial(opened, after, trust, backend),
        samples,
        columns,
        seed,
        progress,
        slices=slices,
        gates=gates,
        max_time=max_time,
        include_text=include_text,
    )
    return _measured("compare", run, known(before, run.side, run.rows))


@takes_paths("bundle", "samples")
def check(
    bundle: str | Path,
    baseline: Before,
    samples: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] = (),
    gates: Gates | str | Path | None = None,
    self_check: bool = False,
    include_text: bool = False,
    backend: str | None = None,
    trust: Trust | None = None,
    max_time: float = 30.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Whether a bundle holds its gates against a baseline: what a CI job asks.

    The arguments are those of :func:`compare`, and ``self_check``: first time the bundle against itself, for ``max_time`` seconds more, and refuse
    margins that are inside that noise.

    Raises:
        UsageError: beside what :func:`compare` raises, where every gate is off, and for a margin below the noise floor.
    """
    run = _Run.begin(
        partial(opened, bundle, trust, backend),
        samples,
        columns,
        seed,
        progress,
        slices=slices,
        gates=gates,
        max_time=max_time,
        include_text=include_text,
    )
    if run.gates == OFF:
        raise UsageError(
            "Every gate is off, so this check could never fail. Give a margin or a budget, or only compare: edgekit compare A B.",
            code="gates-off",
        )
    against = known(baseline, run.side, run.rows)
    if self_check and not isinstance(against, BundleBefore):
        raise UsageError(
            "A self-check tells the noise of two bundles that take turns; this baseline is a file, which does not. Give a bundle as the baseline.",
            code="self-check-file",
        )
    floor = _noise(run) if self_check else None
    if floor is not None:
        gating.check_floor(run.gates, floor.noise_floor)
    made = _measured("check", run, against)
    for gate in made.gates:
        _LOG.info("gate %s: %s", gate.name, gate.verdict)
    _LOG.info("verdict: %s", made.verdict)
    if floor is None or made.speed is None:
        return made
    return replace(made, speed=replace(made.speed, noise_floor=floor.noise_floor))


@takes_paths("bundle", "samples")
def self_check(
    bundle: str | Path,
    samples: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    backend: str | None = None,
    trust: Trust | None = None,
    max_time: float = 30.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Times a bundle against itself: how much this machine's noise alone can look like. The arguments are those of :func:`compare`."""
    run = _Run.begin(partial(opened, bundle, trust, backend), samples, columns, seed, progress, max_time=max_time)
    if run.side.stand_in_for:
        raise UsageError(
            "A self-check measures the noise of times, and a stand-in has none of the device. Run it on the device.",
            code="stand-in-no-times",
        )
    found = answered(run.side, run.rows, progress)
    noise = _noise(run)
    return _framed("self-check", run, (subject(run.side, run.rows, found, ()),), noise)


def _measured(kind: str, run: _Run, against: Known | None) -> Report:
    """The bundle, alone or beside what it is compared with; a check leaves out what only describes them."""
    found = answered(run.side, run.rows, run.progress)
    before: Subject | None
    was: Sequence[Arrays] | None
    judged: Speed | None
    if isinstance(against, BundleBefore):
        other = answered(against.side, run.rows, run.progress)
        before, after, judged = _dueled(run, against.side, other, found)
        was = other.outputs
    else:
        began = time.monotonic()
        before, was = (None, None) if against is None else (against.subject, against.outputs)
        after = _solo(run, found, baselines.probes_of(before))
        judged = None if against is None else baselines.judge(against, after, time.monotonic() - began, run.seed)
    if run.side.stand_in_for:
        after, judged = stand_in.without_times(after), stand_in.only_size(judged)
        before = before if before is None or not isinstance(against, BundleBefore) else stand_in.without_times(before)
    described: Description = ((), (), (), None)
    if kind != "check":
        described = describe(
            run.side, against, run.rows, (was, found.outputs), run.seed, run.include_text, run.progress
        )
    after = replace(after, robustness=described[0])
    if against is None:
        slices = score_slices(run.rows.evaluation, found.outputs, _slices_of(run, found.outputs))
        after = replace(after, slices=slices)
    before = None if before is None else replace(before, robustness=described[1])
    notes = () if against is None else baselines.notes(against, after)
    made = _framed(kind, run, (after,) if before is None else (before, after), judged, notes)
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


def _solo(run: _Run, found: Answered, probed: tuple[str, int, tuple[str, ...]]) -> Subject:
    """The bundle by itself, with probe kernels beside it: backend, threads, kernels (none: those that fit the bundle); no backend, no probe."""
    backend, threads, kernels = probed
    opener, inputs, meter = run.side.worker, run.rows.inputs, energy.find_meter()
    with make_prober(backend, threads) as probes:
        processes = time_single(
            opener,
            inputs,
            _PROCESSES,
            probes=probes,
            kernels=kernels,
            seed=run.seed,
            meter=meter,
            progress=run.progress,
        )
    made = subject(run.side, run.rows, found, processes)
    return made if probes is None else replace(made, probes_ran=f"{backend} {threads}")


def _dueled(run: _Run, other: Side, was: Answered, now: Answered) -> tuple[Subject, Subject, Speed]:
    """Two bundles in turns."""
    gated, sizes = speed.margins(run.gates), (other.size_mb, run.side.size_mb)
    same = differences.equal(subject(other, run.rows, was, ()), subject(run.side, run.rows, now, ()))
    measured = time_interleaved(
        other.worker,
        run.side.worker,
        run.rows.inputs,
        (lambda *_: True)
        if same or run.side.stand_in_for
        else speed.enough(gated, sizes, run.seed),  # of a bundle and itself no more is to be learned
        max_time=run.max_time,
        seed=run.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    judged = speed.paired(measured, sizes, gated, run.seed)
    before, after = zip(*measured.pairs, strict=True)
    return subject(other, run.rows, was, before), subject(run.side, run.rows, now, after), judged


def _noise(run: _Run) -> Speed:
    """The bundle against itself, for all of the time."""
    own, inputs = run.side.worker, run.rows.inputs
    measured = time_interleaved(
        own,
        own,
        inputs,
        lambda *_: False,
        max_time=run.max_time,
        seed=run.seed,
        meter=energy.find_meter(),
        progress=run.progress,
    )
    found = speed.paired(measured, (run.side.size_mb, run.side.size_mb), {}, run.seed)
    floor = {c.metric: max(1 / c.low, c.high) - 1 for c in found.changes if c.low and c.high and math.isfinite(c.high)}
    return replace(found, noise_floor=floor)


def _accuracy(run: _Run, was: Sequence[Arrays] | None, now: Sequence[Arrays], why_not: str) -> Accuracy:
    """Both sides' answers, row by row."""
    given, metric = run.rows, run.side.task.metrics[0]
    if was is None:
        return Accuracy(
            len(given), metric.name, higher_is_better=metric.higher_is_better, comparable=False, why_not=why_not
        )
    slices = _slices_of(run, now)
    margins = {"margin": run.gates.accuracy.drop, "recall_margin": run.gates.accuracy.recall_drop}
    return compare_answers(
        given.evaluation, was, now, given.ids, **margins, slices=slices, include_text=run.include_text
    )


def _slices_of(run: _Run, outputs: Sequence[Arrays]) -> dict[str, Sequence[str]]:
    """Return the value of each row in each column of slices: length and label where they vary, and the columns asked for."""
    slices: dict[str, Sequence[str]] = {}
    if max(run.rows.sizes) > 1:  # of inputs of one size there is nothing to be sliced
        slices["length"] = by_length(run.rows.sizes)
    if labels := by_label(run.rows.evaluation, outputs):
        slices["label"] = labels
    for name in run.slices:  # a column of such a name is what was asked for
        slices[name] = [row.slices[name] for row in run.rows.samples.rows]
    return slices


def _drop(run: _Run, against: Known | None, accuracy: Accuracy | None, after: Subject) -> tuple[float | None, str]:
    """Accuracy lost against the model that the bundle was made of: that of a teacher, else what the build knows."""
    if isinstance(against, TeacherBefore) and accuracy is not None:
        return accuracy.drop, accuracy.why_not
    return gating.own_drop(run.side.bundle.manifest, after, run.rows.digest)


def _framed(
    kind: str, run: _Run, subjects: tuple[Subject, ...], judged: Speed | None, more: Sequence[str] = ()
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
        seed=run.seed,
        samples=run.rows.sealed,
        rows=len(run.rows),
        fingerprint=end,
        subjects=subjects,
        speed=judged,
        notes=(*notes, *more),
        include_text=run.include_text,
    )
