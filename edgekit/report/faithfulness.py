"""Whether two models give their answers for the same reasons: what each word adds to the answer, on both sides. Descriptive, not a certificate.

A word's attribution is the probability of the answer with all words minus that without this one: occlusion, by Zeiler M. D. and Fergus R., Visualizing and
Understanding Convolutional Networks (ECCV 2014), and for words by Li J. et al., Understanding Neural Networks through Representation Erasure (2016). It
takes forward calls only, so it is the same on every backend and for a teacher that is a function. It sees one word at a time: of two words that say the
same it may give weight to neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.modalities.text import erased, mask_token, words
from edgekit.report.predictions import Answer
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.report import Drift, Faithfulness
from edgekit.tasks.text_classification import Text, TextClassification

FEWEST_WORDS, MOST_WORDS = 3, 60
"""Of a text that is explained, both of a pair together. Two words can be ordered by chance half of the time; the calls grow with the words."""

DRIFTS = 10
_LEAST_EFFECT = 0.01  # of the weightiest word on the answer's probability, for a drift to be shown
NEUTRAL = "."
"""What stands for a word in the second erasure where words are left out in the first: in the vocabulary of every tokenizer, and says little."""

_DRAWS = 20  # random attributions of each text for the floor: one alone would leave it a noise of its own
_DIGITS = 6  # of a probability that float32 logits carry: words whose attributions agree to these are tied, not ranked by rounding noise


@dataclass(frozen=True)
class _Explained:
    """One text: its attributions float64 ``[words]`` before, before by the second erasure, and after, and both sides' logits ``[labels]``."""

    row: int
    answer: int
    before: np.ndarray
    again: np.ndarray
    after: np.ndarray
    logits_before: np.ndarray
    logits_after: np.ndarray


def faithfulness(
    task: TextClassification,
    before: Answer,
    after: Answer,
    texts: Sequence[Text],
    ids: Sequence[str],
    *,
    mask: str,
    rows: int = 40,
    k: int = 3,
    seed: int = 0,
    include_text: bool = False,
    progress: Progress = silent,
) -> Faithfulness | None:
    """Compares what the words of some texts add to the answer of one model with what they add to the same answer of another.

    Words are what whitespace separates (so texts of scripts without spaces are not explained), and the answer is the label that ``before`` finds most
    probable; of a regression head it is the first number. Texts are drawn among those of 3 to 60 words that the task's tokenizer does not cut off: words
    that no model reads have the same weight, none, on both sides. A text in which ``before`` gives every word the same weight has no order to keep and is
    left out after its calls; where only the other side does so, the correlation of that text counts as 0.

    The ceiling says how much of a difference is the method's: ``before`` against itself with its words left out instead of masked. Where ``mask`` is empty
    words are left out first, and for the ceiling a full stop stands for them. The floor is ``before`` against random attributions.

    Args:
        task: makes probabilities of logits, and encodes texts to see which are cut off.
        before: the baseline or teacher, called twice a text with a list: the text and its forms without one word, then those of the second erasure.
        after: the candidate, called once a text with the first of these lists.
        texts: of the samples.
        ids: keyed hashes of the texts, in their order.
        mask: what stands for a word; of :func:`mask_text`. Where the two models' tokenizers have different masks give ``""``, which any model understands.
        rows: texts to explain.
        k: words at the top that must be the same; of a text with no more than k words one less than it has, or they always would be.
        seed: of the draws.
        include_text: whether the words may be in the result.
        progress: told after each text.

    Returns:
        What was found; its ``forward_calls`` are texts that each side was asked about, without those of the ceiling. None where no text can be explained.

    Raises:
        UsageError: when there are not as many ids as texts, rows or k is below 1, or an answer is not finite logits for each text.
        InputError: for a text that the tokenizer cannot take.
    """
    if len(ids) != len(texts) or rows < 1 or k < 1:
        raise UsageError(f"There are {len(texts)} texts, {len(ids)} ids, rows={rows} and k={k}; expected an id for each text, and at least 1 of the others.")
    order = np.random.default_rng([seed, 0]).permutation(len(texts)).tolist()
    chosen = [row for row, _ in zip(_explicable(task, texts, order), range(rows), strict=False)]
    found, calls = [], 0
    for done, row in enumerate(chosen, 1):
        masked = [texts[row], *erased(texts[row], mask)]
        calls += len(masked)
        explained = _explain(task, before, after, row, masked, erased(texts[row], "" if mask else NEUTRAL))
        if np.ptp(explained.before) > 0:
            found.append(explained)
        progress("faithfulness", done, len(chosen))
    if not found:
        return None
    draw = np.random.default_rng([seed, 1])
    chance = [(e.before, draw.random(len(e.before))) for e in found for _ in range(_DRAWS)]
    rank, top = _agreement([(e.before, e.after) for e in found], k)
    ceiling_rank, ceiling_top = _agreement([(e.before, e.again) for e in found], k)
    floor_rank, floor_top = _agreement(chance, k)
    drifts = _drifts(task, found, texts, ids, include_text)
    return Faithfulness(len(found), calls, k, rank, top, ceiling_rank, ceiling_top, floor_rank, floor_top, drifts)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank: -1 to 1. Where one of the two is constant it is not defined; here it is 0, no agreement.

    Args:
        x: attributions, float64 ``[words]``, at least one.
        y: others of the same words.
    """
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size else 0.0


def top_overlap(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of the k words of the highest attributions that both have, 0 to 1.

    A word that ties with the k-th is in the top too, so that no tie is decided by the words' order; the share is then of the larger top.

    Args:
        x: attributions, float64 ``[words]``, at least two.
        y: others of the same words.
        k: at least 1; taken as one less than there are words where it is not below their number.
    """
    k = min(k, len(x) - 1)
    a, b = (v >= np.sort(v)[-k] for v in (x, y))
    return float((a & b).sum() / max(a.sum(), b.sum()))


