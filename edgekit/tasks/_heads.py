"""The heads of classifiers by Transformers' ``problem_type``, and what their tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.spec.errors import UsageError, near
from edgekit.spec.tensor import Signature
from edgekit.tasks._head import Classification, Head, LabelScores
from edgekit.tasks._label_heads import MultiLabel, SingleLabel
from edgekit.tasks._labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from edgekit.tasks._regression import Regression

__all__ = [
    "HEADS",
    "Classification",
    "Head",
    "LabelScores",
    "MultiLabel",
    "Regression",
    "SingleLabel",
    "check_labels",
    "check_problem_type",
    "output_problem",
]

HEADS: Mapping[str, type[SingleLabel | MultiLabel | Regression]] = {
    SINGLE_LABEL: SingleLabel,
    MULTI_LABEL: MultiLabel,
    REGRESSION: Regression,
}
"""Head of each ``problem_type`` of Transformers."""


def check_problem_type(problem_type: str) -> None:
    """Raise UsageError if there is no head for a problem type."""
    if problem_type not in HEADS:
        raise UsageError(
            f"Unknown problem type '{problem_type}'.{near(problem_type, HEADS)} Expected one of: {', '.join(HEADS)}.",
            code="problem-type-unknown",
        )


def check_labels(labels: Sequence[str]) -> None:
    """Raise UsageError if there is no label, or a label occurs twice."""
    if not labels or len(set(labels)) != len(labels):
        raise UsageError(
            f"Labels are {list(labels)}, expected at least one, without duplicates. "
            "Correct id2label in the model's config.",
            code="labels-invalid",
        )


def output_problem(signature: Signature, labels: int) -> str:
    """Return how a graph's first output differs from one value per label; empty if it does not.

    Args:
        signature: Signature of the graph.
        labels: Number of labels.
    """
    if not signature.outputs:
        return f"has {labels} label(s), the graph has no output"
    shape = signature.outputs[0].shape
    if len(shape) != 2 or shape[1] not in (labels, "labels"):
        return f"has {labels} label(s), the graph outputs {list(shape)}"
    return ""
