"""Whether a model's answers have anything to do with the labels of the samples.

Every comparison is against a reference. Where that was misread (the labels numbered in another order, the wrong column, another tokenizer), a
candidate that is just as wrong loses nothing. So the reference itself is held against chance: by Matthews' correlation coefficient, and of
numbers by R2, with intervals over the different inputs of the samples, see :mod:`edgekit.stats.chance`.
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
from edgekit.stats import chance

__all__ = ["CLEAR", "DOUBTFUL", "FEWEST_ROWS", "TOO_FEW", "Question", "hold", "question"]

FEWEST_ROWS = 30
"""Different inputs below which nothing is concluded; of a label, rows with it and rows without it."""

CLEAR, DOUBTFUL, TOO_FEW = "clear", "doubtful", "too few"
_MOST_SHOWN = 10  # labels of a table in a message
_WIDEST = 18  # characters of a label there


@dataclass(frozen=True)
class Question:
    """What the answers of a model on labelled rows say of it.

    Attributes:
        check: as a manifest keeps it; ``said`` is one sentence, empty where nothing is doubtful.
        table: labels and answers side by side, for people; several lines.
    """

    check: ReferenceCheck
    table: str


def question(
    given: Evaluation, outputs: Sequence[Arrays], where: str, whose: str, renumber: bool = True
) -> Question | None:
    """Holds the answers of a model against chance.

    Args:
        given: labelled rows.
        outputs: of the model to these.
        where: the samples, for words.
        whose: the model, for words.
        renumber: look for another numbering of the labels, which takes scipy.

    Returns:
        None where answers are neither labels nor numbers: nothing is known of chance then.
    """
    task, once = given.task, given.distinct
    kept = [outputs[i] for i in given.places]
    if isinstance(task, HasLabels):
        asked = _labels(task, *task.label_matrix(kept, once.truth), rows_of_items(task, kept, once.truth), renumber)
    elif isinstance(task, HasNumbers):
        asked = _numbers(task.numbers, *task.number_matrix(kept, once.truth))
    else:
        return None
    check, outcome, said = asked.check, asked.check.outcome, ""
    if len(kept) < FEWEST_ROWS:
        outcome = TOO_FEW
        said = f"{where} has {len(kept)} different inputs, too few to tell whether the answers of {whose} are better than chance (it takes {FEWEST_ROWS})."
    elif check.value is None:
        outcome = TOO_FEW
        said = f"{where} has one label alone, so that it cannot be told whether the answers of {whose} are better than chance."
    elif outcome == DOUBTFUL:
        interval = f"{check.score_name} {_two(check.value)}, 95 % interval {_two(check.low)} to {_two(check.high)}"
        head = "are no better than chance" if check.low is not None and check.low <= 0 else "do not fit the labels"
        said = (
            f"The answers of {whose} to the {len(kept):,} different inputs of {where} {head} ({interval}){check.said}."
        )
    return Question(replace(check, rows=len(kept), outcome=outcome, said=said), asked.table)


def hold(asked: Question | None, accept: bool) -> ReferenceCheck | None:
    """Stops what would be measured against a doubtful reference.

    Args:
        asked: about the reference; None where nothing is known of chance.
        accept: whether the user takes it as it is.

    Returns:
        As a manifest keeps it; None where ``asked`` is.

    Raises:
        ReferenceDoubtError: for a doubtful one that is not accepted, with labels and answers side by side.
    """
    if asked is None:
        return None
    if asked.check.outcome != DOUBTFUL or accept:
        return replace(asked.check, accepted=asked.check.outcome == DOUBTFUL)
    raise ReferenceDoubtError(
        f"{asked.check.said} Every candidate would be held to that, and pass. Expected answers that have to do with the labels: check how the labels are "
        "numbered, the columns (--columns), the model's id2label and its tokenizer. If it is as it should be, build with --accept-reference "
        f"(accept_reference=True).\n{asked.table}",
        code="model-unlike-labels",
    )


def _labels(task: HasLabels, right: np.ndarray, given: np.ndarray, rows: np.ndarray | None, renumber: bool) -> Question:
    """Of answers that are labels: bool ``[items, labels]`` each, and the row of each item where rows have several."""
    single, names, labels = task.exclusive, task.labels, len(task.labels)
    table = _confusion(names, right, given) if single else _by_label(names, right, given)
    with_it = right.sum(axis=0)
    judged = np.flatnonzero((with_it > 0) & (with_it < len(right)))
    name = "MCC" if single else "MCC" if labels == 1 else "mean MCC"
    if not judged.size or len(right if rows is None else np.unique(rows)) < 2:
        return Question(ReferenceCheck(name, None, None, None, len(right), TOO_FEW), table)
    each = [] if single else [chance.phi(right[:, j], given[:, j], rows) for j in judged]
    whole = chance.gorodkin(right, given, rows) if single else chance.mean(each)
    low, high = whole.ends()
    lines, doubtful = [], low <= 0
    if not single:
        for j, estimate in zip(judged, each, strict=True):
            enough = min(with_it[j], len(right) - with_it[j]) >= FEWEST_ROWS
            if enough and len(judged) > 1 and estimate.ends()[0] <= 0:
                doubtful = True
                lines.append(
                    f"; of the label '{names[j]}' it is {_two(estimate.value)} ({_two(estimate.ends()[0])} to {_two(estimate.ends()[1])})"
                )
    errors = chance.standard_errors(labels)
    if renumber and (fit := _renumbered(task, right, given, rows)):
        doubtful = True
        lines.append(fit)
    elif not single and (
        turned := [names[j] for j, e in zip(judged, each, strict=True) if e.value + errors * e.error < 0]
    ):
        doubtful = True
        lines.append(f"; 1 and 0 seem to be the other way round for {', '.join(turned[:5])}")
    check = ReferenceCheck(
        name, whole.value, low, high, len(right), DOUBTFUL if doubtful else CLEAR, said="".join(lines[:6])
    )
    return Question(check, table)


def _numbers(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> Question:
    """Of answers that are numbers, float64 ``[rows, numbers]`` each: R2 of the answers as they are, of each number; the worst one counts."""
    worst, doubtful = None, False
    lines, table = "", ["output: labels (mean, deviation), answers (mean, deviation), correlation"]
    for j, name in enumerate(names):
        y, x = right[:, j], given[:, j]
        if len(y) < 2 or y.std() == 0:
            continue
        estimate = chance.r2(y, x)
        r = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 else 0.0
        table.append(f"{name[:_WIDEST]}: {y.mean():.4g}, {y.std():.4g}; {x.mean():.4g}, {x.std():.4g}; {r:.2f}")
        if worst is None or estimate.ends()[0] < worst.ends()[0]:
            worst = estimate
        if estimate.ends()[0] <= 0:
            doubtful = True
            # Fisher's transformation: whether the correlation is beyond 0 for sure, should scale and sign alone be others.
            sure = (
                len(y) > 3
                and math.tanh(math.atanh(min(abs(r), 1 - 1e-12)) - chance.standard_errors(2) / math.sqrt(len(y) - 3))
                > 0.3
            )
            if sure:
                slope = r * float(y.std() / x.std())
                lines += f"; label = {slope:.3g} x answer {'+' if y.mean() >= slope * x.mean() else '-'} {abs(y.mean() - slope * x.mean()):.3g} would fit"
                lines += f"{f' for {name}' if len(names) > 1 else ''} (R2 {_two(r * r)}): {'the sign' if slope < 0 else 'the scale'} of the labels is another"
    if worst is None:
        return Question(ReferenceCheck("R2", None, None, None, len(right), TOO_FEW), "\n".join(table))
    low, high = worst.ends()
    return Question(
        ReferenceCheck("R2", worst.value, low, high, len(right), DOUBTFUL if doubtful else CLEAR, said=lines),
        "\n".join(table[: _MOST_SHOWN + 1]),
    )


def _renumbered(task: HasLabels, right: np.ndarray, given: np.ndarray, rows: np.ndarray | None) -> str:
    """The numbering of the labels under which the answers fit far better, in words; empty where no other one surely does.

    The assignment with the largest sum of coefficients between a label in the file and a label that is answered. Since it is the best of all
    permutations, what it gains must be beyond 0 by as many standard errors as the best of that many chances reaches.
    """
    from scipy.optimize import linear_sum_assignment  # not on a device, and slow to import

    if len(right) < FEWEST_ROWS or right.shape[1] < 2:
        return ""
    names, table = task.labels, chance.phis(right, given)
    labels = len(names)
    _, to = linear_sum_assignment(-(table + 1e-9 * np.eye(labels)))
    moved = [i for i in range(labels) if to[i] != i and table[i, to[i]] > table[i, i] and table[i, to[i]] > 0]
    # A label that takes the place of another one which stays in its own is a confusion, not a numbering.
    if len(moved) < 2 or any(table[to[i], to[i]] > 0 for i in moved if to[i] not in moved):
        return ""
    as_told = chance.mean([chance.phi(right[:, i], given[:, i], rows) for i in moved])
    instead = chance.mean([chance.phi(right[:, i], given[:, to[i]], rows) for i in moved])
    gain, errors = (
        chance.Estimate(instead.value - as_told.value, instead.without - as_told.without),
        chance.standard_errors(labels),
    )
    if min(gain.value - errors * gain.error, instead.value - errors * instead.error) <= 0:
        return ""
    order = np.arange(labels)
    order[moved] = to[moved]
    renumbered = np.zeros_like(right)
    for label, place in enumerate(order.tolist()):
        renumbered[:, place] |= right[:, label]
    said = ", ".join(f"{i} ({names[i]}) is the model's {to[i]} ({names[to[i]]})" for i in moved[:_MOST_SHOWN]) + (
        " ..." if len(moved) > _MOST_SHOWN else ""
    )
    scores = f"{_overlap(task, renumbered, given):.2f} in place of {_overlap(task, right, given):.2f}"
    return f"; another numbering of the labels would fit: {said}, with {'accuracy' if task.exclusive else 'micro F1'} {scores}"


def _overlap(task: HasLabels, right: np.ndarray, given: np.ndarray) -> float:
    """Share of right items where each has one label, else micro F1."""
    both = int((right & given).sum())
    return both / len(right) if task.exclusive else 2 * both / max(int(right.sum()) + int(given.sum()), 1)


def _confusion(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> str:
    """Rows by label (down) and answer (across), of the labels that most rows have or are answered."""
    counts = right.T.astype(np.int64) @ given.astype(np.int64)
    shown = sorted(np.argsort(-(counts.sum(axis=0) + counts.sum(axis=1)), kind="stable")[:_MOST_SHOWN].tolist())
    heads = [f"{names[i][:_WIDEST]}" for i in shown]
    width = max(6, *(len(h) + 1 for h in heads))
    lines = [
        "rows by label in the file (down) and answer (across)"
        + (f", of {len(shown)} of {len(names)} labels" if len(shown) < len(names) else "")
        + ":"
    ]
    lines.append(" " * width + "".join(f"{h:>{width}}" for h in heads))
    lines += [f"{heads[k]:>{width}}" + "".join(f"{counts[i, j]:>{width}}" for j in shown) for k, i in enumerate(shown)]
    return "\n".join(lines)


def _by_label(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> str:
    """Of each label: rows that have it, rows that are answered with it, and both."""
    rows = [
        (int(right[:, j].sum()), int(given[:, j].sum()), int((right[:, j] & given[:, j]).sum()), name)
        for j, name in enumerate(names)
    ]
    shown = sorted(rows, reverse=True)[:_MOST_SHOWN]
    return "\n".join(
        [
            "label: rows that have it, rows answered with it, both",
            *(f"{name[:_WIDEST]}: {a}, {b}, {c}" for a, b, c, name in shown),
        ]
    )


def _two(value: float | None) -> str:
    return "none" if value is None else f"{value + 0.0:.2f}"