def mask_text(assets: Path) -> str:
    """What to write into a text so that the tokenizer puts its mask token there.

    Args:
        assets: folder of a ``tokenizer.json``.

    Returns:
        The mask token as it is written (``[MASK]``, ``<mask>``); where there is none the unknown token, and where that is not one that a text can hold
        either (one that is in the vocabulary but not among the added tokens is cut into pieces) an empty string.

    Raises:
        IntegrityError: when the file cannot be read.
    """
    path = assets / "tokenizer.json"
    try:
        return mask_token(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise IntegrityError(f"{path} cannot be read as a tokenizer ({type(problem).__name__}: {problem}). Build or copy the bundle again.") from problem


def _explicable(task: TextClassification, texts: Sequence[Text], order: Sequence[int]) -> Iterator[int]:
    """Rows, in this order, of as many words as are explained, all of which the model reads."""
    for row in order:
        if FEWEST_WORDS <= len(words(texts[row])) <= MOST_WORDS and not task.preprocess([texts[row]])[0].truncated:
            yield row


def _explain(task: TextClassification, before: Answer, after: Answer, row: int, masked: list[Text], again: list[Text]) -> _Explained:
    """Attributions on both sides: of ``masked``, the text and then without each of its words, and of ``again``, without each by the second erasure."""
    logits, second, other = _logits(task, before, masked, "before"), _logits(task, before, again, "before"), _logits(task, after, masked, "after")
    values, values_again, values_after = (task.probabilities(x) for x in (logits, second, other))
    answer, unit = int(values[0].argmax()), 1.0
    if task.settings.problem_type == "regression":
        answer = 0
        unit = float(np.abs(values[:, answer]).max()) or 1.0  # numbers of any size: what is tied depends on theirs

    def attributions(whole: np.ndarray, without: np.ndarray) -> np.ndarray:
        return np.asarray(np.round((whole[answer] - without[:, answer]) / unit, _DIGITS) * unit + 0.0)  # no minus before a zero

    return _Explained(
        row,
        answer,
        attributions(values[0], values[1:]),
        attributions(values[0], values_again),
        attributions(values_after[0], values_after[1:]),
        logits[0],
        other[0],
    )


def _logits(task: TextClassification, answer: Answer, texts: list[Text], side: str) -> np.ndarray:
    logits, expected = np.asarray(answer(texts), np.float32), (len(texts), len(task.settings.labels))
    if logits.shape != expected:
        raise UsageError(f"The answer of the model {side} has the shape {list(logits.shape)}, expected {list(expected)}: texts and the task's labels.")
    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise UsageError(f"{broken} of {len(texts)} rows of the model {side} hold logits that are no finite numbers. Such a model explains nothing: reject it.")
    return logits


def _agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[float, float]:
    """Mean rank correlation and mean top-k overlap."""
    return float(np.mean([spearman(x, y) for x, y in pairs])), float(np.mean([top_overlap(x, y, k) for x, y in pairs]))


def _drifts(task: TextClassification, found: Sequence[_Explained], texts: Sequence[Text], ids: Sequence[str], include_text: bool) -> tuple[Drift, ...]:
    """The texts that are answered alike for the least alike reasons."""
    before, after = np.stack([e.logits_before for e in found]), np.stack([e.logits_after for e in found])
    if task.settings.problem_type == "regression":  # as task.changed has it, by the range of all these numbers and not of one
        alike = (np.abs(after - before) <= 0.05 * np.ptp(before, axis=0)).all(axis=1)
    else:
        alike = np.array([task.changed(y[None], x[None]) == 0 for x, y in zip(before, after, strict=True)])
    made = [
        Drift(
            id=ids[e.row],
            row=e.row + 1,
            answer=task.settings.labels[e.answer],
            words=words(texts[e.row]) if include_text else (),
            before=tuple(e.before.tolist()),
            after=tuple(e.after.tolist()),
            rank_correlation=spearman(e.before, e.after),
        )
        for e, same in zip(found, alike.tolist(), strict=True)
        if same
    ]
    # Of an answer that no word can shake the ranks are those of rounding.
    least = 0.0 if task.settings.problem_type == "regression" else _LEAST_EFFECT
    drifted = [d for d in made if max(map(abs, d.before)) >= least]
    return tuple(sorted(drifted, key=lambda d: (d.rank_correlation, d.row))[:DRIFTS])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64; ties have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])
