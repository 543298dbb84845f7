"""Comparison of the answers of two models on the same samples.

The result has the loss of score with its confidence interval, the rows whose answer changed (flips), the divergence of
all outputs, and the calibration of both models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgekit.report import companions
from edgekit.report import slices as sliced
from edgekit.report.predictions import check_finite
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.gates import AccuracyGates
from edgekit.spec.protocols import Arrays, HasConfidence, HasLabels, Task
from edgekit.spec.report import Accuracy, Flip
from edgekit.spec.rows import difference, take
from edgekit.stats.paired import fewest_rows

__all__ = ["BINS", "MOST_FLIPS", "calibration_error", "compare", "confusion"]

MOST_FLIPS = 200
"""Maximum number of flips that a report lists."""

BINS = 15
"""Number of bins of the calibration error."""


def compare(
    evaluation: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    ids: Sequence[str],
    *,
    margins: AccuracyGates | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    include_text: bool = False,
) -> Accuracy:
    """Compare the outputs of two models on the same rows.

    A field that is not defined on these rows is None: the scores of a regression set whose labels are all equal, or the
    interval if hardly any resample of the rows has a score. Flips and divergences need no score and are always present.

    Rows with equal inputs count once: the first row of each input is compared.

    Args:
        evaluation: Labelled rows with the task of both models.
        before: Outputs of the baseline or the teacher, one mapping per row.
        after: Outputs of the candidate, one mapping per row.
        ids: Keyed hash of each row, see :func:`edgekit.report.predictions.row_ids`.
        margins: Accuracy gates. ``rows_needed`` refers to ``drop``, in the score's unit; without ``recall_drop`` no
            recalls are compared. None for no gates.
        slices: Column name to the value of each row; None for no slices.
        include_text: True if the report may contain inputs.

    Raises:
        UsageError: If the arguments have different numbers of rows, or an output is not finite.
        SamplesError: If there is no row.
    """
    slices = slices or {}
    _check(evaluation, before, after, ids, slices)
    margin = None if margins is None else margins.drop
    recall_margin = None if margins is None else margins.recall_drop
    task = evaluation.task
    distinct = evaluation.distinct
    places = evaluation.places
    before = take(before, places)
    after = take(after, places)
    distinct_slices = {}
    for column, values in slices.items():
        distinct_slices[column] = [values[i] for i in places]
    metric = task.metrics[0]
    divergence = task.divergence(after, before)
    flips = np.flatnonzero(~task.same_answer(after, before))
    first, second, compared = sliced.compare_scores(distinct, before, after)
    errors = companions.error(task, before, after, distinct.truth)
    result = Accuracy(
        rows=len(evaluation),
        score_name=metric.name,
        higher_is_better=metric.higher_is_better,
        before=first,
        after=second,
        flips=len(flips),
        flipped=_list_flips(distinct, before, after, flips, [ids[i] for i in places], places, include_text),
        # Rounding may give a divergence slightly below 0.
        divergence_mean=max(0.0, float(divergence.mean())),
        divergence_p95=max(0.0, float(np.quantile(divergence, 0.95))),
        calibration_before=calibration_error(task, before, distinct.truth),
        calibration_after=calibration_error(task, after, distinct.truth),
        margin=margin,
        slices=sliced.compare(distinct, before, after, distinct_slices),
        inputs=len(places),
        identical=set(before[0]) == set(after[0]) and difference(before, after) == 0.0,
    )
    if compared is not None:
        fewest = fewest_rows(margin) if margin and compared.losses is not None else None
        result = replace(
            result,
            drop=compared.drop,
            low=compared.low,
            high=compared.high,
            losses=compared.losses,
            gains=compared.gains,
            p_value=compared.p_value,
            resolvable=compared.resolvable(),
            rows_needed=None if margin is None else compared.rows_needed(margin),
            fewest=fewest,
        )
    elif first is not None and second is not None:
        result = replace(result, drop=metric.drop(first, second))
    if errors is not None:
        result = replace(
            result,
            error_before=errors.before,
            error_after=errors.after,
            error_low=errors.low,
            error_high=errors.high,
            deviation=errors.deviation,
        )
    if recall_margin is not None:
        recalls = companions.recalls(task, before, after, distinct.truth, recall_margin)
        result = replace(result, recalls=recalls)
    return result


def calibration_error(task: Task, outputs: Sequence[Arrays], truth: Sequence[object]) -> float | None:
    """Return the expected calibration error: the gap between the probability of the answers and their accuracy.

    Source: Guo C. et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599, equation 3, with 15
    bins of equal width. A bin excludes its lower edge and includes its upper edge.

    Args:
        task: Task of the model.
        outputs: Outputs of the model, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``.

    Returns:
        Expected calibration error, 0 to 1; None if answers have no probability.
    """
    if not isinstance(task, HasConfidence):
        return None
    confidence, correct = task.confidence(outputs, truth)
    bins = np.digitize(confidence, np.linspace(0.0, 1.0, BINS + 1)[1:-1], right=True)
    # The share of a bin times the gap of its means is the sum of its gaps, divided by the number of all answers.
    return float(np.abs(np.bincount(bins, correct - confidence, BINS)).sum() / len(confidence))


def confusion(task: Task, outputs: Sequence[Arrays], truth: Sequence[object]) -> tuple[tuple[int, ...], ...]:
    """Return the confusion matrix.

    Args:
        task: Task of the model.
        outputs: Outputs of the model, one mapping per row.
        truth: Ground truth of each row, see ``task.parse_truth``.

    Returns:
        Number of items, ``[truth][answer]``, in the order of the task's labels; empty if an item may have no label or
        several.
    """
    if not isinstance(task, HasLabels) or not task.exclusive:
        return ()
    true_labels, answers = task.label_matrix(outputs, truth)
    counts = true_labels.T.astype(np.int64) @ answers.astype(np.int64)
    return tuple(tuple(row) for row in counts.tolist())


def _list_flips(
    evaluation: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    flips: np.ndarray,
    ids: Sequence[str],
    places: Sequence[int],
    include_text: bool,
) -> tuple[Flip, ...]:
    """Return the flips that a report lists, ordered by the margin before, the largest first.

    A flip of a close decision says little. If answers have no probability, the order is by divergence.
    """
    task = evaluation.task
    margins_before = None
    margins_after = None
    if isinstance(task, HasConfidence) and len(flips):
        margins_before = task.margin([before[i] for i in flips])
        margins_after = task.margin([after[i] for i in flips])
    weight = task.divergence(after, before)[flips] if margins_before is None else margins_before
    order = np.argsort(-weight, kind="stable")[:MOST_FLIPS].tolist()
    rows = [int(flips[i]) for i in order]
    # Answers that are text of the user are treated like inputs.
    has_answers = include_text or not task.answers_quote_input
    truth_texts = [""] * len(rows)
    before_texts = truth_texts
    after_texts = truth_texts
    if has_answers:
        truth_texts = task.describe_truth([evaluation.truth[i] for i in rows])
        before_texts = task.describe([before[i] for i in rows])
        after_texts = task.describe([after[i] for i in rows])
    result = []
    for index, (position, row) in enumerate(zip(order, rows, strict=True)):
        flip = Flip(
            id=ids[row],
            row=places[row] + 1,
            truth=truth_texts[index],
            before=before_texts[index],
            after=after_texts[index],
            text=task.modality.quote(evaluation.inputs[row]) if include_text else "",
        )
        if margins_before is not None and margins_after is not None:
            flip = replace(
                flip,
                margin_before=float(margins_before[position]),
                margin_after=float(margins_after[position]),
            )
        result.append(flip)
    return tuple(result)


def _check(
    evaluation: Evaluation,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    ids: Sequence[str],
    slices: Mapping[str, Sequence[str]],
) -> None:
    """Refuse arguments as :func:`compare` documents."""
    row_count = len(evaluation)
    if row_count < 1:
        raise SamplesError("There are no rows to compare. Give a file with at least one sample.", code="samples-empty")
    columns = {f"column '{column}'": values for column, values in slices.items()}
    parts: dict[str, Sequence[object]] = {
        "the outputs before": before,
        "the outputs after": after,
        "ids": ids,
        **columns,
    }
    for name, values in parts.items():
        if len(values) != row_count:
            raise UsageError(
                f"There are {len(values)} values of {name} for {row_count} rows, expected one per row. "
                "Give the values of the same samples.",
                code="rows-differ",
            )
    # NumPy treats NaN as the largest value, so a row with NaN could count as correct.
    check_finite(before, "the outputs before")
    check_finite(after, "the outputs after")
