"""What every step of one build goes by: the target, the labelled rows and the reference's answers to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from edgekit.report import companions
from edgekit.spec.user_metric import with_metric

if TYPE_CHECKING:
    from edgekit.samples import Samples
    from edgekit.samples.evaluation import Evaluation
    from edgekit.search.record import Record
    from edgekit.search.stand_in import Outputs
    from edgekit.search.step_cache import StepCache
    from edgekit.spec.protocols import Arrays, Input, Metric, Task
    from edgekit.spec.target import Target
    from edgekit.spec.user_metric import FunctionMetric
    from edgekit.stats.paired import Paired

__all__ = ["BuildContext", "EvaluationSet"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled rows, and what the torch model answers to them.

    Attributes:
        samples: rows of the file.
        rows: their inputs and truth, and the task that scores them.
        reference: outputs of the torch model, one entry a row.
        metric: Metric of the user that replaces the task's first one, or None.
    """

    samples: Samples
    rows: Evaluation
    reference: Sequence[Arrays]
    metric: FunctionMetric | Metric | None = None

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
        return replace(self, rows=replace(self.rows, task=with_metric(task, self.metric)))

    def compare(self, outputs: Sequence[Arrays]) -> Paired:
        """A candidate's outputs to these rows against the reference's; rows with equal inputs count once."""
        return self.rows.compare(outputs, self.reference)

    def companions(self, outputs: Sequence[Arrays], drop: float | None) -> tuple[companions.Error | None, str]:
        """The error of numbers beside the reference's, and the label whose recall surely fell, in words: what the score does not see.

        Args:
            outputs: of a candidate, one entry a row.
            drop: accuracy drop of the budget, which both are measured by; None for no limit.
        """
        once, places = self.rows.distinct, self.rows.places
        reference, candidate = ([rows[i] for i in places] for rows in (self.reference, outputs))
        return companions.of_rows(self.task, reference, candidate, once.truth, drop)


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
        beside_mb: what a whole bundle has beside the graphs and assets of its candidate, as far as that is known, MiB.
        repeated: the search ended in time, and is gone through again: nothing of it is left out now.
        notes: what should be known of the search, a sentence each, each once.
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
    beside_mb: float = 0.0
    repeated: bool = False
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, *sentences: str) -> None:
        """Adds to the notes."""
        for sentence in sentences:
            if sentence not in self.notes:
                _LOG.info("note: %s", sentence)
        self.notes.update(dict.fromkeys(sentences))

    @property
    def accuracy_limit(self) -> float | None:
        """Largest drop from the reference's score that keeps the budget; None for no limit, and where torch itself is under the floor."""
        limit = self.target.budget.largest_drop(
            self.evaluation.reference_score, self.evaluation.task.metrics[0].higher_is_better
        )
        return None if limit is None or limit < 0 else limit

    def holds_budget(self, outputs: Outputs) -> bool:
        """Whether outputs of graphs are numbers and inside the accuracy budget, and what the score cannot see inside what goes with it."""
        if not outputs.finite:
            return False
        limit, drop, compared = (
            self.accuracy_limit,
            self.target.budget.accuracy_drop,
            self.evaluation.compare(outputs.rows),
        )
        if limit is not None and not (compared.high if self.strict else compared.drop) <= limit + 1e-9:
            return False
        error, recall = self.evaluation.companions(outputs.rows, drop)
        return companions.holds(error, recall, drop, self.strict)

    @property
    def late(self) -> bool:
        """Whether the time allowed is used up."""
        return not self.repeated and self.deadline is not None and time.monotonic() > self.deadline
