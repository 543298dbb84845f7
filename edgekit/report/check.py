"""Measurements of the verbs ``eval``, ``baseline``, ``compare`` and ``check``.

This module does not import torch: a teacher is a function from inputs to outputs, or a file with its outputs.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgekit.bundle.signature import Trust
from edgekit.machine.cpu import cpus
from edgekit.report import baseline_file, gating
from edgekit.report.baseline import BaselineRef, BundleBefore, load_baseline
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
    """Measure one bundle: accuracy, latency, footprint and scenarios; with a reference, also the comparison.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults. ``reference`` is a :data:`edgekit.report.baseline.BaselineRef`.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called by each step.

    Raises:
        EdgekitError: If the bundle, the samples or the reference cannot be used.
    """
    chosen = options or MeasureOptions()
    chosen = replace(chosen, gates=OFF if chosen.gates is None else chosen.gates)
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend, chosen.threads), samples, chosen, progress)
    against = None if chosen.reference is None else load_baseline(chosen.reference, run.side, run.rows)
    result = measure("report", run, against)
    scenarios = SCENARIOS if chosen.scenarios is None else tuple(chosen.scenarios)
    if not scenarios or run.side.stand_in_for:
        return result
    with run.side.worker() as worker:
        worker.start(run.rows.inputs[0])
        measurements = run_scenarios(
            worker,
            run.rows.inputs,
            scenarios,
            seconds=chosen.max_time,
            bound_ms=chosen.server_bound_ms,
            seed=chosen.seed,
            progress=progress,
        )
    candidate = replace(result.subjects[-1], scenarios=measurements)
    return replace(result, subjects=(*result.subjects[:-1], candidate))


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
    """Measure the baseline that :func:`check` compares with later, when the bundle is no longer available.

    It has the answers, the footprint, and the latency on this machine in one session. Probe kernels are timed beside
    the bundle, to measure the speed of the machine itself.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        file: File that the caller will write the report to; None for no file. The path of the bundle is recorded
            relative to its folder, so that a check can find the bundle. With ``append``, the session is added to the
            baseline in this file, if it exists.
        options: Options; None for the defaults.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called by each step.

    Raises:
        UsageError: If the bundle would run on a stand-in for its device, or with ``append``, if the baseline in
            ``file`` is one of another bundle, other samples or another machine.
        EdgekitError: If the bundle or the samples cannot be used.
    """
    chosen = options or BaselineOptions()
    shared = CompareOptions(columns=chosen.columns, max_time=0.0, seed=chosen.seed, metric=chosen.metric)
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend, chosen.threads), samples, shared, progress)
    if run.side.stand_in_for:
        raise UsageError(
            f"A baseline contains the latency of {bundle} on its device, which a stand-in cannot measure. "
            "Run edgekit baseline on the device.",
            code="stand-in-no-times",
        )
    earlier = None
    if chosen.append and file is not None and Path(file).exists():
        earlier = baseline_file.read_earlier(Path(file), run.side, run.rows, run.begun)
    predictions = predict_all(run.side, run.rows, progress)
    variant = variant_of(run.side, predictions)
    threads = max(1, min(run.side.threads or variant.threads, cpus()) // variant.streams)
    probes: tuple[str, int, tuple[str, ...]] = (predictions.backend, threads, ())
    if earlier is not None:
        probes = baseline_file.probes_of(earlier.subjects[0])
    measurements = measure_alone(run, predictions, probes)
    result = build_report("baseline", run, (baseline_file.record_path(measurements, run.side, file),), None)
    if earlier is not None:
        result = baseline_file.append_session(earlier, result)
    return replace(result, notes=(*result.notes, *baseline_file.advice(result.subjects[0])))


@takes_paths("after")
def compare(
    before: BaselineRef,
    after: str | Path,
    samples: SampleSource,
    *,
    options: CompareOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare a bundle with another one, or with its teacher: accuracy, interleaved latency and diagnostics.

    The diagnostics, robustness and faithfulness, have no gates.

    Args:
        before: Baseline, see :data:`edgekit.report.baseline.BaselineRef`.
        after: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called by each step.

    Raises:
        EdgekitError: If a bundle, the samples or the gates cannot be used.
    """
    chosen = options or CompareOptions()
    run = Run.begin(partial(open_for_test, after, trust, chosen.backend), samples, chosen, progress)
    return measure("compare", run, load_baseline(before, run.side, run.rows))


@takes_paths("bundle")
def check(
    bundle: str | Path,
    baseline: BaselineRef,
    samples: SampleSource,
    *,
    options: CheckOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Check whether a bundle passes its gates against a baseline, as a CI job does.

    Args:
        bundle: Folder of the bundle.
        baseline: Baseline, see :data:`edgekit.report.baseline.BaselineRef`.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults. With ``self_check``, the bundle is first timed against itself, for
            another ``max_time`` seconds, and margins below that noise floor are refused. ``strict``,
            ``allow_incomparable``, ``report`` and ``keys`` are left to the caller.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called by each step.

    Raises:
        UsageError: If every gate is off, or a margin is below the noise floor.
        EdgekitError: If a bundle, the samples or the gates cannot be used.
    """
    chosen = options or CheckOptions()
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend), samples, chosen, progress)
    if run.gates == OFF:
        raise UsageError(
            "Every gate is off, so this check could never fail. Set a margin or a budget, or only compare: "
            "edgekit compare A B.",
            code="gates-off",
        )
    against = load_baseline(baseline, run.side, run.rows)
    if chosen.self_check and not isinstance(against, BundleBefore):
        raise UsageError(
            "A self-check measures the noise of two bundles that run interleaved, but this baseline is a file. "
            "Give a bundle as the baseline.",
            code="self-check-file",
        )
    floor = measure_noise(run) if chosen.self_check else None
    if floor is not None:
        gating.check_floor(run.gates, floor.noise_floor)
    result = measure("check", run, against)
    for gate in result.gates:
        _LOG.info("gate %s: %s", gate.name, gate.verdict)
    _LOG.info("verdict: %s", result.verdict)
    if floor is None or result.speed is None:
        return result
    return replace(result, speed=replace(result.speed, noise_floor=floor.noise_floor))


@takes_paths("bundle")
def self_check(
    bundle: str | Path,
    samples: SampleSource,
    *,
    options: CheckOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Report:
    """Time a bundle against itself to measure how large a difference the noise of this machine alone can produce.

    Args:
        bundle: Folder of the bundle.
        samples: Labelled samples, a path or rows in memory.
        options: Options; None for the defaults.
        trust: Trusted keys of bundle makers; None to accept any bundle.
        progress: Progress callback, called by each step.

    Raises:
        UsageError: If the bundle would run on a stand-in for its device.
        EdgekitError: If the bundle or the samples cannot be used.
    """
    chosen = options or CheckOptions()
    run = Run.begin(partial(open_for_test, bundle, trust, chosen.backend), samples, chosen, progress)
    if run.side.stand_in_for:
        raise UsageError(
            "A self-check measures the noise of latencies on the device, which a stand-in cannot measure. "
            "Run it on the device.",
            code="stand-in-no-times",
        )
    predictions = predict_all(run.side, run.rows, progress)
    speed = measure_noise(run)
    return build_report("self-check", run, (summarize_bundle(run.side, run.rows, predictions, ()),), speed)
