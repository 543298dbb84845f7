"""What the verbs ``eval``, ``baseline``, ``compare`` and ``check`` measure, set side by side and judge.

Nothing here needs torch: a teacher comes in as a function from inputs to outputs, or as a file of them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgekit.bundle.signature import Trust
from edgekit.machine.cpu import cpus
from edgekit.report import baselines, gating
from edgekit.report.before import Before, BundleBefore, known
from edgekit.report.run import Run, build_report, measure, measure_alone, measure_noise
from edgekit.report.side import open_for_test, predict_all
from edgekit.report.summarize import summarize_bundle, variant_of
from edgekit.spec.errors import UsageError
from edgekit.spec.gates import OFF
from edgekit.spec.options import BaselineOptions, CheckOptions, CompareOptions, MeasureOptions
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.report import Report
from edgekit.spec.sources import SampleSource
from edgekit.timing.scenarios import NAMES as SCENARIOS
from edgekit.timing.scenarios import run as run_scenarios

__all__ = ["baseline", "check", "compare", "report", "self_check"]

_LOG = logging.getLogger(__name__)


@takes_paths("bundle")
def report(
    bundle: str | Path,
    samples: SampleSource,
    *,
    options: MeasureOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure everything that can be measured of one bundle.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled rows.
        options: Options; None for the defaults. ``reference`` is what :data:`edgekit.report.before.Before` says.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Raises:
        EdgekitError: when the bundle, the samples or the reference cannot be used.
    """
    chosen = options or MeasureOptions()
    chosen = replace(chosen, gates=OFF if chosen.gates is None else chosen.gates)
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend, chosen.threads), samples, chosen, progress)
    against = None if chosen.reference is None else known(chosen.reference, run.side, run.rows)
    whole = measure("report", run, against)
    scenarios = SCENARIOS if chosen.scenarios is None else tuple(chosen.scenarios)
    if not scenarios or run.side.stand_in_for:
        return whole
    with run.side.worker() as worker:
        worker.start(run.rows.inputs[0])
        done = run_scenarios(
            worker,
            run.rows.inputs,
            scenarios,
            seconds=chosen.max_time,
            bound_ms=chosen.server_bound_ms,
            seed=chosen.seed,
            progress=progress,
        )
    return replace(whole, subjects=(*whole.subjects[:-1], replace(whole.subjects[-1], scenarios=done)))


@takes_paths("bundle", "file")
def baseline(
    bundle: str | Path,
    samples: SampleSource,
    *,
    file: str | Path | None = None,
    options: BaselineOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure what :func:`check` needs of a bundle to stand in for it later: answers, footprint, and latency on this machine in one session.

    Beside the bundle probe kernels are timed, which tell what the machine was worth.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled rows.
        file: File that the caller will write the report to: the bundle's place is noted relative to it, and a check looks there. With ``append`` the
            sessions of the baseline in it, if there is one, are kept, and this one is added.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Raises:
        UsageError: beside the errors of :func:`report`, where the baseline in ``file`` is of another bundle, other samples or another machine.
    """
    chosen = options or BaselineOptions()
    shared = CompareOptions(columns=chosen.columns, max_time=0.0, seed=chosen.seed, metric=chosen.metric)
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend, chosen.threads), samples, shared, progress)
    if run.side.stand_in_for:
        raise UsageError(
            f"A baseline holds the times of {bundle} on its device, and a stand-in has none. Make it on the device.",
            code="stand-in-no-times",
        )
    earlier = None
    if chosen.append and file is not None and Path(file).exists():
        earlier = baselines.earlier(Path(file), run.side, run.rows, run.begun)
    found = predict_all(run.side, run.rows, progress)
    variant = variant_of(run.side, found)
    threads = max(1, min(run.side.threads or variant.threads, cpus()) // variant.streams)
    probed = (found.backend, threads, ()) if earlier is None else baselines.probes_of(earlier.subjects[0])
    now = measure_alone(run, found, probed)
    whole = build_report("baseline", run, (baselines.placed(now, run.side, file),), None)
    whole = whole if earlier is None else baselines.continued(earlier, whole)
    return replace(whole, notes=(*whole.notes, *baselines.advice(whole.subjects[0])))


@takes_paths("after")
def compare(
    before: Before,
    after: str | Path,
    samples: SampleSource,
    *,
    options: CompareOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare two bundles, or a bundle and its teacher, row by row and in turns by the clock; with what only describes them.

    Args:
        before: Model to compare with, see :data:`edgekit.report.before.Before`.
        after: Folder of the bundle.
        samples: Labelled rows.
        options: Options; None for the defaults.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Raises:
        EdgekitError: when a bundle, the samples or the gates cannot be used.
    """
    chosen = options or CompareOptions()
    run = Run.begin(partial(open_for_test, after, trust, chosen.backend), samples, chosen, progress)
    return measure("compare", run, known(before, run.side, run.rows))


@takes_paths("bundle")
def check(
    bundle: str | Path,
    baseline: Before,
    samples: SampleSource,
    *,
    options: CheckOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure whether a bundle holds its gates against a baseline: what a CI job asks.

    Args:
        bundle: Folder of the bundle.
        baseline: Model to compare with, see :data:`edgekit.report.before.Before`.
        samples: Labelled rows.
        options: Options; None for the defaults. With ``self_check`` the bundle is first timed against itself, for ``max_time`` seconds more, and margins
            inside that noise are refused. ``strict``, ``allow_incomparable``, ``report`` and ``keys`` are the caller's to act on.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of each part.

    Raises:
        UsageError: beside the errors of :func:`compare`, where every gate is off, and for a margin below the noise floor.
    """
    chosen = options or CheckOptions()
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend), samples, chosen, progress)
    if run.gates == OFF:
        raise UsageError(
            "Every gate is off, so this check could never fail. Give a margin or a budget, or only compare: edgekit compare A B.",
            code="gates-off",
        )
    against = known(baseline, run.side, run.rows)
    if chosen.self_check and not isinstance(against, BundleBefore):
        raise UsageError(
            "A self-check tells the noise of two bundles that take turns; this baseline is a file, which does not. Give a bundle as the baseline.",
            code="self-check-file",
        )
    floor = measure_noise(run) if chosen.self_check else None
    if floor is not None:
        gating.check_floor(run.gates, floor.noise_floor)
    whole = measure("check", run, against)
    for gate in whole.gates:
        _LOG.info("gate %s: %s", gate.name, gate.verdict)
    _LOG.info("verdict: %s", whole.verdict)
    if floor is None or whole.speed is None:
        return whole
    return replace(whole, speed=replace(whole.speed, noise_floor=floor.noise_floor))


@takes_paths("bundle")
def self_check(
    bundle: str | Path,
    samples: SampleSource,
    *,
    options: CheckOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Time a bundle against itself: how large differences the noise of this machine alone can show. The arguments are those of :func:`check`."""
    chosen = options or CheckOptions()
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend), samples, chosen, progress)
    if run.side.stand_in_for:
        raise UsageError(
            "A self-check measures the noise of times, and a stand-in has none of the device. Run it on the device.",
            code="stand-in-no-times",
        )
    found = predict_all(run.side, run.rows, progress)
    judged = measure_noise(run)
    return build_report("self-check", run, (summarize_bundle(run.side, run.rows, found, ()),), judged)
