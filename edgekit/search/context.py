"""What every step of one build goes by: the target, the labelled rows and the reference's answers to them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.samples.evaluation import Evaluation
    from edgekit.search.kept import StepCache
    from edgekit.search.record import Record
    from edgekit.spec.protocols import Arrays, Input, Task
    from edgekit.spec.target import Target
    from edgekit.stats.paired import Paired

__all__ = ["BuildContext", "EvaluationSet"]


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled rows, and what the torch model answers to them.

    Attributes:
        samples: rows of the file.
        rows: their inputs and truth, and the task that scores them.
        reference: outputs of the torch model, one entry a row.
    """

    samples: Samples
    rows: Evaluation
    reference: Sequence[Arrays]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def task(self) -> Task:
        """The task that scores the rows."""
        return self.rows.task

    @property
    def inputs(self) -> Sequence[Input]:
        """Inputs as a session takes them."""
        return self.rows.inputs

    @cached_property
    def reference_score(self) -> float:
        """Score of the torch model.

        Raises:
            SamplesError: where it is not defined on these rows.
        """
        return self.rows.score(self.reference)

    def with_task(self, task: Task) -> EvaluationSet:
        """The same rows for a student, whose preprocessing is its own."""
        return replace(self, rows=replace(self.rows, task=task))

    def compare(self, outputs: Sequence[Arrays]) -> Paired:
        """A candidate's outputs to these rows against the reference's; rows with equal inputs count once."""
        return self.rows.compare(outputs, self.reference)


@dataclass(frozen=True)
class BuildContext:
    """One build.

    Attributes:
        target: device class, with its budget.
        evaluation: rows that candidates are scored on.
        calibration: rows that ranges are taken from.
        model_digest: digest of the model that the reference answers are of; None for a module from Python.
        cache: results of steps.
        recorded: costs and times of this build, for ``race.json``.
        strict: gate the upper end of the accuracy drop's interval.
        deadline: ``time.monotonic()`` after which no further variation is tried, or None.
        provenance: origin of the bundle, as its manifest says it.
        replayed: record that costs and times are taken from, in place of a clock.
    """

    target: Target
    evaluation: EvaluationSet
    calibration: Samples
    model_digest: str | None
    cache: StepCache
    recorded: Record
    strict: bool = False
    deadline: float | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    replayed: Record | None = None

    @property
    def largest_drop(self) -> float | None:
        """Largest drop from the reference's score that keeps the budget; negative where the reference itself is under its floor."""
        higher = self.evaluation.task.metrics[0].higher_is_better
        return self.target.budget.largest_drop(self.evaluation.reference_score, higher)

    @property
    def late(self) -> bool:
        """Whether the time allowed is used up."""
        return self.deadline is not None and time.monotonic() > self.deadline
