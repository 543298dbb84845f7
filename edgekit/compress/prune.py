"""Narrower layers: remove the attention heads and feed-forward neurons of least importance for the time they take.

The importance is the Fisher information of one pass over the samples. The time is measured on the target's backend, not
derived from parameter counts: one input at a time, in the form (method and backend) in which the model is fastest
there. The units are removed from the weights, without masks, so the graph is smaller. Distillation from the unpruned
model then recovers accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.compress import _student
from edgekit.compress._fisher import importance
from edgekit.compress._layers import prune_units
from edgekit.compress._learner import Learner
from edgekit.compress.objective import Objective
from edgekit.compress.plan import Latency, Picks, Table, choose, counts_to_measure, largest_saving, neuron_step
from edgekit.machine.cpu import cpu_name
from edgekit.samples import Samples
from edgekit.source import Source
from edgekit.source.stack import widths
from edgekit.spec.digests import code_digest
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import to_json
from edgekit.spec.progress import Progress, silent
from edgekit.spec.training import RECOVERY, Training

__all__ = ["RECOVERY", "ROWS", "Base", "Pruned", "Recovery", "check_speedup", "prune_layers"]

ROWS = 2048
"""Rows of the importance pass; more rows hardly change the order of heads and neurons."""

_ATTEMPTS = 3  # Largest number of plans that are measured.
_CLOSE = 0.99  # Smallest fraction of the requested speedup that is accepted without a note.


@dataclass(frozen=True)
class Pruned:
    """A model with narrower layers.

    Attributes:
        student: Model and its training. The folder is an ordinary Hugging Face folder except for the key
            ``edgekit_widths`` in its config, which only EdgeKit reads.
        before: Numbers of heads and neurons of each stored layer before pruning.
        after: Numbers of heads and neurons of each stored layer after pruning.
        requested: Requested speedup.
        speedup: Speedup over the original model, measured when the units were chosen.
    """

    student: _student.TrainedStudent
    before: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    requested: float
    speedup: float

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the result, one sentence each."""
        if self.speedup >= self.requested * _CLOSE:
            return ()
        return (
            f"The requested speedup of {self.requested:g} x was not reached: the fastest of {_ATTEMPTS} plans is used.",
        )

    def text(self) -> str:
        """Return a table of the layers, then the speedup and the notes."""
        lines = ["layer  heads     neurons"]
        for i, ((old_heads, old_neurons), (heads, neurons)) in enumerate(zip(self.before, self.after, strict=True)):
            lines.append(f"{i + 1:>5}  {f'{old_heads} -> {heads}':<8}  {old_neurons} -> {neurons}")
        lines.append(f"{self.speedup:.2f} x as fast, measured on the target's backend when the units were chosen.")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Base:
    """The model to prune.

    Attributes:
        source: Teacher itself, or a student of it.
        inherits: Whether its embedding tables are the teacher's.
        notes: Notes on the model, one sentence each.
    """

    source: Source
    inherits: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """Samples for pruning, and the training that recovers accuracy.

    Attributes:
        samples: Samples for the importance pass and for the training; labels are not needed.
        evaluation: Labelled samples for the choice of the best epoch.
        training: Settings of the training; None for no training.
    """

    samples: Sequence[Samples]
    evaluation: Samples
    training: Training | None


def prune_layers(
    teacher: Source,
    base: Base,
    speedup: float,
    recovery: Recovery,
    latency: Latency,
    progress: Progress = silent,
    cache: Cache | None = None,
) -> Pruned:
    """Remove heads and neurons of a model until it reaches a speedup, then recover its accuracy.

    Args:
        teacher: Model whose answers are learned.
        base: Model to prune.
        speedup: Requested speedup over ``base``, above 1 and below 100.
        recovery: Samples and training.
        latency: Measurement of latencies.
        progress: Function that is called after each step.
        cache: Cache for the plan and the model; None for the user's cache.

    Raises:
        UsageError: If the speedup is out of range or cannot be reached.
        CompressError: If training fails.
    """
    check_speedup(speedup)
    cache = cache or Cache()
    source = base.source
    plan = json.loads(_pruning_plan(source, speedup, recovery.samples, latency, progress, cache))
    module = prune_units(source.module, plan["picks"])
    before = _unit_counts(source.module)
    after = _unit_counts(module)
    learner = Learner(module, source, _digest(source, plan["picks"]), base.inherits, base.notes)
    student = _student.train_student(
        teacher, learner, recovery.samples, recovery.evaluation, recovery.training, progress, cache
    )
    return Pruned(student, before, after, speedup, plan["speedup"])


def check_speedup(speedup: float) -> None:
    """Refuse a speedup that is out of range, before any work is done.

    Raises:
        UsageError: If the speedup is not above 1 and below 100.
    """
    if not 1.0 < speedup < 100.0:
        raise UsageError(
            f"speedup is {speedup:g}, expected above 1 and below 100: the ratio of the speeds of the pruned model and "
            "the original.",
            code="prune-speedup",
        )


