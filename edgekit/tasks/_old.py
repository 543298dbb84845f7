"""To be removed: the forms of callers that hold arrays of logits ``[rows, labels]`` in place of rows of named arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import SamplesError
from edgekit.tasks import _labels
from edgekit.tasks._heads import OUTPUT


def _rows(logits: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{OUTPUT: row} for row in logits]


class Old:
    """Methods to be removed."""

    settings: Any

    @property
    def binary(self) -> bool:
        return self.settings.problem_type == "multi_label_classification" and len(self.settings.labels) == 1

    @property
    def score_name(self) -> str:
        return str(self.metrics[0].name)  # type: ignore[attr-defined]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(self._numbers(_rows(logits)))  # type: ignore[attr-defined]

    def parse_labels(self, values: Sequence[object], where: str) -> np.ndarray:
        return np.asarray(_labels.parse(self.settings.problem_type, self.settings.labels, values, where).values)

    def score(self, logits: np.ndarray, truth: np.ndarray) -> float:
        metric = self.metrics[0]  # type: ignore[attr-defined]
        found = float(metric.of(self.evidence(_rows(logits), truth, metric)))  # type: ignore[attr-defined]
        if math.isnan(found):
            raise SamplesError(metric.undefined)
        return found

    def postprocess(self, outputs: Any, encoded: Sequence[Any]) -> list[Any]:
        return super().postprocess(_rows(outputs) if isinstance(outputs, np.ndarray) else outputs, encoded)  # type: ignore[misc,no-any-return]

    def divergence(self, outputs: Any, reference: Any) -> Any:
        if isinstance(outputs, np.ndarray):
            return float(super().divergence(_rows(outputs), _rows(reference)).mean())  # type: ignore[misc]
        return super().divergence(outputs, reference)  # type: ignore[misc]

    def changed(self, logits: np.ndarray, reference: np.ndarray) -> int:
        return int(self.differs(logits, reference).sum())

    def differs(self, logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return ~self.same_answer(_rows(logits), _rows(reference))  # type: ignore[attr-defined,no-any-return]

    def margins(self, logits: np.ndarray) -> np.ndarray:
        x = logits.astype(np.float64)
        if self.settings.problem_type == "multi_label_classification":
            return np.asarray(np.abs(x).min(axis=1))
        if self.settings.problem_type == "regression":
            return np.zeros(len(x))
        if x.shape[1] < 2:
            return np.full(len(x), np.inf)
        top = np.sort(x, axis=1)
        return np.asarray((top[:, -1] - top[:, -2]) / 2)
