"""Data that all steps of a build share: the target, the labelled rows and the torch model's outputs for them."""

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
    from edgekit.search.outputs import Outputs
    from edgekit.search.record import Record
    from edgekit.search.step_cache import StepCache
    from edgekit.spec.protocols import Arrays, Input, Metric, Task
    from edgekit.spec.target import Target
    from edgekit.spec.user_metric import FunctionMetric
    from edgekit.stats.paired import Paired

__all__ = ["BuildContext", "EvaluationSet"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled rows with the torch model's outputs, which are the reference.

    Attributes:
        samples: Rows of the sample file.
        rows: Inputs and ground truth of the rows, with the task that scores them.
        reference: Outputs of the torch model, one entry per row.
        metric: User metric that replaces the task's first one, or None.
    """

    samples: Samples
    rows: Evaluation
    reference: Sequence[Arrays]
    metric: FunctionMetric | Metric | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def task(self) -> Task:
        """The task that scores the rows."""
        return self.rows.task

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs, as a session takes them."""
        return self.rows.inputs

    @cached_property
    def reference_score(self) -> float:
        """Score of the torch model.

        Raises:
            SamplesError: If the score is not defined on these rows.
        """
        return self.rows.score(self.reference)

    def with_task(self, task: Task) -> EvaluationSet:
        """Return the same rows for another task, e.g. that of a student with its own preprocessing.

        Args:
            task: New task. The user metric, if any, replaces its first metric.
        """
        return replace(self, rows=replace(self.rows, task=with_metric(task, self.metric)))

    def compare(self, outputs: Sequence[Arrays]) -> Paired:
        """Compare a candidate's outputs with the reference, paired by row. Rows with equal inputs count once.

        Args:
            outputs: Outputs of the candidate, one entry per row.
        """
        return self.rows.compare(outputs, self.reference)

    def companions(self, outputs: Sequence[Arrays], drop: float | None) -> tuple[companions.Error | None, str]:
        """Measure the losses that the score does not show.

        Args:
            outputs: Outputs of a candidate, one entry per row.
            drop: Accuracy drop of the budget, from which the limits of both losses follow; None for no limit.

        Returns:
            The error of numeric answers next to the reference's error, and a description of the label whose recall fell
            significantly; None and an empty text where they do not apply.
        """
        distinct = self.rows.distinct
        places = self.rows.places
        reference = [self.reference[i] for i in places]
        candidate = [outputs[i] for i in places]
        return companions.of_rows(self.task, reference, candidate, distinct.truth, drop)


@dataclass(frozen=True)
class BuildContext:
    """Inputs, settings and state of one build.

    Attributes:
        target: Device class with its budget.
        evaluation: Rows that candidates are scored on.
        calibration: Rows that activation ranges are computed from.
        model_digest: Digest of the model behind the reference outputs; None for a module from Python.
        cache: Cache of step results.
        recorded: Costs and times of this build, written to ``race.json``.
        strict: Whether the upper end of the accuracy drop's interval is gated, not the drop itself.
        deadline: Value of ``time.monotonic()`` after which no further variation is tried, or None.
        provenance: Origin of the bundle, as recorded in its manifest.
        replayed: Record that replaces measured costs and times, or None.
        overhead_mb: Size of all parts of a bundle except graphs and assets, as far as it is known, in MiB.
        repeated: Whether this is a second pass over a search that finished in time. It leaves nothing out.
        notes: Notes on the search, one sentence each, as the keys of an ordered set.
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
    overhead_mb: float = 0.0
    repeated: bool = False
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, *sentences: str) -> None:
        """Add sentences to the notes, each once."""
        for sentence in sentences:
            if sentence not in self.notes:
                _LOG.info("note: %s", sentence)
        self.notes.update(dict.fromkeys(sentences))

    @property
    def accuracy_limit(self) -> float | None:
        """Largest drop from the reference score that the budget allows.

        It is None without a limit, and if the torch model itself is below the accuracy floor.
        """
        limit = self.target.budget.largest_drop(
            self.evaluation.reference_score, self.evaluation.task.metrics[0].higher_is_better
        )
        return None if limit is None or limit < 0 else limit

    def holds_budget(self, outputs: Outputs) -> bool:
        """Return whether outputs are finite and inside the accuracy budget.

        The losses that the score does not show must be inside the limits that follow from the budget's drop.

        Args:
            outputs: Outputs of graphs for the evaluation rows.
        """
        if not outputs.finite:
            return False
        limit = self.accuracy_limit
        drop = self.target.budget.accuracy_drop
        compared = self.evaluation.compare(outputs.rows)
        gated_drop = compared.high if self.strict else compared.drop
        # Written so that a drop of NaN fails.
        if limit is not None and not gated_drop <= limit + 1e-9:
            return False
        error, recall = self.evaluation.companions(outputs.rows, drop)
        return companions.holds(error, recall, drop, self.strict)

    @property
    def late(self) -> bool:
        """Whether the allowed build time is used up."""
        return not self.repeated and self.deadline is not None and time.monotonic() > self.deadline
