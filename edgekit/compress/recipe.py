"""What a build's ``--distill`` says of a student, and the student that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekit import source
from edgekit.cache.store import Cache
from edgekit.compress import _student
from edgekit.compress.objective import Loss
from edgekit.compress.plan import Latency
from edgekit.compress.prune import RECOVERY, Base, Recovery, check_speedup, prune_layers
from edgekit.compress.training import Training
from edgekit.samples import Samples
from edgekit.source import Source
from edgekit.spec.errors import check_known
from edgekit.spec.parsing import parse
from edgekit.spec.progress import Progress

__all__ = ["Recipe", "parse_recipe"]


@dataclass(frozen=True)
class Recipe:
    """A student of a build.

    Attributes:
        layers: how many of the model's layers it has.
        keep: which of them, in place of ``layers``.
        student: a folder or hub id of one's own, in place of both.
        speedup: the student, or the model itself where none of the three is given, is pruned to be so many times as fast.
        training: how it is trained, and for fewer epochs again when it is pruned.
    """

    layers: int | None = None
    keep: tuple[int, ...] | None = None
    student: str | None = None
    speedup: float | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for a speed-up that is none.
        """
        if self.speedup is not None:
            check_speedup(self.speedup)

    @property
    def name(self) -> str:
        """As tables call it, e.g. ``3 layers, pruned 1.25 x``."""
        parts = []
        if self.student is not None:
            parts.append(Path(self.student).name)
        elif self.keep is not None:
            parts.append(f"layers {'/'.join(map(str, self.keep))}")
        elif self.layers is not None:
            parts.append(f"{self.layers} layer{'s' if self.layers != 1 else ''}")
        return ", ".join([*parts, *([f"pruned {self.speedup:g} x"] if self.speedup is not None else [])])

    def check(self, teacher: Source, files: Sequence[Samples]) -> None:
        """Refuses a student of one's own that the teacher cannot teach, or that cannot take one of the rows, before any student is trained.

        Args:
            teacher: the model of the build.
            files: all rows that the student will answer to.

        Raises:
            UsageError: for a student of another task, label set or, where answers are of parts of an input, another processor.
            SamplesError: with the number of the first row that cannot be taken.
        """
        if self.student is not None:
            own = _student.student(teacher, None, None, source.read(self.student)).source
            for file in files:
                _student.check_rows([own], (), file)

    def make(
        self,
        teacher: Source,
        samples: Sequence[Samples],
        evaluation: Samples,
        latency: Latency,
        progress: Progress,
        cache: Cache,
    ) -> Source:
        """Trains it, or finds it in the cache.

        Args:
            teacher: the model of the build.
            samples: what is trained on.
            evaluation: rows with labels, by which the best epoch is chosen.
            latency: the clock that pruning goes by.
            progress: told after each step.
            cache: where it is looked for.
        """
        base, inherits, notes = teacher, True, tuple[str, ...]()
        if (self.layers, self.keep, self.student) != (None, None, None) or self.speedup is None:
            learner = _student.student(
                teacher, self.layers, self.keep, None if self.student is None else source.read(self.student)
            )
            inherits, notes = learner.inherits, learner.notes
            base = source.read(
                _student.make(teacher, learner, samples, evaluation, self.training, progress, cache).folder
            )
        if self.speedup is not None:
            training = replace(
                self.training,
                epochs=min(self.training.epochs, RECOVERY.epochs),
                patience=min(self.training.patience, RECOVERY.patience),
            )
            recovery = Recovery(samples, evaluation, training)
            pruned = prune_layers(
                teacher, Base(base, inherits, notes), self.speedup, recovery, latency, progress, cache
            )
            base = source.read(pruned.student.folder)
        base.model_id, base.revision = f"{teacher.model_id}, {self.name}", teacher.revision
        return base


def parse_recipe(said: Mapping[str, Any]) -> Recipe:
    """Reads what ``--distill`` says, e.g. ``{"layers": 3, "epochs": 8}``: fields of :class:`Recipe`, :class:`Training` and :class:`Loss`.

    Raises:
        UsageError: for an unknown key, with the nearest known one, or a value of another type.
    """
    loss = {f"{f.name}_weight" if f.name != "temperature" else f.name: f.name for f in fields(Loss)}
    how = [f.name for f in fields(Training) if f.name != "loss"]
    who = ["layers", "keep", "student", "speedup"]
    check_known(said, [*who, *how, *loss], "key", " of a student")
    training = {
        **{n: v for n, v in said.items() if n in how},
        "loss": {loss[n]: v for n, v in said.items() if n in loss},
    }
    return parse(Recipe, {**{n: v for n, v in said.items() if n in who}, "training": training}, "a student")
