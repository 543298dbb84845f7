"""Whether two models give their answers for the same reasons: what each word adds to the answer, on both sides. Descriptive, not a certificate.

A word stands here for whatever unit an input of the modality is made of. Its attribution is the support of the answer (most often its probability) with
all words minus that without this one: occlusion, by Zeiler M. D. and Fergus R., Visualizing and
Understanding Convolutional Networks (ECCV 2014), and for words by Li J. et al., Understanding Neural Networks through Representation Erasure (2016). It
takes forward calls only, so it is the same on every backend and for a teacher that is a function. It sees one word at a time: of two words that say the
same it may give weight to neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.report.predictions import Answer, ask, check_finite
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Explainable, HasConfidence, Input
from edgekit.spec.report import Drift, Faithfulness

__all__ = [
    "DRIFTS",
    "FEWEST_WORDS",
    "MOST_WORDS",
    "NEUTRAL",
    "FaithfulnessOptions",
    "faithfulness",
    "spearman",
    "top_overlap",
]

FEWEST_WORDS, MOST_WORDS = 3, 60
"""Of an input that is explained. Two words can be ordered by chance half of the time; the calls grow with the words."""

DRIFTS = 10
_LEAST_EFFECT = 0.01  # of the weightiest word on the answer's probability, for a drift to be shown
NEUTRAL = "."
"""What stands for a word in the second erasure where words are left out in the first: in the vocabulary of every tokenizer, and says little."""

_DRAWS = 20  # random attributions of each input for the floor: one alone would leave it a noise of its own
_DIGITS = 6  # of a probability that float32 outputs carry: words whose attributions agree to these are tied, not ranked by rounding noise


@dataclass(frozen=True)
class _Explained:
    """One input: its words, attributions float64 ``[words]`` before, before by the second erasure, and after, and both sides' outputs."""

    row: int
    words: tuple[str, ...]
    before: np.ndarray
    again: np.ndarray
    after: np.ndarray
    outputs_before: Arrays
    outputs_after: Arrays


@dataclass(frozen=True, kw_only=True)
class FaithfulnessOptions:
    """Options of :func:`faithfulness`.

    Attributes:
        rows: Number of inputs to explain.
        k: Number of words at the top that must be the same; of an input with no more than k words one less than it has, or they always would be.
        seed: Random seed for the draw of inputs and for the floor.
        include_text: Whether the words may be in the result.
    """

    rows: int = 40
    k: int = 3
    seed: int = 0
    include_text: bool = False


