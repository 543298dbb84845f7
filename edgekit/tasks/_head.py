"""The base of classification heads, and the public answers of classifiers.

A task's class joins a modality's part (the input) and a head (the meaning of the outputs). Each head is a class of its
own, so that a task has the capabilities of its head and no others: a regression is not ``HasLabels``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Arrays, Encoded, Labelled, Truth
from edgekit.spec.rows import column
from edgekit.spec.short import ShortRepr
from edgekit.tasks import _labels

OUTPUT = "logits"
"""Name of the graph output that holds a value for each label."""

FEW_LABELS = 16
"""Largest number of labels whose probabilities Python computes faster than NumPy: 1 us instead of 4 us a row."""

Answer = TypeVar("Answer", bound="LabelScores")


@dataclass(frozen=True, repr=False)
class LabelScores(ShortRepr):
    """The answer for one example.

    An answer of a session makes ``scores`` when they are first read: most callers only want the label and its score.

    Attributes:
        label: Label with the highest probability. For regression, the name of the first output.
        score: Probability of that label, 0 to 1. For regression, the predicted number.
        scores: Probability (or number) of every label, in the model's order.
        labels: Predicted labels: one for a single-label head, those above 0.5 for a multi-label head, none for
            regression.
    """

    label: str
    score: float
    scores: Mapping[str, float]
    labels: tuple[str, ...]

    @classmethod
    def of_row(
        cls: type[Answer],
        label: str,
        score: float,
        names: Sequence[str],
        values: Sequence[float],
        labels: tuple[str, ...],
        **others: Any,
    ) -> Answer:
        """Return an answer that makes ``scores`` when they are first read.

        Args:
            label: Leading label.
            score: Probability of that label, or the predicted number.
            names: Name of every label, in the model's order.
            values: Probability or number of every label, in the same order.
            labels: Predicted labels.
            **others: Further fields of the class.
        """
        answer = cls.__new__(cls)
        answer.__dict__.update(others, label=label, score=score, labels=labels, _row=(names, values))
        return answer

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, for pickling and copying."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _ScoresOnRead:
    """Descriptor of ``scores``: it makes them at the first read. Later reads find them in the answer."""

    def __get__(self, answer: LabelScores | None, owner: type[LabelScores] | None = None) -> Any:
        if answer is None:
            return self
        if "_row" not in answer.__dict__:
            raise AttributeError(f"{type(answer).__name__} has no scores")
        names, values = answer.__dict__["_row"]
        # Threads that read at the same time get the same object.
        return answer.__dict__.setdefault("scores", dict(zip(names, values, strict=True)))


# A class attribute in the class body would be the default value of the field.
setattr(LabelScores, "scores", _ScoresOnRead())  # noqa: B010


@dataclass(frozen=True, repr=False)
class Classification(LabelScores):
    """The answer for one text.

    Attributes:
        truncated: Whether the text was longer than the model's limit, so that its end was not read.
    """

    truncated: bool


class Head(ABC):
    """The common part of all heads."""

    _kind: str
    answers_quote_input = False

    def __init__(self, names: Sequence[str]) -> None:
        """Create a head for the label names of a model, in the order of its outputs."""
        self._names = tuple(names)

    @property
    def identity(self) -> Mapping[str, object]:
        """Kind of head and label names. Models that are compared must agree in both."""
        return {"problem_type": self._kind, "labels": list(self._names)}

    def labelled(self, rows: Sequence[Labelled]) -> list[bool]:
        """Return which rows have a label that :meth:`parse_truth` can read."""
        return _labels.labelled(self._names, rows)

    def parse_truth(self, rows: Sequence[Labelled], where: str) -> Truth:
        """Read the labels of rows, from the label column or from one column per label.

        Args:
            rows: Rows of a sample file.
            where: Name of the file, for messages.

        Returns:
            Labels as ``int64 [rows]`` for a single-label head, ``bool [rows, labels]`` for a multi-label head and
            ``float64 [rows, labels]`` for regression.

        Raises:
            SamplesError: If a row has no label or an unknown one, or two columns contradict each other.
        """
        values = _labels.of_rows(self._kind, self._names, rows, where)
        return _labels.parse(self._kind, self._names, values, where)

    def merge_truth(self, values: Sequence[Any]) -> Any:
        """Return the most frequent truth of rows with equal inputs; of equally frequent ones, the first."""
        first = np.asarray(values[0])
        # A Counter keeps the order of first occurrence, which decides ties.
        counts = Counter(tuple(np.atleast_1d(value).tolist()) for value in values)
        most_common = np.array(counts.most_common(1)[0][0], first.dtype)
        return np.reshape(most_common, first.shape)[()]

    def postprocess(self, outputs: Sequence[Arrays], encoded: Sequence[Encoded]) -> list[Any]:
        """Return the answer of each row."""
        values = self._values(outputs)
        rows = values.tolist()
        answers = []
        for row, scores, source in zip(rows, self._scores(values, rows), encoded, strict=True):
            top, labels = self._predict(row)
            answers.append(self._make_answer(self._names[top], scores[top], scores, labels, source))
        return answers

    def _values(self, outputs: Sequence[Arrays]) -> np.ndarray:
        """Return the raw output of all rows: float32 ``[rows, labels]``."""
        if not len(outputs):
            return np.zeros((0, len(self._names)), np.float32)
        values = column(outputs, OUTPUT)
        if values.shape[1:] != (len(self._names),):
            expected = [len(values), len(self._names)]
            raise UsageError(
                f"Outputs have the shape {list(values.shape)}, expected {expected} (rows, labels). "
                "Give outputs of this model.",
                code="outputs-shape",
            )
        return values

    @abstractmethod
    def _scores(self, values: np.ndarray, rows: list[list[float]]) -> list[list[float]]:
        """Return the probability or number of each label, for the answer of each row.

        Args:
            values: Raw outputs, float32 ``[rows, labels]``.
            rows: The same values as lists.
        """

    @abstractmethod
    def _predict(self, values: Sequence[float]) -> tuple[int, tuple[str, ...]]:
        """Return the index of the leading label and the names of all predicted labels of one row of raw outputs."""

    def _make_answer(
        self, label: str, score: float, scores: Sequence[float], labels: tuple[str, ...], source: Encoded
    ) -> LabelScores:
        return LabelScores.of_row(label, score, self._names, scores, labels)
