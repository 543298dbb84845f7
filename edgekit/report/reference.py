"""Check that a model's answers have anything to do with the labels of the samples.

Each comparison is against a reference model. If its labels were misread (numbered in another order, read from the wrong
column) or it runs with another tokenizer, a candidate that is just as wrong loses nothing. Therefore the reference is
compared with chance: by the Matthews correlation coefficient for labels and by R2 for numbers. The intervals are over
the different inputs of the samples, see :mod:`edgekit.stats.chance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.report.companions import rows_of_items
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import ReferenceDoubtError
from edgekit.spec.manifest import ReferenceCheck
from edgekit.spec.protocols import Arrays, HasLabels, HasNumbers
from edgekit.spec.rows import take
from edgekit.stats import chance

__all__ = ["CLEAR", "DOUBTFUL", "FEWEST_ROWS", "TOO_FEW", "ReferenceResult", "check_reference", "refuse_doubtful"]

FEWEST_ROWS = 30
"""Least number of different inputs for a conclusion; for one label, least rows with it and least rows without it."""

CLEAR = "clear"
"""Outcome of answers that are better than chance."""

DOUBTFUL = "doubtful"
"""Outcome of answers that may be chance, or that fit another numbering of the labels better."""

TOO_FEW = "too few"
"""Outcome of rows that cannot decide."""

_TABLE_LABELS = 10  # Most labels of a table in a message.
_LABEL_WIDTH = 18  # Most characters of a label in such a table.
_LEAST_CORRELATION = 0.3  # Least proven correlation of numbers for which another scale is proposed.


@dataclass(frozen=True)
class ReferenceResult:
    """Comparison of a model's answers with chance.

    Attributes:
        check: Result for the manifest. Its ``said`` is one sentence, empty if there is no doubt.
        table: Table of labels and answers for the user, several lines.
    """

    check: ReferenceCheck
    table: str


def check_reference(
    samples: Evaluation, outputs: Sequence[Arrays], where: str, whose: str, renumber: bool = True
) -> ReferenceResult | None:
    """Compare the answers of a model with chance.

    Args:
        samples: Labelled rows.
        outputs: Outputs of the model for these rows, one row each.
        where: Name of the samples, for messages.
        whose: Name of the model, for messages.
        renumber: True to look for another numbering of the labels that fits better. This needs scipy.

    Returns:
        The result; None if the answers are neither labels nor numbers, which have no chance level.
    """
    task = samples.task
    distinct = samples.distinct
    distinct_outputs = take(outputs, samples.places)
    if isinstance(task, HasLabels):
        truth, answers = task.label_matrix(distinct_outputs, distinct.truth)
        result = _check_labels(task, truth, answers, rows_of_items(task, distinct_outputs, distinct.truth), renumber)
    elif isinstance(task, HasNumbers):
        result = _check_numbers(task.numbers, *task.number_matrix(distinct_outputs, distinct.truth))
    else:
        return None
    count = len(distinct_outputs)
    check = result.check
    outcome = check.outcome
    message = ""
    if count < FEWEST_ROWS:
        outcome = TOO_FEW
        message = (
            f"{where} has {count} different inputs, too few to tell whether the answers of {whose} are better than "
            f"chance (at least {FEWEST_ROWS} are needed)."
        )
    elif check.value is None:
        outcome = TOO_FEW
        message = (
            f"{where} has only one label, so it is not known whether the answers of {whose} are better than chance."
        )
    elif outcome == DOUBTFUL:
        interval = f"{check.score_name} {_two(check.value)}, 95 % interval {_two(check.low)} to {_two(check.high)}"
        is_chance = check.low is not None and check.low <= 0
        doubt = "are no better than chance" if is_chance else "do not fit the labels"
        message = (
            f"The answers of {whose} to the {count:,} different inputs of {where} {doubt} ({interval}){check.said}."
        )
    return ReferenceResult(replace(check, rows=count, outcome=outcome, said=message), result.table)


def refuse_doubtful(result: ReferenceResult | None, accept: bool) -> ReferenceCheck | None:
    """Return the check of a reference, or raise an error if it is doubtful.

    Args:
        result: Comparison with chance. None if the answers have no chance level.
        accept: True if the user accepts a doubtful reference.

    Returns:
        The check for the manifest; None if ``result`` is None.

    Raises:
        ReferenceDoubtError: If the reference is doubtful and not accepted. The message has the table of labels and
            answers.
    """
    if result is None:
        return None
    is_doubtful = result.check.outcome == DOUBTFUL
    if not is_doubtful or accept:
        return replace(result.check, accepted=is_doubtful)
    raise ReferenceDoubtError(
        f"{result.check.said} Each candidate would be compared with these answers, and pass. Expected answers that fit "
        "the labels: check how the labels are numbered, the columns (--columns), the model's id2label and its "
        "tokenizer. If the reference is right, build with --accept-reference (accept_reference=True).\n"
        f"{result.table}",
        code="model-unlike-labels",
    )


def _check_labels(
    task: HasLabels, truth: np.ndarray, answers: np.ndarray, rows: np.ndarray | None, renumber: bool
) -> ReferenceResult:
    """Compare answers that are labels with chance.

    Args:
        task: Task with the labels.
        truth: True labels: bool ``[items, labels]``.
        answers: Answered labels: bool ``[items, labels]``.
        rows: Row of each item, ascending: int64 ``[items]``. None if each item is a row.
        renumber: True to look for another numbering of the labels.
    """
    single = task.exclusive
    names = task.labels
    table = _format_confusion(names, truth, answers) if single else _format_counts(names, truth, answers)
    score_name = "MCC" if single or len(names) == 1 else "mean MCC"
    positives = truth.sum(axis=0)
    defined = np.flatnonzero((positives > 0) & (positives < len(truth)))
    row_count = len(truth if rows is None else np.unique(rows))
    if not defined.size or row_count < 2:
        return ReferenceResult(ReferenceCheck(score_name, None, None, None, len(truth), TOO_FEW), table)
    per_label: dict[int, chance.Estimate] = {}
    if single:
        overall = chance.gorodkin(truth, answers, rows)
    else:
        per_label = {j: chance.phi(truth[:, j], answers[:, j], rows) for j in defined.tolist()}
        overall = chance.mean(list(per_label.values()))
    low, high = overall.ends()
    doubts = []
    if len(per_label) > 1:
        for j, estimate in per_label.items():
            has_enough = min(positives[j], len(truth) - positives[j]) >= FEWEST_ROWS
            bottom, top = estimate.ends()
            if has_enough and bottom <= 0:
                doubts.append(
                    f"; for the label '{names[j]}' it is {_two(estimate.value)} ({_two(bottom)} to {_two(top)})"
                )
    errors = chance.standard_errors(len(names))
    inverted = [names[j] for j, estimate in per_label.items() if estimate.value + errors * estimate.error < 0]
    if renumber and (better_numbering := _find_renumbering(task, truth, answers, rows)):
        doubts.append(better_numbering)
    elif inverted:
        doubts.append(f"; 1 and 0 seem to be swapped for {', '.join(inverted[:5])}")
    outcome = DOUBTFUL if low <= 0 or doubts else CLEAR
    check = ReferenceCheck(score_name, overall.value, low, high, len(truth), outcome, said="".join(doubts[:6]))
    return ReferenceResult(check, table)


def _check_numbers(names: Sequence[str], truth: np.ndarray, answers: np.ndarray) -> ReferenceResult:
    """Compare answers that are numbers with chance, by the R2 of each number without any rescaling. The worst counts.

    Args:
        names: Names of the numbers.
        truth: True numbers: float64 ``[rows, numbers]``.
        answers: Answered numbers: float64 ``[rows, numbers]``.
    """
    worst = None
    doubts = []
    is_doubtful = False
    table = ["output: labels (mean, deviation), answers (mean, deviation), correlation"]
    for j, name in enumerate(names):
        y = truth[:, j]
        x = answers[:, j]
        if len(y) < 2 or y.std() == 0:
            continue
        estimate = chance.r2(y, x)
        r = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 else 0.0
        table.append(f"{name[:_LABEL_WIDTH]}: {y.mean():.4g}, {y.std():.4g}; {x.mean():.4g}, {x.std():.4g}; {r:.2f}")
        if worst is None or estimate.ends()[0] < worst.ends()[0]:
            worst = estimate
        if estimate.ends()[0] <= 0:
            is_doubtful = True
            doubts.append(_find_rescaling(f" for {name}" if len(names) > 1 else "", y, x, r))
    lines = "\n".join(table[: _TABLE_LABELS + 1])
    if worst is None:
        return ReferenceResult(ReferenceCheck("R2", None, None, None, len(truth), TOO_FEW), lines)
    low, high = worst.ends()
    outcome = DOUBTFUL if is_doubtful else CLEAR
    return ReferenceResult(
        ReferenceCheck("R2", worst.value, low, high, len(truth), outcome, said="".join(doubts)), lines
    )


def _find_rescaling(which: str, y: np.ndarray, x: np.ndarray, r: float) -> str:
    """Return the linear map of the answers that fits the labels, in words; empty if their correlation is not proven.

    Args:
        which: Name of the number behind " for "; empty if it is the only one.
        y: True numbers: float64 ``[rows]``.
        x: Answered numbers: float64 ``[rows]``.
        r: Correlation of both.
    """
    if len(y) <= 3:
        return ""
    # Lower bound of the absolute correlation by Fisher's transformation.
    arm = chance.standard_errors(2) / math.sqrt(len(y) - 3)
    least = math.tanh(math.atanh(min(abs(r), 1 - 1e-12)) - arm)
    if least <= _LEAST_CORRELATION:
        return ""
    slope = r * float(y.std() / x.std())
    offset = y.mean() - slope * x.mean()
    sign = "+" if y.mean() >= slope * x.mean() else "-"
    difference = "sign" if slope < 0 else "scale"
    return (
        f"; label = {slope:.3g} x answer {sign} {abs(offset):.3g} would fit{which} (R2 {_two(r * r)}): "
        f"the labels have another {difference}"
    )


def _find_renumbering(task: HasLabels, truth: np.ndarray, answers: np.ndarray, rows: np.ndarray | None) -> str:
    """Return the numbering of the labels that fits the answers far better, in words; empty if none surely does.

    It is the assignment with the largest sum of coefficients between a label in the file and an answered label. Because
    it is the best of all permutations, its gain must exceed 0 by as many standard errors as the best of that many
    permutations reaches by chance.
    """
    from scipy.optimize import linear_sum_assignment  # Devices lack scipy, and it is slow to import.

    if len(truth) < FEWEST_ROWS or truth.shape[1] < 2:
        return ""
    names = task.labels
    labels = len(names)
    table = chance.phis(truth, answers)
    _, to = linear_sum_assignment(-(table + 1e-9 * np.eye(labels)))
    moved = [i for i in range(labels) if to[i] != i and table[i, to[i]] > table[i, i] and table[i, to[i]] > 0]
    # A label that is confused with one that keeps its number is a wrong answer, not another numbering.
    if len(moved) < 2 or any(table[to[i], to[i]] > 0 for i in moved if to[i] not in moved):
        return ""
    current = chance.mean([chance.phi(truth[:, i], answers[:, i], rows) for i in moved])
    proposed = chance.mean([chance.phi(truth[:, i], answers[:, to[i]], rows) for i in moved])
    gain = chance.Estimate(proposed.value - current.value, proposed.without - current.without)
    errors = chance.standard_errors(labels)
    if min(gain.value - errors * gain.error, proposed.value - errors * proposed.error) <= 0:
        return ""
    order = np.arange(labels)
    order[moved] = to[moved]
    renumbered = np.zeros_like(truth)
    for label, number in enumerate(order.tolist()):
        renumbered[:, number] |= truth[:, label]
    pairs = ", ".join(f"{i} ({names[i]}) is the model's {to[i]} ({names[to[i]]})" for i in moved[:_TABLE_LABELS])
    if len(moved) > _TABLE_LABELS:
        pairs += " ..."
    metric = "accuracy" if task.exclusive else "micro F1"
    scores = f"{_overlap(task, renumbered, answers):.2f} instead of {_overlap(task, truth, answers):.2f}"
    return f"; another numbering of the labels would fit: {pairs}, with {metric} {scores}"


def _overlap(task: HasLabels, truth: np.ndarray, answers: np.ndarray) -> float:
    """Return the accuracy if each item has one label, else micro F1."""
    both = int((truth & answers).sum())
    if task.exclusive:
        return both / len(truth)
    return 2 * both / max(int(truth.sum()) + int(answers.sum()), 1)


def _format_confusion(names: Sequence[str], truth: np.ndarray, answers: np.ndarray) -> str:
    """Return the confusion matrix of the most frequent labels and answers, as text."""
    counts = truth.T.astype(np.int64) @ answers.astype(np.int64)
    by_frequency = np.argsort(-(counts.sum(axis=0) + counts.sum(axis=1)), kind="stable")
    labels = sorted(by_frequency[:_TABLE_LABELS].tolist())
    heads = [names[i][:_LABEL_WIDTH] for i in labels]
    width = max(6, *(len(head) + 1 for head in heads))
    title = "rows by label in the file (down) and answer (across)"
    if len(labels) < len(names):
        title += f", {len(labels)} of {len(names)} labels"
    lines = [f"{title}:", " " * width + "".join(f"{head:>{width}}" for head in heads)]
    for head, i in zip(heads, labels, strict=True):
        lines.append(f"{head:>{width}}" + "".join(f"{counts[i, j]:>{width}}" for j in labels))
    return "\n".join(lines)


def _format_counts(names: Sequence[str], truth: np.ndarray, answers: np.ndarray) -> str:
    """Return the number of rows with each label, answered with it, and both, as text."""
    rows = []
    for j, name in enumerate(names):
        both = truth[:, j] & answers[:, j]
        rows.append((int(truth[:, j].sum()), int(answers[:, j].sum()), int(both.sum()), name))
    lines = ["label: rows with it, rows answered with it, both"]
    for labelled, answered, both, name in sorted(rows, reverse=True)[:_TABLE_LABELS]:
        lines.append(f"{name[:_LABEL_WIDTH]}: {labelled}, {answered}, {both}")
    return "\n".join(lines)


def _two(value: float | None) -> str:
    """Return a number with two decimals, without the sign of a negative zero."""
    return "none" if value is None else f"{value + 0.0:.2f}"
