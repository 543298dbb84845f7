"""Whether a model's answers have anything to do with the labels of the samples.

Every comparison is against a reference. Where that was misread (the labels numbered in another order, the wrong column, another tokenizer), a
candidate that is just as wrong loses nothing. So the reference itself is held against chance: by Matthews' correlation coefficient, and of
numbers by R2, with intervals over the different inputs of the samples.

Sources: Gorodkin J., Computational Biology and Chemistry 28 (2004) 367-374 (the coefficient of several classes); Efron B. and Tibshirani R. J., An
Introduction to the Bootstrap (1993), chapter 11 (the jackknife's standard error; the interval is Student's t with inputs - 1 degrees of freedom).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from edgekit.spec.errors import ReferenceDoubtError
from edgekit.spec.manifest import ReferenceCheck
from edgekit.stats.once import distinct
from edgekit.tasks.text_classification import TextClassification

FEWEST_ROWS = 30
"""Different inputs below which nothing is concluded; of a label, rows with it and rows without it."""

CLEAR, DOUBTFUL, TOO_FEW = "clear", "doubtful", "too few"
_TAIL = 0.025
_MOST_SHOWN = 10  # labels of a table in a message
_WIDEST = 18  # characters of a label there


@dataclass(frozen=True)
class Question:
    """What the answers of a model on labelled rows say of it.

    Attributes:
        check: as a manifest keeps it.
        table: labels and answers side by side, for people; several lines.
    """

    check: ReferenceCheck
    table: str

    @property
    def note(self) -> str:
        """One sentence; empty where nothing is doubtful."""
        return self.check.said


@dataclass(frozen=True)
class _Estimate:
    """A statistic with its values when each row in turn is left out."""

    value: float
    without: np.ndarray

    @property
    def error(self) -> float:
        n = len(self.without)
        return math.sqrt((n - 1) / n * float(((self.without - self.without.mean()) ** 2).sum()))

    def ends(self) -> tuple[float, float]:
        """The 95 % interval."""
        # Student's quantile by its series in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5): to 1e-5 from 29 on, and scipy need not be here.
        z, freedom = NormalDist().inv_cdf(1 - _TAIL), len(self.without) - 1
        quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        arm = quantile * self.error
        return self.value - arm, self.value + arm


def question(
    task: TextClassification, logits: np.ndarray, truth: np.ndarray, inputs: Sequence[Hashable], where: str, whose: str, renumber: bool = True
) -> Question:
    """Holds the answers of a model against chance.

    Args:
        task: of the model.
        logits: float32 ``[rows, labels]``.
        truth: as ``task.parse_labels`` gives it.
        inputs: what tells the rows' inputs apart, one a row.
        where: the samples, for words.
        whose: the model, for words.
        renumber: look for another numbering of the labels, which takes scipy.
    """
    once = distinct(inputs, truth)
    kept, right = logits[once.rows], once.truth
    asked = _numbers(task, kept, right) if task.settings.problem_type == "regression" else _labels(task, kept, right, renumber)
    check = asked.check
    if len(kept) < FEWEST_ROWS:
        said = f"{where} has {len(kept)} different inputs, too few to tell whether the answers of {whose} are better than chance (it takes {FEWEST_ROWS})."
        return replace(asked, check=replace(check, outcome=TOO_FEW, said=said))
    if check.value is None:
        said = f"{where} has one label alone, so that it cannot be told whether the answers of {whose} are better than chance."
        return replace(asked, check=replace(check, outcome=TOO_FEW, said=said))
    if check.outcome == DOUBTFUL:
        interval = f"{check.score_name} {_two(check.value)}, 95 % interval {_two(check.low)} to {_two(check.high)}"
        head = "are no better than chance" if check.low is not None and check.low <= 0 else "do not fit the labels"
        said = f"The answers of {whose} to the {len(kept):,} different inputs of {where} {head} ({interval}){check.said}."
        return replace(asked, check=replace(check, said=said))
    return asked


def hold(asked: Question, accept: bool) -> ReferenceCheck:
    """Stops what would be measured against a doubtful reference.

    Args:
        asked: about the reference.
        accept: whether the user takes it as it is.

    Raises:
        ReferenceDoubtError: for a doubtful one that is not accepted, with labels and answers side by side.
    """
    if asked.check.outcome != DOUBTFUL or accept:
        return replace(asked.check, accepted=asked.check.outcome == DOUBTFUL)
    raise ReferenceDoubtError(
        f"{asked.check.said} Every candidate would be held to that, and pass. Expected answers that have to do with the labels: check how the labels are "
        "numbered, the columns (--columns), the model's id2label and its tokenizer. If it is as it should be, build with --accept-reference "
        f"(accept_reference=True).\n{asked.table}"
    )


def _labels(task: TextClassification, logits: np.ndarray, truth: np.ndarray, renumber: bool) -> Question:
    """Of a head with labels."""
    single = task.settings.problem_type == "single_label_classification"
    names, labels = task.settings.labels, len(task.settings.labels)
    given = np.eye(labels, dtype=bool)[logits.argmax(axis=1)] if single else logits > 0.0
    right = np.eye(labels, dtype=bool)[truth] if single else truth
    table = _confusion(names, right, given) if single else _by_label(names, right, given)
    with_it = right.sum(axis=0)
    judged = np.flatnonzero((with_it > 0) & (with_it < len(right)))
    name = "MCC" if single else "MCC" if labels == 1 else "mean MCC"
    if not judged.size or len(right) < 2:
        return Question(ReferenceCheck(name, None, None, None, len(right), TOO_FEW), table)
    each = [_phi(right[:, j], given[:, j]) for j in judged]
    whole = _gorodkin(right, given) if single else _mean(each)
    low, high = whole.ends()
    lines, doubtful = [], low <= 0
    if not single:
        for j, estimate in zip(judged, each, strict=True):
            enough = min(with_it[j], len(right) - with_it[j]) >= FEWEST_ROWS
            if enough and len(judged) > 1 and estimate.ends()[0] <= 0:
                doubtful = True
                lines.append(f"; of the label '{names[j]}' it is {_two(estimate.value)} ({_two(estimate.ends()[0])} to {_two(estimate.ends()[1])})")
    if renumber and (fit := _renumbered(task, logits, truth, right, given)):
        doubtful = True
        lines.append(fit)
    elif not single and (turned := [names[j] for j, e in zip(judged, each, strict=True) if e.value + _z(labels) * e.error < 0]):
        doubtful = True
        lines.append(f"; 1 and 0 seem to be the other way round for {', '.join(turned[:5])}")
    check = ReferenceCheck(name, whole.value, low, high, len(right), DOUBTFUL if doubtful else CLEAR, said="".join(lines[:6]))
    return Question(check, table)


def _numbers(task: TextClassification, logits: np.ndarray, truth: np.ndarray) -> Question:
    """Of a head that answers numbers: R2 of the answers as they are, of each output; the worst one counts."""
    names, worst = task.settings.labels, None
    lines, table = "", ["output: labels (mean, deviation), answers (mean, deviation), correlation"]
    doubtful = False
    for j, name in enumerate(names):
        y, x = truth[:, j], logits[:, j].astype(np.float64)
        if len(y) < 2 or y.std() == 0:
            continue
        estimate = _r2(y, x)
        r = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 else 0.0
        table.append(f"{name[:_WIDEST]}: {y.mean():.4g}, {y.std():.4g}; {x.mean():.4g}, {x.std():.4g}; {r:.2f}")
        if worst is None or estimate.ends()[0] < worst.ends()[0]:
            worst = estimate
        if estimate.ends()[0] <= 0:
            doubtful = True
            # Fisher's transformation: whether the correlation is beyond 0 for sure, should scale and sign alone be others.
            sure = len(y) > 3 and math.tanh(math.atanh(min(abs(r), 1 - 1e-12)) - _z(2) / math.sqrt(len(y) - 3)) > 0.3
            if sure:
                slope = r * float(y.std() / x.std())
                lines += f"; label = {slope:.3g} x answer {'+' if y.mean() >= slope * x.mean() else '-'} {abs(y.mean() - slope * x.mean()):.3g} would fit"
                lines += f"{f' for {name}' if len(names) > 1 else ''} (R2 {_two(r * r)}): {'the sign' if slope < 0 else 'the scale'} of the labels is another"
    if worst is None:
        return Question(ReferenceCheck("R2", None, None, None, len(truth), TOO_FEW), "\n".join(table))
    low, high = worst.ends()
    return Question(ReferenceCheck("R2", worst.value, low, high, len(truth), DOUBTFUL if doubtful else CLEAR, said=lines), "\n".join(table[: _MOST_SHOWN + 1]))


def _renumbered(task: TextClassification, logits: np.ndarray, truth: np.ndarray, right: np.ndarray, given: np.ndarray) -> str:
    """The numbering of the labels under which the answers fit far better, in words; empty where no other one surely does.

    The assignment with the largest sum of coefficients between a label in the file and a label that is answered. Since it is the best of all
    permutations, what it gains must be beyond 0 by as many standard errors as the best of that many chances reaches.
    """
    from scipy.optimize import linear_sum_assignment  # not on a device, and slow to import

    if len(right) < FEWEST_ROWS or right.shape[1] < 2:
        return ""
    names, table = task.settings.labels, _phis(right, given)
    labels = len(names)
    _, to = linear_sum_assignment(-(table + 1e-9 * np.eye(labels)))
    moved = [i for i in range(labels) if to[i] != i and table[i, to[i]] > table[i, i] and table[i, to[i]] > 0]
    # A label that takes the place of another one which stays in its own is a confusion, not a numbering.
    if len(moved) < 2 or any(table[to[i], to[i]] > 0 for i in moved if to[i] not in moved):
        return ""
    as_told = _mean([_phi(right[:, i], given[:, i]) for i in moved])
    instead = _mean([_phi(right[:, i], given[:, to[i]]) for i in moved])
    gain = _Estimate(instead.value - as_told.value, instead.without - as_told.without)
    if min(gain.value - _z(labels) * gain.error, instead.value - _z(labels) * instead.error) <= 0:
        return ""
    order = np.arange(labels)
    order[moved] = to[moved]
    if truth.ndim == 1:
        renumbered = order[truth]
    else:
        renumbered = np.zeros_like(truth)
        renumbered[:, order] |= truth
    said = ", ".join(f"{i} ({names[i]}) is the model's {to[i]} ({names[to[i]]})" for i in moved[:_MOST_SHOWN]) + (" ..." if len(moved) > _MOST_SHOWN else "")
    scores = f"{task.score_name} {task.score(logits, renumbered):.2f} in place of {task.score(logits, truth):.2f}"
    return f"; another numbering of the labels would fit: {said}, with {scores}"


def _z(labels: int) -> float:
    """Standard errors that the best of all permutations of so many labels exceeds by chance with a probability of at most 2.5 %."""
    return math.sqrt(2 * (math.lgamma(labels + 1) - math.log(_TAIL)))


def _phis(right: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Coefficients between each label in the file and each that is answered, ``[labels, labels]``; 0 where they are not defined."""
    t, p, n = right.sum(axis=0).astype(float), given.sum(axis=0).astype(float), len(right)
    both = right.T.astype(np.float64) @ given.astype(np.float64)
    scale = np.sqrt(np.outer(t * (n - t), p * (n - p)))
    return np.divide(n * both - np.outer(t, p), scale, out=np.zeros_like(both), where=scale > 0)


