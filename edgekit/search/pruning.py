"""Pruning for a target: :func:`prune`, and the clock that times pruned layers on the target's backend."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import samples as samples_module
from edgekit import source
from edgekit.cache.store import Cache
from edgekit.compress.distill import Distilled, read_training_samples
from edgekit.compress.folders import check_output, place
from edgekit.compress.plan import Latency
from edgekit.compress.prune import Base, Pruned, Recovery, check_speedup, prune_layers
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.search import checks
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.measure import race_candidates
from edgekit.search.models import ModelEntry, make_candidate, prepare_model
from edgekit.search.race import ratio
from edgekit.search.record import Candidate, Record
from edgekit.search.stand_in import reference_outputs
from edgekit.search.step_cache import StepCache
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.options import PruneOptions
from edgekit.spec.parsing import plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import FilePath, SampleSource

__all__ = ["PruneResult", "make_clock", "prune"]

_ROUNDS = 12
_INPUTS_A_ROUND = 20


@dataclass(frozen=True)
class PruneResult:
    """Result of :func:`prune`.

    Attributes:
        pruned: Layers before and after, and the measured speedup.
        distilled: Scores of the pruned model, and the epochs of the recovery.
    """

    pruned: Pruned
    distilled: Distilled

    def text(self) -> str:
        """Return the layers, the speedup and the scores as text."""
        return f"{self.pruned.text()}\n{self.distilled.text()}"

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        pruned = self.pruned
        layers = {
            "before": plain(pruned.before),
            "after": plain(pruned.after),
            "asked": pruned.requested,
            "speedup": pruned.speedup,
        }
        return {**layers, **self.distilled.record()}


def make_clock(ctx: BuildContext) -> Latency:
    """Return a clock that times models on the target's backends, one input at a time.

    All models are timed with the method and backend that are fastest for the first timed model. The bundles of the
    timed models are stored in a temporary cache: they are never used again, and would displace useful entries from the
    build cache.

    Args:
        ctx: Build context. Its target must pass :func:`edgekit.search.checks.check_here`. Its evaluation inputs are
            timed.
    """
    # The choice of the ranges does not change the latency, so the fastest choice is used.
    quantization = replace(ctx.target.quantize, ranges="min_max", smooth="off")
    target = replace(ctx.target, quantize=quantization, use="latency")
    fastest_form: list[tuple[str, str]] = []

    def measure(models: Sequence[Source]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="clock-", dir=ctx.cache.scratch) as folder:
            scratch = Path(folder)
            cache = StepCache(scratch, ctx.cache.progress, Cache(scratch / "cache", math.inf))
            timing_ctx = replace(
                ctx, target=target, cache=cache, strict=False, deadline=None, recorded=Record(""), replayed=None
            )
            entries = [prepare_model(timing_ctx, "", model) for model in models]
            if not fastest_form:
                fastest_form.append(_find_fastest_form(timing_ctx, entries[0]))
            method, backend = fastest_form[0]
            candidates = []
            for entry in entries:
                candidate = make_candidate(timing_ctx, entry, method, backend)
                if candidate is not None:
                    candidates.append(candidate)
            times_ms = _time_candidates(timing_ctx, candidates)
            return [ratio(candidate_ms, times_ms[0])[0] for candidate_ms in times_ms]

    target_fields = ("backends", "methods", "device", "threads", "shapes", "instructions")
    about = {
        **{name: plain(getattr(target, name)) for name in target_fields},
        "quantize": plain(quantization),
        "machine": [cpu_name(), cpus()],
        **ctx.cache.always,
        "texts": ctx.evaluation.samples.digest,
    }
    return Latency(measure, about, None if ctx.replayed is None else ctx.replayed.plans, ctx.recorded.plans)


def _find_fastest_form(ctx: BuildContext, entry: ModelEntry) -> tuple[str, str]:
    """Return the method and the backend of the target with the lowest median latency for a model."""
    candidates = []
    for method in ctx.target.methods:
        for backend in ctx.target.backends:
            candidate = make_candidate(ctx, entry, method, backend)
            if candidate is not None:
                candidates.append(candidate)
    medians = [np.median(np.concatenate(times_ms)) for times_ms in _time_candidates(ctx, candidates)]
    fastest = candidates[int(np.argmin(medians))].variant
    return fastest.method, fastest.backend


def _time_candidates(ctx: BuildContext, candidates: Sequence[Candidate]) -> Sequence[Sequence[Sequence[float]]]:
    """Return the times of candidates in ms: ``[candidate][round][input]``."""
    return race_candidates(ctx, candidates, _ROUNDS, _INPUTS_A_ROUND).times_ms


@takes_paths("model", "out")
def prune(
    model: FilePath,
    *,
    speedup: float,
    samples: SampleSource | Sequence[SampleSource],
    eval: SampleSource,
    out: FilePath,
    options: PruneOptions | None = None,
    progress: Progress = silent,
) -> PruneResult:
    """Remove attention heads and feed-forward neurons until a model reaches a speedup on the target.

    Accuracy is then recovered by distillation from the original model.

    Args:
        model: Local Hugging Face folder or a hub id: a text classifier.
        speedup: Target ratio of latencies, original over pruned, above 1. It is measured with one text at a time, with
            the method and backend that are fastest for the model on the target.
        samples: Samples for importance scores and training, one source or several. Labels are not needed.
        eval: Labelled samples. Their texts are timed, and their labels choose the best epoch.
        out: Folder of the pruned model; it appears whole or not at all.
        options: Options; None for the defaults.
        progress: Function that is called after each step.

    Raises:
        EdgekitError: Model, samples, target, training or disk are at fault; the subclass says which. Nothing is left
            at ``out``.
    """
    if options is None:
        options = PruneOptions()
    start = time.perf_counter()
    destination = Path(os.path.abspath(out))
    training_sources = samples_module.collect_all(samples)
    evaluation_source = samples_module.collect(eval, "eval")
    check_speedup(speedup)
    target = checks.resolve_target(targets.load(os.fspath(options.target)), (), None)
    checks.check_target(target)
    checks.check_here(target)
    check_output(destination, options.force)
    teacher = source.read(os.fspath(model), options.revision)
    training_samples = read_training_samples(training_sources, options.columns, teacher.modality)
    evaluation = samples_module.read(evaluation_source, options.columns, modality=teacher.modality)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        task = teacher.save_assets(Path(scratch) / "assets")
        calibration = training_samples[0].take(checks.CALIBRATION_ROWS, 0)
        checks.check_calibration(task, calibration, target)
        checks.check_rows(task, (*training_samples, evaluation))
        cache = StepCache(Path(scratch), progress, Cache())
        reference = reference_outputs(cache, teacher, evaluation)
        evaluation_set = EvaluationSet(evaluation, evaluation.evaluation(task), reference)
        ctx = BuildContext(target, evaluation_set, calibration, teacher.digest, cache, Record(cpu_name()))
        recovery = Recovery(training_samples, evaluation, options.training if options.recover else None)
        pruned = prune_layers(teacher, Base(teacher), speedup, recovery, make_clock(ctx), progress)
        place(pruned.student.folder, destination, options.force)
    return PruneResult(pruned, Distilled.of(destination, pruned.student, time.perf_counter() - start))