def _unit_counts(module: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(heads), int(neurons)) for heads, neurons in widths(module))


def _pruning_plan(
    base: Source, speedup: float, samples: Sequence[Samples], latency: Latency, progress: Progress, cache: Cache
) -> str:
    """Return the units to keep and the speedup as JSON: from the record, from the cache, or computed now.

    Raises:
        UsageError: If there is a record without this plan, or the speedup cannot be reached.
    """
    name = key(model=base.digest, speedup=speedup, samples=[s.digest for s in samples])
    if latency.known is not None:
        if name not in latency.known:
            raise UsageError(
                "The race record has no pruning plan for this model: it belongs to another build. Leave out --race to "
                "measure again.",
                code="race-record-other",
            )
        latency.used[name] = latency.known[name]
        return latency.known[name]
    parts = {
        "step": "prune",
        "what": name,
        "code": code_digest(*_student.CODE),
        "cpu": cpu_name(),
        "clock": dict(latency.about),
    }
    digest = key(**parts)
    if cache.find(digest) is None:
        picks, reached = _make_plan(base, speedup, samples, latency, progress)
        with disk_errors(cache.root), cache.fill(digest, parts) as folder:
            (folder / "plan.json").write_text(to_json({"picks": picks, "speedup": reached}), "utf-8")
    entry = cache.find(digest)
    assert entry is not None
    latency.used[name] = (entry / "plan.json").read_text("utf-8")
    return latency.used[name]


def _make_plan(
    base: Source, speedup: float, samples: Sequence[Samples], latency: Latency, progress: Progress
) -> tuple[Picks, float]:
    """Choose the units to keep by importance and measured time.

    Returns:
        The units to keep, and the measured speedup.

    Raises:
        UsageError: If the speedup cannot be reached.
    """
    _student.check_rows([base], samples)
    inputs = [value for s in samples for value in s.inputs]
    indices = np.sort(np.random.default_rng(0).permutation(len(inputs))[:ROWS])
    rows = base.encode([inputs[i] for i in indices])
    unit_importance = importance(base.module.eval(), rows, Objective.of(base), 0, progress)
    table = _measure_table(base, latency, progress)
    target_saving = 1.0 - 1.0 / speedup
    possible_saving = largest_saving(unit_importance, table)
    if possible_saving < target_saving:
        fewest = neuron_step(len(unit_importance[0].neurons))
        raise UsageError(
            f"A speedup of {speedup:.2f} x cannot be reached: with one head and {fewest} neurons in each layer the "
            f"model is {1 / max(1 - possible_saving, 1e-6):.2f} x as fast. Request a smaller speedup, or fewer layers.",
            code="prune-speedup",
        )
    measured: list[tuple[float, Picks]] = []  # Latency as a fraction of the original's, and the units to keep.
    saving = target_saving
    for attempt in range(_ATTEMPTS):
        progress("measure pruned layers", attempt, _ATTEMPTS)
        picks = choose(unit_importance, table, saving)
        latency_ratio = float(latency.measure([base, _probe(base, picks)])[1])
        measured.append((latency_ratio, picks))
        if latency_ratio * speedup * _CLOSE <= 1.0:
            return picks, 1.0 / latency_ratio
        # The table promised more than was measured, so the next plan aims higher by the difference.
        saving = min(saving + target_saving - (1.0 - latency_ratio), possible_saving)
    latency_ratio, picks = min(measured, key=lambda plan: plan[0])
    return picks, 1.0 / latency_ratio


def _measure_table(base: Source, latency: Latency, progress: Progress) -> Table:
    """Return the cost of a layer, from the times of models with the same number of heads or neurons in all layers."""
    counts = widths(base.module)
    full_heads = max(heads for heads, _ in counts)
    full_neurons = max(neurons for _, neurons in counts)
    head_counts, neuron_counts = counts_to_measure(full_heads, full_neurons)
    progress("measure layers", 0, 0)
    probes = [base]
    for head_limit, neuron_limit in [(n, full_neurons) for n in head_counts] + [(full_heads, n) for n in neuron_counts]:
        picks: Picks = []
        for heads, neurons in counts:
            picks.append((list(range(min(head_limit, heads))), list(range(min(neuron_limit, neurons)))))
        probes.append(_probe(base, picks))
    costs = [float(fraction) / len(counts) for fraction in latency.measure(probes)]
    return Table(
        {full_heads: costs[0], **dict(zip(head_counts, costs[1 : 1 + len(head_counts)], strict=True))},
        {full_neurons: costs[0], **dict(zip(neuron_counts, costs[1 + len(head_counts) :], strict=True))},
    )


def _probe(base: Source, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Source:
    """Return a pruned model that is only timed; its module is created when it is needed."""
    return Source(
        base.model_id,
        base.revision,
        base.task,
        _digest(base, picks),
        lambda: (prune_units(base.module, picks), base.processor),
        base.kind,
    )


def _digest(base: Source, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> str:
    """Return the digest of a pruned model before its training."""
    return key(base=base.digest, picks=[[list(heads), list(neurons)] for heads, neurons in picks])