def _phi(right: np.ndarray, given: np.ndarray) -> _Estimate:
    """The coefficient of one label."""
    counts = np.array([np.sum(right & given), np.sum(right & ~given), np.sum(~right & given), np.sum(~right & ~given)], np.float64)

    def of(cells: np.ndarray) -> np.ndarray:
        a, b, c, d = cells.T
        scale = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
        return np.asarray(np.divide(a * d - b * c, scale, out=np.zeros_like(scale), where=scale > 0))

    less = of(np.maximum(counts - np.eye(4), 0.0))  # with a row of each cell left out
    return _Estimate(float(of(counts[None])[0]), less[(~right).astype(int) * 2 + (~given).astype(int)])


def _gorodkin(right: np.ndarray, given: np.ndarray) -> _Estimate:
    """The coefficient of all labels together, of rows with one each."""
    t, p, n = right.sum(axis=0).astype(float), given.sum(axis=0).astype(float), float(len(right))
    truth, answer = right.argmax(axis=1), given.argmax(axis=1)
    same = (truth == answer).astype(float)

    def of(rows: float, hits: np.ndarray, tp: np.ndarray, tt: np.ndarray, pp: np.ndarray) -> np.ndarray:
        scale = np.sqrt(np.maximum(rows * rows - tt, 0.0) * np.maximum(rows * rows - pp, 0.0))
        return np.asarray(np.divide(hits * rows - tp, scale, out=np.zeros_like(scale), where=scale > 0))

    whole = of(n, same.sum(keepdims=True), (t @ p)[None], (t @ t)[None], (p @ p)[None])[0]
    # With a row left out its label's and its answer's counts are one less.
    less = of(n - 1, same.sum() - same, t @ p - t[answer] - p[truth] + same, t @ t - 2 * t[truth] + 1, p @ p - 2 * p[answer] + 1)
    return _Estimate(float(whole), less)


