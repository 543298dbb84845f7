"""Labelled rows that a task scores: the scores of a model's outputs, and the paired comparison of two models."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Arrays, Evidence, HasLabels, Input, Metric, Task
from edgekit.spec.rows import take
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
    def _first(self) -> np.ndarray:
        """Index of the first row with the same input, for each row: int64 ``[rows]``."""
        if self.keys:
            seen: dict[Hashable, int] = {}
            return np.array([seen.setdefault(key, row) for row, key in enumerate(self.keys)], np.int64)
        return _find_first(map(self.task.modality.content, self.inputs))

    @cached_property
    def repeats(self) -> list[list[int]]:
        """Indices of the rows of each input that several rows have, in the order of first occurrence."""
        groups: dict[int, list[int]] = {}
        for row in np.flatnonzero(self._first != np.arange(len(self))).tolist():
            first = int(self._first[row])
            groups.setdefault(first, [first]).append(row)
        return [groups[first] for first in sorted(groups)]

    @cached_property
    def places(self) -> Sequence[int]:
        """Index of the first row of each different input, a range if all inputs are different."""
        if not self.repeats:
            return range(len(self))
        places: list[int] = np.flatnonzero(self._first == np.arange(len(self))).tolist()
        return places

    @cached_property
    def distinct(self) -> Evaluation:
        """Rows in which each input occurs once.

        A model gives equal answers to equal inputs, so copies are no additional evidence. The truth of an input is that
        of all its rows, merged by the task. The outputs of these rows are those at :attr:`places`.
        """
        if not self.repeats:
            return self
        distinct = self.take(self.places)
        merged = {}
        for group in self.repeats:
            merged[group[0]] = self.task.merge_truth([self.truth[row] for row in group])
        truth: Any = distinct.truth.copy() if isinstance(distinct.truth, np.ndarray) else list(distinct.truth)
        for index, place in enumerate(self.places):
            if place in merged:
                truth[index] = merged[place]
        distinct = replace(distinct, truth=truth)
        distinct.__dict__["distinct"] = distinct
        return distinct

    @property
    def note(self) -> str:
        """Sentence for reports on equal inputs; empty if all inputs are different."""
        if not self.repeats:
            return ""
        contradictions = sum(map(self._has_contradiction, self.repeats))
        conflict = ""
        if contradictions:
            conflict = (
                f"; {contradictions:,} of these have rows with different labels, and the most frequent label (or the "
                "mean of numbers) counts"
            )
        counts = f"{len(self):,} rows have {len(self.places):,} different inputs"
        return f"{counts}: rows with equal inputs count once in comparisons and tests{conflict}."

    def _has_contradiction(self, group: Sequence[int]) -> bool:
        """Return whether rows have different truth."""
        return any(not np.array_equal(self.truth[row], self.truth[group[0]]) for row in group)

    def take(self, rows: Sequence[int]) -> Evaluation:
        """Return the rows at the given indices."""
        keys = take(self.keys, rows) if self.keys else ()
        return Evaluation(self.task, take(self.inputs, rows), take(self.truth, rows), keys)

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
        candidate_outputs = take(candidate, self.places)
        reference_outputs = take(reference, self.places)
        candidate_evidence = distinct.evidence(candidate_outputs, metric)
        reference_evidence = distinct.evidence(reference_outputs, metric)
        return compare(metric, candidate_evidence, reference_evidence)


def _find_first(contents: Iterable[bytes]) -> np.ndarray:
    """Return the index of the first of each content's equals: int64 ``[contents]``.

    Contents are compared by digests of 128 bits, 16 bytes each: the contents of all rows can be gigabytes.
    """
    digests = bytearray()
    for content in contents:
        digests += hashlib.blake2b(content, digest_size=16).digest()
    halves = np.frombuffer(bytes(digests), np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # It is stable: equal contents stay in the order of the rows.
    ordered = halves[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first
