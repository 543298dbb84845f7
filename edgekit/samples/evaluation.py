"""Labelled rows as a task scores them: two models' outputs to them become scores, and a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Arrays, Evidence, HasLabels, Input, Metric, Task
from edgekit.stats.paired import Paired, compare

__all__ = ["RECALL_OF", "Evaluation"]

RECALL_OF = "recall of "
"""Beginning of the name of a label's recall among the scores."""


@dataclass(frozen=True)
class Evaluation:
    """Rows, their truth, and the task that scores them.

    Attributes:
        task: of the model.
        inputs: as a session takes them.
        truth: one a row, as ``task.parse_truth`` gives it.
        keys: what tells inputs apart, one a row; empty: their content.
        notes: how labels were read where they were not taken as they stand, a sentence each.
    """

    task: Task
    inputs: Sequence[Input]
    truth: Sequence[Any]
    keys: Sequence[Hashable] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Rows with equal inputs, by their places, in the order in which inputs appear first."""
        found: dict[Hashable, list[int]] = {}
        for row, key in enumerate(self.keys or [self.task.modality.content(value) for value in self.inputs]):
            found.setdefault(key, []).append(row)
        return list(found.values())

    @cached_property
    def places(self) -> list[int]:
        """The first row of each different input."""
        return [group[0] for group in self.groups]

    @cached_property
    def distinct(self) -> Evaluation:
        """The rows in which each input counts once: a model answers copies alike, so that they prove no more than one row.

        Its truth is that of all rows with the input, merged by the task. Outputs of these rows are those at :attr:`places`.
        """
        truth = [
            self.truth[g[0]] if len(g) == 1 else self.task.merge_truth([self.truth[i] for i in g]) for g in self.groups
        ]
        found = Evaluation(
            self.task,
            [self.inputs[i] for i in self.places],
            truth,
            [self.keys[i] for i in self.places] if self.keys else (),
        )
        found.__dict__["distinct"] = found
        return found

    @property
    def note(self) -> str:
        """What to say of equal inputs; empty where no input is there twice."""
        if len(self.groups) == len(self):
            return ""
        differ = sum(
            any(not np.array_equal(self.truth[i], self.truth[g[0]]) for i in g) for g in self.groups if len(g) > 1
        )
        contradicting = (
            f"; {differ:,} of these have rows with different labels, of which the most frequent counts, or the mean"
            if differ
            else ""
        )
        counts = f"{len(self):,} rows have {len(self.groups):,} different inputs"
        return f"{counts}: rows with equal inputs count once in what is compared and tested{contradicting}."

    def take(self, rows: Sequence[int]) -> Evaluation:
        """Some of the rows."""
        return Evaluation(
            self.task,
            [self.inputs[i] for i in rows],
            [self.truth[i] for i in rows],
            [self.keys[i] for i in rows] if self.keys else (),
        )

    def evidence(self, outputs: Sequence[Arrays], metric: Metric | None = None) -> Evidence:
        """What each row contributes to a metric, by default the first of the task.

        Raises:
            UsageError: when the outputs are not those of these rows.
        """
        if len(outputs) != len(self):
            raise UsageError(
                f"There are outputs of {len(outputs)} rows for {len(self)} rows of truth. Give both of the same rows in the same order.",
                code="rows-differ",
            )
        return self.task.evidence(outputs, self.truth, metric or self.task.metrics[0])

    def score(self, outputs: Sequence[Arrays], metric: Metric | None = None) -> float:
        """The score of outputs to all rows.

        Raises:
            UsageError: when the outputs are not those of these rows, or some hold NaN.
            SamplesError: where it is not defined on these rows.
        """
        metric = metric or self.task.metrics[0]
        evidence = self.evidence(outputs, metric)
        if broken := int(np.isnan(evidence).any(axis=1).sum()):  # some metrics give a number of such rows
            raise UsageError(
                f"{broken} of {len(self)} rows of outputs hold NaN, expected numbers. Such a model cannot be scored: reject it.",
                code="outputs-not-finite",
            )
        found = metric.of(evidence)
        if math.isnan(found):
            raise SamplesError(metric.undefined, code="metric-undefined")
        return found

    def more_scores(self, outputs: Sequence[Arrays]) -> dict[str, float]:
        """Return the task's other scores by name, macro F1 and recalls of labels among them, without undefined ones."""
        scores = {metric.name: metric.of(self.evidence(outputs, metric)) for metric in self.task.metrics[1:]}
        scores |= {name: value for name, value in self.label_scores(outputs).items() if name not in scores}
        return {name: value for name, value in scores.items() if not math.isnan(value)}

    def label_scores(self, outputs: Sequence[Arrays]) -> dict[str, float]:
        """Return ``macro F1`` and ``recall of LABEL`` of each label that these rows have; nothing where outputs are no labels.

        Macro F1 is the mean of F1 over the labels that occur in the truth or in the answers, as scikit-learn computes it.
        """
        if not isinstance(self.task, HasLabels) or len(self.task.labels) < 2:
            return {}
        truth, answered = self.task.label_matrix(outputs, self.truth)
        hits, counts = (truth & answered).sum(axis=0), truth.sum(axis=0)
        either = counts + answered.sum(axis=0)
        scores: dict[str, float] = {}
        if (either > 0).any():
            scores["macro F1"] = float(np.mean(2 * hits[either > 0] / either[either > 0]))
        for place in np.flatnonzero(counts):
            scores[f"{RECALL_OF}{self.task.labels[place]}"] = float(hits[place] / counts[place])
        return scores

    def compare(self, candidate: Sequence[Arrays], reference: Sequence[Arrays], metric: Metric | None = None) -> Paired:
        """Compares two models' outputs to all rows; rows with equal inputs count once.

        Raises:
            UsageError: when the outputs are not those of these rows.
            SamplesError: when there is no row, or the score is not defined on them.
        """
        metric, once = metric or self.task.metrics[0], self.distinct
        if len(candidate) != len(self) or len(reference) != len(self):
            raise UsageError(
                f"There are outputs of {len(candidate)} and {len(reference)} rows for {len(self)} rows of truth. Give those of the same rows.",
                code="rows-differ",
            )
        first, second = ([outputs[i] for i in self.places] for outputs in (candidate, reference))
        return compare(metric, once.evidence(first, metric), once.evidence(second, metric))
