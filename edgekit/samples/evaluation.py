"""Labelled rows that a task scores: the scores of a model's outputs, and the paired comparison of two models."""

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
"""Prefix of the name of a label's recall among the scores."""


@dataclass(frozen=True)
class Evaluation:
    """Rows, their ground truth, and the task that scores them.

    Attributes:
        task: Task of the model.
        inputs: Inputs as a session takes them, one per row.
        truth: Ground truth of each row, as ``task.parse_truth`` returns it.
        keys: Keys of the inputs, one per row; equal for equal inputs. Empty: the content of each input is its key.
        notes: Sentences on labels that were converted on reading.
    """

    task: Task
    inputs: Sequence[Input]
    truth: Sequence[Any]
    keys: Sequence[Hashable] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Row indices grouped by equal inputs, in the order of first occurrence."""
        groups: dict[Hashable, list[int]] = {}
        for row, key in enumerate(self.keys or [self.task.modality.content(value) for value in self.inputs]):
            groups.setdefault(key, []).append(row)
        return list(groups.values())

    @cached_property
    def places(self) -> list[int]:
        """Index of the first row of each different input."""
        return [group[0] for group in self.groups]

    @cached_property
    def distinct(self) -> Evaluation:
        """Rows in which each input occurs once.

        A model gives equal answers to equal inputs, so copies are no additional evidence. The truth of an input is that
        of all its rows, merged by the task. The outputs of these rows are those at :attr:`places`.
        """
        truth = []
        for group in self.groups:
            group_truth = [self.truth[row] for row in group]
            truth.append(group_truth[0] if len(group) == 1 else self.task.merge_truth(group_truth))
        inputs = [self.inputs[row] for row in self.places]
        distinct = Evaluation(self.task, inputs, truth, self._take_keys(self.places))
        distinct.__dict__["distinct"] = distinct
        return distinct

    @property
    def note(self) -> str:
        """Sentence for reports on equal inputs; empty if all inputs are different."""
        if len(self.groups) == len(self):
            return ""
        contradictions = sum(self._has_contradiction(group) for group in self.groups if len(group) > 1)
        conflict = ""
        if contradictions:
            conflict = (
                f"; {contradictions:,} of these have rows with different labels, and the most frequent label (or the "
                "mean of numbers) counts"
            )
        counts = f"{len(self):,} rows have {len(self.groups):,} different inputs"
        return f"{counts}: rows with equal inputs count once in comparisons and tests{conflict}."

    def _has_contradiction(self, group: Sequence[int]) -> bool:
        """Return whether rows have different truth."""
        return any(not np.array_equal(self.truth[row], self.truth[group[0]]) for row in group)

    def _take_keys(self, rows: Sequence[int]) -> Sequence[Hashable]:
        """Return the keys of some rows; empty if there are no keys."""
        if not self.keys:
            return ()
        return [self.keys[row] for row in rows]

    def take(self, rows: Sequence[int]) -> Evaluation:
        """Return the rows at the given indices."""
        inputs = [self.inputs[row] for row in rows]
        truth = [self.truth[row] for row in rows]
        return Evaluation(self.task, inputs, truth, self._take_keys(rows))

    def evidence(self, outputs: Sequence[Arrays], metric: Metric | None = None) -> Evidence:
        """Return what each row contributes to a metric.

        Args:
            outputs: Outputs of a model, one entry per row.
            metric: Metric of the task. Default: its first one.

        Raises:
            UsageError: If the outputs are not those of these rows.
        """
        if len(outputs) != len(self):
            raise UsageError(
                f"The outputs have {len(outputs)} rows, expected {len(self)} as in the truth. "
                "Give both for the same rows in the same order.",
                code="rows-differ",
            )
        return self.task.evidence(outputs, self.truth, metric or self.task.metrics[0])

    def score(self, outputs: Sequence[Arrays], metric: Metric | None = None) -> float:
        """Return the score of a model's outputs to all rows.

        Args:
            outputs: Outputs of a model, one entry per row.
            metric: Metric of the task. Default: its first one.

        Raises:
            UsageError: If the outputs are not those of these rows, or contain NaN.
            SamplesError: If the score is not defined on these rows.
        """
        metric = metric or self.task.metrics[0]
        evidence = self.evidence(outputs, metric)
        # Some metrics return a number even if rows are NaN.
        nan_rows = int(np.isnan(evidence).any(axis=1).sum())
        if nan_rows:
            raise UsageError(
                f"{nan_rows} of {len(self)} rows of outputs contain NaN, expected numbers. "
                "The model cannot be scored: reject it.",
                code="outputs-not-finite",
            )
        score = metric.of(evidence)
        if math.isnan(score):
            raise SamplesError(metric.undefined, code="metric-undefined")
        return score

    def more_scores(self, outputs: Sequence[Arrays]) -> dict[str, float]:
        """Return the other scores of the task by name, including macro F1 and recalls; undefined scores are excluded.

        Args:
            outputs: Outputs of a model, one entry per row.
        """
        scores = {metric.name: metric.of(self.evidence(outputs, metric)) for metric in self.task.metrics[1:]}
        scores |= {name: value for name, value in self.label_scores(outputs).items() if name not in scores}
        return {name: value for name, value in scores.items() if not math.isnan(value)}

    def label_scores(self, outputs: Sequence[Arrays]) -> dict[str, float]:
        """Return ``macro F1``, and ``recall of LABEL`` for each label of these rows.

        Macro F1 is the mean F1 of the labels that occur in the truth or in the answers, as in scikit-learn.

        Args:
            outputs: Outputs of a model, one entry per row.

        Returns:
            Scores by name, 0 to 1; empty if the answers of the task are not labels.
        """
        if not isinstance(self.task, HasLabels) or len(self.task.labels) < 2:
            return {}
        truth, answers = self.task.label_matrix(outputs, self.truth)
        hits = (truth & answers).sum(axis=0)
        support = truth.sum(axis=0)
        total = support + answers.sum(axis=0)
        occurs = total > 0
        scores: dict[str, float] = {}
        if occurs.any():
            scores["macro F1"] = float(np.mean(2 * hits[occurs] / total[occurs]))
        for label in np.flatnonzero(support):
            scores[f"{RECALL_OF}{self.task.labels[label]}"] = float(hits[label] / support[label])
        return scores

    def compare(self, candidate: Sequence[Arrays], reference: Sequence[Arrays], metric: Metric | None = None) -> Paired:
        """Return the paired comparison of two models' outputs to all rows; rows with equal inputs count once.

        Args:
            candidate: Outputs of the candidate, one entry per row.
            reference: Outputs of the reference, one entry per row.
            metric: Metric of the task. Default: its first one.

        Raises:
            UsageError: If the outputs are not those of these rows.
            SamplesError: If there are no rows, or the score is not defined on them.
        """
        metric = metric or self.task.metrics[0]
        distinct = self.distinct
        if len(candidate) != len(self) or len(reference) != len(self):
            raise UsageError(
                f"The outputs have {len(candidate)} and {len(reference)} rows, expected {len(self)} as in the truth. "
                "Give the outputs for the same rows.",
                code="rows-differ",
            )
        candidate_outputs = [candidate[row] for row in self.places]
        reference_outputs = [reference[row] for row in self.places]
        candidate_evidence = distinct.evidence(candidate_outputs, metric)
        reference_evidence = distinct.evidence(reference_outputs, metric)
        return compare(metric, candidate_evidence, reference_evidence)
