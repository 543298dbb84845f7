"""From an answer of a session to the row of a file of predictions: which fields it has, and their columns where the file is a table."""

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

LABELS, NUMBERS, OTHER = "labels", "numbers", "other"
"""Kinds of answers: labels with scores, numbers, and all else, of which JSON holds what the task answers."""

_DECIMALS = 6  # more of a float32 is noise
_JOIN = "|"  # between the labels of a cell, as sample files have it


@dataclass(frozen=True)
class Layout:
    """Fields of a row of predictions.

    Attributes:
        kind: Kind of the answers, one of ``LABELS``, ``NUMBERS`` and ``OTHER``.
        names: Labels, or names of the numbers, in the model's order.
        exclusive: Whether a row has exactly one label.
        keep: Columns of the input that are copied.
        scores: Whether the score of every label is written.
        top_k: Number of labels with the highest scores that are written; None for none.
        threshold: Least score of a label; None for the model's own decision.
        with_errors: Whether there is a column ``error``.
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
        """Return the layout of a task's answers.

        Raises:
            UsageError: For an option that the task's answers cannot follow, or a number out of its range.
        """
        kind, names = OTHER, tuple[str, ...]()
        if isinstance(task, HasLabels) and isinstance(task, Explainable):  # not of words, which have a label each
            kind, names = LABELS, tuple(task.labels)
        elif isinstance(task, HasNumbers):
            kind, names = NUMBERS, tuple(task.numbers)
        if kind != LABELS and (top_k is not None or threshold is not None or (scores and kind == OTHER)):
            raise UsageError(
                "This bundle does not answer with one score for each label, so scores, top_k and threshold have no meaning. "
                "Leave them out.",
                code="predict-no-labels",
            )
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}, expected at least 1.", code="predict-top-k")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold:g}, expected a number from 0 to 1.", code="predict-threshold")
        exclusive = isinstance(task, HasLabels) and task.exclusive
        shown = top_k if top_k is None else min(top_k, len(names))
        several = scores or (kind == NUMBERS and len(names) > 1)
        return cls(kind, names, exclusive, tuple(keep), several, shown, threshold, with_errors)

    @property
    def columns(self) -> list[str]:
        """Names of the columns where the file is a table."""
        names = list(self.keep)
        if self.kind == OTHER:
            names.append("answer")
        else:
            names += ["label"] if self.kind == LABELS else []
            names.append("score")
            names += ["labels"] if self.kind == LABELS and not self.exclusive else []
            names += [f"score_{name}" for name in self.names] if self.scores else []
            for place in range(1, (self.top_k or 0) + 1):
                names += [f"label_{place}", f"score_{place}"]
        names.append("truncated")
        return [*names, "error"] if self.with_errors else names

    def check_columns(self, record: Mapping[str, Any], file: Path) -> None:
        """Refuse columns to keep that the input lacks, or whose names are those of predictions.

        Raises:
            UsageError: With the column.
        """
        for name in self.keep:
            if name not in record:
                raise UsageError(
                    f"{file} has no column '{name}' to keep.{near(name, record)} Columns: {', '.join(record)}.",
                    code="predict-no-column",
                    column=name,
                )
        columns = self.columns
        for name in columns:
            if columns.count(name) > 1:
                raise UsageError(
                    f"The output would have the column '{name}' twice. Rename the column of the input, or do not keep it.",
                    code="predict-column-twice",
                    column=name,
                )

    def fields(self, row: Row, answer: Any) -> dict[str, Any]:
        """Return the fields of a row, as JSON holds them.

        Args:
            row: Row of the input.
            answer: Answer of the session, or the error that the row has in its place.
        """
        fields: dict[str, Any] = {name: plain(row.record.get(name)) for name in self.keep}
        if isinstance(answer, EdgekitError):
            return {**fields, "error": str(answer)}
        values = _rounded(plain(answer))
        if self.kind == OTHER:
            fields |= values if isinstance(values, dict) else {"answer": values}
        else:
            fields |= self._scored(values)
        fields.setdefault("truncated", False)
        return {**fields, "error": None} if self.with_errors else fields

    def cells(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row as the cells of a table, by column; None for an empty cell."""
        cells = {name: fields.get(name) for name in self.columns}
        for name in self.keep:
            if isinstance(cells[name], (list, dict)):
                cells[name] = to_json(cells[name], ensure_ascii=False)
        if fields.get("error") is not None:
            return cells
        if self.kind == OTHER:
            known = {*self.keep, "truncated", "error"}
            answer = {name: value for name, value in fields.items() if name not in known}
            cells["answer"] = to_json(answer, ensure_ascii=False)
        if "labels" in cells:
            cells["labels"] = _JOIN.join(fields["labels"])
        if self.scores:
            cells |= {f"score_{name}": fields["scores"][name] for name in self.names}
        for place, entry in enumerate(fields.get("top", ()), 1):
            cells |= {f"label_{place}": entry["label"], f"score_{place}": entry["score"]}
        return cells

    def _scored(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of an answer of labels or numbers."""
        scores: dict[str, float] = answer["scores"]
        fields: dict[str, Any] = {"score": answer["score"]}
        if self.kind == LABELS:
            label, labels = answer["label"], list(answer["labels"])
            if self.threshold is not None:
                labels = [name for name in self.names if scores[name] >= self.threshold]
                label = label if answer["score"] >= self.threshold else None
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


def _rounded(value: Any) -> Any:
    """Return plain data with numbers of six decimals."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
