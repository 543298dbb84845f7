"""Rows of prediction files: the fields of a session's answer, and their columns if the file is a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.samples.stream import Row
from edgekit.spec.errors import EdgekitError, UsageError, near
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.protocols import Explainable, HasLabels, HasNumbers, Task

__all__ = ["LABELS", "NUMBERS", "OTHER", "Layout"]

LABELS = "labels"
"""Kind of answers that are labels with scores."""

NUMBERS = "numbers"
"""Kind of answers that are numbers."""

OTHER = "other"
"""Kind of all other answers, which are written as JSON."""

_DECIMALS = 6  # Further decimals of a float32 score are noise.
_SEPARATOR = "|"  # Between the labels of a cell, as in sample files.


@dataclass(frozen=True)
class Layout:
    """Fields and columns of the rows of a prediction file.

    Attributes:
        kind: Kind of the answers, one of ``LABELS``, ``NUMBERS`` and ``OTHER``.
        names: Labels, or names of the numbers, in the model's order.
        exclusive: Whether a row has exactly one label.
        keep: Columns to copy from the input.
        scores: True to write the score of every label.
        top_k: Number of labels to write in the order of their scores. None to write none.
        threshold: Least score of a label, 0 to 1. None for the decision of the task.
        with_errors: True for a column ``error``.
    """

    kind: str
    names: tuple[str, ...]
    exclusive: bool
    keep: tuple[str, ...]
    scores: bool = False
    top_k: int | None = None
    threshold: float | None = None
    with_errors: bool = False

    @classmethod
    def of(
        cls,
        task: Task,
        keep: Sequence[str],
        *,
        scores: bool,
        top_k: int | None,
        threshold: float | None,
        with_errors: bool,
    ) -> Layout:
        """Return the layout for the answers of a task.

        Args:
            task: Task of the bundle.
            keep: Columns to copy from the input.
            scores: True to write the score of every label or number.
            top_k: Number of labels to write in the order of their scores, at least 1. None to write none.
            threshold: Least score of a label, 0 to 1. None for the decision of the task.
            with_errors: True for a column ``error``.

        Raises:
            UsageError: If an option does not fit the task's answers, or a number is out of range.
        """
        kind = OTHER
        names: tuple[str, ...] = ()
        # Token classification has labels too, but one per word. It is not Explainable.
        if isinstance(task, HasLabels) and isinstance(task, Explainable):
            kind = LABELS
            names = tuple(task.labels)
        elif isinstance(task, HasNumbers):
            kind = NUMBERS
            names = tuple(task.numbers)
        if kind != LABELS and (top_k is not None or threshold is not None or (scores and kind == OTHER)):
            raise UsageError(
                "This bundle does not give a score for each label, so scores, top_k and threshold do not apply. "
                "Leave them out.",
                code="predict-no-labels",
            )
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}, expected at least 1.", code="predict-top-k")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold:g}, expected a number from 0 to 1.", code="predict-threshold")
        exclusive = isinstance(task, HasLabels) and task.exclusive
        if top_k is not None:
            top_k = min(top_k, len(names))
        all_scores = scores or (kind == NUMBERS and len(names) > 1)
        return cls(kind, names, exclusive, tuple(keep), all_scores, top_k, threshold, with_errors)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a table."""
        columns = list(self.keep)
        if self.kind == OTHER:
            columns.append("answer")
        else:
            columns += self._score_columns()
        columns.append("truncated")
        if self.with_errors:
            columns.append("error")
        return columns

    def _score_columns(self) -> list[str]:
        """Return the names of the columns of labels or numbers."""
        columns = []
        if self.kind == LABELS:
            columns.append("label")
        columns.append("score")
        if self.kind == LABELS and not self.exclusive:
            columns.append("labels")
        if self.scores:
            columns += [f"score_{name}" for name in self.names]
        for rank in range(1, (self.top_k or 0) + 1):
            columns += [f"label_{rank}", f"score_{rank}"]
        return columns

    def check_columns(self, record: Mapping[str, Any], file: Path) -> None:
        """Check the columns to copy from the input.

        Args:
            record: First record of the input.
            file: Input file, for the message.

        Raises:
            UsageError: If the input lacks one of the columns, or its name is also that of a predicted column.
        """
        for name in self.keep:
            if name not in record:
                raise UsageError(
                    f"{file} has no column '{name}' to copy.{near(name, record)} Columns: {', '.join(record)}.",
                    code="predict-no-column",
                    column=name,
                )
        columns = self.columns
        for name in columns:
            if columns.count(name) > 1:
                raise UsageError(
                    f"The output would have two columns '{name}'. Rename the input's column, or do not copy it.",
                    code="predict-column-twice",
                    column=name,
                )

    def fields(self, row: Row, answer: Any) -> dict[str, Any]:
        """Return the fields of a row, as plain data for JSON.

        Args:
            row: Row of the input.
            answer: Answer of the session, or the error of the row.
        """
        fields: dict[str, Any] = {name: plain(row.record.get(name)) for name in self.keep}
        if isinstance(answer, EdgekitError):
            return {**fields, "error": str(answer)}
        values = _round(plain(answer))
        if self.kind == OTHER:
            fields |= values if isinstance(values, dict) else {"answer": values}
        else:
            fields |= self._scored(values)
        fields.setdefault("truncated", False)
        if self.with_errors:
            fields["error"] = None
        return fields

    def cells(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cells of a row by column; None for an empty cell.

        Args:
            fields: Fields of the row, from :meth:`fields`.
        """
        cells = {name: fields.get(name) for name in self.columns}
        for name in self.keep:
            if isinstance(cells[name], (list, dict)):
                cells[name] = to_json(cells[name], ensure_ascii=False)
        if fields.get("error") is not None:
            return cells
        if self.kind == OTHER:
            other_columns = {*self.keep, "truncated", "error"}
            answer = {name: value for name, value in fields.items() if name not in other_columns}
            cells["answer"] = to_json(answer, ensure_ascii=False)
        if "labels" in cells:
            cells["labels"] = _SEPARATOR.join(fields["labels"])
        if self.scores:
            cells |= {f"score_{name}": fields["scores"][name] for name in self.names}
        for rank, entry in enumerate(fields.get("top", ()), 1):
            cells |= {f"label_{rank}": entry["label"], f"score_{rank}": entry["score"]}
        return cells

    def _scored(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of an answer with labels or numbers."""
        scores: dict[str, float] = answer["scores"]
        fields: dict[str, Any] = {"score": answer["score"]}
        if self.kind == LABELS:
            label = answer["label"]
            labels = list(answer["labels"])
            if self.threshold is not None:
                labels = [name for name in self.names if scores[name] >= self.threshold]
                if not answer["score"] >= self.threshold:
                    label = None
            fields = {"label": label, **fields}
            if not self.exclusive:
                fields["labels"] = labels
        if self.scores:
            fields["scores"] = {name: scores[name] for name in self.names}
        if self.top_k:
            ranked = sorted(self.names, key=lambda name: -scores[name])[: self.top_k]
            fields["top"] = [{"label": name, "score": scores[name]} for name in ranked]
        if "truncated" in answer:
            fields["truncated"] = answer["truncated"]
        return fields


def _round(value: Any) -> Any:
    """Return plain data with its floats rounded to six decimals."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {name: _round(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_round(part) for part in value]
    return value
