"""Slicing for a target: the clock that decides what goes, and the verb around it."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import samples as samples_module
from edgekit import source, tasks
from edgekit.cache.store import Cache
from edgekit.compress._folder import check_output, place
from edgekit.compress._plan import Latency
from edgekit.compress._train import Training
from edgekit.compress.distill import Distilled, lesson
from edgekit.compress.slice import RECOVERY, Sliced, check_speedup, slice_layers
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.search import checks
from edgekit.search.contender import contender
from edgekit.search.race import Candidate, ratio
from edgekit.search.steps import Evaluation, Steps
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.target import Target

CALIBRATION_ROWS = 300
_ROUNDS, _TEXTS_A_ROUND = 12, 20


@dataclass(frozen=True)
class SliceResult:
    """A sliced model.

    Attributes:
        sliced: what was cut, and how much faster that is.
        distilled: its scores, and with recovery its epochs.
    """

    sliced: Sliced
    distilled: Distilled

    def text(self) -> str:
        """Layers, speed, and then as a student's."""
        return f"{self.sliced.text()}\n{self.distilled.text()}"


def check_here(aim: Target) -> None:
    """Refuses a target whose devices this machine does not stand for: there is no clock.

    Raises:
        UsageError: where the device chooses.
    """
    if aim.choose_on == "device":
        raise UsageError(f"Layers are sliced by the time they take, and this machine is not the device of target '{aim.name}'. Slice there, or for cpu.")


def clock(steps: Steps, aim: Target, rows: Evaluation) -> Latency:
    """Times models on a target's backend, one text at a time, in the form that is fastest for the first that is timed.

    What is made for that is thrown away: a cache full of models that are never seen again would push out what is.

    Args:
        steps: of the build.
        aim: the target; see :func:`check_here`.
        rows: whose texts are timed.
    """
    # What ranges are chosen does not change what a product costs.
    quick = replace(aim, quantize=replace(aim.quantize, ranges="min_max", smooth="off"))
    forms: list[tuple[str, str]] = []

    def measure(models: Sequence[Source]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="clock-", dir=steps.scratch) as folder:
            place = Path(folder)
            apart = Steps(steps.origin, steps.calibration, place, steps.progress, None, Cache(place / "cache", math.inf))

            def raced(candidates: list[Candidate]) -> Sequence[Sequence[Sequence[float]]]:
                return apart.race(candidates, rows.samples, _ROUNDS, _TEXTS_A_ROUND, False, None).times_ms

            made = [contender("", model, apart, quick, rows, {}, False, None) for model in models]
            if not forms:
                able = [c for m in quick.methods for b in quick.backends if (c := made[0].as_asked(m, b)) is not None]
                fastest = able[int(np.argmin([np.median(np.concatenate(times)) for times in raced(able)]))]
                forms.append((fastest.variant.method, fastest.variant.backend))
            times = raced([c for m in made if (c := m.as_asked(*forms[0])) is not None])
            return [ratio(own, times[0])[0] for own in times]

    names = ("backends", "methods", "device", "threads", "shapes", "instructions")
    about = {name: plain(getattr(quick, name)) for name in names} | {"quantize": plain(quick.quantize), "machine": [cpu_name(), cpus()], **steps.always}
    return Latency(measure, about | {"texts": rows.samples.digest}, None if steps.replayed is None else steps.replayed.plans, steps.recorded.plans)


@takes_paths("model", "samples", "eval", "out")
def slice_model(
    model: str | os.PathLike[str],
    *,
    speedup: float,
    samples: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    eval: str | os.PathLike[str],
    out: str | os.PathLike[str],
    target: str | os.PathLike[str] = "cpu",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    training: Training | None = None,
    recover: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> SliceResult:
    """Cuts attention heads and feed-forward neurons out of a model until it is so much faster on the target, and wins accuracy back.

    Args:
        model: a local Hugging Face folder or a hub id: a text classifier.
        speedup: times as fast as it is, one text at a time, in the form (method and backend) in which it is fastest on the target.
        samples: what is looked at and trained on; rows without a label are welcome.
        eval: rows with labels: their texts are timed, and by them the best epoch is chosen.
        out: folder of the sliced model; appears whole or not at all.
        target: name of a target, or a TOML file.
        revision: branch, tag or commit of a hub id.
        columns: role (``text``, ``text_pair``, ``label``) to column name, for all sample files.
        training: of the recovery; by default :data:`edgekit.compress.slice.RECOVERY`.
        recover: False to leave the weights that stay as they are.
        force: replace a model that EdgeKit wrote at ``out``.
        progress: told after each step.

    Raises:
        EdgekitError: a subclass says which of model, samples, target, training or disk is at fault; nothing is left at ``out``.
    """
    start, destination = time.perf_counter(), Path(os.path.abspath(out))
    check_speedup(speedup)
    aim = checks.settled(targets.load(os.fspath(target)), (), None)
    checks.check_target(aim)
    check_here(aim)
    check_output(destination, force)
    rows = lesson([samples] if isinstance(samples, (str, os.PathLike)) else list(samples), columns)
    evaluation = samples_module.read(Path(eval), columns)
    origin = source.read(os.fspath(model), revision)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        calibration = rows[0].take(CALIBRATION_ROWS, 0)
        checks.check_calibration(calibration, aim)
        steps = Steps(origin, calibration, Path(scratch), progress, None)
        floats = steps.export(origin)
        task = tasks.get(floats.task).load(floats.assets)
        scored = Evaluation(evaluation, task, evaluation.truth(task.settings).values, steps.reference(evaluation))
        found = slice_layers(origin, origin, speedup, rows, evaluation, clock(steps, aim, scored), (training or RECOVERY) if recover else None, progress)
        place(found.made.folder, destination, force)
    return SliceResult(found, Distilled.of(destination, found.made, time.perf_counter() - start))
