"""Students that compete in a build: the settings of ``--distill``, and the training of such a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekit import source
from edgekit.cache.store import Cache
from edgekit.compress import _student
from edgekit.compress._learner import make_student
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
    """Settings of one student of a build.

    Attributes:
        layers: Number of the model's layers that the student has.
        keep: Indices of these layers, in place of ``layers``.
        student: Folder or hub id of a student of your own, in place of ``layers`` and ``keep``.
        speedup: Speedup to which the student is pruned; None for no pruning. Without ``layers``, ``keep`` and
            ``student`` the model itself is pruned.
        training: Settings of the training. After pruning the student is trained again, for fewer epochs.
    """

    layers: int | None = None
    keep: tuple[int, ...] | None = None
    student: str | None = None
    speedup: float | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Check the speedup.

        Raises:
            UsageError: If it is out of range.
        """
        if self.speedup is not None:
            check_speedup(self.speedup)

    @property
    def name(self) -> str:
        """Name in tables, e.g. ``3 layers, pruned 1.25 x``."""
        parts = []
        if self.student is not None:
            parts.append(Path(self.student).name)
        elif self.keep is not None:
            parts.append(f"layers {'/'.join(map(str, self.keep))}")
        elif self.layers is not None:
            parts.append(f"{self.layers} layer{'s' if self.layers != 1 else ''}")
        if self.speedup is not None:
            parts.append(f"pruned {self.speedup:g} x")
        return ", ".join(parts)

    def check(self, teacher: Source, files: Sequence[Samples]) -> None:
        """Refuse an unsuitable student of the user, or rows that it does not accept, before any student is trained.

        Args:
            teacher: Model of the build.
            files: Samples that the student will be run on.

        Raises:
            UsageError: If the student has another task or other labels, or another processor in a task whose outputs
                belong to parts of an input.
            SamplesError: If a row is not accepted; with the number of the first such row.
        """
        if self.student is not None:
            student_source = make_student(teacher, None, None, source.read(self.student)).source
            for file in files:
                _student.check_rows([student_source], (), file)

    def make(
        self,
        teacher: Source,
        samples: Sequence[Samples],
        evaluation: Samples,
        latency: Latency,
        progress: Progress,
        cache: Cache,
    ) -> Source:
        """Train the student, or find it in the cache.

        Args:
            teacher: Model of the build.
            samples: Samples to train on.
            evaluation: Labelled samples for the choice of the best epoch.
            latency: Measurement of latencies, for pruning.
            progress: Function that is called after each step.
            cache: Cache for the student.

        Returns:
            The student as a model; its id contains that of the teacher and :attr:`name`.
        """
        base = Base(teacher)
        has_student = (self.layers, self.keep, self.student) != (None, None, None)
        if has_student or self.speedup is None:
            user_student = None if self.student is None else source.read(self.student)
            learner = make_student(teacher, self.layers, self.keep, user_student)
            student = _student.train_student(teacher, learner, samples, evaluation, self.training, progress, cache)
            base = Base(source.read(student.folder), learner.inherits, learner.notes)
        result = base.source
        if self.speedup is not None:
            training = replace(
                self.training,
                epochs=min(self.training.epochs, RECOVERY.epochs),
                patience=min(self.training.patience, RECOVERY.patience),
            )
            recovery = Recovery(samples, evaluation, training)
            pruned = prune_layers(teacher, base, self.speedup, recovery, latency, progress, cache)
            result = source.read(pruned.student.folder)
        result.model_id = f"{teacher.model_id}, {self.name}"
        result.revision = teacher.revision
        return result


def parse_recipe(settings: Mapping[str, Any]) -> Recipe:
    """Parse the settings of a student, e.g. ``{"layers": 3, "epochs": 8}``.

    Args:
        settings: Values by key. A key is a field of :class:`Recipe` or :class:`Training`, ``temperature``, or the name
            of another field of :class:`Loss` with ``_weight`` appended, e.g. ``teacher_weight``.

    Raises:
        UsageError: If a key is unknown, with the nearest known one, or a value has the wrong type.
    """
    loss_keys = {f"{f.name}_weight": f.name for f in fields(Loss) if f.name != "temperature"}
    loss_keys["temperature"] = "temperature"
    training_keys = [f.name for f in fields(Training) if f.name != "loss"]
    recipe_keys = [f.name for f in fields(Recipe) if f.name != "training"]
    check_known(settings, [*recipe_keys, *training_keys, *loss_keys], "key", " of a student")
    loss: dict[str, Any] = {}
    training: dict[str, Any] = {"loss": loss}
    recipe: dict[str, Any] = {"training": training}
    for key, value in settings.items():
        if key in loss_keys:
            loss[loss_keys[key]] = value
        elif key in training_keys:
            training[key] = value
        else:
            recipe[key] = value
    return parse(Recipe, recipe, "a student")
