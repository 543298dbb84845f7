"""Two models on the same samples: what the score lost and what the rows prove of that, which answers flipped, and how far all answers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.report import companions
from edgekit.report import slices as sliced
from edgekit.report.predictions import check_finite
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.gates import AccuracyGates
from edgekit.spec.protocols import Arrays, HasConfidence, HasLabels, Task
from edgekit.spec.report import Accuracy, Flip
from edgekit.spec.rows import difference
from edgekit.stats.paired import fewest_rows

__all__ = ["BINS", "MOST_FLIPS", "calibration_error", "compare", "confusion"]

MOST_FLIPS = 200
"""Of those that a report lists."""

BINS = 15
"""Of the calibration error."""


def compare(
    given: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    ids: Sequence[str],
    *,
    margins: AccuracyGates | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    include_text: bool = False,
) -> Accuracy:
    """Compares the outputs of two models.

    What is not defined on the rows is None: the scores of a regression set in which all labels are equal, the interval where hardly any
    resample of the rows has a score. Flips and divergences need no score and are always there.

    Rows with equal inputs count once: what is compared is the first row of each.

    Args:
        given: labelled rows, with the task of both models.
        before: outputs of the baseline or the teacher.
        after: outputs of the candidate.
        ids: of the rows, as ``predictions.row_ids`` gives them.
        margins: Gates, of which ``drop``, in the score's unit, is what ``rows_needed`` is about; without ``recall_drop`` recalls are left out. None for
            none of them.
        slices: column to the value of each row.
        include_text: whether the report may hold inputs.

    Raises:
        UsageError: when the parts are not of the same rows and labels, or an output is not a finite number.
        SamplesError: when there is no row.
    """
    slices = slices or {}
    margin, recall_margin = (None, None) if margins is None else (margins.drop, margins.recall_drop)
    _check(given, before, after, ids, slices)
    task, once, places = given.task, given.distinct, given.places
    before, after = [before[i] for i in places], [after[i] for i in places]
    slices = {column: [values[i] for i in places] for column, values in slices.items()}
    metric, divergence = task.metrics[0], task.divergence(after, before)
    flips = np.flatnonzero(~task.same_answer(after, before))
    first, second, compared = sliced.compare_scores(once, before, after)
    errors = companions.error(task, before, after, once.truth)
    return Accuracy(
        rows=len(given),
        score_name=metric.name,
        higher_is_better=metric.higher_is_better,
        before=first,
        after=second,
        drop=None
        if first is None or second is None
        else metric.drop(first, second)
        if compared is None
        else compared.drop,
        low=compared.low if compared else None,
        high=compared.high if compared else None,
        losses=compared.losses if compared else None,
        gains=compared.gains if compared else None,
        p_value=compared.p_value if compared else None,
        flips=len(flips),
        flipped=_listed(once, before, after, flips, [ids[i] for i in places], places, include_text),
        divergence_mean=max(0.0, float(divergence.mean())),  # rounding may leave less than nothing
        divergence_p95=max(0.0, float(np.quantile(divergence, 0.95))),
        calibration_before=calibration_error(task, before, once.truth),
        calibration_after=calibration_error(task, after, once.truth),
        resolvable=compared.resolvable() if compared else None,
        margin=margin,
        rows_needed=compared.rows_needed(margin) if compared and margin is not None else None,
        slices=sliced.compare(once, before, after, slices),
        inputs=len(places),
        identical=set(before[0]) == set(after[0]) and difference(before, after) == 0.0,
        fewest=fewest_rows(margin) if margin and compared is not None and compared.losses is not None else None,
        error_before=errors.before if errors else None,
        error_after=errors.after if errors else None,
        error_low=errors.low if errors else None,
        error_high=errors.high if errors else None,
        deviation=errors.deviation if errors else None,
        recalls=companions.recalls(task, before, after, once.truth, recall_margin) if recall_margin is not None else (),
    )


def calibration_error(task: Task, outputs: Sequence[Arrays], truth: Sequence[object]) -> float | None:
    """Expected calibration error: how far the probability of the answers is from the share of them that is right.

    Source: Guo C. et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599, equation 3: 15 bins of equal width, each
    without its lower and with its upper edge.

    Args:
        task: whose answers they are.
        outputs: one row each.
        truth: as ``task.parse_truth`` gives it.

    Returns:
        0 to 1; None where answers have no probability.
    """
    if not isinstance(task, HasConfidence):
        return None
    confidence, right = task.confidence(outputs, truth)
    of_bin = np.digitize(confidence, np.linspace(0.0, 1.0, BINS + 1)[1:-1], right=True)
    # The share of a bin times its gap is the sum of its gaps over all answers.
    return float(np.abs(np.bincount(of_bin, right - confidence, BINS)).sum() / len(confidence))


def confusion(task: Task, outputs: Sequence[Arrays], truth: Sequence[object]) -> tuple[tuple[int, ...], ...]:
    """Items by truth (first) and answer (second), in the order of the labels; empty where an item has not exactly one label.

    Args:
        task: whose answers they are.
        outputs: one row each.
        truth: as ``task.parse_truth`` gives it.
    """
    if not isinstance(task, HasLabels) or not task.exclusive:
        return ()
    right, answered = task.label_matrix(outputs, truth)
    counts = right.T.astype(np.int64) @ answered.astype(np.int64)
    return tuple(tuple(row) for row in counts.tolist())


def _listed(
    given: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    flips: np.ndarray,
    ids: Sequence[str],
    places: Sequence[int],
    include_text: bool,
) -> tuple[Flip, ...]:
    """The flips that a report lists: the clearest answers first, since a flip of a close call says little; without probabilities the largest steps."""
    task = given.task
    sides = [[outputs[i] for i in flips] for outputs in (before, after)]
    margins = [task.margin(side) for side in sides] if isinstance(task, HasConfidence) and len(flips) else None
    weight = task.divergence(after, before)[flips] if margins is None else margins[0]
    order = np.argsort(-weight, kind="stable")[:MOST_FLIPS].tolist()
    shown = [int(flips[i]) for i in order]
    # Answers that are text of the user are shown as that is.
    words = [[""] * len(shown)] * 3 if task.answers_quote_input and not include_text else [
        task.describe_truth([given.truth[i] for i in shown]), *(task.describe([outputs[i] for i in shown]) for outputs in (before, after))
    ]  # fmt: skip
    return tuple(
        Flip(
            id=ids[row],
            row=places[row] + 1,
            truth=words[0][place],
            before=words[1][place],
            after=words[2][place],
            margin_before=None if margins is None else float(margins[0][order[place]]),
            margin_after=None if margins is None else float(margins[1][order[place]]),
            text=task.modality.quote(given.inputs[row]) if include_text else "",
        )
        for place, row in enumerate(shown)
    )


def _check(
    given: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    ids: Sequence[str],
    slices: Mapping[str, Sequence[str]],
) -> None:
    """Raises as :func:`compare`."""
    rows = len(given)
    if rows < 1:
        raise SamplesError(
            "There is no row to compare the models on, expected at least one. Give samples.", code="samples-empty"
        )
    columns = {f"column '{column}'": values for column, values in slices.items()}
    parts: dict[str, Sequence[object]] = {
        "the outputs before": before,
        "the outputs after": after,
        "ids": ids,
        **columns,
    }
    for name, values in parts.items():
        if len(values) != rows:
            raise UsageError(
                f"There are {len(values)} values of {name} for {rows} rows, expected one a row. Give those of the same samples.",
                code="rows-differ",
            )
    for name, outputs in (("the outputs before", before), ("the outputs after", after)):
        check_finite(outputs, name)  # a NaN counts as the largest value, so such a row could be right
