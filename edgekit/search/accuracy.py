"""Whether candidates are inside the accuracy budget: by the score, and by what it does not see, the error of numbers and the label whose recall fell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.report import companions
from edgekit.search.outputs import graph_outputs

if TYPE_CHECKING:
    from edgekit.search.context import BuildContext, EvaluationSet
    from edgekit.search.stand_in import Outputs
    from edgekit.spec.graph import GraphSet
    from edgekit.spec.protocols import Arrays

__all__ = ["accuracy_limit", "compare_companions", "holds_budget", "inside_budget", "keeps_accuracy"]


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


def accuracy_limit(ctx: BuildContext) -> float | None:
    """Largest drop that candidates of this build may have; None for no limit, and where torch itself is under the floor."""
    limit = ctx.largest_drop
    return None if limit is None or limit < 0 else limit


def keeps_accuracy(ctx: BuildContext, graphs: GraphSet) -> bool:
    """Whether graphs are inside the accuracy budget and give numbers. Where torch itself is under the floor, no layer in float helps."""
    limit = accuracy_limit(ctx)
    if limit is None or graphs.graphs[0].method == "float32":
        return True
    return inside_budget(ctx, graph_outputs(ctx, graphs), limit)


def inside_budget(ctx: BuildContext, outputs: Outputs, limit: float) -> bool:
    """Whether outputs of graphs are numbers and inside the accuracy budget."""
    return outputs.finite and holds_budget(ctx.evaluation, outputs.rows, limit, ctx.target.budget.accuracy_drop, ctx.strict)
