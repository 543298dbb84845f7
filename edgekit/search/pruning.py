"""Pruning for a target: the clock that decides what goes, and the verb around it."""

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
from edgekit.compress.distill import Distilled, lesson
from edgekit.compress.folders import check_output, place
from edgekit.compress.plan import Latency
from edgekit.compress.prune import Base, Pruned, Recovery, check_speedup, prune_layers
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.search import checks
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.measure import race_candidates
from edgekit.search.models import make_candidate, prepare_model
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

__all__ = ["PruneResult", "clock", "prune"]

_ROUNDS, _INPUTS_A_ROUND = 12, 20


@dataclass(frozen=True)
class PruneResult:
    """A pruned model.

    Attributes:
        pruned: what was cut, and how much faster that is.
        distilled: its scores, and with recovery its epochs.
    """

    pruned: Pruned
    distilled: Distilled

    def text(self) -> str:
        """Layers, speed, and then as a student's."""
        return f"{self.pruned.text()}\n{self.distilled.text()}"

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        pruned = self.pruned
        layers = {
            "before": plain(pruned.before),
            "after": plain(pruned.after),
            "asked": pruned.asked,
            "speedup": pruned.speedup,
        }
        return {**layers, **self.distilled.record()}


def clock(ctx: BuildContext) -> Latency:
    """Times models on a target's backend, one input at a time, in the form that is fastest for the first that is timed.

    What is made for that is thrown away: a cache full of models that are never seen again would push out what is.

    Args:
        ctx: the build, for a target that :func:`edgekit.search.checks.check_here` takes; the inputs of its evaluation rows are timed.
    """
    # What ranges are chosen does not change what a product costs.
    quick = replace(ctx.target, quantize=replace(ctx.target.quantize, ranges="min_max", smooth="off"), use="latency")
    forms: list[tuple[str, str]] = []

    def measure(models: Sequence[Source]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="clock-", dir=ctx.cache.scratch) as folder:
            place = Path(folder)
            cache = StepCache(place, ctx.cache.progress, Cache(place / "cache", math.inf))
            apart = replace(
                ctx, target=quick, cache=cache, strict=False, deadline=None, recorded=Record(""), replayed=None
            )
            entries = [prepare_model(apart, "", model) for model in models]
            if not forms:
                every = [make_candidate(apart, entries[0], m, b) for m in quick.methods for b in quick.backends]
                able = [candidate for candidate in every if candidate is not None]
                medians = [np.median(np.concatenate(times)) for times in _times(apart, able)]
                fastest = able[int(np.argmin(medians))].variant
                forms.append((fastest.method, fastest.backend))
            same_form = [make_candidate(apart, entry, *forms[0]) for entry in entries]
            times = _times(apart, [candidate for candidate in same_form if candidate is not None])
            return [ratio(own, times[0])[0] for own in times]

    names = ("backends", "methods", "device", "threads", "shapes", "instructions")
    about = {name: plain(getattr(quick, name)) for name in names}
    about |= {
        "quantize": plain(quick.quantize),
        "machine": [cpu_name(), cpus()],
        **ctx.cache.always,
        "texts": ctx.evaluation.samples.digest,
    }
    return Latency(measure, about, None if ctx.replayed is None else ctx.replayed.plans, ctx.recorded.plans)


def _times(ctx: BuildContext, candidates: Sequence[Candidate]) -> Sequence[Sequence[Sequence[float]]]:
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
    """Remove attention heads and feed-forward neurons of a model until it is so much faster on the target, and regain accuracy.

    Args:
        model: Local Hugging Face folder or a hub id: a text classifier.
        speedup: Wanted ratio of speeds, above 1: one text at a time, in the form (method and backend) in which the model is fastest on the target.
        samples: Samples that the importance is measured on and that are trained on, one source or several; labels are not needed.
        eval: Labelled samples: their texts are timed, and by them the best epoch is chosen.
        out: Folder of the pruned model; it appears whole or not at all.
        options: Options; None for the defaults.
        progress: Function that is called after each step.

    Raises:
        EdgekitError: a subclass says which of model, samples, target, training or disk is at fault; nothing is left at ``out``.
    """
    asked = options or PruneOptions()
    start, destination = time.perf_counter(), Path(os.path.abspath(out))
    sources, labelled = samples_module.collect_all(samples), samples_module.collect(eval, "eval")
    check_speedup(speedup)
    chosen = checks.settled(targets.load(os.fspath(asked.target)), (), None)
    checks.check_target(chosen)
    checks.check_here(chosen)
    check_output(destination, asked.force)
    origin = source.read(os.fspath(model), asked.revision)
    rows = lesson(sources, asked.columns, origin.modality)
    evaluation = samples_module.read(labelled, asked.columns, modality=origin.modality)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        task = origin.save_assets(Path(scratch) / "assets")
        calibration = rows[0].take(checks.CALIBRATION_ROWS, 0)
        checks.check_calibration(task, calibration, chosen)
        checks.check_rows(task, (*rows, evaluation))
        cache = StepCache(Path(scratch), progress, Cache())
        scored = EvaluationSet(evaluation, evaluation.evaluation(task), reference_outputs(cache, origin, evaluation))
        ctx = BuildContext(chosen, scored, calibration, origin.digest, cache, Record(cpu_name()))
        recovery = Recovery(rows, evaluation, asked.training if asked.recover else None)
        found = prune_layers(origin, Base(origin), speedup, recovery, clock(ctx), progress)
        place(found.made.folder, destination, asked.force)
    return PruneResult(found, Distilled.of(destination, found.made, time.perf_counter() - start))
