"""Two models on the same samples: what the score lost and what the rows prove of that, which answers flipped, and how far all answers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.report import companions
from edgekit.report import slices as sliced
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.report import Accuracy, Flip
from edgekit.stats.once import distinct
from edgekit.stats.paired import fewest_rows
from edgekit.tasks.text_classification import Text, TextClassification

MOST_FLIPS = 200
"""Of those that a report lists."""

BINS = 15
"""Of the calibration error."""


def compare(
    task: TextClassification,
    before: np.ndarray,
    after: np.ndarray,
    truth: np.ndarray,
    ids: Sequence[str],
    *,
    margin: float | None = None,
    recall_margin: float | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    texts: Sequence[Text] | None = None,
) -> Accuracy:
    """Compares the logits of two models.

    What is not defined on the rows is None: the scores of a regression set in which all labels are equal, the interval where hardly any
    resample of the rows has a score. Flips and divergences need no score and are always there.

    Rows with equal inputs count once, see :mod:`edgekit.stats.once`: what is compared is the first row of each.

    Args:
        task: of both.
        before: float32 ``[rows, labels]``, of the baseline or the teacher.
        after: float32 ``[rows, labels]``, of the candidate.
        truth: as ``task.parse_labels`` gives it.
        ids: of the rows, as ``predictions.row_ids`` gives them: rows with equal ids have equal inputs.
        margin: of the gate, in the score's unit, that ``rows_needed`` is about.
        recall_margin: of the gate of each label's recall; None to leave recalls out.
        slices: column to the value of each row.
        texts: of the rows, only where the report may hold them.

    Raises:
        UsageError: when the parts are not of the same rows and labels, or a logit is not a finite number.
        SamplesError: when there is no row.
    """
    slices = slices or {}
    _check_logits(task, before, after, truth, len(ids))
    for name, values in {"texts": texts, **{f"column '{column}'": values for column, values in slices.items()}}.items():
        if values is not None and len(values) != len(ids):
            raise UsageError(f"There are {len(values)} values of {name} for {len(ids)} rows, expected one a row. Give those of the same samples.")
    once = distinct(ids, truth)
    rows, places = len(before), once.rows
    before, after, truth = before[places], after[places], once.truth
    ids, texts = [ids[i] for i in places], None if texts is None else [texts[i] for i in places]
    slices = {column: [values[i] for i in places] for column, values in slices.items()}
    divergence = divergences(task, after, before)
    flips = flipped(task, after, before)
    first, second, compared = sliced.scored(task, before, after, truth)
    errors = companions.error(task, before, after, truth)
    return Accuracy(
        rows=rows,
        score_name=task.score_name,
        before=first,
        after=second,
        drop=None if first is None or second is None else first - second if compared is None else compared.drop,
        low=compared.low if compared else None,
        high=compared.high if compared else None,
        losses=compared.losses if compared else None,
        gains=compared.gains if compared else None,
        p_value=compared.p_value if compared else None,
        flips=len(flips),
        flipped=_listed(task, before, after, truth, ids, texts, flips, places),
        kl_mean=max(0.0, float(divergence.mean())),  # rounding may leave less than nothing
        kl_p95=max(0.0, float(np.quantile(divergence, 0.95))),
        calibration_before=calibration_error(task, before, truth),
        calibration_after=calibration_error(task, after, truth),
        resolvable=compared.resolvable() if compared else None,
        margin=margin,
        rows_needed=compared.rows_needed(margin) if compared and margin is not None else None,
        slices=sliced.compare(task, before, after, truth, slices),
        inputs=len(places),
        identical=np.array_equal(before, after),
        fewest=fewest_rows(margin) if margin and compared is not None and compared.losses is not None else None,
        error_before=errors.before if errors else None,
        error_after=errors.after if errors else None,
        error_low=errors.low if errors else None,
        error_high=errors.high if errors else None,
        deviation=errors.deviation if errors else None,
        recalls=companions.recalls(task, before, after, truth, recall_margin) if recall_margin is not None else (),
    )


def calibration_error(task: TextClassification, logits: np.ndarray, truth: np.ndarray) -> float | None:
    """Expected calibration error: how far the probability of the answers is from the share of them that is right.

    Source: Guo C. et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599, equation 3: 15 bins of equal width, each
    without its lower and with its upper edge. Of a multi-label head every label is an answer, yes or no.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
        truth: as ``task.parse_labels`` gives it.

    Returns:
        0 to 1; None for regression, whose answers have no probability.
    """
    kind, p = task.settings.problem_type, task.probabilities(logits)
    if kind == "regression":
        return None
    if kind == "multi_label_classification":
        confidence, right = np.maximum(p, 1.0 - p).ravel(), ((logits > 0.0) == truth).ravel()
    else:
        confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    of_bin = np.digitize(confidence, np.linspace(0.0, 1.0, BINS + 1)[1:-1], right=True)
    # The share of a bin times its gap is the sum of its gaps over all answers.
    return float(np.abs(np.bincount(of_bin, right - confidence, BINS)).sum() / len(confidence))


def confusion(task: TextClassification, logits: np.ndarray, truth: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Rows by truth (first) and answer (second), in the order of the labels; empty but for a single-label head.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
        truth: as ``task.parse_labels`` gives it.
    """
    if task.settings.problem_type != "single_label_classification":
        return ()
    labels = len(task.settings.labels)
    counts = np.bincount(truth * labels + logits.argmax(axis=1), minlength=labels * labels)
    return tuple(tuple(row) for row in counts.reshape(labels, labels).tolist())