def _r2(y: np.ndarray, x: np.ndarray) -> _Estimate:
    """Share of the labels' variance that the answers explain as they are."""
    n, error = len(y), (y - x) ** 2
    centred = y - y.mean()
    spread = centred @ centred
    less = np.maximum(spread - centred**2 * n / (n - 1), np.finfo(float).tiny)  # of the other rows around their mean
    return _Estimate(float(1 - error.sum() / spread), 1 - (error.sum() - error) / less)


def _mean(each: Sequence[_Estimate]) -> _Estimate:
    return _Estimate(float(np.mean([e.value for e in each])), np.mean([e.without for e in each], axis=0))


def _confusion(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> str:
    """Rows by label (down) and answer (across), of the labels that most rows have or are answered."""
    counts = right.T.astype(np.int64) @ given.astype(np.int64)
    shown = sorted(np.argsort(-(counts.sum(axis=0) + counts.sum(axis=1)), kind="stable")[:_MOST_SHOWN].tolist())
    heads = [f"{names[i][:_WIDEST]}" for i in shown]
    width = max(6, *(len(h) + 1 for h in heads))
    lines = ["rows by label in the file (down) and answer (across)" + (f", of {len(shown)} of {len(names)} labels" if len(shown) < len(names) else "") + ":"]
    lines.append(" " * width + "".join(f"{h:>{width}}" for h in heads))
    lines += [f"{heads[k]:>{width}}" + "".join(f"{counts[i, j]:>{width}}" for j in shown) for k, i in enumerate(shown)]
    return "\n".join(lines)


def _by_label(names: Sequence[str], right: np.ndarray, given: np.ndarray) -> str:
    """Of each label: rows that have it, rows that are answered with it, and both."""
    rows = [(int(right[:, j].sum()), int(given[:, j].sum()), int((right[:, j] & given[:, j]).sum()), name) for j, name in enumerate(names)]
    shown = sorted(rows, reverse=True)[:_MOST_SHOWN]
    return "\n".join(["label: rows that have it, rows answered with it, both", *(f"{name[:_WIDEST]}: {a}, {b}, {c}" for a, b, c, name in shown)])


def _two(value: float | None) -> str:
    return "none" if value is None else f"{value + 0.0:.2f}"