def faithfulness(
    given: Evaluation,
    before: Answer,
    after: Answer,
    ids: Sequence[str],
    *,
    filler: str,
    options: FaithfulnessOptions | None = None,
    progress: Progress = silent,
) -> Faithfulness | None:
    """Compares what the words of some inputs add to the answer of one model with what they add to the same answer of another.

    Words are what the modality occludes, and the answer is that of ``before``. Inputs are drawn among those of 3 to 60 words that the model reads whole:
    words that no model reads have the same weight, none, on both sides. An input in which ``before`` gives every word the same weight has no order to keep
    and is left out after its calls; where only the other side does so, the correlation of that input counts as 0.

    The ceiling says how much of a difference is the method's: ``before`` against itself with its words left out instead of masked. Where ``filler`` is empty
    words are left out first, and for the ceiling a full stop stands for them. The floor is ``before`` against random attributions.

    Args:
        given: the samples; their task encodes inputs to see which are cut off.
        before: the baseline or teacher, called twice an input with a list: the input and its forms without one word, then those of the second erasure.
            Where these are large arrays a list is given in parts.
        after: the candidate, called once an input with the first of these lists.
        ids: keyed hashes of the inputs, in their order.
        filler: what stands for a word, from the modality. Where the two models have different ones give ``""``, which any model understands.
        options: Options; None for the defaults.
        progress: told after each input.

    Returns:
        What was found; its ``forward_calls`` are inputs that each side was asked about, without those of the ceiling. None where no input can be explained,
        or no answer of the task.

    Raises:
        UsageError: when there are not as many ids as inputs, rows or k is below 1, or an answer is not finite outputs for each input.
        InputError: for an input that the task cannot take.
    """
    chosen = options or FaithfulnessOptions()
    rows, k, seed = chosen.rows, chosen.k, chosen.seed
    if len(ids) != len(given) or rows < 1 or k < 1:
        raise UsageError(
            f"There are {len(given)} inputs, {len(ids)} ids, rows={rows} and k={k}; expected an id for each input, and at least 1 of the others.",
            code="rows-differ",
        )
    if not isinstance(given.task, Explainable):
        return None
    order = np.random.default_rng([seed, 0]).permutation(len(given)).tolist()
    explained_rows = [row for row, _ in zip(_explicable(given, order, filler), range(rows), strict=False)]
    found, calls = [], 0
    for done, row in enumerate(explained_rows, 1):
        explained = _explain(given, before, after, row, filler)
        calls += 1 + len(explained.words)
        if np.ptp(explained.before) > 0:
            found.append(explained)
        progress("faithfulness", done, len(explained_rows))
    if not found:
        return None
    draw = np.random.default_rng([seed, 1])
    chance = [(e.before, draw.random(len(e.before))) for e in found for _ in range(_DRAWS)]
    rank, top = _agreement([(e.before, e.after) for e in found], k)
    ceiling_rank, ceiling_top = _agreement([(e.before, e.again) for e in found], k)
    floor_rank, floor_top = _agreement(chance, k)
    return Faithfulness(
        len(found),
        calls,
        k,
        rank,
        top,
        ceiling_rank,
        ceiling_top,
        floor_rank,
        floor_top,
        _drifts(given, found, ids, chosen.include_text),
    )


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank: -1 to 1. Where one of the two is constant it is not defined; here it is 0, no agreement.

    Args:
        x: attributions, float64 ``[words]``, at least one.
        y: others of the same words.
    """
    from scipy.stats import spearmanr  # not on a device, and slow to import

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.clip(spearmanr(x, y).statistic, -1.0, 1.0))


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


def _explicable(given: Evaluation, order: Sequence[int], filler: str) -> Iterator[int]:
    """Rows, in this order, of as many words as are explained, all of which the model reads."""
    for row in order:
        value = given.inputs[row]
        words, _ = given.task.modality.occlude(value, filler)
        if FEWEST_WORDS <= len(words) <= MOST_WORDS and not given.task.preprocess([value])[0].truncated:
            yield row


def _explain(given: Evaluation, before: Answer, after: Answer, row: int, filler: str) -> _Explained:
    """Attributions on both sides: of the input and then without each of its words, and without each by the second erasure."""
    task, value = given.task, given.inputs[row]
    assert isinstance(task, Explainable)  # as the caller has seen
    words, _ = task.modality.occlude(value, filler)

    def without(stand_in: str) -> Iterable[Input]:
        return task.modality.occlude(value, stand_in)[1]

    whole = _outputs(before, itertools.chain([value], without(filler)), "before")
    second = _outputs(before, without("" if filler else NEUTRAL), "before")
    other = _outputs(after, itertools.chain([value], without(filler)), "after")
    first, second_support, others = (task.target_score(outputs, whole[0]) for outputs in (whole, second, other))
    # Support that is no probability may be of any size: what is tied depends on it.
    unit = 1.0 if isinstance(task, HasConfidence) else float(np.abs(first).max()) or 1.0

    def attributions(all_words: float, one_less: np.ndarray) -> np.ndarray:
        return np.asarray(np.round((all_words - one_less) / unit, _DIGITS) * unit + 0.0)  # no minus before a zero

    return _Explained(
        row,
        tuple(words),
        attributions(first[0], first[1:]),
        attributions(first[0], second_support),
        attributions(others[0], others[1:]),
        whole[0],
        other[0],
    )


def _outputs(answer: Answer, inputs: Iterable[Input], side: str) -> list[Arrays]:
    outputs = [row for part in ask(answer, inputs, f"The model {side}") for row in part]
    check_finite(outputs, f"the model {side}")
    return outputs


def _agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[float, float]:
    """Mean rank correlation and mean top-k overlap."""
    return float(np.mean([spearman(x, y) for x, y in pairs])), float(np.mean([top_overlap(x, y, k) for x, y in pairs]))


def _drifts(
    given: Evaluation, found: Sequence[_Explained], ids: Sequence[str], include_text: bool
) -> tuple[Drift, ...]:
    """The inputs that are answered alike for the least alike reasons."""
    task = given.task
    assert isinstance(task, Explainable)  # as the caller has seen
    alike = task.same_answer([e.outputs_after for e in found], [e.outputs_before for e in found])
    made = [
        Drift(
            id=ids[e.row],
            row=e.row + 1,
            answer="" if task.answers_quote_input and not include_text else task.target_name(e.outputs_before),
            words=e.words if include_text else (),
            before=tuple(e.before.tolist()),
            after=tuple(e.after.tolist()),
            rank_correlation=spearman(e.before, e.after),
        )
        for e, same in zip(found, alike.tolist(), strict=True)
        if same
    ]
    # Of an answer that no word can shake the ranks are those of rounding.
    least = _LEAST_EFFECT if isinstance(task, HasConfidence) else 0.0
    drifted = [d for d in made if max(map(abs, d.before)) >= least]
    return tuple(sorted(drifted, key=lambda d: (d.rank_correlation, d.row))[:DRIFTS])