def divergences(task: TextClassification, logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``task.divergence`` row by row: float64 ``[rows]``, nats.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
        reference: the same rows by the other model.
    """
    x, y = logits.astype(np.float64), reference.astype(np.float64)
    kind = task.settings.problem_type
    if kind == "regression":
        return np.asarray(((x - y) ** 2).sum(axis=1) / 2)
    if kind == "multi_label_classification":
        p = task.probabilities(reference)
        yes, no = np.logaddexp(0.0, -x) - np.logaddexp(0.0, -y), np.logaddexp(0.0, x) - np.logaddexp(0.0, y)
        return np.asarray((p * yes + (1.0 - p) * no).sum(axis=1))
    x, y = (a - np.logaddexp.reduce(a, axis=1, keepdims=True) for a in (x, y))
    return np.asarray((np.exp(y) * (y - x)).sum(axis=1))


def flipped(task: TextClassification, logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Which rows ``task.changed`` counts: int64 ``[flips]``, ascending.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
        reference: the same rows by the other model.
    """
    if task.settings.problem_type == "single_label_classification":
        return np.flatnonzero(logits.argmax(axis=1) != reference.argmax(axis=1))
    if task.settings.problem_type == "multi_label_classification":
        return np.flatnonzero(((logits > 0.0) != (reference > 0.0)).any(axis=1))
    return np.flatnonzero((np.abs(logits - reference) > 0.05 * np.ptp(reference, axis=0)).any(axis=1))


def margins(task: TextClassification, logits: np.ndarray) -> np.ndarray:
    """How clear each answer is: float64 ``[rows]``, 0 to 1.

    The probability of the answer minus that of the next best; of a multi-label head twice the distance to 0.5 of the label that is
    nearest to it. A number has no next best: 0 for regression.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
    """
    p, kind = task.probabilities(logits), task.settings.problem_type
    if kind == "regression":
        return np.zeros(len(p))
    if kind == "multi_label_classification":
        return np.asarray(2.0 * np.abs(p - 0.5).min(axis=1))
    ordered = np.sort(np.pad(p, ((0, 0), (1, 0))), axis=1)  # a head of one label is sure of it
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _listed(
    task: TextClassification,
    before: np.ndarray,
    after: np.ndarray,
    truth: np.ndarray,
    ids: Sequence[str],
    texts: Sequence[Text] | None,
    flips: np.ndarray,
    places: np.ndarray,
) -> tuple[Flip, ...]:
    """The flips that a report lists: the clearest answers first, since a flip of a close call says little; of numbers the largest steps."""
    before, after = before[flips], after[flips]
    margin_before, margin_after = margins(task, before), margins(task, after)
    weight = divergences(task, after, before) if task.settings.problem_type == "regression" else margin_before
    said_truth, said_before, said_after = (sliced.named(task, a) for a in (truth[flips], _answers(task, before), _answers(task, after)))
    return tuple(
        Flip(
            id=ids[flips[i]],
            row=int(places[flips[i]]) + 1,
            truth=said_truth[i],
            before=said_before[i],
            after=said_after[i],
            margin_before=float(margin_before[i]),
            margin_after=float(margin_after[i]),
            text="" if texts is None else _joined(texts[flips[i]]),
        )
        for i in np.argsort(-weight, kind="stable")[:MOST_FLIPS].tolist()
    )


def _answers(task: TextClassification, logits: np.ndarray) -> np.ndarray:
    """Answers in the form of the truth."""
    if task.settings.problem_type == "single_label_classification":
        return np.asarray(logits.argmax(axis=1))
    return logits > 0.0 if task.settings.problem_type == "multi_label_classification" else logits


def _joined(text: Text) -> str:
    return text if isinstance(text, str) else " | ".join(text)


def _check_logits(task: TextClassification, before: np.ndarray, after: np.ndarray, truth: np.ndarray, rows: int) -> None:
    """Raises as :func:`compare`."""
    if rows < 1:
        raise SamplesError("There is no row to compare the models on, expected at least one. Give samples.")
    labels = len(task.settings.labels)
    shape = (rows, labels)
    of_truth = (rows,) if task.settings.problem_type == "single_label_classification" else shape
    for name, array, wanted in (("before", before, shape), ("after", after, shape), ("truth", truth, of_truth)):
        if array.shape != wanted:
            remedy = "Give both models' logits, and the truth, of the same rows in the same order."
            raise UsageError(f"{name} has the shape {list(array.shape)}, expected {list(wanted)}: {rows} ids, {labels} labels of the task. {remedy}")
    for name, logits in (("before", before), ("after", after)):
        # A NaN counts as the largest value, so such a row could be right.
        if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
            raise UsageError(f"{broken} of {rows} rows of the logits {name} hold NaN or infinity, expected numbers. Such a model cannot be scored: reject it.")
