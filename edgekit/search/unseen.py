"""What the score does not see of a candidate: the error of numbers, and the label whose recall fell; and whether all of it is inside the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.report import companions

if TYPE_CHECKING:
    from edgekit.search.context import EvaluationSet
    from edgekit.spec.protocols import Arrays


def compare_companions(evaluation: EvaluationSet, outputs: Sequence[Arrays], drop: float | None) -> tuple[companions.Error | None, str]:
    """The error of numbers beside the reference's, and the label whose recall surely fell, in words.

    Args:
        evaluation: rows that the candidate answered.
        outputs: of the candidate, one entry a row.
        drop: accuracy drop of the budget; None for no limit.
    """
    once, places = evaluation.rows.distinct, evaluation.rows.places
    reference, candidate = ([rows[i] for i in places] for rows in (evaluation.reference, outputs))
    return companions.of_rows(evaluation.task, reference, candidate, once.truth, drop)


def holds_budget(evaluation: EvaluationSet, outputs: Sequence[Arrays], limit: float, drop: float | None, strict: bool) -> bool:
    """Whether a candidate's outputs are inside the accuracy budget, and what the score cannot see inside what goes with it.

    Args:
        evaluation: rows that the candidate answered.
        outputs: of the candidate, one entry a row.
        limit: largest drop from the reference's score.
        drop: accuracy drop of the budget, which the error of numbers and the recall of labels are measured by.
        strict: the upper ends of intervals count.
    """
    compared = evaluation.compare(outputs)
    if not (compared.high if strict else compared.drop) <= limit + 1e-9:
        return False
    error, recall = compare_companions(evaluation, outputs, drop)
    return companions.holds(error, recall, drop, strict)
