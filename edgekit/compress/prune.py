"""Narrower layers: attention heads and feed-forward neurons that matter least for the time they take are cut out of the weights.

What matters is the Fisher information of one pass over the samples; what time it takes is measured on the target's backend, one text at
a time, in the form in which the model is fastest there, not counted in parameters. The graph is really smaller: no masks. What accuracy
that costs is won back by the distillation that makes students, from the model as it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.compress import _student
from edgekit.compress._fisher import importance
from edgekit.compress._layers import prune_units
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
"""Rows of the pass that says what matters: more change the order of few heads and neurons."""

_ATTEMPTS = 3
_CLOSE = 0.99  # of the speed-up that was asked for


@dataclass(frozen=True)
class Pruned:
    """A model with narrower layers.

    Attributes:
        student: its folder, an ordinary Hugging Face folder but for ``edgekit_widths`` in its config, which EdgeKit alone reads; and its training.
        before: heads and neurons of each stored layer.
        after: those that are left.
        requested: the speed-up that was asked for.
        speedup: that was measured when the layers were chosen: time of the model over time of the narrower one.
    """

    student: _student.Made
    before: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    requested: float
    speedup: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known, a sentence each."""
        short = self.speedup < self.requested * _CLOSE
        return (f"{self.requested:g} x was asked for: the nearest of {_ATTEMPTS} plans was taken.",) if short else ()

    def text(self) -> str:
        """Layer by layer, then how much faster that is."""
        lines = ["layer  heads     neurons"]
        for i, ((h, n), (heads, neurons)) in enumerate(zip(self.before, self.after, strict=True)):
            lines.append(f"{i + 1:>5}  {f'{h} -> {heads}':<8}  {n} -> {neurons}")
        lines.append(f"{self.speedup:.2f} x as fast, measured on the target's backend when the layers were chosen.")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Base:
    """The model that is cut.

    Attributes:
        source: Teacher itself, or a student of it.
        inherits: Whether its embedding tables are the teacher's.
        notes: Notes on the model, a sentence each.
    """

    source: Source
    inherits: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """The rows that pruning needs, and how accuracy is regained.

    Attributes:
        samples: Rows that the pass runs over and that are trained on; labels are not needed.
        evaluation: Labelled rows by which the best epoch is chosen.
        training: Settings of the recovery; None for no recovery.
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
    """Cuts heads and neurons out of a model until it is so much faster, and wins accuracy back.

    Args:
        teacher: whose answers are learnt.
        base: Model that is cut.
        speedup: times as fast as ``base``.
        recovery: Rows of the pass and of the recovery.
        latency: the clock.
        progress: told after each step.
        cache: where what was made is looked for; by default the user's.

    Raises:
        UsageError: for a speed-up of at most 1, or one that cannot be had.
        CompressError: when training fails.
    """
    check_speedup(speedup)
    cache = cache or Cache()
    source, samples = base.source, recovery.samples
    plan = json.loads(_plan(source, speedup, samples, latency, progress, cache))
    module = prune_units(source.module, plan["picks"])
    before, after = (tuple((int(h), int(n)) for h, n in widths(m)) for m in (source.module, module))
    learner = _student.Student(module, source, _identity(source, plan["picks"]), base.inherits, base.notes)
    return Pruned(
        _student.make(teacher, learner, samples, recovery.evaluation, recovery.training, progress, cache),
        before,
        after,
        speedup,
        plan["speedup"],
    )


def check_speedup(speedup: float) -> None:
    """Refuses one that is none, before any work is done.

    Raises:
        UsageError: unless it is above 1 and below 100.
    """
    if not 1.0 < speedup < 100.0:
        raise UsageError(
            f"speedup is {speedup:g}, expected above 1 and below 100: how many times as fast the pruned model is to be.",
            code="prune-speedup",
        )


def _plan(
    base: Source, speedup: float, samples: Sequence[Samples], latency: Latency, progress: Progress, cache: Cache
) -> str:
    """What stays, as JSON: on record, in the cache, or found now."""
    name = key(model=base.digest, speedup=speedup, samples=[s.digest for s in samples])
    if latency.known is not None:
        if name not in latency.known:
            raise UsageError(
                "The record of the race does not hold how this model was pruned: it is of another build. Leave --race out to measure anew.",
                code="race-record-other",
            )
        latency.used[name] = latency.known[name]
        return latency.known[name]
    what = {
        "step": "prune",
        "what": name,
        "code": code_digest(*_student.CODE),
        "cpu": cpu_name(),
        "clock": dict(latency.about),
    }
    digest = key(**what)
    if cache.find(digest) is None:
        picks, ratio = _planned(base, speedup, samples, latency, progress)
        with disk_errors(cache.root), cache.fill(digest, what) as folder:
            (folder / "plan.json").write_text(to_json({"picks": picks, "speedup": ratio}), "utf-8")
    found = cache.find(digest)
    assert found is not None
    latency.used[name] = (found / "plan.json").read_text("utf-8")
    return latency.used[name]


def _planned(
    base: Source, speedup: float, samples: Sequence[Samples], latency: Latency, progress: Progress
) -> tuple[Picks, float]:
    """What stays, and how many times as fast the model then is."""
    _student.check_rows([base], samples)
    given = [value for s in samples for value in s.inputs]
    chosen = np.sort(np.random.default_rng(0).permutation(len(given))[:ROWS])
    matters = importance(base.module.eval(), base.encode([given[i] for i in chosen]), Objective.of(base), 0, progress)
    table = _table(base, latency, progress)
    wanted, reach = 1.0 - 1.0 / speedup, largest_saving(matters, table)
    if reach < wanted:
        raise UsageError(
            f"Pruning was asked to make the model {speedup:.2f} x as fast, and with one head and {neuron_step(len(matters[0].neurons))} neurons left in each layer "
            f"it is {1 / max(1 - reach, 1e-6):.2f} x as fast. Ask for less, or for fewer layers.",
            code="prune-speedup",
        )
    tried: list[tuple[float, Picks]] = []
    save = wanted
    for attempt in range(_ATTEMPTS):
        progress("measure pruned layers", attempt, _ATTEMPTS)
        picks = choose(matters, table, save)
        tried.append((float(latency.measure([base, _probe(base, picks)])[1]), picks))
        if tried[-1][0] * speedup * _CLOSE <= 1.0:
            break
        save = min(save + wanted - (1.0 - tried[-1][0]), reach)  # the table was too hopeful by so much
    ratio, picks = tried[-1] if tried[-1][0] * speedup * _CLOSE <= 1.0 else min(tried, key=lambda t: t[0])
    return picks, 1.0 / ratio


def _table(base: Source, latency: Latency, progress: Progress) -> Table:
    """Times the model with as many heads, or neurons, in all of its layers."""
    before = widths(base.module)
    most_heads, most_neurons = max(h for h, _ in before), max(n for _, n in before)
    heads, neurons = counts_to_measure(most_heads, most_neurons)
    probes = [(h, most_neurons) for h in heads] + [(most_heads, n) for n in neurons]
    progress("measure layers", 0, 0)
    shares = latency.measure(
        [
            base,
            *(_probe(base, [(list(range(min(h, x))), list(range(min(n, y)))) for x, y in before]) for h, n in probes),
        ]
    )
    each = [float(share) / len(before) for share in shares]
    return Table(
        {most_heads: each[0], **dict(zip(heads, each[1 : 1 + len(heads)], strict=True))},
        {most_neurons: each[0], **dict(zip(neurons, each[1 + len(heads) :], strict=True))},
    )


def _probe(base: Source, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Source:
    """A narrower model that is timed and thrown away."""
    digest = _identity(base, picks)
    return Source(
        base.model_id,
        base.revision,
        base.task,
        digest,
        lambda: (prune_units(base.module, picks), base.processor),
        base.kind,
    )


def _identity(base: Source, picks: Sequence[tuple[Sequence[int], Sequence[int]]]) -> str:
    return key(base=base.digest, picks=[[list(h), list(n)] for h, n in picks])
